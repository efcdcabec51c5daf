"""Deadlines: their order, cancelling, and that neither many nor dead ones are a burden."""

from __future__ import annotations

from moatvpn.ike.scheduler import MOST_AT_ONCE, Scheduler


def test_what_is_due_is_called_in_order_and_once() -> None:
    scheduler, called = Scheduler(), []
    for when in (3.0, 1.0, 2.0, 9.0):
        scheduler.at(when, lambda now, when=when: called.append((when, now)))
    assert scheduler.next() == 1.0
    scheduler.run(0.5)
    assert called == []
    scheduler.run(3.0)
    scheduler.run(3.0)
    assert called == [(1.0, 3.0), (2.0, 3.0), (3.0, 3.0)]
    assert scheduler.next() == 9.0


def test_a_cancelled_one_is_never_called() -> None:
    scheduler, called = Scheduler(), []
    first, second = (scheduler.at(when, called.append) for when in (1.0, 2.0))
    first.cancel()
    first.cancel()
    assert scheduler.next() == 2.0
    scheduler.run(5.0)
    second.cancel()  # too late, and no harm
    assert called == [5.0]
    assert scheduler.next() is None
    assert (len(scheduler), scheduler.cancelled) == (0, 0)


def test_a_herd_is_called_by_and_by() -> None:
    scheduler, called = Scheduler(), []
    for _ in range(2 * MOST_AT_ONCE + 1):
        scheduler.at(1.0, called.append)
    for many in (MOST_AT_ONCE, 2 * MOST_AT_ONCE, 2 * MOST_AT_ONCE + 1):
        assert scheduler.next() == 1.0
        scheduler.run(1.0)
        assert len(called) == many
    assert scheduler.next() is None


def test_cancelled_ones_do_not_pile_up() -> None:
    scheduler, called = Scheduler(), []
    kept = [scheduler.at(float(n), called.append) for n in range(100)]
    for _ in range(10_000):
        scheduler.at(1e6, called.append).cancel()
        assert len(scheduler) <= 3 * len(kept)
    for _ in range(2):
        scheduler.run(99.0)
    assert len(called) == len(kept)
