"""The way out: raw packets of one reading of the TUN device, into bursts of envelopes.

Packets of one SA and one TOS octet travel together: the envelopes' outer header takes the inner
DSCP and ECN (RFC 4301, 5.1.2.1; RFC 6040, 4.1). Where the peer aggregates (RFC 9347), their octets
are one stream, cut at the size that the path carries, and nothing waits for the next reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from moatvpn.counters import Counters, DropReason
from moatvpn.errors import PeerError
from moatvpn.esp.burst import Burst
from moatvpn.esp.flows import Flows
from moatvpn.esp.hiding import UNPADDED, filled, padded
from moatvpn.esp.ring import Ring, most_envelopes
from moatvpn.esp.sad import NOTE_EVERY, Connection, Pair
from moatvpn.esp.sizes import SMALL, room_in, room_of
from moatvpn.esp.spd import Spd
from moatvpn.wire import aggfrag, offload
from moatvpn.wire.esp import trailer
from moatvpn.wire.ip import NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, flow_of, read_header, traffic_class

# A raw packet, and its virtio header where it is not whole by itself (drivers.interfaces.Tun).
Raw = tuple[memoryview, bytes]

# Octets of a packet whose checksum is sooner filled in than left to the peer by a virtio header
_SOON_FILLED_IN = 512
_FITS = 256  # octets that fit into an envelope on any path (path_mtu.BASE), whatever the suite
_AGGFRAG = aggfrag.NEXT_HEADER_AGGFRAG
_WHOLE_BLOCKS = aggfrag.header(0)  # before payloads that begin with a block


class Outbound:
    """Finds the SA of each raw packet, and seals what belongs to one SA in one go.

    connections is shared with esp.processor, by name.
    """

    def __init__(self, connections: dict[str, Connection], spd: Spd, counters: Counters) -> None:
        self._connections = connections
        self._spd = spd
        self._counters = counters
        self._ring = Ring()
        self._flows = Flows()
        self.worn: list[Pair] = []
        self.noted: list[str] = []

    def forget_flows(self) -> None:
        """Look every packet's SA up anew: SAs or policies have changed."""
        self._flows.clear()

    def alone(self, raw: Raw, now: float) -> Burst | None:
        """Return the envelope of one raw packet that has come alone, after a pause.

        None where there is more to do than for nearly all such: then nothing has changed, and
        encapsulate is for it.
        """
        packet, virtio = raw
        pair, octets = self.pair_of(packet), len(packet)
        if not isinstance(pair, Pair) or not pair.aggregates:
            return None
        connection, outbound = pair.connection, pair.outbound
        if now >= connection.noted_out or outbound.worn:
            return None
        if octets > _FITS and (virtio or octets > room_of(pair)):
            return None
        whole: bytes | memoryview = packet
        if virtio:  # an acknowledgement, mostly
            try:
                whole = b"".join(offload.segments(virtio, packet))
            except PeerError:
                return None
            if len(whole) != octets:  # it stands for several
                return None
        end = trailer(aggfrag.HEADER_LENGTH + octets, _AGGFRAG, outbound.alignment)
        data = outbound.seal((b"".join((_WHOLE_BLOCKS, whole, end)),), self._ring)
        if data is None:
            return None
        outbound.packets += 1
        outbound.octets += octets
        if len(data) > SMALL:
            connection.large = True
        tos = packet[1] if packet[0] >> 4 == 4 else traffic_class(packet)
        peer, udp, source = connection.peer, connection.udp, connection.source
        return Burst(data, len(data), peer, udp, tos, source, connection.path is not None)

    def encapsulate(self, packets: Sequence[Raw], now: float) -> Iterator[Burst]:
        """Yield the envelopes of packets, each burst to be sent before the next is asked for.

        What is dropped is counted.
        """
        groups: dict[tuple[Pair, int], list[Raw]] = {}
        for raw in packets:
            packet = raw[0]
            found = self.pair_of(packet)
            if isinstance(found, DropReason):
                self._counters.drop(found)
                continue
            # Of IPv6, the octet lies across two.
            first = packet[0]
            tos = packet[1] if first >> 4 == 4 else (first & 0x0F) << 4 | packet[1] >> 4
            group = groups.get((found, tos))
            if group is None:
                groups[found, tos] = [raw]
            else:
                group.append(raw)
        waiting = False
        for (pair, tos), raws in groups.items():
            if pair.stream is not None:
                waiting = True
                continue
            yield from self._send(pair, tos, raws)
            self.note(pair, now)
        if waiting:
            self._wait(packets, now)

    def _wait(self, packets: Sequence[Raw], now: float) -> None:
        """Have those of packets that leave at a constant rate wait for that, in their order."""
        for raw in packets:
            pair = self.pair_of(raw[0])
            if isinstance(pair, Pair) and pair.stream is not None:
                pair.stream.put(self._whole(raw), now)

    def note(self, pair: Pair, now: float) -> None:
        """Take in that envelopes of pair have left."""
        if pair.outbound.worn and not pair.reported:
            pair.reported = True
            self.worn.append(pair)
        connection = pair.connection
        if now >= connection.noted_out:
            connection.noted_out = now + NOTE_EVERY
            self.noted.append(connection.name)

    # Policy

    def pair_of(self, packet: memoryview) -> Pair | DropReason:
        """Return the SAs that a raw packet of ours leaves on, or why there are none."""
        addresses = flow_of(packet, len(packet))
        if addresses is None:
            return DropReason.OUT_MALFORMED
        flow = bytes(addresses)
        pair = self._flows.get(flow)
        return self._look_up(packet, flow) if pair is None else pair

    def _look_up(self, packet: memoryview, flow: bytes) -> Pair | DropReason:
        try:
            version, length, source, destination = read_header(packet)
        except PeerError:
            return DropReason.OUT_MALFORMED
        if length != len(packet):
            return DropReason.OUT_MALFORMED
        name = self._spd.find(version, destination)
        if name is None:
            return DropReason.OUT_NO_POLICY
        ways = self._connections[name].ways
        for pair in ways:
            if pair.leaving.matches(packet, version, source, destination):
                break
        else:
            return DropReason.OUT_NO_POLICY if ways else DropReason.OUT_NO_SA
        if all(way.leaving.by_address for way in ways):
            self._flows.keep(flow, pair)
        return pair

    # Envelopes

    def _send(self, pair: Pair, tos: int, raws: list[Raw]) -> Iterator[Burst]:
        outbound, connection, child = pair.outbound, pair.connection, pair.child
        if child.private_blocks:
            pieces, blocks = self._super_blocks(raws)
            if len(blocks) > 1 and max(blocks) > aggfrag.MOST_OFFSET:
                # What is left of it after another block's end could be more than an offset says.
                for raw in raws:
                    yield from self._send(pair, tos, [raw])
                return
        else:
            pieces = [each for raw in raws for each in self._whole(raw)]
            blocks = [len(piece) for piece in pieces]
        if not pieces:
            return
        outbound.packets += len(raws)
        outbound.octets += sum(len(packet) for packet, _ in raws)
        if not child.aggfrag or child.unsplit:
            yield from self._send_each(pair, tos, pieces)
            return
        plaintexts = self._payloads(pair, pieces, blocks)
        if pair.hides:
            plaintexts[-1] = filled(plaintexts[-1], room_of(pair))
        if len(plaintexts) > 1 or len(plaintexts[0]) + outbound.overhead > SMALL:
            connection.large = True
        yield from self.sealed(pair, tos, plaintexts, whole=connection.path is not None)

    def _super_blocks(self, raws: Sequence[Raw]) -> tuple[list[bytes | memoryview], list[int]]:
        """Return the octets of raws as blocks, in pieces, and how long each block is."""
        pieces: list[bytes | memoryview] = []
        blocks = []
        for raw in raws:
            packet, virtio = raw
            if not virtio:
                pieces.append(packet)
                blocks.append(len(packet))
            elif len(packet) > _SOON_FILLED_IN and _is_sound(virtio, packet):
                pieces += aggfrag.super_header(virtio, len(packet)), packet
                blocks.append(len(packet) + aggfrag.SUPER_HEADER_LENGTH)
            else:  # what is small, or the peer would refuse, goes as the packets it stands for
                whole = self._whole(raw)
                pieces += whole
                blocks += map(len, whole)
        return pieces, blocks

    def _whole(self, raw: Raw) -> Sequence[bytes | memoryview]:
        """Return the packets that raw stands for, their checksums filled in."""
        packet, virtio = raw
        if not virtio:
            return (packet,)
        try:
            return offload.segments(virtio, packet)
        except PeerError:
            self._counters.drop(DropReason.OUT_MALFORMED)
            return ()

    def sealed(
        self, pair: Pair, tos: int, plaintexts: Sequence[bytes], *, whole: bool
    ) -> Iterator[Burst]:
        """Yield the envelopes of plaintexts, of one length but for the last, perhaps."""
        connection, outbound = pair.connection, pair.outbound
        size = len(plaintexts[0]) + outbound.overhead
        most = most_envelopes(size)
        for at in range(0, len(plaintexts), most):
            data = outbound.seal(plaintexts[at : at + most], self._ring)
            if data is None:
                self._counters.drop(DropReason.OUT_SA_EXHAUSTED)
                return
            peer, udp, source = connection.peer, connection.udp, connection.source
            yield Burst(data, min(size, len(data)), peer, udp, tos, source, whole)

    def _send_each(
        self, pair: Pair, tos: int, packets: Sequence[bytes | memoryview]
    ) -> Iterator[Burst]:
        """Yield one envelope for each packet, which the network may fragment."""
        for packet in packets:
            next_header = NEXT_HEADER_IPV4 if packet[0] >> 4 == 4 else NEXT_HEADER_IPV6
            if pair.child.aggfrag:
                packet = aggfrag.header(0) + packet
                next_header = aggfrag.NEXT_HEADER_AGGFRAG
            if pair.hides:
                packet = padded(pair, bytes(packet))
            end = trailer(len(packet), next_header, pair.outbound.alignment)
            yield from self.sealed(pair, tos, [b"".join((packet, end))], whole=False)

    def _payloads(
        self, pair: Pair, pieces: Sequence[bytes | memoryview], blocks: Sequence[int]
    ) -> list[bytes]:
        """Return the plaintexts of one stream: pieces, which are blocks of those lengths."""
        total = sum(blocks)
        room = room_of(pair)
        if total <= room:
            return [_plaintext(pair, 0, pieces, total)]
        head = aggfrag.header
        stream = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        starts = range(0, total, room)
        if len(blocks) == 1:
            offsets = [total - at for at in starts]
            offsets[0] = 0
        else:
            offsets = _offsets(starts, blocks)
        payloads = [
            b"".join((head(offset), stream[at : at + room], UNPADDED))
            for offset, at in zip(offsets[:-1], starts[:-1], strict=True)
        ]
        rest = stream[starts[-1] :]
        return [*payloads, _plaintext(pair, offsets[-1], (rest,), len(rest))]

    # Path probes

    def probe(self, connection: Connection, identifier: int, octets: int) -> Iterator[Burst]:
        """Yield the probe that makes an outer packet of so many octets."""
        pair = connection.leader()
        if pair is None:
            return
        if pair.stream is not None:
            pair.stream.put_probe(identifier, octets)
        else:
            room = room_in(pair, octets)
            block = aggfrag.probe(identifier).ljust(room, b"\0")
            yield from self._single(pair, block[: max(room, aggfrag.PROBE_LENGTH)])

    def answer(self, connection: Connection) -> Iterator[Burst]:
        """Yield the answers to the peer's probes that wait."""
        answers, connection.answers = connection.answers, []
        pair = connection.leader()
        if pair is None:
            return
        for identifier in answers:
            if pair.stream is not None:
                pair.stream.put_answer(identifier)
                continue
            block = aggfrag.probe(identifier, answer=True)
            if pair.hides:
                block = block.ljust(room_of(pair), b"\0")
            yield from self._single(pair, block)

    def _single(self, pair: Pair, blocks: bytes) -> Iterator[Burst]:
        plaintext = _plaintext(pair, 0, (blocks,), len(blocks))
        yield from self.sealed(pair, 0, [plaintext], whole=True)


def _plaintext(pair: Pair, offset: int, pieces: Sequence[bytes | memoryview], octets: int) -> bytes:
    """Return the plaintext of one AGGFRAG payload: pieces of so many octets, and ESP's trailer."""
    length = aggfrag.HEADER_LENGTH + octets
    end = trailer(length, aggfrag.NEXT_HEADER_AGGFRAG, pair.outbound.alignment)
    return b"".join((aggfrag.header(offset), *pieces, end))


def _is_sound(virtio: bytes, packet: memoryview) -> bool:
    """Return whether a peer of ours takes a packet with that virtio header."""
    try:
        offload.check(virtio, packet)
    except PeerError:
        return False
    return True


def _offsets(starts: Sequence[int], blocks: Sequence[int]) -> list[int]:
    """Return how far it is from each of starts, which rise, to the next block that begins."""
    begins = [0, *accumulate(blocks)]
    offsets = []
    at = 0
    for start in starts:
        while begins[at] < start:
            at += 1
        offsets.append(begins[at] - start)
    return offsets
