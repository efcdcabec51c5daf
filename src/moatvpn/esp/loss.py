"""How many envelopes a path loses and reorders, by their sequence numbers.

The number of an authentic envelope says how many were sent before it, so that each one that has
not come shows as soon as a later one has: a finer signal than any that the raw packets give, and
loss is what tells of congestion.
"""

from __future__ import annotations

from typing import NamedTuple

from moatvpn.esp.replay import WINDOW, ReplayWindow

# What was overtaken further than by this is taken for lost until it comes.
_MOST_PATIENCE = WINDOW // 2


class LossEstimate(NamedTuple):
    """What has come of the envelopes of one SA, or of several.

    received, reordered, late and skipped are as esp.replay.ReplayWindow has them, late without
    authentication; expected is received and what has not come. lost is what is not expected to
    come any more, for it has been overtaken further than any envelope that came: it falls where one
    comes nevertheless. recent_lost is how many were lost of the recent ones, which are the last
    2,048 at most.
    """

    received: int = 0
    expected: int = 0
    lost: int = 0
    reordered: int = 0
    late: int = 0
    skipped: int = 0
    recent: int = 0
    recent_lost: int = 0

    @property
    def rate(self) -> float:
        """Return which part of the recent envelopes was lost, from 0 to 1; 0 where none was."""
        return self.recent_lost / self.recent if self.recent else 0.0

    @property
    def total_rate(self) -> float:
        """Return which part of all envelopes was lost, from 0 to 1."""
        return self.lost / self.expected if self.expected else 0.0

    def plus(self, other: LossEstimate) -> LossEstimate:
        """Return the estimate for the envelopes of both."""
        return LossEstimate(*(one + more for one, more in zip(self, other, strict=True)))


NOTHING_YET = LossEstimate()  # which connections share


def estimate(window: ReplayWindow) -> LossEstimate:
    """Return what the window of a living SA tells."""
    patience = min(window.depth, _MOST_PATIENCE) + 1
    return _estimate(window, window.missing - window.absent(0, patience)[1], patience)


def last_estimate(window: ReplayWindow) -> LossEstimate:
    """Return what the window of an SA tells that receives no more: nothing recent."""
    return _estimate(window, window.missing, WINDOW)


def _estimate(window: ReplayWindow, lost: int, patience: int) -> LossEstimate:
    recent, recent_lost = window.absent(patience, WINDOW)
    expected = window.top - window.skipped
    received = expected - window.missing
    return LossEstimate(
        received, expected, lost, window.reordered, window.late, window.skipped, recent, recent_lost
    )
