"""Deadlines on a heap: adding, cancelling and finding the next one stay cheap for thousands."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Callback = Callable[[float], None]


class Deadline:
    """One entry of a Scheduler. A cancelled one is skipped when its time comes."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Make sure that the callback is not called."""
        self.callback = None


class Scheduler:
    """Calls back at given times, in their order. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = count()

    def at(self, when: float, callback: Callback) -> Deadline:
        """Call callback with the time, once, when the time is at or after when."""
        deadline = Deadline(when, callback)
        heapq.heappush(self._heap, (when, next(self._order), deadline))
        return deadline

    def next(self) -> float | None:
        """Return the earliest time that is still wanted, or None."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Call every callback that is due."""
        while (when := self.next()) is not None and when <= now:
            deadline = heapq.heappop(self._heap)[2]
            callback, deadline.callback = deadline.callback, None
            if callback is not None:
                callback(now)
