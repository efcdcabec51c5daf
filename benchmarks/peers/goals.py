"""What moatvpn has to reach, and what was: as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, object]  # one of the results in build/bench.json

COLUMNS = (
    ("up_mbps", "up Mb/s"),
    ("down_mbps", "down"),
    ("up_mbps_8", "8 up"),
    ("down_mbps_8", "8 down"),
    ("pps_64", "64 B/s"),
    ("rtt_short_ms", "RTT ms"),
    ("rtt_1400_ms", "1400 B"),
    ("rtt_loaded_ms", "loaded"),
    ("rtt_1400_loaded_ms", "1400 B"),
    ("cpu_s_per_gb", "s/GB"),
    ("rss_mb", "MB"),
    ("spread", "spread"),
)
_WIDTH = 9
_NAME = 20


@dataclass(frozen=True)
class Goal:
    """A figure of ours, or its ratio to that of a rival's, and its bound."""

    figure: str
    ours: str
    bound: float
    at_least: bool
    rival: str = ""

    def measured(self, rows: Mapping[str, Row]) -> float | None:
        """Return what was reached, None where it was not measured."""
        ours = number(rows, self.ours, self.figure)
        if not self.rival or ours is None:
            return ours
        rivals = number(rows, self.rival, self.figure)
        return ours / rivals if rivals else None

    def reached(self, value: float) -> bool:
        """Return whether that is enough."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        rival = f" / {self.rival}" if self.rival else ""
        return f"{self.figure}: {self.ours}{rival}"


def _goals() -> tuple[Goal, ...]:
    ways, ours = ("up_mbps", "down_mbps"), ("moatvpn-udp", "moatvpn-esp")
    libipsec = "strongswan-libipsec"
    goals = [Goal(way, "moatvpn-udp", 7, True, libipsec) for way in ways]
    goals += [Goal(way, "moatvpn-udp", 5, True, "openvpn") for way in ways]
    goals += [Goal(way, "moatvpn-esp", 3.5, True, libipsec) for way in ways]
    for name in ours:
        goals += [
            Goal("pps_64", name, 1.5, True, "openvpn"),
            Goal("rtt_short_ms", name, 1.2, False, "openvpn"),
            Goal("rtt_1400_ms", name, 1.2, False, "openvpn"),
            Goal("rtt_short_ms", name, 1, False),
            Goal("rtt_1400_ms", name, 15, False),
            Goal("rss_mb", name, 60, False),
        ]
    return tuple(goals)


GOALS = _goals()


def number(rows: Mapping[str, Row], name: str, figure: str) -> float | None:
    """Return a system's figure, None where there is none."""
    value = rows.get(name, {}).get(figure)
    return float(value) if isinstance(value, int | float) else None


def short(value: float) -> str:
    """Return a figure as a person reads it: three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Sequence[Row]) -> str:
    """Return all figures, a line for each system, and which part of plain routing it reaches."""
    rows = {str(row["name"]): row for row in results}
    head = "".join(f"{title:>{_WIDTH}}" for _, title in COLUMNS)
    lines = [f"{'':<{_NAME}}{head}{'of plain':>{_WIDTH}}"]
    for name, row in rows.items():
        values = [number(rows, name, figure) for figure, _ in COLUMNS]
        part = Goal("up_mbps", name, 0, True, "plain").measured(rows)
        cells = ["-" if value is None else short(value) for value in values]
        cells.append("-" if part is None else f"{part:.0%}")
        lines.append(f"{name:<{_NAME}}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells))
        if "error" in row:
            lines.append(f"{'':<{_NAME}}  ERROR: {row['error']}")
    return "\n".join(lines)


def verdicts(results: Sequence[Row]) -> str:
    """Return each goal of systems that were to be measured, what was, and whether it is reached."""
    rows = {str(row["name"]): row for row in results}
    lines = [f"{'goal':<52}{'measured':>{_WIDTH}}{'wanted':>{_WIDTH}}"]
    for goal in GOALS:
        if not {goal.ours, goal.rival or goal.ours} <= rows.keys():
            continue
        value = goal.measured(rows)
        wanted = f"{'>=' if goal.at_least else '<='} {goal.bound:g}"
        told, verdict = "-", "not measured"
        if value is not None:
            told, verdict = short(value), "reached" if goal.reached(value) else "MISSED"
        lines.append(f"{goal!s:<52}{told:>{_WIDTH}}{wanted:>{_WIDTH}}  {verdict}")
    return "\n".join(lines)
