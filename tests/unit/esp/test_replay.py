"""The anti-replay window, against a plain model of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.esp.replay import WINDOW, ReplayWindow


@given(st.lists(st.integers(0, 6000), max_size=200))
def test_agrees_with_a_set_of_all_that_came(sequence):
    window, seen, top = ReplayWindow(), set(), 0
    for number in sequence:
        fresh = number > 0 and number not in seen and top - number < WINDOW
        assert window.check(number) == fresh
        if fresh:
            assert window.commit(number) == (number > top)
            seen.add(number)
            top = max(top, number)


@pytest.mark.parametrize(
    ("top", "low", "extended"),
    [
        (0, 1, 1),
        (5000, 4000, 4000),
        (5000, 5000 - WINDOW, (1 << 32) + 5000 - WINDOW),
        ((1 << 32) - 10, 5, (1 << 32) + 5),
        ((1 << 32) + 5, (1 << 32) - 10, (1 << 32) - 10),
        ((1 << 32) + 5, 7, (1 << 32) + 7),
        ((3 << 32) + 5, (1 << 32) - 1, (3 << 32) - 1),
    ],
)
def test_extended_sequence_numbers(top, low, extended):
    window = ReplayWindow()
    window.top = top
    assert window.extend(low) == extended
