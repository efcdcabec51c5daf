"""The way in: envelopes that came together, into raw packets (RFC 4303, 3.4; RFC 9347, 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from moatvpn.counters import Counters, DropReason
from moatvpn.deadlines import earliest
from moatvpn.errors import PeerError
from moatvpn.esp.burst import Arrival
from moatvpn.esp.ecn import decapsulate_ecn
from moatvpn.esp.flows import Flows
from moatvpn.esp.reassembly import Block
from moatvpn.esp.sa import Opened, Opening
from moatvpn.esp.sad import NOTE_EVERY, Pair
from moatvpn.wire import aggfrag, offload
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import MIN_LENGTH, Part, parts_of
from moatvpn.wire.ip import (
    ECN_MASK,
    NEXT_HEADER_IPV4,
    NEXT_HEADER_IPV6,
    NEXT_HEADER_NONE,
    flow_of,
    read_header,
)

# A raw packet in pieces, and its virtio header where it is not whole by itself.
Delivery = tuple[list[bytes], bytes]

_VERSION_OF = {NEXT_HEADER_IPV4: 4, NEXT_HEADER_IPV6: 6}
_LONGEST_HEADERS = 128  # octets that hold all headers which are looked at


class Arrived(NamedTuple):
    """The raw packets that came out of envelopes of one SA, which came from source.

    moved: the newest envelope so far is among them, and came from elsewhere than the peer's
    address. told: IKE is to be told of the traffic now.
    """

    connection: str
    packets: list[Delivery]
    spi_in: int
    source: Endpoint
    moved: bool
    told: bool


class Probes(Protocol):
    """Who is told of path probes (esp.paths, or another process that sends in our place)."""

    def asked(self, pair: Pair, identifier: int) -> None:
        """Answer a probe of a pair's peer."""
        ...

    def answered(self, pair: Pair, identifier: int, now: float) -> None:
        """Take in the answer to a probe of ours."""
        ...


