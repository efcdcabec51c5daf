"""The stamp changes with whatever changes in the database, and with nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.stamp import stamp

Texts = dict[str, str]
Make = Callable[..., Texts]
Key = Callable[[int], str]
PORTAL = "portal1.example.net"


@pytest.fixture
def one(
    database: Database, portal_texts: Texts, customer: Make, key: Key, now: datetime
) -> Database:
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, [(None, customer(1, status="active"))], "one", now)
        keys.record_key(session, "m0001.moats.example.net", key(1), now)
    return database


def test_reading_changes_nothing(one: Database, now: datetime) -> None:
    before = stamp(one)
    assert before is not None
    with one.read() as session:
        build_inventory(session, now)
    assert stamp(one) == before


def test_a_revocation_does(one: Database, now: datetime) -> None:
    before = stamp(one)
    with one.write() as session:
        store.set_customer(session, "c0001", {"status": "revoked"}, now)
    assert stamp(one) not in {before, None}


def test_a_change_that_no_audit_knows_of_does(one: Database) -> None:
    before = stamp(one)
    with one.write() as session:
        session.execute(text("UPDATE customers SET isp = 'Another'"))
    assert stamp(one) not in {before, None}


def test_a_change_that_is_being_made_is_not_taken_for_made(one: Database, now: datetime) -> None:
    """Whatever the stamp is while a writer is at work, it is not that of what he leaves."""
    with one.write() as session:
        store.set_customer(session, "c0001", {"status": "revoked"}, now)
        meanwhile = stamp(one)
    assert stamp(one) not in {meanwhile, None}


def test_the_state_of_a_backup_is_another(
    tmp_path: Path, now: datetime, portal_texts: Texts
) -> None:
    """What was undone by a restored file is not what a cache has seen before."""
    path = tmp_path / "moat.sqlite"
    database = Database(database_url(str(path)))
    database.create()
    backup = path.read_bytes()
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
    seen = stamp(database)
    database.close()
    path.unlink()
    path.write_bytes(backup)
    with database.write() as session:
        store.add_portal(session, portal_texts, now + timedelta(days=1))
    assert stamp(database) not in {seen, None}


def test_where_the_file_does_not_count_its_changes_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "moat.sqlite"
    database = Database(database_url(str(path)))
    assert stamp(database) is None  # not there
    database.create()
    assert stamp(database) is not None
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert stamp(database) is None


def test_a_journal_that_a_killed_writer_left(tmp_path: Path) -> None:
    path = tmp_path / "moat.sqlite"
    database = Database(database_url(str(path)))
    database.create()
    (tmp_path / "moat.sqlite-journal").touch()
    assert stamp(database) is None
