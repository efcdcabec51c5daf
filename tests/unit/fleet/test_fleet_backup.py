"""A backup of either kind of database goes into either kind, whole or not at all."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from moatvpn.errors import OperatorError
from moatvpn.fleet import keys, store
from moatvpn.fleet.audit import history
from moatvpn.fleet.backup import SERIAL_LEAP, back_up, restore
from moatvpn.fleet.configurations import next_serial
from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.models import Customer
from moatvpn.fleet.observations import record_observations
from moatvpn.fleet.operations import begin_operation
from moatvpn.fleet.playbooks import Answers

Texts = dict[str, str]


@pytest.fixture
def backup(
    database: Database,
    portal_texts: Texts,
    customer: Callable[..., Texts],
    key: Callable[[int], str],
    now: datetime,
    tmp_path: Path,
) -> Path:
    """A database with something in every kind of row, as a file."""
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        given = [customer(1), customer(2, name='"Zo\u00eb", <b>', kidnet="yes")]
        given[1]["kidnet_subnet"] = "192.168.77.0/24"
        store.add_customers(session, [(None, each) for each in given], "file", now)
        keys.record_key(session, "m0001.moats.example.net", key(1), now)
        assert next_serial(session, "m0001", "of this content", now) == 1
        heard = {"running": True, "connections": []}
        record_observations(session, Answers({"portal1.example.net": heard}, {}), now)
        begin_operation(session, "rotate", {"of": ["moats"]}, [["m0001"], ["m0002"]], "new", now)
    path = tmp_path / "moat.backup"
    with database.read() as session:
        assert back_up(session, path, now) == len(path.read_text().splitlines()) - 2
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Another database, as `moat-fleet init` makes it."""
    url = (
        str(tmp_path / "other.sqlite")
        if request.param == "sqlite"
        else request.getfixturevalue("new_postgresql")()
    )
    made = Database(database_url(url), who="bob")
    made.create()
    yield made
    made.close()


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def customers_in(database: Database) -> int:
    with database.read() as session:
        return len(session.scalars(select(Customer)).all())


def test_a_restored_database_is_the_same(
    backup: Path, empty: Database, customer: Callable[..., Texts], now: datetime, tmp_path: Path
) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with empty.write() as session:
        assert restore(session, backup, now) == len(lines_of(backup)) - 2
    again = tmp_path / "again.backup"
    with empty.read() as session:
        back_up(session, again, now)
        *before, last = history(session)
        assert {each.who for each in before} == {"ada"}
        assert (last.who, last.what, last.kind) == ("bob", "restore", "database")
    # The same rows, but for the serial numbers, where boxes begin with them, and what happened.
    leapt = backup.read_text().replace('"serial": 1,', f'"serial": {SERIAL_LEAP + 1},')
    new = set(lines_of(again)) - set(leapt.splitlines())
    assert set(leapt.splitlines()) - set(lines_of(again)) == {lines_of(backup)[-1]}
    assert {json.loads(line).get("table") for line in new} == {"audit", "configurations", None}
    assert len(new) == 3
    # Boxes have had documents from after the backup, and take nothing older: neither those that
    # the backup knew nor others.
    with empty.write() as session:
        assert next_serial(session, "m0001", "of another content", now) == SERIAL_LEAP + 2
        assert next_serial(session, "m0009", "of any content", now) == SERIAL_LEAP + 1
    # It goes on: new rows get numbers that are nobody's.
    with empty.write() as session:
        store.add_customers(session, [(None, customer(3))], "file", now)
        keys.end_keys(session, keys.get_box(session, "m0001.moats.example.net"), now)
    assert customers_in(empty) == 3


@pytest.mark.parametrize("lost", ["the end", "a row", "half a line", "all"])
def test_a_file_that_is_not_whole_changes_nothing(
    backup: Path, empty: Database, now: datetime, lost: str
) -> None:
    text = backup.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    kept = {
        "the end": "".join(lines[:-1]),
        "a row": "".join(lines[:-2] + lines[-1:]),
        "half a line": text[: -len(lines[-1]) - 10],
        "all": "",
    }
    backup.write_text(kept[lost], encoding="utf-8")
    with pytest.raises(OperatorError, match=r"not whole|cannot be read"), empty.write() as session:
        restore(session, backup, now)
    assert customers_in(empty) == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layout": "0001"}, "of layout 0001"),
        ({"moat_fleet": 2}, "no backup"),
    ],
)
def test_another_form_is_refused(
    backup: Path, empty: Database, now: datetime, change: dict[str, object], match: str
) -> None:
    first, *rest = lines_of(backup)
    backup.write_text("\n".join([json.dumps(json.loads(first) | change), *rest]) + "\n")
    with pytest.raises(OperatorError, match=match), empty.write() as session:
        restore(session, backup, now)


def test_a_row_of_something_else_is_refused(backup: Path, empty: Database, now: datetime) -> None:
    lines = lines_of(backup)
    lines[1] = json.dumps({"table": "alembic_version", "row": {"version_num": "0001"}})
    backup.write_text("\n".join(lines) + "\n")
    with pytest.raises(OperatorError, match="line 2"), empty.write() as session:
        restore(session, backup, now)


def test_a_database_in_use_is_not_overwritten(
    database: Database, backup: Path, now: datetime
) -> None:
    with pytest.raises(OperatorError, match="not empty"), database.write() as session:
        restore(session, backup, now)
    assert customers_in(database) == 2
