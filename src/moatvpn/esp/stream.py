"""What is to leave at a constant rate, cut up to the envelopes of that rate (RFC 9347, 2.2).

What there is to send changes neither when an envelope leaves nor how long it is. So the peer's
probes are answered within envelopes that leave anyway, and our own probes take the place of such.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from moatvpn.counters import Counters, DropReason
from moatvpn.esp.hiding import UNPADDED
from moatvpn.esp.sad import Pair
from moatvpn.esp.sizes import outer_of, room_in, room_of
from moatvpn.esp.tfc import Pacer, Tfc
from moatvpn.wire import aggfrag

QUEUE_SECONDS = 0.1  # of the rate: what may wait, before more is dropped
LEAST_QUEUE = 4  # envelopes that may be filled by what waits, however low the rate is
PATIENCE = 1.0  # seconds that a packet waits at least before it counts as stale
# Seconds: at high rates, envelopes leave together so often. Then it does not show in their times
# what else the loop wakes for; and it costs less.
TICK = 0.004
_MOST_PROBES = 64  # that wait; a search sends some ten at a time
_MOST_ANSWERS = 2  # in one envelope, so that they fit into the smallest


class _Waiting(NamedTuple):
    """A raw packet, and when it came."""

    since: float
    packet: bytes


class Stream:
    """One line of a connection at a constant rate, over all CHILD_SAs that follow each other on it.

    pair is the one in use, None where there is none any more. at is when the next envelope leaves.
    """

    def __init__(self, tfc: Tfc, counters: Counters) -> None:
        self.at = 0.0
        self._rate = tfc.rate
        self._pacer = Pacer(tfc.rate)
        self._together = tfc.rate * TICK > 1.0
        self._counters = counters
        self._pair: Pair | None = None
        self._packets: deque[_Waiting] = deque()
        self._octets = 0  # of those
        self._answers: deque[bytes] = deque()  # blocks
        self._probes: deque[tuple[int, int]] = deque()  # as of PathMtu.probes
        self._probed = False  # whether the last envelope had one
        self._block = b""  # the packet that is leaving
        self._gone = 0  # how much of it has left

    @property
    def pair(self) -> Pair | None:
        """Return the CHILD_SA in use."""
        return self._pair

    def use(self, pair: Pair) -> None:
        """Send on pair from now on. What has begun to leave begins again there: SAs share none."""
        self._pair = pair
        self._gone = 0

    def end(self) -> None:
        """Drop all that waits: there is no SA to send on."""
        self._pair = None
        left = len(self._packets) + bool(self._block)
        if left:
            self._counters.drop(DropReason.OUT_NO_SA, left)
        self._packets.clear()
        self._answers.clear()
        self._probes.clear()
        self._block = b""
        self._octets = self._gone = 0

    # What is to be sent

    def put(self, packets: Iterable[bytes | memoryview], now: float) -> None:
        """Have raw packets wait for their turn. What is more than the rate takes is dropped.

        One packet is taken, however long it is, if nothing waits.
        """
        most = self._most()
        for packet in packets:
            if self._octets and self._octets + len(packet) > most:
                self._counters.drop(DropReason.OUT_QUEUE_FULL)
            else:
                self._octets += len(packet)
                self._packets.append(_Waiting(now, bytes(packet)))

    def put_answer(self, identifier: int) -> None:
        """Answer a probe of the peer's in one of the next envelopes. The caller bounds them."""
        self._answers.append(aggfrag.probe(identifier, answer=True))

    def put_probe(self, identifier: int, octets: int) -> None:
        """Send a probe as an outer packet of so many octets, in place of one of the next ones."""
        if len(self._probes) < _MOST_PROBES:
            self._probes.append((identifier, octets))

    def _most(self) -> int:
        """Return how many octets may wait."""
        if self._pair is None:
            return 0
        return max(LEAST_QUEUE, int(self._rate * QUEUE_SECONDS)) * room_of(self._pair)

    # Time

    def start(self, now: float) -> None:
        """Send the first envelope now."""
        self.at = now

    def due(self, now: float) -> int:
        """Return how many envelopes are to leave now, and set at anew."""
        if now < self.at:
            return 0
        if not self._together:
            count = self._pacer.due(now)
            self.at = self._pacer.next(now)
            return count
        self.at += (now - self.at) // TICK * TICK
        count = self._pacer.due(self.at)
        self.at += TICK
        return count

    # Envelopes

    def plaintext(self, pair: Pair, now: float) -> bytes:
        """Return the plaintext of the next envelope, all of the same length but for some probes."""
        size = outer_of(pair)
        room = room_in(pair, size)
        # Packets that wait have every other envelope, however many probes there are.
        self._probed = bool(self._probes) and not (self._probed and self._busy)
        blocks = [self._answers.popleft() for _ in range(min(len(self._answers), _MOST_ANSWERS))]
        if self._probed:
            identifier, octets = self._probes.popleft()
            probe = aggfrag.probe(identifier)
            if octets != size:
                self._answers.extendleft(reversed(blocks))
                return _alone(probe, room_in(pair, octets))
            blocks.append(probe)
        head = b"".join(blocks)
        if head and self._gone:
            # Amid a packet such blocks come by themselves, so that no packet can delay them.
            return _alone(head, room)
        return self._filled(pair, head, room, now)

    @property
    def _busy(self) -> bool:
        return bool(self._block or self._packets)

    def _filled(self, pair: Pair, head: bytes, room: int, now: float) -> bytes:
        """Return the plaintext of room octets: head, the packets that wait, and padding."""
        offset = len(self._block) - self._gone if self._gone else 0
        parts = [aggfrag.header(offset), head]
        left = room - len(head)
        while left and (self._block or self._next_block(now)):
            part = self._block[self._gone : self._gone + left]
            parts.append(part)
            left -= len(part)
            self._gone += len(part)
            if self._gone == len(self._block):
                self._done(pair)
        return b"".join((*parts, bytes(left), UNPADDED))

    def _next_block(self, now: float) -> bool:
        """Take the next packet that is to leave; return whether there is one."""
        stale = now - max(PATIENCE, 4 * self._seconds())
        while self._packets:
            since, packet = self._packets.popleft()
            if since >= stale:
                self._block = packet
                return True
            self._octets -= len(packet)
            self._counters.drop(DropReason.OUT_QUEUE_FULL)
        return False

    def _seconds(self) -> float:
        """Return how long the rate takes for all that may wait."""
        return max(LEAST_QUEUE / self._rate, QUEUE_SECONDS)

    def _done(self, pair: Pair) -> None:
        octets = len(self._block)
        self._block, self._gone = b"", 0
        self._octets -= octets
        pair.outbound.packets += 1
        pair.outbound.octets += octets


def _alone(block: bytes, room: int) -> bytes:
    return aggfrag.header(0) + block.ljust(room, b"\0")[: max(room, len(block))] + UNPADDED
