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
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.models import SCHEMA_VERSION, Base, Schema

ENVIRONMENT = "MOAT_DATABASE"
DEFAULT = "sqlite:///moat.sqlite"
# Seconds that a writer waits for another one to end.
_LOCK_TIMEOUT = 30.0
_WRITES = "moat_writes"


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
            "database", "its URL cannot be read", f"Give one such as {DEFAULT}"
        ) from error
    if url.get_backend_name() == "sqlite" and (
        not url.database or url.database.startswith((":memory:", "file:"))
    ):
        raise OperatorError("database", "the URL names no file", f"Give one such as {DEFAULT}")
    return url


class Database:
    """The customer database at a URL. Nothing is opened before the first transaction."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.name = url.render_as_string(hide_password=True)
        try:
            self._engine = _engine(url)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise OperatorError(
                self.name, f"no driver for it ({error})", "Install it beside moat-fleet"
            ) from error

    def create(self) -> bool:
        """Make the tables; return False where they are there already.

        An SQLite file is made for its owner alone: it tells who lives where.
        """
        with self._errors():
            if self._url.get_backend_name() == "sqlite" and not self._path().exists():
                self._make_file()
            with self._engine.execution_options(**{_WRITES: True}).begin() as connection:
                if inspect(connection).has_table(Schema.__tablename__):
                    self._check_version(connection)
                    return False
                Base.metadata.create_all(connection)
                connection.execute(insert(Schema).values(version=SCHEMA_VERSION))
            return True

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

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[Session]:
        with self._errors():
            if self._url.get_backend_name() == "sqlite" and not self._path().exists():
                raise self._absent()
            engine = self._engine.execution_options(**{_WRITES: writes})
            with Session(engine, autoflush=False) as session:
                if not inspect(session.connection()).has_table(Schema.__tablename__):
                    raise self._absent()
                self._check_version(session.connection())
                yield session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise OperatorError(
                self.name, f"refused the change ({error.orig})", "Nothing was changed"
            ) from error
        except DBAPIError as error:
            raise OperatorError(
                self.name, f"cannot be used ({error.orig})", "See that it is there and not in use"
            ) from error
        except OSError as error:
            raise OperatorError(
                self.name, f"cannot be made ({error.strerror})", "See that its directory is there"
            ) from error

    def _absent(self) -> OperatorError:
        return OperatorError(self.name, "there is no customer database", "Run `moat-fleet init`")

    def _check_version(self, connection: Connection) -> None:
        version = connection.execute(select(Schema.version)).scalar_one_or_none()
        if version != SCHEMA_VERSION:
            raise OperatorError(
                self.name,
                f"its tables are of version {version}, not {SCHEMA_VERSION}",
                "Use the moat-fleet that made it",
            )

    def _path(self) -> Path:
        return Path(self._url.database or "")

    def _make_file(self) -> None:
        os.close(os.open(self._path(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        # Checks across records (no two subnets overlap) must hold with two writers at once.
        return create_engine(url, isolation_level="SERIALIZABLE")
    engine = create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT})
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions of its own: _sqlite_begin does.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    # A writer locks others out before it reads what it decides by.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
