"""moat-fleet revoke: portals that were told and not, and that none is forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fleet_words import with_options
from playbook_stub import PlaybookStub
from typer.testing import Result

Fleet = Callable[..., Result]
Texts = dict[str, str]
Key = Callable[[int], str]
PORTALS = ["portal1.example.net", "portal2.example.net"]
FIRST, SECOND = "m0001.moats.example.net", "m0002.moats.example.net"


@pytest.fixture
def revoke(
    sqlite_url: str,
    fleet_at: Callable[[str], Fleet],
    playbook: PlaybookStub,
    portal_texts: Texts,
    portal2_texts: Texts,
    customer: Callable[..., Texts],
    key: Key,
) -> Callable[..., Any]:
    """Call moat-fleet, which has two portals, and two customers with keys."""
    fleet = fleet_at(sqlite_url)
    assert fleet("init").exit_code == 0
    given = [("portal", portal_texts), ("portal", portal2_texts)]
    given += [("customer", customer(number, status="active")) for number in (1, 2)]
    for kind, texts in given:
        assert fleet(kind, "add", *with_options(texts, kind)).exit_code == 0
    for number, box in enumerate((FIRST, SECOND), 1):
        assert fleet("key", "record", box, key(number)).exit_code == 0

    def call(*words: str, status: int = 0) -> Any:
        if words[0] == "revoke":
            words = (*words, "--yes", "--json", "--playbook", str(playbook.path))
        result = fleet(*words)
        assert result.exit_code == status, result.output
        return json.loads(result.stdout or "null") if "--json" in words else result.stdout

    return call


def told(playbook: PlaybookStub, *portals: str, keys: int) -> None:
    for path in playbook.answers.iterdir():
        path.unlink()
    for portal in portals:
        playbook.answers_with(portal, {"revoked": keys, "ended": []})


def test_every_portal_is_told_and_then_none(
    revoke: Callable[..., Any], playbook: PlaybookStub, key: Key
) -> None:
    told(playbook, *PORTALS, keys=1)
    found = revoke("revoke", "c0001")
    assert (found["changed"], sorted(found["told"]), found["not_told"]) == (["c0001"], PORTALS, [])
    assert playbook.boxes() == PORTALS
    assert playbook.run["variables"]["moatvpn_revoked"] == {"keys": [key(1)], "identities": [FIRST]}
    found = revoke("revoke", "c0001")
    assert (found["changed"], found["told"], found["not_told"]) == ([], {}, [])
    assert playbook.boxes() == []


def test_who_was_not_told_is_remembered(
    revoke: Callable[..., Any], playbook: PlaybookStub, key: Key
) -> None:
    told(playbook, PORTALS[0], keys=1)
    playbook.ends_with(4)
    assert revoke("revoke", "c0001", status=3)["not_told"] == PORTALS[1:]
    playbook.boxes()
    (row,) = (each for each in revoke("forecast", "--json", status=4) if "untold" in each["what"])
    assert (row["whose"], row["lapses"]) == (PORTALS[1], True)
    # Another customer, and the first one's next box: both portals hear of all that they lack.
    revoke("customer", "set", "c0001", "--status", "ordered")
    told(playbook, PORTALS[0], keys=2)
    assert revoke("revoke", "c0002", status=3)["not_told"] == PORTALS[1:]
    assert playbook.run["variables"]["moatvpn_revoked"] == {
        "keys": [key(1), key(2)],
        "identities": [SECOND],
    }
    playbook.boxes()
    told(playbook, PORTALS[1], keys=2)
    assert list(revoke("revoke")["told"]) == PORTALS[1:]
    assert playbook.boxes() == PORTALS[1:]
    assert "untold" not in str(revoke("forecast", "--json", status=4))


def test_an_answer_that_lacks_keys_is_none(
    revoke: Callable[..., Any], playbook: PlaybookStub
) -> None:
    told(playbook, *PORTALS, keys=0)
    assert revoke("revoke", "c0001", status=3)["not_told"] == PORTALS


def test_without_a_push_the_plan_has_the_portals(
    revoke: Callable[..., Any], playbook: PlaybookStub
) -> None:
    revoke("apply", "--yes", "--playbook", str(playbook.path))
    assert revoke("plan", "--json") == []
    assert revoke("revoke", "c0001", "--no-push")["not_told"] == PORTALS
    assert [row["box"] for row in revoke("plan", "--json")] == PORTALS
    revoke("apply", "--yes", "--playbook", str(playbook.path))
    assert revoke("plan", "--json") == []
    assert revoke("revoke")["not_told"] == []


def test_what_was_revoked_meanwhile_is_not_told(
    revoke: Callable[..., Any], playbook: PlaybookStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(playbook, *PORTALS, keys=1)
    run = __import__("moatvpn.fleet.commands.revoke", fromlist=["run_playbook"])
    whole = run.run_playbook

    def slow(*words: Any, **more: Any) -> int:
        monkeypatch.setattr(run, "run_playbook", whole)
        revoke("revoke", "c0002", "--no-push")
        return int(whole(*words, **more))

    monkeypatch.setattr(run, "run_playbook", slow)
    assert revoke("revoke", "c0001")["not_told"] == []
    told(playbook, *PORTALS, keys=2)
    assert sorted(revoke("revoke")["told"]) == PORTALS


def test_nothing_is_revoked_where_it_could_not_be_told(
    revoke: Callable[..., Any], playbook: PlaybookStub
) -> None:
    playbook.path.unlink()
    revoke("revoke", "c0001", status=1)
    assert revoke("customer", "show", "c0001", "--json")["status"] == "active"
