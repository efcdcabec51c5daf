"""The anti-replay window (RFC 4303, 3.4.3) and extended sequence numbers (appendix A2)."""

from __future__ import annotations

WINDOW = 2048  # packets
_MASK = (1 << WINDOW) - 1
_SUBSPACE = 1 << 32  # what the 32 bits on the wire can tell apart
_END = 1 << 64


class ReplayWindow:
    """Remembers which sequence numbers have been received.

    check comes before authentication and changes nothing; commit comes after it, and only for a
    number that check has just accepted.
    """

    __slots__ = ("_bits", "_top")

    def __init__(self, top: int = 0) -> None:
        self._top = top  # the highest authentic sequence number so far
        self._bits = 0  # bit n: top - n was received

    @property
    def top(self) -> int:
        """Return the highest authentic sequence number so far, 0 before the first."""
        return self._top

    def check(self, sequence: int) -> bool:
        """Return whether sequence is new and not older than the window.

        0 is never sent (3.3.3), and nothing beyond 64 bits exists.
        """
        age = self._top - sequence
        if age < 0:
            return sequence < _END
        return age < WINDOW and sequence > 0 and not self._bits >> age & 1

    def commit(self, sequence: int) -> bool:
        """Remember an authentic sequence number; return whether it is the newest so far."""
        age = self._top - sequence
        if age >= 0:
            self._bits |= 1 << age
            return False
        self._bits = (self._bits << -age | 1) & _MASK if -age < WINDOW else 1
        self._top = sequence
        return True

    def extend(self, low: int) -> int:
        """Return the 64-bit sequence number whose low 32 bits came on the wire (A2.2).

        It is the one from the window's oldest number up to 2^32 - 1 above that.
        """
        high, top_low = divmod(self._top, _SUBSPACE)
        bottom = top_low - WINDOW + 1
        if bottom >= 0:
            # Case A: the window lies within one subspace; what is below it belongs to the next.
            if low < bottom:
                high += 1
        elif low >= bottom + _SUBSPACE and high > 0:
            # Case B: the window reaches back into the subspace before, if there is one.
            high -= 1
        return high * _SUBSPACE + low