class Inbound:
    """Opens envelopes. pairs is shared with esp.processor, by inbound SPI.

    activate is called with a pair that waits, once its peer is seen to send on it.
    """

    def __init__(
        self,
        pairs: dict[int, Pair],
        counters: Counters,
        activate: Callable[[Pair], None],
        probes: Probes,
    ) -> None:
        self._pairs = pairs
        self._counters = counters
        self._activate = activate
        self._probes = probes
        self._flows = Flows()
        self._holding: dict[int, Pair] = {}  # where envelopes wait for those before them, by SPI

    def forget_flows(self) -> None:
        """Look every packet's SA up anew: SAs have changed."""
        self._flows.clear()

    def alone(self, arrival: Arrival, now: float) -> bytes | None:
        """Return the raw packet in one envelope that has come alone, after a pause.

        None where there is more to do than for nearly all such: then nothing has changed, and
        decapsulate is for it. All that it checks is checked here, too.
        """
        data, size, source, tos = arrival
        pair = self._pairs.get(int.from_bytes(data[:4], "big")) if len(data) == size else None
        if pair is None or pair.waiting or size < MIN_LENGTH or tos & ECN_MASK:
            return None
        connection, reassembly, inbound = pair.connection, pair.reassembly, pair.inbound
        if reassembly is None or now >= connection.noted_in:
            return None
        if source != connection.peer and _is_elsewhere(pair, source):
            return None
        opened = inbound.peek(parts_of(data, size)[0])
        if opened is None:
            return None
        packet = reassembly.peek(opened)
        if packet is None:
            return None
        flow = flow_of(packet, len(packet))
        if flow is None or self._flows.get(flow) is not pair:
            return None
        inbound.take(opened[0], len(packet))
        reassembly.skip(opened)
        return packet

    def decapsulate(self, arrivals: Sequence[Arrival], now: float) -> Iterator[Arrived]:
        """Yield the raw packets in arrivals. Whatever is wrong is counted once."""
        parts: list[Part] = []
        way: tuple[Endpoint, int] | None = None
        for data, size, source, tos in arrivals:
            if way is not None and way != (source, tos):
                yield from self._open(parts, *way, now)
                parts = []
            way = source, tos
            try:
                parts += parts_of(data, size)
            except PeerError as error:
                self._counters.drop(error.reason)
        if way is not None:
            yield from self._open(parts, *way, now)

    def _open(
        self, parts: Sequence[Part], source: Endpoint, tos: int, now: float
    ) -> Iterator[Arrived]:
        at = 0
        while at < len(parts):
            pair = self._pairs.get(parts[at][0])
            if pair is None:
                self._counters.drop(DropReason.ESP_UNKNOWN_SPI)
                at += 1
                continue
            opening = Opening()
            at = pair.inbound.open(parts, at, opening)
            for reason in opening.refused:
                self._counters.drop(reason)
            if not opening.opened:
                continue
            if pair.waiting:
                # The peer sends on the new SAs, so it has them: so may we (RFC 7296, 2.8).
                self._activate(pair)
            blocks = self._blocks(pair, opening.opened, tos, now)
            yield self._arrived(pair, blocks, opening.newest, source, now)

    def _arrived(
        self, pair: Pair, blocks: list[Block], newest: bool, source: Endpoint, now: float
    ) -> Arrived:
        connection = pair.connection
        packets = self._deliver(pair, blocks, now)
        moved = newest and source != connection.peer and _is_elsewhere(pair, source)
        told = now >= connection.noted_in
        if told:
            connection.noted_in = now + NOTE_EVERY
        return Arrived(connection.name, packets, pair.child.spi_in, source, moved, told)

    # Streams

    def _blocks(self, pair: Pair, opened: list[Opened], tos: int, now: float) -> list[Block]:
        """Return the blocks that are whole by what was opened, each a raw packet or of ours."""
        blocks: list[Block] = []
        reassembly = pair.reassembly
        if reassembly is None:
            for _, plaintext, end, next_header in opened:
                self._plain(plaintext[:end], next_header, tos, blocks)
            return blocks
        reassembly.take_run(opened, tos, now, blocks)
        if reassembly.deadline is not None:
            self._holding[pair.child.spi_in] = pair
        return blocks

    def _plain(self, payload: bytes, next_header: int, tos: int, blocks: list[Block]) -> None:
        """Add the one packet of an envelope without aggregation, if there is one."""
        if next_header == NEXT_HEADER_NONE:
            return  # a dummy packet (RFC 4303, 2.6) is no fault
        try:
            length = _inner_length(payload, next_header)
        except PeerError as error:
            self._counters.drop(error.reason)
            return
        # What follows the packet is traffic flow confidentiality padding (2.7).
        blocks.append(Block([payload[:length]], tos))

    def get_timer(self) -> float | None:
        """Return when envelopes have waited long enough, None where none wait."""
        if not self._holding:
            return None
        reassemblies = (pair.reassembly for pair in self._holding.values())
        return earliest(*(each.deadline for each in reassemblies if each is not None))

    def handle_timer(self, now: float) -> Iterator[Arrived]:
        """Yield the raw packets in envelopes that have waited long enough for those before them."""
        for spi, pair in list(self._holding.items()):
            blocks: list[Block] = []
            if pair.reassembly is not None:
                pair.reassembly.handle_timer(now, blocks)
            if pair.reassembly is None or pair.reassembly.deadline is None:
                del self._holding[spi]
            if blocks and spi in self._pairs:
                yield self._arrived(pair, blocks, False, pair.connection.peer, now)

    # Raw packets

    def _deliver(self, pair: Pair, blocks: list[Block], now: float) -> list[Delivery]:
        deliveries: list[Delivery] = []
        inbound = pair.inbound
        for block in blocks:
            kind = block.pieces[0][0] >> 4
            if kind in (aggfrag.PROBE, aggfrag.PROBE_ANSWER):
                self._probed(pair, block.pieces, now)
                continue
            try:
                delivery = self._checked(pair, block)
            except PeerError as error:
                self._counters.drop(error.reason)
                continue
            deliveries.append(delivery)
            inbound.packets += 1
            inbound.octets += sum(map(len, delivery[0]))
        return deliveries

    def _checked(self, pair: Pair, block: Block) -> Delivery:
        """Return the raw packet of a block; raise PeerError where it is none that may come here."""
        pieces, tos = block
        first = pieces[0]
        if len(pieces) > 1 and len(first) < _LONGEST_HEADERS:
            pieces = [b"".join(pieces)]
            first = pieces[0]
        virtio = b""
        if first[0] >> 4 == aggfrag.SUPER_PACKET:
            if not pair.child.private_blocks or len(first) <= aggfrag.SUPER_HEADER_LENGTH:
                raise PeerError(DropReason.ESP_AGGFRAG_MALFORMED)
            virtio = aggfrag.offload_of(first)
            first = pieces[0] = first[aggfrag.SUPER_HEADER_LENGTH :]
        length = sum(map(len, pieces))
        self._check_policy(pair, first, length)
        if virtio:
            virtio = offload.for_kernel(virtio, first, length)
        if tos & ECN_MASK:
            pieces[0] = decapsulate_ecn(first, tos)
        return pieces, virtio

    def _check_policy(self, pair: Pair, first: bytes, length: int) -> None:
        """Raise PeerError unless a packet that begins with first belongs into the SA."""
        flow = flow_of(first, length)
        if flow is None:
            raise PeerError(DropReason.ESP_INNER_MALFORMED, f"{length} octets, stated otherwise")
        if self._flows.get(flow) is pair:
            return
        version, _, source, destination = read_header(first, length)
        if not pair.arriving.matches(first, version, source, destination):
            raise PeerError(DropReason.ESP_INNER_SELECTOR)
        if pair.arriving.by_address:
            self._flows.keep(flow, pair)

    def _probed(self, pair: Pair, pieces: list[bytes], now: float) -> None:
        """Take in a path probe of the peer's, to be answered, or its answer to one of ours."""
        block = b"".join(pieces)
        if not pair.child.private_blocks:
            self._counters.drop(DropReason.ESP_AGGFRAG_MALFORMED)
        elif block[0] >> 4 == aggfrag.PROBE_ANSWER:
            self._probes.answered(pair, aggfrag.identifier_of(block), now)
        else:
            self._probes.asked(pair, aggfrag.identifier_of(block))


def _inner_length(payload: bytes, next_header: int) -> int:
    """Return the length of the packet in payload, which must be what next_header says.

    Raises PeerError: ESP_BAD_NEXT_HEADER for what is no tunnel mode, ESP_INNER_MALFORMED for a
    payload that is not such a packet.
    """
    expected = _VERSION_OF.get(next_header)
    if expected is None:
        raise PeerError(DropReason.ESP_BAD_NEXT_HEADER, f"next header {next_header}")
    version, length, _, _ = read_header(payload)
    if version != expected:
        raise PeerError(DropReason.ESP_INNER_MALFORMED, "version and next header differ")
    return length


def _is_elsewhere(pair: Pair, source: Endpoint) -> bool:
    """Return whether source, not quite the peer's address, tells that the peer has moved.

    Only one SA in use tells: a late packet on another one is its newest, too, but not the newest
    of the connection. As IP protocol 50, ports mean nothing.
    """
    connection = pair.connection
    if pair is not connection.leader():
        return False
    peer = connection.peer
    return source.host != peer.host or (connection.udp and source.port not in (0, peer.port))
