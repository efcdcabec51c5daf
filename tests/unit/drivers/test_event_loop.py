"""The event loop: readers, writers, the deadline, signals, fairness."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from moatvpn.drivers.clock import monotonic
from moatvpn.drivers.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop(monotonic)
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


Pair = tuple[socket.socket, socket.socket]


def nothing() -> None:
    return None


def test_a_readable_source_is_called_back(loop: Loop, pair: Pair) -> None:
    seen: list[bytes] = []

    def read() -> None:
        seen.append(pair[0].recv(10))
        loop.stop()

    loop.watch(pair[0], read)
    pair[1].send(b"hello")
    loop.run(lambda: None, nothing)
    assert seen == [b"hello"]


@pytest.mark.parametrize(("unmoved", "asked"), [(True, 1), (None, 3)])
def test_the_deadline_is_asked_again_where_it_may_have_moved(
    loop: Loop, pair: Pair, unmoved: bool | None, asked: int
) -> None:
    times: list[int] = []
    pair[1].send(b"abc")

    def read() -> bool | None:
        if pair[0].recv(1) == b"c":
            loop.stop()
        return unmoved

    def deadline() -> None:
        times.append(1)

    loop.watch(pair[0], read)
    loop.run(deadline, nothing)
    assert len(times) == asked


def test_the_deadline_that_stays_is_kept(loop: Loop, pair: Pair) -> None:
    seen: list[str] = []
    due = monotonic() + 0.05

    def read() -> bool:
        pair[0].recv(1)
        pair[1].send(b"x")  # there is always something to read
        return True

    def on_deadline() -> None:
        seen.append("due")
        loop.stop()

    pair[1].send(b"x")
    loop.watch(pair[0], read)
    loop.run(lambda: due, on_deadline)
    assert seen == ["due"]
    assert monotonic() >= due


def test_watching_again_changes_what_is_waited_for(loop: Loop, pair: Pair) -> None:
    calls: list[str] = []
    loop.watch(pair[0], lambda: calls.append("read"))

    def write() -> None:
        calls.append("write")
        loop.stop()

    loop.watch(pair[0], None, write)
    pair[1].send(b"unread")
    loop.run(lambda: None, nothing)
    assert calls == ["write"]


def test_the_deadline_comes_while_nothing_happens(loop: Loop) -> None:
    due = monotonic() + 0.03
    loop.run(lambda: due, loop.stop)
    assert monotonic() >= due


def test_the_deadline_comes_however_busy_the_sources_are(loop: Loop, pair: Pair) -> None:
    pair[1].send(b"never read, so always readable")
    rounds = 0

    def busy() -> None:
        nonlocal rounds
        rounds += 1

    loop.watch(pair[0], busy)
    due = monotonic() + 0.03
    loop.run(lambda: due, loop.stop)
    assert rounds > 1


def test_two_busy_sources_take_turns(loop: Loop, pair: Pair) -> None:
    turns = [0, 0]

    def turn(which: int) -> None:
        turns[which] += 1
        if sum(turns) == 100:
            loop.stop()

    for which, end in enumerate(pair):
        pair[1 - which].send(b"always readable")
        loop.watch(end, lambda which=which: turn(which))
    loop.run(lambda: None, nothing)
    assert turns == [50, 50]


def test_a_source_forgotten_within_a_round_is_not_called(loop: Loop, pair: Pair) -> None:
    calls: list[int] = []

    def only_once(which: int) -> None:
        calls.append(which)
        for end in pair:
            loop.forget(end)
            loop.forget(end)  # forgetting twice is no error

    for which, end in enumerate(pair):
        pair[1 - which].send(b"readable")
        loop.watch(end, lambda which=which: only_once(which))
    loop.run(lambda: 0.0, loop.stop)  # a deadline long past comes after the first round
    assert len(calls) == 1


def test_a_signal_wakes_the_loop(loop: Loop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    numbers: list[int] = []

    def arrived(number: int) -> None:
        numbers.append(number)
        loop.stop()

    try:
        loop.handle_signals((signal.SIGUSR1,), arrived)
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.run(lambda: None, nothing)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert numbers == [signal.SIGUSR1]


def test_what_is_to_be_done_soon_comes_once_after_the_descriptors(loop: Loop, pair: Pair) -> None:
    calls: list[str] = []

    def again() -> None:
        calls.append("soon")
        if len(calls) < 6:
            loop.soon(again)
        else:
            loop.stop()

    pair[1].send(b"always readable")
    loop.watch(pair[0], lambda: calls.append("read"))
    loop.soon(again)
    loop.run(lambda: None, nothing)
    assert calls == ["read", "soon"] * 3


def test_what_is_to_be_done_soon_waits_for_nothing(loop: Loop) -> None:
    loop.soon(loop.stop)
    loop.run(lambda: None, nothing)
