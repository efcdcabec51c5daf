"""Deadlines: times of a clock, None where there is none."""

from __future__ import annotations


def earliest(*deadlines: float | None) -> float | None:
    """Return the earliest of deadlines, None where there is none."""
    first = None
    for deadline in deadlines:
        if deadline is not None and (first is None or deadline < first):
            first = deadline
    return first
