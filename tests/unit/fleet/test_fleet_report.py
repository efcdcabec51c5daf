"""The figures of a report, each out of the rows that it is made of."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fleet_words import with_options
from policies import new_seal
from typer.testing import Result

from moatvpn.crypto.sign import fingerprint
from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.observations import LONGEST_GAP, record_observations
from moatvpn.fleet.plan import mark_applied, plan
from moatvpn.fleet.playbooks import Answers
from moatvpn.fleet.report import NO_KEY, Figures, make_figures
from moatvpn.fleet.report_page import MOST_LINES, Plot, render

Texts = dict[str, str]
Key = Callable[[int], str]
PORTAL = "portal1.example.net"
BOXES = [f"m000{number}.moats.example.net" for number in range(1, 6)]
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def stocked(
    database: Database, portal_texts: Texts, customer: Callable[..., Texts], now: datetime
) -> Database:
    """Three active customers of two ISPs, one that is shipped, one revoked."""
    given = [
        customer(1, status="active", name="Ada <b>Example</b>"),
        customer(2, status="active"),
        customer(3, status="active", isp="Rural & Wireless"),
        customer(4, status="shipped"),
        customer(5, status="revoked"),
    ]
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, [(None, each) for each in given], "file", now)
    return database


def figures(database: Database, now: datetime, policies: dict[str, str] | None = None) -> Figures:
    with database.read() as session:
        return make_figures(session, now, 30 * DAY, policies)


def hear(database: Database, now: datetime, found: dict[str, dict[str, Any]]) -> None:
    with database.write() as session:
        recorded = record_observations(session, Answers(found, {}), now)
    assert recorded.refused == {}


def row(number: int, up_for: float | None, expected: int, lost: int) -> dict[str, Any]:
    state = "waiting" if up_for is None else "established"
    return {
        "name": f"c000{number}",
        "state": state,
        "up_for": up_for,
        "expected_in": expected,
        "lost_in": lost,
    }


def answer(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "0123abcd", "running": True, "connections": list(rows), **more}


def test_statuses_and_groups(stocked: Database, now: datetime) -> None:
    hear(stocked, now, {PORTAL: answer(*(row(n, 1e6, 0, 0) for n in (1, 2, 3)))})
    later = [row(1, 1e6, 900, 9), row(2, 1800.0, 100, 1), row(3, None, 0, 0)]
    hear(stocked, now + HOUR, {PORTAL: answer(*later)})
    found = figures(stocked, now + HOUR)
    assert found.statuses == {
        "ordered": 0,
        "shipped": 1,
        "active": 3,
        "suspended": 0,
        "revoked": 1,
    }
    cable, rural = found.isps
    assert (cable.name, cable.customers, cable.up, cable.down) == ("Example Cable", 2, 2, 0)
    assert (cable.up_time, cable.loss) == (0.75, 0.01)
    assert (rural.name, rural.up, rural.down, rural.up_time, rural.loss) == (
        "Rural & Wireless",
        0,
        1,
        0.0,
        None,
    )
    assert (found.everyone.customers, found.everyone.up_time) == (3, 0.5)
    assert [(each.customer, each.up) for each in found.troubles] == [
        ("c0003", False),
        ("c0002", True),
    ]
    assert found.everyone.silent == 0
    silent = figures(stocked, now + HOUR + LONGEST_GAP + HOUR).everyone
    assert (silent.silent, silent.up, silent.down) == (3, 0, 0)


def test_versions(stocked: Database, now: datetime) -> None:
    hear(stocked, now, {PORTAL: answer(), BOXES[0]: answer(), BOXES[1]: answer(version="77")})
    found = figures(stocked, now)
    assert found.versions == [("0123abcd", 1, 1), ("77", 1, 0)]
    # Two moats have not spoken; the revoked customer's is not to.
    assert found.unheard == 2


def test_ages_and_ends_of_keys(stocked: Database, now: datetime, key: Key) -> None:
    with stocked.write() as session:
        keys.record_key(session, PORTAL, key(9), now, not_before=now - 400 * DAY)
        keys.record_key(session, BOXES[0], key(1), now, not_before=now - 100 * DAY)
        keys.record_key(session, BOXES[0], key(2), now, beside=True, not_before=now - 29 * DAY)
        keys.record_key(session, BOXES[1], key(3), now, not_after=now + 8 * DAY)
    found = figures(stocked, now)
    assert found.key_ages == {
        "0-29 days": 2,
        "30-89": 0,
        "90-179": 0,
        "180-364": 0,
        "365 or more": 1,
        NO_KEY: 2,
    }
    assert [(each.whose, each.lapses) for each in found.endings] == [(BOXES[1], True)]
    assert found.periods == {"week 1": 0, "week 2": 1, "week 3": 0, "week 4": 0, "week 5": 0}


@pytest.mark.parametrize(
    ("days", "first", "number"),
    [
        (0, "week 1", 1),
        (70, "week 1", 10),
        (71, "month 1", 3),
        (365, "quarter 1", 5),
        (3660, "year 1", 10),
    ],
)
def test_a_look_ahead_has_few_steps(
    stocked: Database, now: datetime, days: int, first: str, number: int
) -> None:
    with stocked.read() as session:
        periods = make_figures(session, now, days * DAY).periods
    assert (next(iter(periods)), len(periods)) == (first, number)


def test_drift(stocked: Database, now: datetime, key: Key) -> None:
    with stocked.write() as session:
        for number, box in enumerate(BOXES[:4]):
            keys.record_key(session, box, key(number), now)
        pending = plan(session, build_inventory(session, now))
        mark_applied(session, [each for each in pending if each.identity != PORTAL], now)

    def proves(number: int, **more: Any) -> dict[str, Any]:
        own = fingerprint(base64.b64decode(key(number)))
        return answer({**row(1, 1.0, 0, 0), "local_key": own}, **more)

    answers = {
        BOXES[0]: proves(0, policy="ab" * 32),
        BOXES[1]: proves(7, policy=""),
        BOXES[2]: proves(2, policy="cd" * 32, policy_faults=["a rule too many"]),
        BOXES[3]: proves(3, policy="ef" * 32),
    }
    hear(stocked, now, answers)
    found = figures(stocked, now)
    assert [each.identity for each in found.pending] == [PORTAL]
    assert [(each.box, each.why) for each in found.differing] == [
        (BOXES[1], "proves a key that the database does not hold"),
        (BOXES[2], "policy: a rule too many"),
    ]
    found = figures(stocked, now, {BOXES[0]: "ab" * 32, BOXES[1]: "ab" * 32})
    assert [(each.box, each.why) for each in found.differing] == [
        (BOXES[1], "proves a key that the database does not hold"),
        (BOXES[1], "policy none in force, not abababababab"),
        (BOXES[2], "policy: a rule too many"),
        (BOXES[3], "policy efefefefefef in force, not none"),
    ]


def test_an_empty_fleet_has_a_page(database: Database, now: datetime) -> None:
    page = render(figures(database, now))
    assert "No customer is active." in page
    assert page.isascii()


def test_long_tables_are_cut_and_say_so(
    database: Database, portal_texts: Texts, customer: Callable[..., Texts], now: datetime
) -> None:
    given = [(None, customer(n, status="active", isp=f"ISP {n}")) for n in range(1, 31)]
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, given, "file", now)
    page = render(figures(database, now))
    assert f"{MOST_LINES} of 30 providers." in page
    assert page.count(">ISP ") == MOST_LINES


def test_columns_of_a_plot() -> None:
    few, most, none = Plot.of({"few": 1, "most": 10_000, "none": 0}).columns
    assert most.height == Plot.BASE - most.y > 100
    assert few.height > 1
    assert none.height == 0
    assert few.x < few.x + few.width < most.x < none.x + none.width < Plot.WIDTH


def test_the_command(
    fleet: Callable[..., Result],
    portal_texts: Texts,
    customer: Callable[..., Texts],
    tmp_path: Path,
) -> None:
    fleet("init")
    fleet("portal", "add", *with_options(portal_texts, "portal"))
    fleet("customer", "add", *with_options(customer(1, status="active"), "customer"))
    path = tmp_path / "report.html"
    path.write_text("older")
    result = fleet("report", "--output", str(path), "--json")
    assert json.loads(result.stdout) == {"file": str(path), "customers": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("<!DOCTYPE html>")
    (tmp_path / "policy.pub").write_text(new_seal().public_text)
    both = ("--policies", str(tmp_path), "--policy-keys", str(tmp_path / "policy.pub"))
    assert fleet("report", "--output", str(path), *both).exit_code == 0
    assert "not compared" not in path.read_text()
    (tmp_path / "m0001.policy").write_text("nothing that is signed")
    refused = fleet("report", "--output", str(path), *both)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    refused = fleet("report", "--output", str(path), "--policies", str(tmp_path))
    assert refused.exit_code == 1
    assert "--policy-keys" in refused.stderr
    refused = fleet("report", "--output", str(tmp_path / "no" / "report.html"))
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr
