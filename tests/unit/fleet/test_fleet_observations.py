"""What boxes say of themselves: read as a stranger's words, and counted over time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from fleet_words import with_options
from playbook_stub import PlaybookStub
from sqlalchemy import select
from typer.testing import Result

from moatvpn.fleet import store
from moatvpn.fleet.database import Database
from moatvpn.fleet.journal import Observation
from moatvpn.fleet.models import Box
from moatvpn.fleet.observations import LONGEST_GAP, Recorded, record_observations
from moatvpn.fleet.observed import MOST_ENVELOPES, BrokenAnswerError, read_answer
from moatvpn.fleet.playbooks import Answers

Texts = dict[str, str]
Fleet = Callable[..., Result]
PORTAL = "portal1.example.net"
FIRST, SECOND = "m0001.moats.example.net", "m0002.moats.example.net"
HOUR = timedelta(hours=1)


def tunnel(name: str, up_for: float | None = 60.0, **more: Any) -> dict[str, Any]:
    """Return a connection's row as the module hands it over; down where up_for is None."""
    state = "connecting" if up_for is None else "established"
    return {"name": name, "state": state, "up_for": up_for, **more}


def answer(*tunnels: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "0123abcd", "running": True, "connections": list(tunnels), **more}


@pytest.fixture
def stocked(
    database: Database, portal_texts: Texts, customer: Callable[..., Texts], now: datetime
) -> Database:
    given = [(None, customer(1, status="active")), (None, customer(2, status="active"))]
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, given, "file", now)
    return database


def hear(database: Database, now: datetime, **answers: dict[str, Any]) -> Recorded:
    """Keep the answers of portal, first and second."""
    names = {"portal": PORTAL, "first": FIRST, "second": SECOND}
    found = {names[name]: value for name, value in answers.items()}
    with database.write() as session:
        return record_observations(session, Answers(found, {}), now)


def kept(database: Database, box: str) -> Observation:
    with database.read() as session:
        query = select(Observation).join(Box, Box.id == Observation.box_id)
        row = session.scalars(query.where(Box.identity == box)).one()
        session.expunge(row)
        return row


def test_a_portal_tells_of_the_moats_that_nobody_reaches(stocked: Database, now: datetime) -> None:
    heard = hear(stocked, now, portal=answer(tunnel("c0001", 500.0), tunnel("c0002", None)))
    assert (heard.answered, heard.heard_of) == (1, 3)
    first, second = kept(stocked, FIRST), kept(stocked, SECOND)
    assert (first.up, first.up_for, first.answered, first.version) == (True, 500, None, None)
    assert (second.up, second.up_for) == (False, 0)
    portal = kept(stocked, PORTAL)
    assert (portal.up, portal.answered, portal.version) == (True, now, "0123abcd")


def test_a_portals_word_goes_before_the_moats(stocked: Database, now: datetime) -> None:
    hear(stocked, now, portal=answer(), first=answer(tunnel("portal1"), policy="ab" * 32))
    first = kept(stocked, FIRST)
    assert (first.up, first.answered, first.policy) == (False, now, "ab" * 32)
    hear(stocked, now + HOUR, first=answer(tunnel("portal1", 90.0), policy=""))
    first = kept(stocked, FIRST)
    assert (first.up, first.up_for, first.policy) == (True, 90, "")


def test_up_time_is_what_is_proved(stocked: Database, now: datetime) -> None:
    """An hour up, one of which 600 s are proved, one down, and a day that nobody watched."""
    hear(stocked, now, portal=answer(tunnel("c0001", 10.0)))
    steps = [(1, 3610.0, 3600, 3600), (2, 600.0, 7200, 4200), (3, None, 10800, 4200)]
    for hours, up_for, watched, up in steps:
        hear(stocked, now + hours * HOUR, portal=answer(tunnel("c0001", up_for)))
        row = kept(stocked, FIRST)
        assert (row.watched_seconds, row.up_seconds) == (watched, up)
    late = now + 3 * HOUR + LONGEST_GAP + timedelta(seconds=1)
    hear(stocked, late, portal=answer(tunnel("c0001", 1e6)))
    row = kept(stocked, FIRST)
    assert (row.watched_seconds, row.up_seconds, row.since) == (10800, 4200, now)
    # An observation that began before another one, and ended after it, counts nothing twice.
    hear(stocked, late - HOUR, portal=answer(tunnel("c0001", 1e6)))
    row = kept(stocked, FIRST)
    assert (row.watched_seconds, row.at) == (10800, late)


