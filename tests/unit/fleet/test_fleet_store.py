"""Records in the database: what collides, what is given out, what a change changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from moatvpn.errors import OperatorError
from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.faults import FaultsError
from moatvpn.fleet.find import get_customer
from moatvpn.fleet.models import Customer, PublicKey

Texts = dict[str, str]
Key = Callable[[int], str]
Make = Callable[..., Texts]


@pytest.fixture
def stocked(
    database: Database, portal_texts: Texts, portal2_texts: Texts, customer: Make, now: datetime
) -> Database:
    """Two portals, and the customer c0001 with the subnets of the lab."""
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_portal(session, portal2_texts, now)
        lab = customer(
            1,
            private_subnet="10.201.1.0/24",
            private_subnet6="fd00:201:1::/64",
            serial="SN-1",
            wild_mac="02:00:00:00:00:01",
        )
        store.add_customers(session, [(None, lab)], "lab", now)
    return database


def add(database: Database, now: datetime, *rows: Texts) -> list[str | None]:
    with database.write() as session:
        records = store.add_customers(session, list(enumerate(rows, start=2)), "file", now)
    return [record.private_subnet for record in records]


def test_subnets_come_out_of_the_pool_in_order(
    stocked: Database, customer: Make, now: datetime
) -> None:
    assert add(stocked, now, customer(2), customer(3)) == ["10.201.2.0/24", "10.201.3.0/24"]
    with stocked.read() as session:
        subnets6 = [record.private_subnet6 for record in store.list_customers(session)]
    assert subnets6 == ["fd00:201:1::/64", "fd00:201:0:1::/64", "fd00:201:0:2::/64"]


def test_what_a_later_row_asks_for_is_not_given_to_an_earlier_one(
    stocked: Database, customer: Make, now: datetime
) -> None:
    rows = [customer(2), customer(3, private_subnet="10.201.2.0/24")]
    assert add(stocked, now, *rows) == ["10.201.3.0/24", "10.201.2.0/24"]


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"customer": "c0001"}, "customer", "there already"),
        ({"moat": "m0001.moats.example.net"}, "moat", "customer c0001"),
        ({"moat": "portal2.example.net"}, "moat", "a portal"),
        ({"serial": "SN-1"}, "serial", "customer c0001"),
        ({"private_mac": "02-00-00-00-00-01"}, "private_mac", "customer c0001"),
        ({"portal": "portal9.example.net"}, "portal", "no portal"),
        ({"backup_portal": "portal9.example.net"}, "backup_portal", "no portal"),
        ({"private_subnet": "10.201.1.128/25"}, "private_subnet", "customer c0001's"),
        ({"private_subnet": "10.201.0.0/24"}, "private_subnet", "portal portal1"),
        ({"private_subnet": "10.202.5.0/24"}, "private_subnet", "does not lie in the pool"),
        ({"private_subnet": "10.50.0.0/25"}, "private_subnet", "overlaps 10.50.0.0/24"),
        ({"private_subnet6": "fd00:201:1::/64"}, "private_subnet6", "customer c0001's"),
        (
            {"kidnet": "yes", "kidnet_subnet": "10.201.9.0/24", "private_subnet": "10.201.8.0/24"},
            "kidnet_subnet",
            "overlaps 10.201.0.0/16",
        ),
    ],
)
def test_collisions_name_the_field_and_the_other(
    stocked: Database, customer: Make, now: datetime, changes: Texts, field: str, why: str
) -> None:
    with pytest.raises(FaultsError) as caught:
        add(stocked, now, customer(2) | changes)
    assert [(fault.field, fault.row) for fault in caught.value.faults if why in fault.why] == [
        (field, 2)
    ]


def test_rows_of_one_file_collide_too(stocked: Database, customer: Make, now: datetime) -> None:
    twin = customer(3, private_subnet="10.201.5.0/24", serial="SN-5")
    with pytest.raises(FaultsError) as caught:
        add(stocked, now, customer(2, private_subnet="10.201.5.0/25", serial="SN-5"), twin, twin)
    assert {(fault.row, fault.field) for fault in caught.value.faults} >= {(3, "serial")}
    with stocked.read() as session:
        assert len(store.list_customers(session)) == 1


def test_a_pool_that_is_full_says_so(
    database: Database, portal_texts: Texts, customer: Make, now: datetime
) -> None:
    with database.write() as session:
        small = {"pool": "10.201.0.0/23", "private_prefix": "24"}
        store.add_portal(session, portal_texts | small, now)
    with pytest.raises(FaultsError, match="file") as caught:
        add(database, now, customer(1), customer(2))
    (fault,) = caught.value.faults
    assert (fault.row, fault.field) == (3, "private_subnet")
    assert "no free subnet" in fault.why


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "pool"),
        ({"pool": "10.200.0.0/14", "tunnel_address": "10.200.0.1/32"}, "pool"),
        ({"corporate_address": "10.201.9.1/24", "corporate_gateway": "10.201.9.2"}, None),
        ({"portal": "portal2-example.net"}, "portal"),
        ({"portal": "portal1.example.net"}, "portal"),
        ({"portal": "m0001.moats.example.net"}, "portal"),
    ],
)
def test_portals_do_not_collide(
    stocked: Database, portal2_texts: Texts, now: datetime, changes: Texts, field: str | None
) -> None:
    with stocked.write() as session, pytest.raises(FaultsError) as caught:
        store.add_portal(session, portal2_texts | {"portal": "p3.example.net"} | changes, now)
    assert (field or "corporate_address") in {fault.field for fault in caught.value.faults}


def test_set_changes_what_is_given_and_says_so(stocked: Database, now: datetime) -> None:
    later = now + timedelta(days=1)
    with stocked.write() as session:
        record, changed = store.set_customer(session, "c0001", {"status": "active"}, later)
        assert (record.status, changed) == ("active", True)
    with stocked.write() as session:
        again = later + timedelta(days=1)
        _, changed = store.set_customer(session, "c0001", {"status": "active"}, again)
        assert not changed
    with stocked.read() as session:
        row = get_customer(session, "c0001")
        assert (row.created, row.changed) == (now, later)


def test_set_keeps_to_the_rules(stocked: Database, now: datetime) -> None:
    with stocked.write() as session, pytest.raises(FaultsError) as caught:
        store.set_customer(session, "c0001", {"portal": "portal2.example.net"}, now)
    assert [fault.field for fault in caught.value.faults] == ["private_subnet", "private_subnet6"]
    move = {"portal": "portal2.example.net", "private_subnet": "", "private_subnet6": ""}
    with stocked.write() as session:
        record, _ = store.set_customer(session, "c0001", move, now)
    assert (record.private_subnet, record.private_subnet6) == ("10.202.1.0/24", "fd00:202:0:1::/64")


def test_an_unknown_customer(stocked: Database, now: datetime) -> None:
    with stocked.write() as session, pytest.raises(OperatorError, match="c9: is not in"):
        store.set_customer(session, "c9", {}, now)


MOAT = "m0001.moats.example.net"


def test_a_key_is_recorded_once(stocked: Database, key: Key, now: datetime) -> None:
    with stocked.write() as session:
        assert keys.record_key(session, MOAT, key(1), now)
    with stocked.write() as session:
        assert not keys.record_key(session, MOAT, key(1), now + timedelta(days=9))
        assert session.scalars(select(PublicKey.not_before)).all() == [now]


def test_another_key_needs_replace(stocked: Database, key: Key, now: datetime) -> None:
    later = now + timedelta(days=1)
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)
        with pytest.raises(OperatorError, match="another valid public key"):
            keys.record_key(session, MOAT, key(2), later)
        assert keys.record_key(session, MOAT, key(2), later, replace=True)
        assert not keys.record_key(session, MOAT, key(2), later, replace=True)
        old, new = keys.list_keys(session)
        assert (old.not_after, new.not_before, new.not_after) == (later, later, None)
        assert not old.valid(later)
        assert new.valid(later)
        with pytest.raises(OperatorError, match="ended on"):
            keys.record_key(session, MOAT, key(1), later)


def test_a_planned_replacement_overlaps_nothing(stocked: Database, key: Key, now: datetime) -> None:
    start = now + timedelta(days=7)
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)
        keys.record_key(session, MOAT, key(2), now, replace=True, not_before=start)
        old, new = keys.list_keys(session)
        for moment, valid in ((now, old), (start - timedelta(seconds=1), old), (start, new)):
            assert [each for each in (old, new) if each.valid(moment)] == [valid]


def test_a_key_can_be_ended(stocked: Database, key: Key, now: datetime) -> None:
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)
        assert keys.record_key(session, MOAT, key(1), now, not_after=now + timedelta(days=1))
        assert keys.record_key(session, MOAT, key(2), now + timedelta(days=1))
        with pytest.raises(OperatorError, match="before it begins"):
            keys.record_key(
                session, MOAT, key(3), now, replace=True, not_after=now - timedelta(days=1)
            )


@pytest.mark.parametrize("text", ["", "AAAA", "ssh-ed25519 AAAA", "MCowBQYDK2VwAyEA"])
def test_what_is_no_key(stocked: Database, now: datetime, text: str) -> None:
    with stocked.write() as session, pytest.raises(OperatorError, match=f"public key of {MOAT}"):
        keys.record_key(session, MOAT, text, now)


def test_a_key_belongs_to_one_box(stocked: Database, key: Key, now: datetime) -> None:
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)
        with pytest.raises(OperatorError, match=f"already {MOAT}'s"):
            keys.record_key(session, "portal1.example.net", key(1), now)
        with pytest.raises(OperatorError, match="no moat or portal"):
            keys.record_key(session, "nobody.example.net", key(2), now)


def test_revoking_ends_the_keys(stocked: Database, key: Key, now: datetime) -> None:
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)
    with stocked.write() as session:
        store.set_customer(session, "c0001", {"status": "revoked"}, now)
        assert not any(each.valid(now) for each in keys.list_keys(session))
        with pytest.raises(OperatorError, match="is revoked"):
            keys.record_key(session, MOAT, key(2), now)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE customers SET status = 'gone'",
        "UPDATE moats SET wild_mode = 'static'",
        "UPDATE moats SET kidnet = (1 = 1)",
        "UPDATE moats SET backup_portal_id = portal_id",
        "UPDATE moats SET portal_id = 99",
        "UPDATE boxes SET identity = 'same.example.net'",
        "UPDATE boxes SET kind = 'router'",
        "DELETE FROM customers",
    ],
)
def test_the_schema_holds_by_itself(stocked: Database, statement: str) -> None:
    with stocked.write() as session:
        with pytest.raises(IntegrityError):
            session.execute(text(statement))
        session.rollback()


def test_moments_are_utc(stocked: Database) -> None:
    with stocked.read() as session:
        row = session.scalars(select(Customer)).one()
        assert row.created.tzinfo is UTC
