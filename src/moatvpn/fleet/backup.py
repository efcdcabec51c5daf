"""The whole customer database as one file, which a database of either kind takes in again.

Each line is a JSON object: first {"moat_fleet": form, "layout": revision, "made": moment}, then a
{"table": name, "row": {column: value}} for each row, last {"rows": count}, without which the file
is not whole. Moments are ISO 8601. Locks are left out: who held them is not at work any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Table, func, insert, select, text
from sqlalchemy.orm import Session

from moatvpn.cli.policy_files import write_whole
from moatvpn.errors import OperatorError
from moatvpn.fleet.audit import record_audit
from moatvpn.fleet.base import SCHEMA_REVISION, Base, UtcDateTime, moment_text
from moatvpn.fleet.configurations import leap
from moatvpn.fleet.journal import Lock

_FORM = 1
_ROWS_AT_ONCE = 1000
_REMEDY = "Take another backup"
# More documents than a box can have been given since any backup that is still of use.
SERIAL_LEAP = 1_000_000


def back_up(session: Session, path: Path, now: datetime) -> int:
    """Write all that is in the database, of one moment, to path; return the number of rows."""
    head = {"moat_fleet": _FORM, "layout": SCHEMA_REVISION, "made": moment_text(now)}
    lines = [json.dumps(head)]
    for table in _tables():
        for row in session.execute(select(table).order_by(*table.primary_key)).mappings():
            values = {name: _plain(value) for name, value in row.items()}
            lines.append(json.dumps({"table": table.name, "row": values}, ensure_ascii=False))
    rows = len(lines) - 1
    lines.append(json.dumps({"rows": rows}))
    write_whole(path, "".join(f"{line}\n" for line in lines).encode("utf-8"), 0o600)
    return rows


def restore(session: Session, path: Path, now: datetime) -> int:
    """Take in what back_up has written, whole or not at all; return the number of rows.

    Raises OperatorError for a file that is no whole backup of today's layout, and where the
    database holds anything already.
    """
    for table in _tables():
        if session.execute(select(func.count()).select_from(table)).scalar_one():
            why = f"is not empty: it has {table.name}"
            raise OperatorError("database", why, "Restore into one that `moat-fleet init` made")
    count = 0
    tables = {table.name: table for table in _tables()}
    pending: list[dict[str, Any]] = []
    current: str | None = None
    for name, row in _rows(path, tables):
        if name != current or len(pending) == _ROWS_AT_ONCE:
            _insert(session, tables, current, pending)
            current, pending = name, []
        pending.append(row)
        count += 1
    _insert(session, tables, current, pending)
    leap(session, SERIAL_LEAP, now)
    _count_on(session)
    record_audit(session, now, "restore", "database", path.name, after={"rows": count})
    session.flush()
    return count


def _tables() -> list[Table]:
    """Return all tables but the locks', each after those that it refers to."""
    return [table for table in Base.metadata.sorted_tables if table is not Lock.__table__]


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _insert(
    session: Session, tables: dict[str, Table], name: str | None, rows: list[dict[str, Any]]
) -> None:
    if name is not None and rows:
        session.execute(insert(tables[name]), rows)


def _count_on(session: Session) -> None:
    """Have PostgreSQL give numbers above those of the rows that came with theirs."""
    if session.get_bind().dialect.name != "postgresql":
        return
    for table in _tables():
        if "id" in table.c and table.c.id.type.python_type is int and not table.c.id.foreign_keys:
            session.execute(
                # The table's name is one of our own models'.
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'),"  # noqa: S608
                    f" (SELECT max(id) FROM {table.name}))"
                )
            )


def _rows(path: Path, tables: dict[str, Table]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = enumerate(file, start=1)
            _check_head(path, lines)
            for count, (number, line) in enumerate(lines):
                found = _object(path, number, line)
                if "rows" in found:
                    if found["rows"] == count and next(lines, None) is None:
                        return
                    break
                yield _row(path, number, found, tables)
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
        raise OperatorError(str(path), why, "Check its name") from error
    except UnicodeDecodeError as error:
        raise OperatorError(str(path), "is no backup of moat-fleet's", _REMEDY) from error
    raise OperatorError(str(path), "is not whole", _REMEDY)


def _check_head(path: Path, lines: Iterable[tuple[int, str]]) -> None:
    number, line = next(iter(lines), (1, ""))
    head = _object(path, number, line)
    if head.get("moat_fleet") != _FORM:
        raise OperatorError(str(path), "is no backup of moat-fleet's", _REMEDY)
    if head.get("layout") != SCHEMA_REVISION:
        why = f"is of layout {head.get('layout')}, not {SCHEMA_REVISION}"
        remedy = "Restore it with the moat-fleet that made it, then run `moat-fleet upgrade`"
        raise OperatorError(str(path), why, remedy)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise OperatorError(f"{path}, line {number}", "cannot be read", _REMEDY) from error
    if not isinstance(found, dict):
        raise OperatorError(f"{path}, line {number}", "cannot be read", _REMEDY)
    return found


def _row(
    path: Path, number: int, found: dict[str, Any], tables: dict[str, Table]
) -> tuple[str, dict[str, Any]]:
    table, row = tables.get(str(found.get("table"))), found.get("row")
    if table is None or not isinstance(row, dict) or set(row) != set(table.c.keys()):
        raise OperatorError(f"{path}, line {number}", "is no row of a table's", _REMEDY)
    try:
        for column in table.c:
            if isinstance(column.type, UtcDateTime) and row[column.key] is not None:
                row[column.key] = datetime.fromisoformat(row[column.key])
    except (TypeError, ValueError) as error:
        raise OperatorError(f"{path}, line {number}", "has no moment", _REMEDY) from error
    return table.name, row
