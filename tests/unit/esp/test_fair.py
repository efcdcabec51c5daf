"""Who gets what of what cannot all be worked on: shares, order, bounds, and no leftovers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.esp.fair import TURN, FairQueue

MOST = 1 << 20


def served(queue: FairQueue[Hashable], rounds: int, octets: int = TURN) -> Counter[Hashable]:
    taken: Counter[Hashable] = Counter()
    for _ in range(rounds):
        taken.update(queue.take(octets))
    return taken


def test_what_one_path_lets_wait_comes_in_its_order() -> None:
    queue: FairQueue[int] = FairQueue(MOST)
    for number in range(100):
        assert queue.put(("one", "flow"), number, 1000)
    assert [each for _ in range(10) for each in queue.take(10_000)] == list(range(100))
    assert not queue
    assert queue.take(1) == []


def test_one_greedy_among_a_thousand_takes_nothing_from_the_others() -> None:
    # 1,000 send 1,000 octets a round each, one sends ten times as much as all of them, and there
    # is time for hardly more than what the thousand send.
    queue: FairQueue[int] = FairQueue(6 << 20)
    sent, lost, got = 0, 0, Counter[int]()
    for _ in range(30):
        for modest in range(1000):
            for _ in range(10):
                queue.put((0, 0), 0, 1000)
            sent += 1
            lost += not queue.put((1 + modest, 0), 1 + modest, 1000)
        got.update(queue.take(1_100_000))
    greedy = got.pop(0)
    assert lost == 0
    assert sum(got.values()) >= 0.9 * sent  # the rest still waits
    assert min(got[1 + modest] for modest in range(1000)) >= 27
    assert greedy >= 1000  # what the others leave is not wasted


def test_shares_are_of_octets_not_of_packets() -> None:
    queue: FairQueue[str] = FairQueue(MOST)
    taken: Counter[str] = Counter()
    for _ in range(100):
        while queue.put(("large",), "large", 60_000):
            pass
        while queue.put(("small",), "small", 600):
            pass
        taken.update(queue.take(TURN))
    assert taken["small"] * 600 == pytest.approx(taken["large"] * 60_000, rel=0.1)


def test_a_connection_with_many_flows_gets_no_more_than_one_with_few() -> None:
    queue: FairQueue[str] = FairQueue(8 * MOST)
    taken: Counter[str] = Counter()
    for _ in range(200):
        for flow in range(50):
            queue.put(("many", flow), "many", 1500)
        for _ in range(50):
            queue.put(("few", 0), "few", 1500)
        taken.update(queue.take(50 * 1500))
    assert taken["few"] == pytest.approx(taken["many"], rel=0.1)


def test_who_sends_little_finds_no_queue() -> None:
    queue: FairQueue[str] = FairQueue(64 * MOST)
    for _ in range(80):
        for flow in range(5):
            assert queue.put((flow,), "bulk", 64_000)
    queue.take(12 * TURN)
    for _ in range(20):
        assert queue.put(("pings",), "ping", 600)
        assert queue.take(1) == ["ping"]
        queue.take(12 * TURN)


def test_coming_and_going_does_not_get_more_than_a_share() -> None:
    # A packet each time that the last one has left: were it always a newcomer, it would have all.
    queue: FairQueue[str] = FairQueue(MOST)
    taken: Counter[str] = Counter()
    for _ in range(200):
        while queue.put(("bulk",), "bulk", 60_000):
            pass
        queue.put(("sly",), "sly", 60_000)
        taken.update(queue.take(1))
    assert taken["sly"] <= 110


def test_small_ones_fit_where_large_ones_do_not() -> None:
    queue: FairQueue[str] = FairQueue(MOST)
    while queue.put(("sa",), "large", 64_000):
        pass
    assert queue.put(("sa",), "small", 600)


def test_another_connection_finds_room_however_many_are_full() -> None:
    queue: FairQueue[int] = FairQueue(MOST)
    for flow in range(1000):
        while queue.put(("greedy", flow), flow, 600):
            pass
    for flow in range(4):
        assert queue.put(("other", flow), 0, TURN)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 90_000)),
            st.integers(1, 300_000),
        ),
        max_size=200,
    )
)
def test_nothing_is_lost_doubled_or_unbounded(steps: list[tuple[int, int, int] | int]) -> None:
    queue: FairQueue[tuple[int, int, int, int]] = FairQueue(MOST)
    waiting: list[tuple[int, int, int, int]] = []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            taken = queue.take(step)
            assert sum(item[3] for item in taken[:-1]) < step
            assert taken or not waiting
            for item in taken:
                assert item == next(each for each in waiting if each[1:3] == item[1:3])
                waiting.remove(item)
        else:
            item = (number, *step)
            if queue.put(step[:2], item, step[2]):
                waiting.append(item)
        assert queue.octets == sum(item[3] for item in waiting) <= MOST + 90_000
        assert bool(queue) is bool(waiting)


def test_nothing_is_kept_of_paths_that_are_gone() -> None:
    queue: FairQueue[int] = FairQueue(MOST)
    queue.put(("always",), 0, TURN)
    for flow in range(10_000):
        queue.put((flow,), flow, 600)
        queue.put(("always",), 0, 600)
        queue.take(1200)
    root = queue._root
    assert len(root.children) == len(root.fresh) + len(root.settled) < 300
