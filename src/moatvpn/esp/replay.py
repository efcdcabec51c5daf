"""The anti-replay window (RFC 4303, 3.4.3) and extended sequence numbers (appendix A2)."""

from __future__ import annotations

WINDOW = 2048  # packets
_MASK = (1 << WINDOW) - 1
_WRAP = 1 << 32


class ReplayWindow:
    """Remembers which sequence numbers were received. check before decryption, commit after."""

    __slots__ = ("_bits", "top")

    def __init__(self) -> None:
        self.top = 0  # the highest authentic sequence number so far
        self._bits = 0  # bit n: top - n was received

    def check(self, sequence: int) -> bool:
        """Return whether sequence is new and not older than the window."""
        age = self.top - sequence
        if age < 0:
            return True
        return sequence > 0 and age < WINDOW and not self._bits >> age & 1

    def commit(self, sequence: int) -> bool:
        """Remember an authentic sequence number; return whether it is the newest so far."""
        age = self.top - sequence
        if age >= 0:
            self._bits |= 1 << age
            return False
        self._bits = (self._bits << -age | 1) & _MASK if -age < WINDOW else 1
        self.top = sequence
        return True

    def extend(self, low: int) -> int:
        """Return the 64-bit sequence number whose low 32 bits came on the wire (appendix A2.2)."""
        high, top_low = self.top >> 32, self.top & (_WRAP - 1)
        bottom = top_low - WINDOW + 1
        if bottom >= 0:
            # The window lies within one subspace: what is below it belongs to the next.
            return (high if low >= bottom else high + 1) << 32 | low
        # The window reaches back into the subspace before.
        if low >= bottom + _WRAP and high > 0:
            return (high - 1) << 32 | low
        return high << 32 | low
