"""One holder at a time; a dead one's lock can be taken over, a live one's cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from moatvpn.errors import OperatorError
from moatvpn.fleet.database import Database
from moatvpn.fleet.journal import Lock
from moatvpn.fleet.locks import HeldLock, lock

MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock(now: datetime) -> list[datetime]:
    """The time that the locks see: change its one element."""
    return [now]


@pytest.fixture
def take(database: Database, clock: list[datetime]) -> Callable[[str], HeldLock]:
    return lambda holder: HeldLock(database, "rotate", holder, MINUTE, lambda: clock[0])


def test_the_second_is_told_who_and_since_when(database: Database, now: datetime) -> None:
    with lock(database, "rotate", "ada@ops1", clock=lambda: now):
        with (
            pytest.raises(OperatorError, match=r"ada@ops1 since 2026-05-01T12:00:00Z"),
            lock(database, "rotate", "bob@ops2", clock=lambda: now),
        ):
            pytest.fail("two hold it")
        with lock(database, "move", "bob@ops2", clock=lambda: now):
            pass
    with lock(database, "rotate", "bob@ops2", clock=lambda: now):
        pass


def test_an_error_lets_go_of_it(database: Database) -> None:
    def work(error: type[Exception]) -> None:
        with lock(database, "rotate", "ada"):
            raise error

    with pytest.raises(ZeroDivisionError):
        work(ZeroDivisionError)
    with pytest.raises(KeyError):
        work(KeyError)


def test_one_that_is_renewed_is_kept(
    take: Callable[[str], HeldLock], clock: list[datetime]
) -> None:
    held = take("ada")
    for _ in range(3):
        clock[0] += MINUTE / 2
        held.renew()
        held.check()
        with pytest.raises(OperatorError, match="held by ada"):
            take("bob")


def test_an_expired_one_is_taken_over_and_its_holder_learns(
    take: Callable[[str], HeldLock], clock: list[datetime]
) -> None:
    lost = take("ada")
    clock[0] += MINUTE
    held = take("ada")
    lost.renew()
    with pytest.raises(OperatorError, match=r"another took it over\. Run the command again"):
        lost.check()
    # The old holder does not let go of what is another's.
    lost.release()
    held.renew()
    held.check()
    with pytest.raises(OperatorError, match="held by ada"):
        take("bob")


def test_one_that_could_not_be_renewed_is_lost(
    take: Callable[[str], HeldLock], clock: list[datetime]
) -> None:
    held = take("ada")
    clock[0] += MINUTE
    with pytest.raises(OperatorError, match="could not be renewed in time"):
        held.check()


def test_a_thread_renews_it(database: Database, clock: list[datetime]) -> None:
    """In real time: the lifetime is short, and the clock that tells of it is set by hand."""
    lifetime = timedelta(seconds=0.06)
    with lock(database, "rotate", "ada", lifetime=lifetime, clock=lambda: clock[0]) as held:
        clock[0] += lifetime
        deadline = time.monotonic() + 20
        while True:
            with database.read() as session:
                if session.get_one(Lock, "rotate").expires == clock[0] + lifetime:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        held.check()


def test_of_many_at_once_one_gets_it(database: Database) -> None:
    got: list[str] = []
    start = threading.Barrier(6)

    def take(name: str) -> None:
        start.wait()
        try:
            HeldLock(database, "rotate", name, MINUTE, datetime.now().astimezone)
        except OperatorError:
            return
        got.append(name)

    threads = [threading.Thread(target=take, args=(f"t{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
