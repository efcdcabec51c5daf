"""moat-fleet move: how a move begins, goes on, is shown and is given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_words import with_options
from playbook_stub import PlaybookStub
from typer.testing import Result

Fleet = Callable[..., Result]
Texts = dict[str, str]
OLD, NEW = "portal1.example.net", "portal2.example.net"
FIRST, SECOND = "m0001.moats.example.net", "m0002.moats.example.net"


@pytest.fixture
def playbook(playbook: PlaybookStub, tmp_path: Path) -> PlaybookStub:
    for name in ("move_portals.yml", "move_moats.yml"):
        (tmp_path / name).touch()
    for box in (OLD, NEW, FIRST, SECOND):
        playbook.answers_with(box, {})
    return playbook


@pytest.fixture
def stocked(
    fleet: Fleet,
    portal_texts: Texts,
    portal2_texts: Texts,
    customer: Callable[..., Texts],
    key: Callable[[int], str],
) -> Fleet:
    given = [("portal", portal_texts), ("portal", portal2_texts)]
    given += [("customer", customer(number, status="active")) for number in (1, 2)]
    assert fleet("init").exit_code == 0
    for kind, texts in given:
        assert fleet(kind, "add", *with_options(texts, kind)).exit_code == 0
    for number, box in enumerate((OLD, NEW, FIRST, SECOND)):
        assert fleet("key", "record", box, key(number)).exit_code == 0
    return fleet


@pytest.fixture
def move(stocked: Fleet, playbook: PlaybookStub) -> Fleet:
    return lambda *words: stocked("move", "--yes", f"--playbooks={playbook.path.parent}", *words)


def portals(fleet: Fleet) -> dict[str, str]:
    rows = json.loads(fleet("customer", "list", "--json").stdout)
    return {each["customer"]: each["portal"] for each in rows}


def test_all_of_a_portal_move_and_nothing_is_done_twice(
    move: Fleet, stocked: Fleet, playbook: PlaybookStub
) -> None:
    done = move("--from", OLD, "--all", "--to", NEW)
    assert done.exit_code == 0, done.output
    assert "move 1: done, 2 of 2 boxes" in done.stdout
    assert "wave 2 of 2: drop: 1 of 1 boxes" in done.stderr
    canary = [NEW, FIRST, FIRST, OLD, FIRST, OLD]
    assert playbook.boxes() == [*canary, *(SECOND if box == FIRST else box for box in canary)]
    assert portals(stocked) == {"c0001": NEW, "c0002": NEW}
    assert "portal1.example.net" in stocked("history", "c0001").stdout
    again = move("--from", OLD, "--all", "--to", NEW)
    assert (again.exit_code, again.stdout) == (0, "nothing to do\n")
    assert playbook.boxes() == []


def test_what_stopped_is_gone_on_with_and_nothing_else_is_begun(
    move: Fleet, stocked: Fleet, playbook: PlaybookStub
) -> None:
    playbook.answers_with(FIRST, {"error": "the tunnel portal2 did not come up"})
    stopped = move("c0001", "--to", NEW)
    assert stopped.exit_code == 3
    assert f"{FIRST}: waits for attach: the tunnel portal2 did not come up" in stopped.stdout
    shown = json.loads(stocked("moves", "show", "--json").stdout)
    assert [(each["box"], each["state"]) for each in shown["boxes"]] == [(FIRST, "attach")]
    for words, why in (
        (("c0002", "--to", NEW), "c0002 are not of the unfinished one"),
        (("c0001", "--to", OLD), f"one to {NEW} is unfinished"),
    ):
        refused = move(*words)
        assert refused.exit_code == 1
        assert why in refused.stderr
    playbook.answers_with(FIRST, {})
    done = move()
    assert done.exit_code == 0, done.output
    assert portals(stocked) == {"c0001": NEW, "c0002": OLD}


def test_one_that_is_given_up_stays_where_the_record_says(
    move: Fleet, stocked: Fleet, playbook: PlaybookStub
) -> None:
    playbook.answers_with(FIRST, {"error": "no"})
    assert move("c0001", "--to", NEW).exit_code == 3
    assert stocked("moves", "leave").exit_code == 0
    assert portals(stocked)["c0001"] == OLD
    assert move().exit_code == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "none is unfinished"),
        (("--all", "--to", NEW), "is of whom?"),
        (("--from", OLD, "--to", NEW), "is of whom?"),
        (("c0001", "--from", OLD, "--all", "--to", NEW), "is of whom?"),
        (("c0001",), "none is unfinished"),
        (("c0009", "--to", NEW), "c0009: is not in the database"),
        (("c0001", "--to", "portal9.example.net"), "is not in the database"),
    ],
)
def test_what_is_refused_changes_nothing(
    move: Fleet, stocked: Fleet, playbook: PlaybookStub, words: tuple[str, ...], why: str
) -> None:
    refused = move(*words)
    assert refused.exit_code == 1
    assert why in refused.stderr
    assert playbook.boxes() == []
    assert set(portals(stocked).values()) == {OLD}


def test_nobody_is_moved_unasked(stocked: Fleet, playbook: PlaybookStub) -> None:
    words = ("c0001", "--to", NEW, f"--playbooks={playbook.path.parent}")
    refused = stocked("move", *words)
    assert refused.exit_code == 1
    assert "Give --yes" in refused.stderr
    assert set(portals(stocked).values()) == {OLD}
