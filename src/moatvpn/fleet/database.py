"""Where the customer database is, and transactions on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.migrate import absent, check_layout, layout, upgrade

ENVIRONMENT = "MOAT_DATABASE"
DEFAULT = "sqlite:///moat.sqlite"
_GIVE = f"{DEFAULT} or postgresql://moat@db.example.net/moat"
# Seconds that a writer waits for another one to end.
_LOCK_TIMEOUT = 30.0
_WRITES = "moat_writes"
# The number of the lock that PostgreSQL's writers take turns by: "moat" in ASCII.
_TURN = 0x6D6F6174


def database_url(text: str, base: Path | None = None) -> URL:
    """Return the URL that text gives: a URL of SQLAlchemy's, or the path of an SQLite file.

    A path (not a URL) is relative to base. Raises OperatorError where text is neither, or names
    a database that would vanish with the process.
    """
    if "://" not in text:
        return URL.create("sqlite", database=str((base or Path()) / text))
    try:
        url = make_url(text)
    except ArgumentError as error:
        # The text may hold a password, so it is not repeated.
        raise OperatorError(
            "database", "its URL cannot be read", f"Give one such as {_GIVE}"
        ) from error
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise OperatorError(
            "database",
            f"{url.get_backend_name()} is not one it runs on",
            f"Give one such as {_GIVE}",
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and (
        not url.database or url.database.startswith((":memory:", "file:"))
    ):
        raise OperatorError("database", "the URL names no file", f"Give one such as {_GIVE}")
    return url


class Database:
    """The customer database at a URL. Nothing is opened before the first transaction."""

    def __init__(self, url: URL, who: str = "unknown") -> None:
        """Name the database; who is the operator that the audit will name for changes."""
        self.who = who
        self._url = url
        self.name = url.render_as_string(hide_password=True)
        try:
            self._engine = _engine(url)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise OperatorError(
                self.name, f"no driver for it ({error})", "Install it beside moat-fleet"
            ) from error

    @property
    def url_text(self) -> str:
        """Return the URL with its password: for a program's environment, never for people."""
        return self._url.render_as_string(hide_password=False)

    @property
    def path(self) -> Path | None:
        """Return the file of an SQLite database, None for one on a server."""
        return self._path() if self._url.get_backend_name() == "sqlite" else None

    def create(self) -> bool:
        """Make the tables; return False where they are there already.

        An SQLite file is made for its owner alone: it tells who lives where.
        """
        with self._errors():
            if self._is_absent_file():
                self._make_file()
            with self._engine_for(writes=True).begin() as connection:
                if layout(connection) is not None:
                    check_layout(connection, self.name)
                    return False
                return upgrade(connection, self.name)

    def upgrade(self) -> bool:
        """Bring the tables to today's layout; return False where they are of it already."""
        with self._errors():
            if self._is_absent_file():
                raise absent(self.name)
            with self._engine_for(writes=True).begin() as connection:
                if layout(connection) is None:
                    raise absent(self.name)
                return upgrade(connection, self.name)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database, and changes nothing."""
        with self._session(writes=False) as session:
            yield session
            session.rollback()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session, alone in writing; commit at the end, roll back on any error."""
        with self._session(writes=True) as session:
            yield session
            session.commit()

    def close(self) -> None:
        """Close what connections there are; the next transaction makes new ones."""
        self._engine.dispose()

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[Session]:
        with self._errors():
            if self._is_absent_file():
                raise absent(self.name)
            with Session(
                self._engine_for(writes=writes), autoflush=False, info={"who": self.who}
            ) as session:
                check_layout(session.connection(), self.name)
                yield session

    def _engine_for(self, *, writes: bool) -> Engine:
        options: dict[str, Any] = {_WRITES: writes}
        if self._url.get_backend_name() == "postgresql":
            # A reader sees one state throughout; a writer, alone in its turn, what is there now.
            options["isolation_level"] = "READ COMMITTED" if writes else "REPEATABLE READ"
        return self._engine.execution_options(**options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise OperatorError(
                self.name, f"refused the change ({_reason(error)})", "Nothing was changed"
            ) from error
        except DBAPIError as error:
            raise OperatorError(
                self.name,
                f"cannot be used ({_reason(error)})",
                "See that it is there and not in use",
            ) from error
        except OSError as error:
            raise OperatorError(
                self.name, f"cannot be made ({error.strerror})", "See that its directory is there"
            ) from error

    def _is_absent_file(self) -> bool:
        return self.path is not None and not self.path.exists()

    def _path(self) -> Path:
        return Path(self._url.database or "")

    def _make_file(self) -> None:
        os.close(os.open(self._path(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        engine = create_engine(url)
        event.listen(engine, "begin", _postgresql_begin)
        return engine
    engine = create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT})
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _reason(error: DBAPIError) -> str:
    """Return what the database said, in one line."""
    return str(error.orig).partition("\n")[0]


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_WRITES, False))


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions of its own: _sqlite_begin does.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _sqlite_begin(connection: Connection) -> None:
    # A writer locks others out before it reads what it decides by.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _postgresql_begin(connection: Connection) -> None:
    if _writes(connection):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT:.0f}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN})")
