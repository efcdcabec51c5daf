"""Text for people."""

from __future__ import annotations

import pytest

from moatvpn.cli.table import amount, duration, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (86400 * 9 + 3600 * 3, "9d03h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (52_428_800, "52.4 MB"),
        (7_000_000_000, "7.0 GB"),
        (7_000_000_000_000, "7.0 TB"),
    ],
)
def test_amounts(octets: int, text: str) -> None:
    assert amount(octets) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "LONG"), [("xxx", "y"), ("x", "")]) == "A    LONG\nxxx  y\nx"
