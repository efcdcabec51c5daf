"""What the database itself refuses, whoever writes to it and by whatever way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet import store
from moatvpn.fleet.configurations import next_serial
from moatvpn.fleet.database import Database
from moatvpn.fleet.faults import FaultsError
from moatvpn.fleet.models import TRANSITIONS, Status

Texts = dict[str, str]

INSERT = (
    "INSERT INTO moats (id, customer_id, portal_id, wild_interface, private_interface, wild_mode,"
    " kidnet, policy, private_subnet, private_subnet6) SELECT 99, 'c0003', portal_id,"
    " wild_interface, private_interface, wild_mode, kidnet, policy, {}, {}"
    " FROM moats WHERE customer_id = 'c0001'"
)
SET_SUBNET = "UPDATE moats SET private_subnet = '{}' WHERE customer_id = 'c0001'"


@pytest.fixture
def stocked(
    database: Database, portal_texts: Texts, customer: Callable[..., Texts], now: datetime
) -> Database:
    """One portal and two customers, whose subnets are 10.201.1.0/24 and 10.201.8.0/22."""
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        rows = [customer(1), customer(2, private_subnet="10.201.8.0/22")]
        store.add_customers(session, [(None, row) for row in rows], "file", now)
    return database


def stored(session: Session, subnet: str) -> str:
    """Write a subnet as the database has it."""
    if session.get_bind().dialect.name == "postgresql":
        return subnet
    return {
        "10.201.2.0/24": "0ac90200-0ac902ff",
        "10.201.1.0/25": "0ac90100-0ac9017f",
        "10.201.1.128/25": "0ac90180-0ac901ff",
        "10.201.0.0/16": "0ac90000-0ac9ffff",
        "10.201.10.0/24": "0ac90a00-0ac90aff",
        "10.201.11.0/24": "0ac90b00-0ac90bff",
        "10.201.12.0/22": "0ac90c00-0ac90fff",
        "10.201.4.0/22": "0ac90400-0ac907ff",
    }[subnet]


def insert_moat(session: Session, subnet: str) -> None:
    """Insert a third customer past the store."""
    session.execute(
        text(
            "INSERT INTO customers SELECT 'c0003', name, contact, site_address, isp, status,"
            " created, changed FROM customers WHERE id = 'c0001'"
        )
    )
    session.execute(text("INSERT INTO boxes VALUES (99, 'moat', 'm0003.moats.example.net')"))
    as_stored = stored(session, subnet)
    cast = "" if as_stored != subnet else "::cidr"
    six = "'fd00:201:ff::/64'::cidr"
    if cast == "":
        six = "'fd00020100ff00000000000000000000-fd00020100ff0000ffffffffffffffff'"
    session.execute(text(INSERT.format(f"'{as_stored}'{cast}", six)))


@pytest.mark.parametrize("subnet", ["10.201.2.0/24", "10.201.12.0/22", "10.201.4.0/22"])
def test_a_free_subnet_is_taken(stocked: Database, subnet: str) -> None:
    with stocked.write() as session:
        insert_moat(session, subnet)
    with stocked.read() as session:
        assert store.list_customers(session)[2].private_subnet == subnet


OVERLAPS = [
    "10.201.1.0/25",
    "10.201.1.128/25",
    "10.201.0.0/16",
    "10.201.10.0/24",
    "10.201.11.0/24",
]


@pytest.mark.parametrize("subnet", OVERLAPS)
def test_overlapping_subnets_are_refused(stocked: Database, subnet: str) -> None:
    with stocked.write() as session:
        with pytest.raises(IntegrityError):
            insert_moat(session, subnet)
        session.rollback()


@pytest.mark.parametrize("subnet", OVERLAPS[2:])
def test_a_subnet_is_not_changed_into_one_that_overlaps(stocked: Database, subnet: str) -> None:
    with stocked.write() as session:
        with pytest.raises(IntegrityError):
            session.execute(text(SET_SUBNET.format(stored(session, subnet))))
        session.rollback()
        # Into a part of what it is: no other moat is touched.
        session.execute(text(SET_SUBNET.format(stored(session, "10.201.1.0/25"))))


@pytest.mark.parametrize(
    "value", ["10.201.3.0/24", "0AC90300-0AC903FF", "0ac903ff-0ac90300", "0ac90300_0ac903ff"]
)
def test_a_subnet_has_one_form(stocked: Database, value: str) -> None:
    with stocked.write() as session:
        if session.get_bind().dialect.name == "postgresql":
            value = "10.201.3.1/24"
        with pytest.raises(DBAPIError, match=r"constraint|invalid cidr"):
            session.execute(text(SET_SUBNET.format(value)))
        session.rollback()


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_statuses_change_as_the_table_says(
    stocked: Database, before: Status, after: Status, now: datetime
) -> None:
    """The database and the store know the same changes."""
    with stocked.write() as session:
        # A new status is free to choose; so make the customer anew with it.
        session.execute(text("DELETE FROM moats"))
        session.execute(text("DELETE FROM customers"))
        row = {"name": "A", "isp": "B", "portal": "portal1.example.net", "moat": "m9.example.net"}
        given = row | {"customer": "c9", "status": before}
        store.add_customers(session, [(None, given)], "file", now)
    allowed = after == before or after in TRANSITIONS[before]
    update = text("UPDATE customers SET status = :status").bindparams(status=str(after))
    with stocked.write() as session:
        if allowed:
            session.execute(update)
        else:
            with pytest.raises(IntegrityError, match="no customer changes to that status"):
                session.execute(update)
        session.rollback()
        if allowed:
            store.set_customer(session, "c9", {"status": after}, now)
        else:
            with pytest.raises(FaultsError, match="c9") as caught:
                store.set_customer(session, "c9", {"status": after}, now)
            assert [fault.field for fault in caught.value.faults] == ["status"]


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'eve'", "DELETE FROM audit"])
def test_the_audit_is_not_rewritten(stocked: Database, statement: str) -> None:
    with stocked.write() as session:
        with pytest.raises(IntegrityError, match="the audit"):
            session.execute(text(statement))
        session.rollback()


def test_a_serial_number_only_grows(database: Database, now: datetime) -> None:
    with database.write() as session:
        assert next_serial(session, "m1.example.net", "one", now) == 1
        assert next_serial(session, "m1.example.net", "one", now) == 1
        assert next_serial(session, "m1.example.net", "two", now) == 2
        assert next_serial(session, "m2.example.net", "two", now) == 1
    with database.write() as session:
        with pytest.raises(IntegrityError, match="only grows"):
            session.execute(text("UPDATE configurations SET serial = 1"))
        session.rollback()


def test_what_the_database_refuses_is_one_line(stocked: Database) -> None:
    with pytest.raises(OperatorError, match="Nothing was changed") as caught, stocked.write() as s:
        s.execute(text("UPDATE boxes SET identity = 'same.example.net'"))
    assert "\n" not in str(caught.value)