def test_who_is_not_active_is_not_watched(stocked: Database, now: datetime) -> None:
    for hours, status in enumerate(("active", "suspended")):
        with stocked.write() as session:
            store.set_customer(session, "c0001", {"status": status}, now)
        hear(stocked, now + hours * HOUR, portal=answer(tunnel("c0001", 9000.0)))
    row = kept(stocked, FIRST)
    assert (row.watched_seconds, row.at) == (0, now)


def test_loss_is_counted_at_both_ends(stocked: Database, now: datetime) -> None:
    def envelopes(expected: int | None, lost: int | None) -> dict[str, Any]:
        return {"expected_in": expected, "lost_in": lost}

    def counted(hours: int, portal: dict[str, Any], moat: dict[str, Any]) -> tuple[int, int]:
        both = {"portal": answer(tunnel("c0001", **portal)), "first": answer(tunnel("p", **moat))}
        hear(stocked, now + hours * HOUR, **both)
        row = kept(stocked, FIRST)
        return row.expected, row.lost

    assert counted(0, envelopes(1000, 10), envelopes(100, 0)) == (1100, 10)
    assert counted(1, envelopes(1500, 12), envelopes(None, None)) == (1600, 12)
    # The portal's moatd began anew; an envelope of the moat's that counted as lost has come.
    assert counted(2, envelopes(50, 5), envelopes(300, 0)) == (1850, 17)
    assert counted(3, envelopes(50, 4), envelopes(300, 0)) == (1850, 17)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"running": "yes"},
        answer(version="<b>" * 9),
        answer(version=7),
        answer(policy="short"),
        answer(policy_faults="all of it"),
        {"running": True, "connections": {"c0001": {}}},
        answer("c0001"),  # type: ignore[arg-type]
        answer({"name": 1}),
        answer(tunnel("c0001"), tunnel("c0001")),
        answer(tunnel("c0001", -1.0)),
        answer(tunnel("c0001", float("nan"))),
        answer(tunnel("c0001", float("inf"))),
        answer(tunnel("c0001", True)),
        answer(tunnel("c0001", expected_in=1, lost_in=2)),
        answer(tunnel("c0001", expected_in=MOST_ENVELOPES + 1, lost_in=0)),
        answer(tunnel("c0001", expected_in=1.5, lost_in=0)),
        answer(tunnel("c0001", local_key="AB" * 32)),
    ],
)
def test_a_broken_answer_is_refused_and_spoils_no_other(
    stocked: Database, now: datetime, broken: dict[str, Any]
) -> None:
    with pytest.raises(BrokenAnswerError):
        read_answer(broken)
    heard = hear(stocked, now, portal=answer(tunnel("c0002")), first=broken)
    assert list(heard.refused) == [FIRST]
    assert "\n" not in heard.refused[FIRST]
    assert kept(stocked, FIRST).answered is None
    assert kept(stocked, SECOND).up


def test_a_fault_is_told_without_what_changes_a_terminal() -> None:
    assert read_answer(answer(policy_faults=["\x1b[2Jrules"])).policy_fault == "?[2Jrules"
    assert len(read_answer(answer(policy_faults=["x" * 9999])).policy_fault or "") == 300


def test_the_command(
    fleet: Fleet, portal_texts: Texts, customer: Callable[..., Texts], playbook: PlaybookStub
) -> None:
    def observed(*words: str) -> Result:
        return fleet("observe", "--playbook", str(playbook.path), *words)

    fleet("init")
    assert "nothing to do" in observed().stdout
    fleet("portal", "add", *with_options(portal_texts, "portal"))
    for number, status in ((1, "active"), (2, "revoked")):
        fleet("customer", "add", *with_options(customer(number, status=status), "customer"))
    playbook.ends_with(4)
    result = observed()
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no box answered" in result.stderr
    assert playbook.boxes() == [PORTAL, FIRST]
    playbook.answers_with(PORTAL, answer(tunnel("c0001")))
    result = observed("--json", "--portals")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"asked": 1, "answered": 1, "heard_of": 2, "refused": {}}
    assert playbook.boxes() == [PORTAL]
    playbook.answers_with(FIRST, "no JSON")
    result = observed()
    assert result.exit_code == 4
    assert result.stdout.splitlines() == [
        f"{FIRST}: is no JSON object; its answer is refused",
        "1 of 2 boxes answered; 2 are heard of",
    ]
