"""How long one that has been refused waits before it calls again."""

from __future__ import annotations

from collections.abc import Callable

FIRST_SECONDS = 1.0
MOST_SECONDS = 300.0


class Backoff:
    """Doubles the wait from one refusal to the next, up to MOST_SECONDS, and jitters it.

    fraction gives a random number from 0 to 1.
    """

    __slots__ = ("_fraction", "_next")

    def __init__(self, fraction: Callable[[], float]) -> None:
        self._fraction = fraction
        self._next = FIRST_SECONDS

    def wait(self) -> float:
        """Return for how many seconds to wait now: three quarters of the step to the whole."""
        seconds, self._next = self._next, min(2 * self._next, MOST_SECONDS)
        return seconds * (0.75 + 0.25 * self._fraction())

    def reset(self) -> None:
        """Begin with the shortest wait again: something has changed."""
        self._next = FIRST_SECONDS
