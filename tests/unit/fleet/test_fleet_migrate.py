"""The way from any layout of the tables to today's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine, inspect, text
from typer.testing import Result

import moatvpn.fleet
from moatvpn.errors import OperatorError
from moatvpn.fleet import journal, keys, models, store
from moatvpn.fleet.base import SCHEMA_REVISION, Base
from moatvpn.fleet.database import Database, database_url

LAYOUT1 = Path(__file__).with_name("layout1.sql")


def config() -> Config:
    made = Config()
    directory = Path(moatvpn.fleet.__file__).parent / "migrations"
    made.set_main_option("script_location", str(directory))
    return made


def make_layout1(path: Path, url: str) -> None:
    """Put the database that the first moat-fleet left at path, and copy it to url if not there."""
    with sqlite3.connect(path) as connection:
        connection.executescript(LAYOUT1.read_text())
    connection.close()
    if url.startswith("sqlite"):
        return
    source, target = create_engine(f"sqlite:///{path}"), create_engine(database_url(url))
    found, made = MetaData(), MetaData()
    found.reflect(source)
    with source.connect() as old, target.begin() as new:
        alembic = config()
        alembic.attributes["connection"] = new
        command.upgrade(alembic, "0001")
        new.execute(text("DROP TABLE alembic_version"))
        made.reflect(new)
        for table in found.sorted_tables:
            rows = [dict(row) for row in old.execute(table.select()).mappings()]
            if rows:
                new.execute(made.tables[table.name].insert(), rows)
    source.dispose()
    target.dispose()


@pytest.fixture
def layout1(tmp_path: Path, url: str) -> str:
    make_layout1(tmp_path / "moat.sqlite", url)
    return url


def test_the_newest_step_is_todays_layout() -> None:
    assert ScriptDirectory.from_config(config()).get_heads() == [SCHEMA_REVISION]


def test_an_older_layout_is_refused_with_what_to_do(layout1: str) -> None:
    database = Database(database_url(layout1))
    for use in (database.read, database.write):
        with pytest.raises(OperatorError, match=r"older layout \(0001, .*`moat-fleet upgrade`"):
            use().__enter__()
    with pytest.raises(OperatorError, match="older layout"):
        database.create()
    database.close()


def test_everything_is_there_after_an_upgrade(layout1: str, key: Callable[[int], str]) -> None:
    database = Database(database_url(layout1))
    assert database.upgrade()
    assert not database.upgrade()
    with database.read() as session:
        one, two = store.list_customers(session)
        assert (one.customer, one.status, one.serial) == ("c0001", "active", "SN-1")
        assert (one.private_subnet, one.private_subnet6) == ("10.201.1.0/24", "fd00:201:0:1::/64")
        assert (two.private_subnet, two.kidnet_subnet) == ("10.202.1.0/24", "192.168.77.0/24")
        assert (two.portal, two.backup_portal) == ("portal2.example.net", "portal1.example.net")
        assert [each.key for each in keys.list_keys(session)] == [key(1), key(2)]
    database.close()


def test_the_commands_of_an_upgrade(layout1: str, fleet: Callable[..., Result]) -> None:
    refused = fleet("customer", "list")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "run `moat-fleet upgrade`" in refused.stderr
    assert fleet("upgrade").stdout.endswith(": upgraded\n")
    assert fleet("upgrade").stdout.endswith(": is of this layout already\n")
    assert "c0001" in fleet("customer", "list").stdout


def test_an_upgrade_is_done_whole_or_not(layout1: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(database_url(layout1))
    upgrade = command.upgrade

    def fail(*words: Any) -> None:
        upgrade(*words)
        raise ZeroDivisionError

    monkeypatch.setattr(command, "upgrade", fail)
    with pytest.raises(ZeroDivisionError):
        database.upgrade()
    monkeypatch.undo()
    with pytest.raises(OperatorError, match=r"older layout \(0001"):
        database.read().__enter__()
    assert database.upgrade()
    database.close()


def test_a_newer_layout_is_refused(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for use in (database.read().__enter__, database.create, database.upgrade):
        with pytest.raises(OperatorError, match=r"newer layout \(9999\).*Use the moat-fleet"):
            use()


def test_there_is_nothing_to_upgrade(url: str) -> None:
    database = Database(database_url(url))
    with pytest.raises(OperatorError, match="Run `moat-fleet init`"):
        database.upgrade()
    database.close()


def test_the_steps_make_what_the_models_say(
    database: Database, new_postgresql: Callable[..., str], tmp_path: Path
) -> None:
    """Tables, columns, types, keys, checks: the same by the steps and by the models."""
    assert {models.Customer.metadata, journal.Audit.metadata} == {Base.metadata}
    by_models = f"sqlite:///{tmp_path}/models.sqlite"
    if not database.name.startswith("sqlite"):
        by_models = new_postgresql()
    engine = create_engine(by_models)
    Base.metadata.create_all(engine)
    with database.read() as session, engine.connect() as connection:
        by_steps = inspect(session.connection())
        wanted = describe(inspect(connection))
        found = describe(by_steps)
    engine.dispose()
    del found["alembic_version"]
    assert found == wanted


def describe(inspector: Any) -> dict[str, Any]:
    found = {}
    for table in inspector.get_table_names():
        columns = {
            each["name"]: (repr(each["type"]), each["nullable"])
            for each in inspector.get_columns(table)
        }
        indexes = inspector.get_indexes(table)
        found[table] = {
            "columns": columns,
            "primary": inspector.get_pk_constraint(table),
            "foreign": sorted(inspector.get_foreign_keys(table), key=str),
            "unique": sorted(inspector.get_unique_constraints(table), key=str),
            "checks": sorted(inspector.get_check_constraints(table), key=str),
            # What keeps subnets apart in PostgreSQL is not in the models.
            "indexes": [each for each in indexes if not each["name"].startswith("ex_")],
        }
    return found
