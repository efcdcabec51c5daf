"""The goals of `make bench`, and the tables that it prints."""

from __future__ import annotations

import pytest
from peers.goals import GOALS, Goal, short, table, verdicts

RESULTS = [
    {"name": "plain", "up_mbps": 8000.0, "down_mbps": 8000.0, "pps_64": 1e6},
    {
        "name": "moatvpn-udp",
        "up_mbps": 3500.0,
        "down_mbps": 1999.0,
        "pps_64": 150_000.0,
        "rtt_short_ms": 0.5,
        "rtt_1400_ms": 15.1,
        "rss_mb": 48.0,
    },
    {
        "name": "openvpn",
        "up_mbps": 700.0,
        "down_mbps": 400.0,
        "pps_64": 100_000.0,
        "rtt_short_ms": 0.5,
        "rtt_1400_ms": 20.0,
    },
    {"name": "strongswan-libipsec", "error": "it did not start", "raw": [{}]},
]


def line_of(text: str, start: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line


@pytest.mark.parametrize(
    ("goal", "measured", "verdict"),
    [
        ("up_mbps: moatvpn-udp / openvpn ", "5", "reached"),
        ("down_mbps: moatvpn-udp / openvpn ", "5", "MISSED"),
        ("pps_64: moatvpn-udp / openvpn ", "1.5", "reached"),
        ("rtt_short_ms: moatvpn-udp / openvpn ", "1", "reached"),
        ("rtt_1400_ms: moatvpn-udp  ", "15.1", "MISSED"),
        ("rss_mb: moatvpn-udp ", "48", "reached"),
        ("up_mbps: moatvpn-udp / strongswan-libipsec ", "-", "not measured"),
    ],
)
def test_a_goal_is_reached_or_missed_or_not_measured(
    goal: str, measured: str, verdict: str
) -> None:
    line = line_of(verdicts(RESULTS), goal)
    assert line.endswith(f"  {verdict}")
    assert measured in line.removeprefix(goal).split()


def test_what_was_not_asked_for_is_not_missed() -> None:
    assert "moatvpn-esp" not in verdicts(RESULTS)


def test_every_goal_of_a_ratio_has_both_sides() -> None:
    assert {goal.ours for goal in GOALS} == {"moatvpn-udp", "moatvpn-esp"}
    assert {goal.rival for goal in GOALS} == {"", "openvpn", "strongswan-libipsec"}


def test_nothing_is_divided_by_nothing() -> None:
    rows = {"moatvpn-udp": {"pps_64": 5.0}, "openvpn": {"pps_64": 0.0}}
    assert Goal("pps_64", "moatvpn-udp", 1.5, True, "openvpn").measured(rows) is None


def test_the_table_tells_of_each_system_and_of_its_error() -> None:
    text = table(RESULTS)
    assert line_of(text, "plain ").split()[1:3] == ["8,000", "8,000"]
    assert line_of(text, "moatvpn-udp ").split()[-1] == "44%"
    assert set(line_of(text, "strongswan-libipsec").split()[1:]) == {"-"}
    assert "ERROR: it did not start" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0456, "0.0456"), (7.0, "7"), (99.96, "100"), (3489.6, "3,490")]
)
def test_figures_are_short(value: float, text: str) -> None:
    assert short(value) == text
