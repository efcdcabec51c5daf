"""moat-fleet rotate: how a rotation begins, goes on, is shown and is given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_words import with_options
from playbook_stub import PlaybookStub
from typer.testing import Result

from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.locks import lock

Fleet = Callable[..., Result]
Texts = dict[str, str]
PORTAL = "portal1.example.net"
FIRST, SECOND = "m0001.moats.example.net", "m0002.moats.example.net"


@pytest.fixture
def playbook(playbook: PlaybookStub, tmp_path: Path) -> PlaybookStub:
    for name in ("keys.yml", "connections.yml"):
        (tmp_path / name).touch()
    return playbook


@pytest.fixture
def stocked(
    fleet: Fleet, portal_texts: Texts, customer: Callable[..., Texts], key: Callable[[int], str]
) -> Fleet:
    given = [("portal", portal_texts)]
    given += [("customer", customer(number, status="active")) for number in (1, 2)]
    assert fleet("init").exit_code == 0
    for kind, texts in given:
        assert fleet(kind, "add", *with_options(texts, kind)).exit_code == 0
    for number, box in enumerate((PORTAL, FIRST, SECOND)):
        since = "--not-before=2026-01-01"
        assert fleet("key", "record", box, key(number), since).exit_code == 0
    return fleet


@pytest.fixture
def rotate(stocked: Fleet, playbook: PlaybookStub) -> Fleet:
    return lambda kind, *words: stocked(
        "rotate", kind, "--yes", f"--playbooks={playbook.path.parent}", *words
    )


def ledger(fleet: Fleet) -> dict[str, str]:
    shown = json.loads(fleet("rotate", "show", "--json").stdout)
    return {each["box"]: each["state"] for each in shown["boxes"]}


def answer(playbook: PlaybookStub, key: str, *boxes: str) -> None:
    """Have these boxes say that their next key, and then the one in use, is this one."""
    for box in boxes:
        playbook.answers_with(box, {"next_public_key": key, "public_key": key})


def test_a_rotation_goes_through_and_does_nothing_twice(
    rotate: Fleet, stocked: Fleet, playbook: PlaybookStub, key: Callable[[int], str]
) -> None:
    answer(playbook, key(7), FIRST)
    playbook.answers_with(PORTAL, {})
    done = rotate("moats", "c0001")
    assert done.exit_code == 0, done.output
    assert "rotate 1: done, 1 of 1 boxes" in done.stdout
    assert "wave 1 of 1: distrust: 1 of 1 boxes" in done.stderr
    assert playbook.boxes() == [FIRST, PORTAL, FIRST, FIRST, FIRST, PORTAL]
    shown = stocked("customer", "show", "c0001", "--json").stdout
    valid = {each["public_key"]: each["valid"] for each in json.loads(shown)["public_keys"]}
    assert valid == {key(1): False, key(7): True}
    again = rotate("moats", "c0001")
    assert (again.exit_code, again.stdout) == (0, "nothing to do\n")


def test_what_stopped_is_gone_on_with(
    rotate: Fleet, stocked: Fleet, playbook: PlaybookStub, key: Callable[[int], str]
) -> None:
    stopped = rotate("moats", "--tries=1")
    assert stopped.exit_code == 3
    assert f"{FIRST}: waits for make: it was not reached" in stopped.stdout
    assert ledger(stocked) == {FIRST: "make", SECOND: "make"}
    other = rotate("portals")
    assert other.exit_code == 1
    assert "one of moats is unfinished. Run `moat-fleet rotate moats` first" in other.stderr
    answer(playbook, key(7), FIRST)
    playbook.answers_with(PORTAL, {})
    stopped = rotate("moats", "--tries=1")
    assert "goes on" in stopped.stdout
    assert ledger(stocked) == {FIRST: "done", SECOND: "make"}
    assert stocked("rotate", "leave", SECOND).stdout == f"{SECOND}: left as it is\n"
    assert ledger(stocked) == {FIRST: "done", SECOND: "left"}
    assert stocked("rotate", "leave").exit_code == 1


def test_two_operators_do_not_rotate_at_once(rotate: Fleet, url: str) -> None:
    database = Database(database_url(url), who="bob")
    with lock(database, "rotate", "bob on another machine"):
        refused = rotate("moats")
    database.close()
    assert refused.exit_code == 1
    assert "held by bob on another machine" in refused.stderr


def test_nothing_is_begun_without_playbooks_or_a_yes(
    stocked: Fleet, playbook: PlaybookStub
) -> None:
    missing = stocked("rotate", "moats", "--yes", "--playbooks=/nowhere")
    assert missing.exit_code == 1
    assert "/nowhere/keys.yml: is not there" in missing.stderr
    silent = stocked("rotate", "moats", f"--playbooks={playbook.path.parent}")
    assert silent.exit_code == 1
    assert "there is no terminal to ask at. Give --yes" in silent.stderr
    assert "there has been none yet" in stocked("rotate", "show").stderr
    assert playbook.boxes() == []
