"""Traffic-flow confidentiality: what is asked for, and when each envelope of a rate is due."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# How much of a pause is made up for. The loop may be late, and a burst must not be a flood.
BURST_SECONDS = 0.1


class TfcMode(Enum):
    """What is hidden from who watches the wild side.

    OFF: nothing. PAD: the length of raw packets, since every envelope has the same. CONSTANT: when
    there are any, too, since envelopes leave at a constant rate, whatever there is to carry.
    """

    OFF = "off"
    PAD = "pad"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Tfc:
    """What one connection asks for.

    octets is the size of every envelope, as of the whole outer IP packet, or as near below it as
    the suite's blocks allow; 0 is what the path carries. rate is envelopes a second, for CONSTANT.
    """

    mode: TfcMode = TfcMode.OFF
    octets: int = 0
    rate: int = 0

    @property
    def asked_for(self) -> bool:
        """Return whether anything is to be hidden."""
        return self.mode is not TfcMode.OFF

    @property
    def constant(self) -> bool:
        """Return whether envelopes are to leave at a constant rate."""
        return self.mode is TfcMode.CONSTANT


NO_TFC = Tfc()


class Pacer:
    """Says how many envelopes are due at a constant rate, from its first call on.

    rate is envelopes a second. Each has its own time, counted from the start, so that no rounding
    adds up: however late the calls come, the rate is exact over the long run. What a pause longer
    than BURST_SECONDS has missed is left out.
    """

    def __init__(self, rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"a rate of {rate} envelopes a second")
        self._rate = rate
        self._most = int(rate * BURST_SECONDS) + 1  # that fall into so much time
        self._start: float | None = None
        self._gone = 0  # how many have been due since the start

    def due(self, now: float) -> int:
        """Return how many have become due since the last call, the first of all at once."""
        if self._start is None:
            self._start = now
        gone = int((now - self._start) * self._rate) + 1
        # By the sum of next(), too, which may be rounded another way.
        if self._start + gone / self._rate <= now:
            gone += 1
        due = gone - self._gone
        if due <= 0:
            return 0
        self._gone = gone
        return min(due, self._most)

    def next(self, now: float) -> float:
        """Return when the next one is due; a call of due() at that time finds it."""
        return now if self._start is None else self._start + self._gone / self._rate
