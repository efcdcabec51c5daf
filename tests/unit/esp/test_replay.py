"""The anti-replay window and extended sequence numbers, exhaustively where it matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.esp.replay import WINDOW, ReplayWindow

SUBSPACE = 1 << 32


def received(*numbers):
    window = ReplayWindow()
    for number in numbers:
        assert window.check(number)
        window.commit(number)
    return window


# What has come, then what may still come, then what may not.
TABLE = [
    ((), (1, 2, WINDOW, SUBSPACE, SUBSPACE**2 - 1), (0, -1, SUBSPACE**2)),
    ((1,), (2, WINDOW + 1), (0, 1)),
    ((2,), (1, 3), (0, 2)),
    ((WINDOW,), (1, WINDOW - 1, WINDOW + 1), (0, WINDOW)),
    ((WINDOW + 1,), (2, WINDOW), (0, 1, WINDOW + 1)),
    ((1, WINDOW), (2,), (1, WINDOW)),
    ((1, WINDOW + 1), (2, 3), (1,)),
    # Bits must travel with the window: by 1, by all but one, by all, and by far more than all.
    ((5, 6), (4, 7), (5, 6)),
    ((5, 4 + WINDOW), (6, 3 + WINDOW, 5 + WINDOW), (4, 5, 4 + WINDOW)),
    ((5, 5 + WINDOW), (6, 7), (5, 5 + WINDOW)),
    ((5, 5 + 10 * WINDOW), (6 + 9 * WINDOW,), (5, 5 + 9 * WINDOW)),
    ((5, 1 << 63), ((1 << 63) - 1, (1 << 63) + 1), (5, 1 << 63)),
    # Late ones are remembered, too.
    ((3000, 2000, 2999), (1999, 2001, 2998), (3000, 2000, 2999)),
    # Across the end of the first subspace.
    ((SUBSPACE - 1, SUBSPACE + 1), (SUBSPACE, SUBSPACE + 2), (SUBSPACE - 1, SUBSPACE + 1)),
    ((SUBSPACE + WINDOW - 1,), (SUBSPACE, SUBSPACE + 1), (SUBSPACE - 1,)),
]


@pytest.mark.parametrize(("came", "fresh", "stale"), TABLE)
def test_table(came, fresh, stale):
    window = received(*came)
    assert [number for number in fresh if not window.check(number)] == []
    assert [number for number in stale if window.check(number)] == []


@pytest.mark.parametrize("top", [1, 7, WINDOW - 1, WINDOW, WINDOW + 1, SUBSPACE + 3, 1 << 48])
def test_every_place_in_the_window_accepts_once(top):
    window = received(top)
    for number in range(top + 2, top - WINDOW - 3, -1):
        inside = number > 0 and top - WINDOW < number < top
        if number > top:
            assert window.check(number)
            continue
        assert window.check(number) == inside
        if inside:
            assert not window.commit(number)
            assert not window.check(number)
    assert window.top == top


@pytest.mark.parametrize("step", [1, 2, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_every_step_forward_keeps_what_stays_inside(step):
    """A window that is full but for every third number, moved on by step."""
    top = 3 * WINDOW
    came = {number for number in range(top - WINDOW + 1, top + 1) if number % 3 or number == top}
    window = received(*sorted(came))
    assert window.commit(top + step)
    bottom = top + step - WINDOW + 1
    for number in range(bottom - 5, top + step + 1):
        expected = number >= bottom and number not in came and number != top + step
        assert window.check(number) == expected


def test_check_alone_changes_nothing():
    window = received(10)
    for number in (11, 9, 10_000):
        assert window.check(number)
        assert window.check(number)
    assert window.top == 10


def test_commit_tells_whether_it_is_the_newest():
    window = ReplayWindow()
    assert [window.commit(number) for number in (1, 5, 3, 6, 4)] == [True, True, False, True, False]


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=200))
def test_agrees_with_a_set_of_all_that_came(numbers):
    window, seen, top = ReplayWindow(), set(), 0
    for number in numbers:
        fresh = number > 0 and number not in seen and top - number < WINDOW
        assert window.check(number) == fresh
        if fresh:
            assert window.commit(number) == (number > top)
            seen.add(number)
            top = max(top, number)


@pytest.mark.parametrize("count", [1, 2, 44, WINDOW - 1, WINDOW, WINDOW + 1, 1 << 40])
@pytest.mark.parametrize("left_out", [0, 1, 2, WINDOW - 2, WINDOW - 1, WINDOW, 1 << 40])
@pytest.mark.parametrize("before", [(), (3, 1), tuple(range(1, WINDOW + 9, 3))])
def test_a_run_is_remembered_as_each_of_its_numbers(before, left_out, count):
    window = received(*before)
    first = window.top + 1 + left_out
    bottom = first + count - WINDOW
    came = {*before, *range(max(first, bottom), first + count)}
    window.commit_run(first, count)
    assert window.top == first + count - 1
    for number in range(max(bottom, 0) - 3, window.top + 3):
        new = number > window.top or (number >= max(bottom, 1) and number not in came)
        assert window.check(number) == new


RUNS = st.tuples(st.integers(-WINDOW, 2 * WINDOW), st.integers(1, 3 * WINDOW))


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(1, 60)) | RUNS, max_size=60))
def test_runs_and_packets_agree_with_a_set_of_all_that_came(steps):
    """A step forward is a run that begins there, one backward a packet."""
    window, seen, top = ReplayWindow(), set(), 0
    for step, count in steps:
        number = top + step
        if step > 0:
            window.commit_run(number, count)
            seen.update(range(number, number + count))
            top = number + count - 1
        elif window.check(number):
            assert not window.commit(number)
            seen.add(number)
        assert window.top == top
        assert window.missing == top - len(seen)
    for number in range(max(top - WINDOW, 0) - 2, top + 1):
        fresh = number > 0 and number not in seen and top - number < WINDOW
        assert window.check(number) == fresh
    oldest = max(top - WINDOW, 0)
    held = {number for number in seen if number > oldest}
    assert window.absent(0, WINDOW) == (top - oldest, top - oldest - len(held))


@pytest.mark.parametrize(
    "top",
    [
        *(WINDOW - 2, WINDOW - 1, WINDOW, 5000),
        *(SUBSPACE - 2, SUBSPACE - 1, SUBSPACE, SUBSPACE + 1),
        *(SUBSPACE + WINDOW - 2, SUBSPACE + WINDOW - 1, SUBSPACE + WINDOW),
        *(2 * SUBSPACE - 1, 2 * SUBSPACE, 7 * SUBSPACE + 12345, (1 << 63) - 1),
    ],
)
def test_extend_finds_every_number_near_the_window(top):
    """RFC 4303, appendix A2.2: right from the bottom of the window to 2^32 - 1 above it."""
    window = ReplayWindow(top)
    bottom = max(top - WINDOW + 1, 0)
    near = range(bottom, top + WINDOW)
    last = top - WINDOW + SUBSPACE
    far = (bottom + SUBSPACE // 2, last - 1, last)
    for number in (*near, *far):
        assert window.extend(number % SUBSPACE) == number


def test_before_the_first_packet_the_high_half_is_0():
    window = ReplayWindow()
    for low in (0, 1, WINDOW, SUBSPACE // 2, SUBSPACE - WINDOW, SUBSPACE - 1):
        assert window.extend(low) == low


def test_what_is_older_than_the_window_is_taken_for_the_next_subspace():
    assert ReplayWindow(5000).extend(5000 - WINDOW) == SUBSPACE + 5000 - WINDOW


def test_no_number_beyond_64_bits_is_accepted():
    last = ReplayWindow((1 << 64) - 1)
    beyond = last.extend(0)
    assert beyond >= 1 << 64
    assert not last.check(beyond)
