"""Deadlines on a heap: adding, cancelling and finding the next one stay cheap for thousands."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Callback = Callable[[float], None]

MOST_AT_ONCE = 64  # callbacks, before packets have their turn
_FEW = 64  # entries that are not worth sorting out


class Deadline:
    """One entry of a Scheduler. A cancelled one is skipped when its time comes."""

    __slots__ = ("_scheduler", "callback", "when")

    def __init__(self, when: float, callback: Callback, scheduler: Scheduler) -> None:
        self.when = when
        self.callback: Callback | None = callback
        self._scheduler = scheduler

    def cancel(self) -> None:
        """Make sure that the callback is not called."""
        if self.callback is not None:
            self.callback = None
            self._scheduler.cancelled += 1


class Scheduler:
    """Calls back at given times, in their order. Times are seconds of the caller's clock.

    cancelled counts the entries that are cancelled and still there. An IKE SA's last for hours, and
    peers may make many, so they are thrown out before they are the greater part.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = count()
        self.cancelled = 0

    def __len__(self) -> int:
        """Return how many entries there are, cancelled ones among them."""
        return len(self._heap)

    def at(self, when: float, callback: Callback) -> Deadline:
        """Call callback with the time, once, when the time is at or after when."""
        if self.cancelled > max(_FEW, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self.cancelled = 0
        deadline = Deadline(when, callback, self)
        heapq.heappush(self._heap, (when, next(self._order), deadline))
        return deadline

    def next(self) -> float | None:
        """Return the earliest time that is still wanted, or None."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
            self.cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Call the callbacks that are due, MOST_AT_ONCE at most: next tells of what is left."""
        for _ in range(MOST_AT_ONCE):
            when = self.next()
            if when is None or when > now:
                return
            deadline = heapq.heappop(self._heap)[2]
            callback, deadline.callback = deadline.callback, None
            if callback is not None:
                callback(now)
