"""What ends soon, and whether anything takes its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from fleet_words import with_options
from typer.testing import Result

from moatvpn.fleet import claims, keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.forecast import forecast

Texts = dict[str, str]
PORTAL = "portal1.example.net"
FIRST, SECOND = "m0001.moats.example.net", "m0002.moats.example.net"
DAY = timedelta(days=1)


@pytest.fixture
def stocked(
    database: Database, portal_texts: Texts, customer: Callable[..., Texts], now: datetime
) -> Database:
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, [(None, customer(1)), (None, customer(2))], "file", now)
    return database


def endings(database: Database, now: datetime, days: int) -> list[tuple[str, bool]]:
    with database.read() as session:
        return [(each.whose, each.lapses) for each in forecast(session, now, days * DAY)]


def test_a_key_without_an_end_is_no_ending(
    stocked: Database, key: Callable[[int], str], now: datetime
) -> None:
    with stocked.write() as session:
        keys.record_key(session, FIRST, key(1), now)
    assert endings(stocked, now, 3660) == []


def test_a_key_that_nothing_replaces_lapses(
    stocked: Database, key: Callable[[int], str], now: datetime
) -> None:
    with stocked.write() as session:
        keys.record_key(session, PORTAL, key(9), now, not_after=now + 20 * DAY)
        keys.record_key(session, FIRST, key(1), now, not_after=now + 10 * DAY)
        keys.record_key(session, SECOND, key(2), now, not_after=now + 40 * DAY)
    assert endings(stocked, now, 30) == [(FIRST, True), (PORTAL, True)]
    assert endings(stocked, now, 5) == []
    # It is not forgotten once it has happened.
    assert endings(stocked, now + 12 * DAY, 0) == [(FIRST, True)]


def test_a_key_that_is_replaced_in_time_is_told_of_until_then(
    stocked: Database, key: Callable[[int], str], now: datetime
) -> None:
    with stocked.write() as session:
        keys.record_key(session, FIRST, key(1), now, not_after=now + 10 * DAY)
        start = now + 9 * DAY
        keys.record_key(session, FIRST, key(2), now, replace=True, not_before=start)
    assert endings(stocked, now, 30) == [(FIRST, False)]
    assert endings(stocked, now + 11 * DAY, 30) == []


@pytest.mark.parametrize("status", ["suspended", "revoked"])
def test_who_has_no_connection_loses_none(
    stocked: Database, key: Callable[[int], str], now: datetime, status: str
) -> None:
    with stocked.write() as session:
        keys.record_key(session, FIRST, key(1), now, not_after=now + DAY)
        store.set_customer(session, "c0001", {"status": status}, now)
    assert endings(stocked, now, 30) == []


def test_a_claim_that_nobody_has_used(stocked: Database, now: datetime) -> None:
    with stocked.write() as session:
        claims.make_claim(session, "c0001", "0" * 64, now, 7 * DAY)
    assert endings(stocked, now, 30) == [("c0001", False)]
    assert endings(stocked, now + 8 * DAY, 30) == []


def test_the_command_alarms(
    fleet: Callable[..., Result], portal_texts: Texts, key: Callable[[int], str]
) -> None:
    assert fleet("init").exit_code == 0
    assert fleet("portal", "add", *with_options(portal_texts, "portal")).exit_code == 0
    assert fleet("forecast").exit_code == 0
    ends = ("--not-before", "2020-01-01", "--not-after", "2020-02-01")
    assert fleet("key", "record", PORTAL, key(9), *ends).exit_code == 0
    result = fleet("forecast", "--json")
    assert result.exit_code == 4
    (row,) = json.loads(result.stdout)
    assert (row["whose"], row["ends"], row["lapses"]) == (PORTAL, "2020-02-01T00:00:00Z", True)
