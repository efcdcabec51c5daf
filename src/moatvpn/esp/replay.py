"""The anti-replay window (RFC 4303, 3.4.3) and extended sequence numbers (appendix A2).

It also knows which numbers have not come, at no cost to those that come in order: esp.loss makes
an estimate of that.
"""

from __future__ import annotations

WINDOW = 2048  # packets
# So many numbers missing in one piece are no congestion: the peer has left them out, as the SA of
# a kernel does when it moves (drivers.kernel_plane), or the path was down.
LEAP = 1 << 16
_MASK = (1 << WINDOW) - 1
_SUBSPACE = 1 << 32  # what the 32 bits on the wire can tell apart
_END = 1 << 64


class ReplayWindow:
    """Remembers which sequence numbers have been received.

    check comes before authentication and changes nothing; commit and commit_run come after it, and
    only for numbers that check has just accepted. The counts are of authentic packets, late alone
    is not:

    overtaken: numbers that had not come when a higher one did.
    reordered: those of them that came then (RFC 4737, 3.3).
    skipped: numbers that were left out by LEAP or more at once, and are not missed.
    depth: how many numbers the one that was overtaken furthest was behind top.
    late: packets that were refused and, by their number, older than the window. Anybody can forge
    such a one.
    """

    __slots__ = (
        "_bits", "_marked", "_start", "_top", "depth", "late", "overtaken", "reordered", "skipped",
    )  # fmt: skip

    def __init__(self, top: int = 0) -> None:
        self._top = top  # the highest authentic sequence number so far
        self._marked = top  # all numbers above this one, up to top, were received
        self._bits = 0  # bit n: _marked - n was received
        self._start = top  # what is above this one is missed where it does not come
        self.overtaken = self.reordered = self.depth = self.late = 0
        self.skipped = top

    @property
    def top(self) -> int:
        """Return the highest authentic sequence number so far, 0 before the first."""
        return self._top

    @property
    def missing(self) -> int:
        """Return how many numbers below top have not come; those within the window may do yet."""
        return self.overtaken - self.reordered

    def check(self, sequence: int) -> bool:
        """Return whether sequence is new and not older than the window.

        0 is never sent (3.3.3), and nothing beyond 64 bits exists.
        """
        age = self._top - sequence
        if age < 0:
            return sequence < _END
        place = self._marked - sequence
        return age < WINDOW and sequence > 0 and place >= 0 and not self._bits >> place & 1

    def commit(self, sequence: int) -> bool:
        """Remember an authentic sequence number; return whether it is the newest so far."""
        age = self._top - sequence
        if age == -1:
            self._top = sequence
            return True
        if age < 0:
            self.commit_run(sequence, 1)
            return True
        self._bits |= 1 << self._marked - sequence
        self.reordered += 1
        if age > self.depth:
            self.depth = age
        if sequence <= self._start:
            self.skipped -= 1
            self.overtaken += 1
        return False

    def commit_run(self, first: int, count: int) -> None:
        """Remember count (> 0) authentic numbers from first on, which is above top.

        It costs the same for every count, and for every number that is left out before first.
        """
        top = self._top
        self._top = first + count - 1
        step = first - top
        if step == 1:
            return
        run = top - self._marked
        if run + step < WINDOW:
            bits = self._bits << run + step
            self._bits = (bits | (1 << run) - 1 << step | 1) & _MASK
        else:
            self._bits = _MASK >> step << step | 1  # the run fills what step leaves of the window
        self._marked = first
        if step <= LEAP:
            self.overtaken += step - 1
        else:
            self.skipped += step - 1
            self._start = first - 1

    def refused(self, sequence: int) -> None:
        """Count a packet that check has refused, or that was not authentic, if it came late.

        An extended number older than the window has been taken for one of the next subspace.
        """
        if WINDOW <= (self._top - sequence) % _SUBSPACE < _SUBSPACE >> 1:
            self.late += 1

    def absent(self, first: int, last: int) -> tuple[int, int]:
        """Return how many numbers of those ages are looked at, and how many have not come.

        Ages are counted from top, whose own is 0, and last is not included. Looked at is what is
        within the window and may be missed.
        """
        last = min(last, WINDOW, self._top - self._start)
        if first >= last:
            return 0, 0
        run = min(self._top - self._marked, WINDOW)
        bits = self._bits << run | (1 << run) - 1
        seen = bits >> first & (1 << last - first) - 1
        return last - first, last - first - seen.bit_count()

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
