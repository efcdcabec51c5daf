"""Where the database is, and who may read and write it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from moatvpn.errors import OperatorError
from moatvpn.fleet import store
from moatvpn.fleet.database import Database, database_url


def test_a_path_is_relative_to_its_base(tmp_path: Path) -> None:
    assert database_url("db/x.sqlite", tmp_path).database == f"{tmp_path}/db/x.sqlite"
    assert database_url("/db/x.sqlite", tmp_path).database == "/db/x.sqlite"
    assert database_url("sqlite:///x.sqlite", tmp_path).database == "x.sqlite"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "://x", "sqlite:///file:x"])
def test_urls_refused(url: str) -> None:
    with pytest.raises(OperatorError, match="URL"):
        database_url(url)


def test_a_password_is_never_told() -> None:
    with pytest.raises(OperatorError) as caught:
        Database(database_url("nosuch://moat:secret@db.example.net/moat"))
    assert "secret" not in str(caught.value)
    assert "nosuch" in str(caught.value)


def test_a_database_is_made_once_for_its_owner_alone(tmp_path: Path, sqlite_url: str) -> None:
    database = Database(database_url(sqlite_url))
    assert database.create()
    assert not database.create()
    assert (tmp_path / "moat.sqlite").stat().st_mode & 0o777 == 0o600


def test_none_is_made_by_looking(tmp_path: Path, sqlite_url: str) -> None:
    database = Database(database_url(sqlite_url))
    with pytest.raises(OperatorError, match="Run `moat-fleet init`"), database.read():
        pytest.fail("there is nothing to read")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    database = Database(database_url("no/moat.sqlite", tmp_path))
    with pytest.raises(OperatorError, match="cannot be made"):
        database.create()


def test_a_file_that_is_no_database(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "moat.sqlite").write_text("customer,name\n" * 100)
    with pytest.raises(OperatorError, match="not a database"):
        Database(database_url(sqlite_url)).create()


def test_an_error_leaves_nothing_behind(
    database: Database, portal_texts: dict[str, str], now: datetime
) -> None:
    def add_and_fail() -> None:
        with database.write() as session:
            store.add_portal(session, portal_texts, now)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add_and_fail()
    with database.read() as session:
        assert store.list_portals(session) == []


def test_two_writers_take_turns(
    database: Database,
    portal_texts: dict[str, str],
    customer: Callable[..., dict[str, str]],
    now: datetime,
) -> None:
    """Each of many writers reads what is free and takes it; no two take the same."""
    with database.write() as session:
        store.add_portal(session, portal_texts, now)

    def write(number: int) -> None:
        own = Database(database_url(database.name))
        with own.write() as session:
            store.add_customers(session, [(None, customer(number))], "thread", now)
        own.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        subnets = [record.private_subnet for record in store.list_customers(session)]
    assert sorted(subnets, key=str) == [f"10.201.{number}.0/24" for number in range(1, 9)]
