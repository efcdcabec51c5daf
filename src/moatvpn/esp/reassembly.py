"""Raw packets out of the stream of AGGFRAG payloads of one SA (RFC 9347, 2.2).

Payloads are read in the order of their sequence numbers. One that comes too early waits, for a
short time and in bounded memory, for those before it; then they count as lost, and with them the
raw packets that had a part in them, and no others: of a super-packet the segments, each of which is
a raw packet. The memory of one SA is bounded by one raw packet and MOST_HELD octets.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from moatvpn.counters import Counters, DropReason
from moatvpn.errors import PeerError
from moatvpn.esp.sa import Opened
from moatvpn.wire import offload
from moatvpn.wire.aggfrag import (
    HEADER_LENGTH,
    IPV6,
    NEXT_HEADER_AGGFRAG,
    PADDING,
    PROBE,
    PROBE_ANSWER,
    SUPER_HEADER_LENGTH,
    SUPER_PACKET,
    block_length,
    offload_of,
)

WINDOW = 64  # payloads: how far one may be ahead of the one that is waited for
MOST_HELD = 256 << 10  # octets that wait
PATIENCE = 0.01  # seconds: far above what parallel links reorder by, far below what people notice
LONGEST_BLOCK = 0xFFFF + SUPER_HEADER_LENGTH
_CE = 3
_PLAIN_IPV4 = 0x45  # without options
_ONE_PACKET = HEADER_LENGTH + 20  # octets of a payload that holds a raw packet, at least


class Block(NamedTuple):
    """A block that is whole, in pieces, and the TOS octet of the envelopes that it came in.

    Where they differ, congestion that one of them has met counts (RFC 6040, 5).
    """

    pieces: list[bytes]
    tos: int


class _Held(NamedTuple):
    data: bytes
    end: int
    tos: int


class Reassembly:
    """The stream of one inbound SA. deadline is when waiting ends, None where nothing waits."""

    __slots__ = (
        "_counters", "_held", "_held_octets", "_lost", "_missing", "_next", "_octets", "_partial",
        "_size", "_tos", "deadline",
    )  # fmt: skip

    def __init__(self, counters: Counters) -> None:
        self.deadline: float | None = None
        self._counters = counters
        self._next = 1  # the sequence number whose turn it is
        self._partial: list[bytes] | None = None  # of a block that goes on in the next payload
        self._octets = 0  # of those
        self._missing: int | None = None  # octets until it is whole, None where not known yet
        self._lost: list[tuple[int, int]] = []  # octets of it that will not come
        self._size = 0  # octets of the last payload, beside its header
        self._tos = 0
        self._held: dict[int, _Held] = {}
        self._held_octets = 0

    def peek(self, opened: Opened) -> bytes | None:
        """Return the raw packet that is all there is in what was opened.

        None where its turn has not come, and where there may be more to do: that is for take_run.
        Nothing changes before skip is called.
        """
        sequence, data, end, next_header = opened
        if sequence != self._next or self._partial is not None or self._held:
            return None
        if next_header != NEXT_HEADER_AGGFRAG or end < _ONE_PACKET or data[0] or data[2] or data[3]:
            return None
        kind = data[HEADER_LENGTH]
        if kind == _PLAIN_IPV4:
            last = HEADER_LENGTH + (data[6] << 8 | data[7])
        elif kind >> 4 == IPV6:
            last = HEADER_LENGTH + 40 + (data[8] << 8 | data[9])
        else:
            return None
        if not _ONE_PACKET <= last <= end or (last < end and data[last] >> 4 != PADDING):
            return None
        return data[HEADER_LENGTH:last]

    def skip(self, opened: Opened) -> None:
        """Go on after the payload whose packet peek has returned."""
        self._next += 1
        self._size = opened[2] - HEADER_LENGTH

    def take_run(self, opened: Sequence[Opened], tos: int, now: float, out: list[Block]) -> None:
        """Read what was opened together, in the order in which it came."""
        at = 0
        while at < len(opened):
            at = self._take_middle(opened, at, tos)
            if at < len(opened):
                sequence, data, end, next_header = opened[at]
                at += 1
                if next_header == NEXT_HEADER_AGGFRAG:
                    self.take(sequence, data, end, tos, now, out)
                else:
                    self._counters.drop(DropReason.ESP_BAD_NEXT_HEADER)

    def _take_middle(self, opened: Sequence[Opened], at: int, tos: int) -> int:
        """Take the payloads from that place on that are nothing but the middle of a block.

        Returns the place of the first that is not. These are nearly all, of a large block.
        """
        partial, following, missing = self._partial, self._next, self._missing
        if partial is None or tos != self._tos or self._held:
            return at
        octets, size = self._octets, self._size
        for sequence, data, end, next_header in islice(opened, at, None):
            here = end - HEADER_LENGTH
            if (
                sequence != following
                or next_header != NEXT_HEADER_AGGFRAG
                or here <= 0
                or data[0]
                or data[2] << 8 | data[3] != missing
                or missing <= here
                or octets + missing > LONGEST_BLOCK
            ):
                break
            partial.append(data[HEADER_LENGTH:end])
            size = here
            missing -= size
            octets += size
            following += 1
            at += 1
        self._next, self._missing, self._octets, self._size = following, missing, octets, size
        return at

    def take(
        self, sequence: int, data: bytes, end: int, tos: int, now: float, out: list[Block]
    ) -> None:
        """Read the payload data[:end] with that number, and add to out what is whole by it.

        The number has not come before (esp.replay). What is malformed is counted.
        """
        if self.deadline is not None and now >= self.deadline:
            self.handle_timer(now, out)
        if sequence == self._next:
            self._next = sequence + 1
            self._read(data, end, tos, out)
            if self._held:
                self._go_on(now, out)
        elif sequence > self._next:
            self._hold(sequence, _Held(data, end, tos), now, out)
        else:
            self._read_late(data, end, tos, out)

    def handle_timer(self, now: float, out: list[Block]) -> None:
        """Give up what was waited for too long."""
        if self.deadline is not None and now >= self.deadline:
            self._give_up(now, out)

    # Order

    def _hold(self, sequence: int, held: _Held, now: float, out: list[Block]) -> None:
        self._held[sequence] = held
        self._held_octets += len(held.data)
        if self.deadline is None:
            self.deadline = now + PATIENCE
        while self._held and (
            max(self._held) - self._next >= WINDOW or self._held_octets > MOST_HELD
        ):
            self._give_up(now, out)

    def _give_up(self, now: float, out: list[Block]) -> None:
        """Go on at the oldest payload that waits, without what should have come before it."""
        first = min(self._held)
        if not self._leave_out(first):
            self._drop_partial(out)
        self._next = first
        self._go_on(now, out)

    def _go_on(self, now: float, out: list[Block]) -> None:
        """Read the payloads that waited for their turn and have it now."""
        moved = False
        while (held := self._held.pop(self._next, None)) is not None:
            moved = True
            self._next += 1
            self._held_octets -= len(held.data)
            self._read(held.data, held.end, held.tos, out)
        if not self._held:
            self.deadline = None
        elif moved:
            self.deadline = now + PATIENCE

    # Payloads

    def _read(self, data: bytes, end: int, tos: int, out: list[Block]) -> None:
        if end < HEADER_LENGTH or data[0]:
            self._counters.drop(DropReason.ESP_AGGFRAG_MALFORMED)
            self._drop_partial(out)
            return
        offset = data[2] << 8 | data[3]
        if not offset and (end == HEADER_LENGTH or data[HEADER_LENGTH] >> 4 == PADDING):
            return  # only padding, which may come amid a block
        if self._partial is not None:
            if not offset and data[HEADER_LENGTH] >> 4 in (PROBE, PROBE_ANSWER):
                missing = self._missing
                self._read_blocks(data, HEADER_LENGTH, end, tos, out)
                self._missing = missing
                return  # so may private blocks, by themselves
            self._continue(data, end, offset, tos, out)
        at = self._read_blocks(data, HEADER_LENGTH + offset, end, tos, out)
        self._size = end - HEADER_LENGTH
        if at < end:
            self._partial = [data[at:end]]
            self._octets = end - at
            self._tos = tos

    def _read_late(self, data: bytes, end: int, tos: int, out: list[Block]) -> None:
        """Read what is whole in a payload whose turn is over."""
        if end < HEADER_LENGTH or data[0]:
            self._counters.drop(DropReason.ESP_AGGFRAG_MALFORMED)
            return
        self._read_blocks(data, HEADER_LENGTH + (data[2] << 8 | data[3]), end, tos, out)

    def _read_blocks(self, data: bytes, at: int, end: int, tos: int, out: list[Block]) -> int:
        """Add the whole blocks from that place on to out; return where one begins that goes on.

        That is end, or beyond, where none does. Its missing octets are noted.
        """
        while at < end:
            if data[at] >> 4 == PADDING:
                return end
            try:
                length = block_length(data, at, end)
            except PeerError as error:
                self._counters.drop(error.reason)
                return end
            if length is None or at + length > end:
                self._missing = None if length is None else at + length - end
                return at
            out.append(Block([data[at : at + length]], tos))
            at += length
        return at

    def _continue(self, data: bytes, end: int, offset: int, tos: int, out: list[Block]) -> None:
        """Add to the block that has begun; offset is how many octets of it were still to come."""
        partial = self._partial
        if partial is None:
            return
        here = min(offset, end - HEADER_LENGTH)
        self._octets += here
        if (
            not offset
            or self._missing not in (None, offset)
            or self._octets + offset - here > LONGEST_BLOCK
        ):
            self._drop_partial(out)
            return
        partial.append(data[HEADER_LENGTH : HEADER_LENGTH + here])
        if tos != self._tos and self._tos & _CE != _CE:
            self._tos = tos
        self._missing = offset - here
        if not self._missing:
            self._end(partial, out)

    # Losses

    def _leave_out(self, first: int) -> bool:
        """Go on with a super-packet at the payload first, without those before it, if it can be.

        Between the ends of a block all payloads are of one size, so that what is still to come says
        whether it is the same block.
        """
        partial, missing, data = self._partial, self._missing, self._held[first].data
        if partial is None or missing is None or partial[0][0] >> 4 != SUPER_PACKET:
            return False
        gone = (first - self._next) * self._size
        if gone >= missing or missing - gone != int.from_bytes(data[2:4], "big"):
            return False
        partial.append(bytes(gone))
        self._lost.append((self._octets, self._octets + gone))
        self._octets += gone
        self._missing = missing - gone
        return True

    def _drop_partial(self, out: list[Block]) -> None:
        partial, missing = self._partial, self._missing
        if partial is None:
            return
        begun = sum(map(len, partial))
        self._lost.append((begun, begun + (missing or 0)))
        if missing is not None:
            partial.append(bytes(missing))
        self._end(partial, out)

    def _end(self, partial: list[bytes], out: list[Block]) -> None:
        """Add a block to out, or what can be had of it where octets of it have been lost."""
        lost, self._lost, self._partial = self._lost, [], None
        if not lost:
            out.append(Block(partial, self._tos))
            return
        self._counters.drop(DropReason.ESP_INCOMPLETE)
        block = b"".join(partial)
        if block[0] >> 4 == SUPER_PACKET and len(block) > SUPER_HEADER_LENGTH:
            head = SUPER_HEADER_LENGTH
            places = [(first - head, last - head) for first, last in lost]
            with suppress(PeerError):
                packets = offload.spared(offload_of(block), block[head:], places)
                out += [Block([packet], self._tos) for packet in packets]
