"""Locks in the database: two operators, or two runners, do not do the same work at once.

A lock is held for a while and renewed while its holder lives. One whose holder died expires, and
then another may take it over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.database import Database
from moatvpn.fleet.journal import Lock

LIFETIME = timedelta(minutes=2)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class HeldLock:
    """A lock that is held. check() before each step that must not be done twice."""

    def __init__(
        self,
        database: Database,
        name: str,
        holder: str,
        lifetime: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        """Take the lock; raise OperatorError where another holds it."""
        self._database = database
        self._name = name
        self._holder = holder
        self._lifetime = lifetime
        self._clock = clock
        self._taken = self._renewed = clock()
        self._lost: str | None = None
        with database.write() as session:
            row = session.get(Lock, name)
            if row is not None and row.expires > self._taken:
                since = moment_text(row.taken)
                raise OperatorError(
                    f"lock {name}",
                    f"held by {row.holder} since {since}",
                    f"Wait until that is done; unless renewed it ends at {row.expires:%H:%M:%SZ}",
                )
            if row is None:
                row = Lock(name=name)
                session.add(row)
            row.holder, row.taken = holder, self._taken
            row.expires = self._taken + lifetime

    def renew(self) -> None:
        """Hold the lock for another lifetime, or learn that another took it over."""
        with self._database.write() as session:
            row = self._own(session)
            if row is None:
                self._lost = "another took it over"
                return
            now = self._clock()
            row.expires = now + self._lifetime
        self._renewed = now

    def check(self) -> None:
        """Raise OperatorError where the lock was lost: stop, what follows is another's work."""
        if self._lost is None and self._clock() >= self._renewed + self._lifetime:
            self._lost = "it could not be renewed in time"
        if self._lost is not None:
            raise OperatorError(
                f"lock {self._name} of {self._holder}", self._lost, "Run the command again"
            )

    def release(self) -> None:
        """Let go of the lock, if it is still ours."""
        with self._database.write() as session:
            row = self._own(session)
            if row is not None:
                session.delete(row)

    def keep(self, stop: threading.Event) -> None:
        """Renew the lock three times a lifetime until stop is set."""
        while not stop.wait(self._lifetime.total_seconds() / 3):
            # A database that is away may be back in time; check() tells when it was not.
            with suppress(OperatorError):
                self.renew()

    def _own(self, session: Session) -> Lock | None:
        row = session.get(Lock, self._name)
        ours = row is not None and (row.holder, row.taken) == (self._holder, self._taken)
        return row if ours else None


@contextmanager
def lock(
    database: Database,
    name: str,
    holder: str,
    *,
    lifetime: timedelta = LIFETIME,
    clock: Callable[[], datetime] = _utc_now,
) -> Iterator[HeldLock]:
    """Hold the lock called name during the block; raise OperatorError where another holds it.

    A thread renews it meanwhile. holder says who, on which machine: it is what others are told.
    """
    held = HeldLock(database, name, holder, lifetime, clock)
    stop = threading.Event()
    keeper = threading.Thread(target=held.keep, args=(stop,), name=f"lock {name}", daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        stop.set()
        keeper.join()
        held.release()
