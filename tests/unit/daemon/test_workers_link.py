"""The link between moatd and a worker: whole messages in order, bounded, and its end is seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from moatvpn.daemon import workers_link
from moatvpn.daemon.workers_link import GoneError, Link, new_pair
from moatvpn.daemon.workers_messages import Activate, ProbeAsked, Worn
from moatvpn.errors import OperatorError


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    ours, theirs = new_pair("the worker")
    with closing(ours), closing(theirs):
        yield ours, theirs


def everything(link: Link) -> list[object]:
    messages: list[object] = []
    while now := link.receive():
        messages += now
    return messages


def test_messages_arrive_in_order(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    for number in range(600):
        ours.send(Activate(number))
    assert everything(theirs) == [Activate(number) for number in range(600)]
    assert theirs.receive() == []


def fill(link: Link) -> int:
    """Send until messages wait; return how many were sent."""
    number = 0
    while not link.waiting:
        assert link.send(Activate(number))
        number += 1
    return number


def test_a_worker_waits_for_nothing_and_loses_nothing(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    sent = fill(theirs)
    got: list[object] = []
    while theirs.waiting:
        got += ours.receive()
        theirs.flush()
    assert got + everything(ours) == [Activate(number) for number in range(sent)]


def test_what_may_be_lost_is_when_too_much_waits(pair: tuple[Link, Link]) -> None:
    _, theirs = pair
    fill(theirs)
    taken = 0
    while theirs.send(ProbeAsked(1, 2)):
        taken += 1
        assert taken < 10_000
    assert theirs.send(Worn("m1"))  # what must not be lost is not


def test_moatd_does_not_wait_for_ever(
    pair: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_link, "PATIENCE", 0.01)
    ours, _ = pair
    with pytest.raises(OperatorError, match="the worker: takes nothing in"):  # noqa: PT012
        for number in range(1 << 20):
            ours.send(Activate(number))


def test_the_end_of_the_other_end_is_seen(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    theirs.send(Activate(1))
    theirs.close()
    assert ours.wait(0)
    with pytest.raises(GoneError, match="the worker: has ended"):
        ours.receive()
    with pytest.raises(GoneError, match="the worker: has ended"):
        ours.send(Activate(1))


def test_what_has_no_meaning_is_told(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    theirs._socket.send(b"[5]")
    with pytest.raises(OperatorError, match="no meaning"):
        ours.receive()
