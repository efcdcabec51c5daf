"""Text for people."""

from __future__ import annotations

from typing import Any

import pytest

from moatvpn.cli.table import amount, duration, percentage, status_text, table


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


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (None, "-"),
        (0.0, "0%"),
        (0.000001, "0.0001%"),
        (0.00123, "0.12%"),
        (0.01, "1%"),
        (0.0996, "10%"),
        (0.174, "17%"),
        (0.999, "100%"),
        (1.0, "100%"),
    ],
)
def test_percentages(part: float | None, text: str) -> None:
    assert percentage(part) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "LONG"), [("xxx", "y"), ("x", "")]) == "A    LONG\nxxx  y\nx"


FAILURE = {
    "ago": 75.0,
    "count": 3,
    "side": "here",
    "what": "a proof",
    "remedy": "Compare the keys",
    "peer": "203.0.113.7",
    "identity": "m9.example.net",
}


def row(**changes: Any) -> dict[str, Any]:
    return {
        "name": "c1",
        "state": "waiting",
        "peer": None,
        "encapsulation": None,
        "established_for": None,
        "packets_in": 0,
        "bytes_in": 0,
        "packets_out": 0,
        "bytes_out": 0,
        "child_rekey_in": None,
        "last_failure": None,
        **changes,
    }


def test_what_failed_stands_below_the_table_in_one_line_each() -> None:
    status = {
        "connections": [
            row(last_failure=FAILURE),
            row(name="c2", last_failure=FAILURE, state="established"),
            row(name="c3"),
            row(name="c4", last_failure={**FAILURE, "count": 1, "side": "peer"}),
        ],
        "strangers": [{**FAILURE, "side": "here"}],
    }
    assert status_text(status).split("\n\n")[1].splitlines() == [
        "c1: refused here 1m15s ago, 3 times: a proof. Compare the keys",
        "c4: refused by the peer 1m15s ago: a proof. Compare the keys",
        "203.0.113.7, which calls itself m9.example.net: "
        "refused here 1m15s ago, 3 times: a proof. Compare the keys",
    ]


def test_there_is_nothing_below_the_table_where_nothing_failed() -> None:
    assert "\n\n" not in status_text({"connections": [row()], "strangers": []})
