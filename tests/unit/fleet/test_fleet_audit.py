"""Every change is in the audit, and nothing that did not happen is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from moatvpn.fleet import keys, store
from moatvpn.fleet.audit import history
from moatvpn.fleet.database import Database

Texts = dict[str, str]
MOAT = "m0001.moats.example.net"


@pytest.fixture
def stocked(
    database: Database, portal_texts: Texts, customer: Callable[..., Texts], now: datetime
) -> Database:
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, [(None, customer(1))], "file", now)
    return database


def changes(database: Database, subject: str | None = None) -> list[tuple[object, ...]]:
    with database.read() as session:
        return [
            (each.who, each.what, each.kind, each.subject, each.before, each.after)
            for each in history(session, subject)
        ]


def test_what_was_added(stocked: Database, portal_texts: Texts, now: datetime) -> None:
    (portal, customer) = changes(stocked)
    assert portal[:5] == ("ada", "add", "portal", "portal1.example.net", None)
    assert customer[:5] == ("ada", "add", "customer", "c0001", None)
    with stocked.read() as session:
        assert [each.at for each in history(session)] == [now, now]
        after = history(session, "c0001")[0].after
    assert after is not None
    assert (after["name"], after["private_subnet"]) == ("Customer 1", "10.201.1.0/24")


def test_a_change_says_what_differed(stocked: Database, now: datetime) -> None:
    with stocked.write() as session:
        store.set_customer(session, "c0001", {"status": "shipped", "isp": "Other"}, now)
        store.set_customer(session, "c0001", {"status": "shipped"}, now)
    before = {"status": "ordered", "isp": "Example Cable"}
    after = {"status": "shipped", "isp": "Other"}
    assert changes(stocked, "c0001")[1:] == [("ada", "set", "customer", "c0001", before, after)]


def test_keys_are_in_it(stocked: Database, key: Callable[[int], str], now: datetime) -> None:
    later = now + timedelta(days=1)
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)
        keys.record_key(session, MOAT, key(1), now)
        keys.record_key(session, MOAT, key(2), later, replace=True)
    start, end = "2026-05-01T12:00:00Z", "2026-05-02T12:00:00Z"
    assert changes(stocked, MOAT) == [
        ("ada", "key", "moat", MOAT, {key(1): None}, {key(1): [start, None]}),
        (
            "ada",
            "key",
            "moat",
            MOAT,
            {key(1): [start, None], key(2): None},
            {key(1): [start, end], key(2): [end, None]},
        ),
    ]


def test_revoking_is_two_changes(
    stocked: Database, key: Callable[[int], str], now: datetime
) -> None:
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)
    with stocked.write() as session:
        store.set_customer(session, "c0001", {"status": "revoked"}, now + timedelta(days=1))
    assert changes(stocked, "c0001")[-1][5] == {"status": "revoked"}
    assert changes(stocked, MOAT)[-1][5] == {
        key(1): ["2026-05-01T12:00:00Z", "2026-05-02T12:00:00Z"]
    }


def test_what_failed_is_not_in_it(stocked: Database, now: datetime) -> None:
    def change_and_fail() -> None:
        with stocked.write() as session:
            store.set_customer(session, "c0001", {"isp": "Other"}, now)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert len(changes(stocked, "c0001")) == 1
