"""When envelopes of a constant rate are due."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moatvpn.esp.tfc import BURST_SECONDS, Pacer

RATES = st.one_of(st.integers(1, 100_000), st.floats(0.01, 100_000))
STARTS = st.floats(0.0, 1e7)  # a machine that has been up for months


def test_the_first_is_due_at_once_and_the_others_at_their_times() -> None:
    pacer = Pacer(10)
    assert pacer.next(5.0) == 5.0
    assert pacer.due(5.0) == 1
    assert pacer.due(5.0) == 0
    assert pacer.next(5.0) == pytest.approx(5.1)
    assert pacer.due(5.09) == 0
    assert pacer.due(5.11) == 1
    assert pacer.next(5.11) == pytest.approx(5.2)  # not 5.21: what is late is late once


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_is_more_than_nothing(rate: float) -> None:
    with pytest.raises(ValueError, match="envelopes a second"):
        Pacer(rate)


@given(RATES, STARTS)
@example(3, 0.1)
@example(49.0, 1e7)
def test_at_the_time_that_it_names_there_is_one_due(rate: float, start: float) -> None:
    """Otherwise a loop that waits for that time would ask again and again."""
    pacer = Pacer(rate)
    now = start
    for _ in range(50):
        assert pacer.due(now) == 1
        assert pacer.due(now) == 0
        assert pacer.next(now) > now
        now = pacer.next(now)


@given(RATES, STARTS, st.integers(0, 1 << 32))
def test_it_is_exact_over_the_long_run(rate: float, start: float, seed: int) -> None:
    """Calls come late by any part of BURST_SECONDS, and nothing is lost or doubled."""
    lots = random.Random(seed)
    pacer = Pacer(rate)
    now, sent = start, pacer.due(start)
    for _ in range(100):
        late = lots.random() * BURST_SECONDS * 0.99
        now = max(now, lots.choice((now, pacer.next(now)))) + late
        sent += pacer.due(now)
    assert abs(sent - (1 + int((now - start) * rate))) <= 1


def test_ten_million_at_an_odd_rate() -> None:
    pacer, now, sent = Pacer(99_991), 1e6, 0
    for step in range(1, 2001):
        now = 1e6 + step * 0.05
        sent += pacer.due(now)
    assert sent == 1 + 99_991 * 0.05 * 1999 // 1


@given(st.integers(1, 100_000), st.floats(1.0, 1e6))
def test_a_pause_is_made_up_for_by_a_bounded_burst(rate: int, pause: float) -> None:
    pacer = Pacer(rate)
    pacer.due(100.0)
    burst = pacer.due(100.0 + pause)
    assert 1 <= burst <= rate * BURST_SECONDS + 1
    assert pacer.due(100.0 + pause) == 0
    assert 0 < pacer.next(0.0) - (100.0 + pause) <= 1 / rate + 1e-9


def test_a_clock_that_stands_or_goes_back_makes_nothing_due() -> None:
    pacer = Pacer(1000)
    pacer.due(100.0)
    pacer.due(100.05)
    assert pacer.due(100.02) == 0
    assert pacer.due(99.0) == 0
    assert pacer.due(100.06) == 10
