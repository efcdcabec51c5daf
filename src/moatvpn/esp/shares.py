"""What waits while more comes than can be worked on, in fair shares: envelopes and raw packets.

Nothing has been decrypted or encrypted by then. What is beyond a share is dropped here, for a few
microseconds, and so is what has no SA: a flood that no SA has a part in holds nobody up.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain

from moatvpn.counters import Counters, DropReason
from moatvpn.esp.burst import Arrival
from moatvpn.esp.fair import PACKET_COST, TURN, FairQueue
from moatvpn.esp.outbound import Outbound, Raw
from moatvpn.esp.sad import Pair
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import MIN_LENGTH

_MOST_ARRIVALS = 9 << 20  # octets; a third of it for one SA where no other is busy
_MOST_PACKETS = 8 << 20  # octets; a quarter of it for one flow where no other is busy
_Path = tuple[Hashable, ...]
_WITH_PORTS = frozenset((6, 17))  # TCP, UDP


class Shares:
    """Both ways' queues. pairs is shared with esp.processor, by inbound SPI.

    What is put in is copied: it outlives what a device has lent.
    """

    def __init__(self, pairs: Mapping[int, Pair], outbound: Outbound, counters: Counters) -> None:
        self._pairs = pairs
        self._outbound = outbound
        self._counters = counters
        self._inward: FairQueue[list[Arrival]] = FairQueue(_MOST_ARRIVALS)
        self._outward: FairQueue[list[Raw]] = FairQueue(_MOST_PACKETS)

    @property
    def arrivals_wait(self) -> bool:
        """Return whether envelopes wait, so that others have to get in line."""
        return bool(self._inward)

    @property
    def packets_wait(self) -> bool:
        """Return whether raw packets wait, so that others have to get in line."""
        return bool(self._outward)

    def arrivals(self, octets: int) -> list[Arrival]:
        """Return the envelopes whose turn it is, about so many octets of them."""
        return [arrival for run in self._inward.take(octets) for arrival in run]

    def packets(self, octets: int) -> list[Raw]:
        """Return the raw packets whose turn it is, about so many octets of them."""
        return [raw for run in self._outward.take(octets) for raw in run]

    # The way in

    def arrive(self, arrivals: Sequence[Arrival]) -> None:
        """Let envelopes wait, by connection and SA."""
        run: list[Arrival] = []
        cost, envelopes = 0, 0
        way: tuple[bytes, Endpoint] | None = None
        path: _Path | None = None
        for data, size, source, tos in chain.from_iterable(map(_by_sa, arrivals)):
            if min(size, len(data)) < MIN_LENGTH:
                self._counters.drop(DropReason.ESP_TOO_SHORT)
                continue
            here = bytes(data[:4]), source
            number = -(-len(data) // size)
            if here != way or cost + len(data) > TURN:
                self._wait(path, run, cost, envelopes)
                way, path = here, self._arriving(*here)
                run, cost, envelopes = [], 0, 0
            envelopes += number
            if path is not None:
                run.append((memoryview(bytes(data)), size, source, tos))
                cost += len(data) + number * PACKET_COST
        self._wait(path, run, cost, envelopes)

    def _arriving(self, spi: bytes, source: Endpoint) -> _Path | None:
        pair = self._pairs.get(int.from_bytes(spi, "big"))
        if pair is None:
            return None
        peer = pair.connection.peer
        # Whoever has seen an SPI on its way can send such envelopes, but has no part in the peer's.
        genuine = source.host == peer.host and source.port in (0, peer.port)
        return pair.connection.name, (spi, genuine)

    def _wait(self, path: _Path | None, run: list[Arrival], cost: int, envelopes: int) -> None:
        if path is None:
            if envelopes:
                self._counters.drop(DropReason.ESP_UNKNOWN_SPI, envelopes)
        elif run and not self._inward.put(path, run, cost):
            self._counters.drop(DropReason.ESP_OVER_SHARE, envelopes)

    # The way out

    def leave(self, packets: Sequence[Raw]) -> None:
        """Let raw packets wait, by connection, by their addresses, and by their ports."""
        run: list[Raw] = []
        cost, head = 0, b""
        path: _Path | None = None
        for packet, offload in packets:
            # Of IPv4, addresses and ports, behind the protocol; all others are looked at alone.
            plain = len(packet) > 20 and packet[0] == 0x45
            here = bytes(packet[12:24]) + packet[9:10] if plain else b""
            if not here or here != head or cost + len(packet) > TURN:
                self._line_up(path, run, cost)
                run, cost, head = [], 0, here
                path = self._leaving(packet)
            if path is None:
                head = b""
                continue
            run.append((memoryview(bytes(packet)), offload))
            cost += len(packet) + PACKET_COST
        self._line_up(path, run, cost)

    def _leaving(self, packet: memoryview) -> _Path | None:
        pair = self._outbound.pair_of(packet)
        if isinstance(pair, DropReason):
            self._counters.drop(pair)
            return None
        if packet[0] == 0x45:
            addresses, at, protocol = bytes(packet[12:20]), 20, packet[9]
        elif packet[0] >> 4 == 6:
            addresses, at, protocol = bytes(packet[8:40]), 40, packet[6]
        else:  # with options, which nobody has
            return pair.connection.name, b"", b""
        ports = bytes(packet[at : at + 4]) if protocol in _WITH_PORTS else bytes((protocol,))
        return pair.connection.name, addresses, ports

    def _line_up(self, path: _Path | None, run: list[Raw], cost: int) -> None:
        if path is not None and run and not self._outward.put(path, run, cost):
            self._counters.drop(DropReason.OUT_OVER_SHARE, len(run))


def _by_sa(arrival: Arrival) -> Sequence[Arrival]:
    """Return an arrival as it is, or cut where one SA's envelopes end and another's begin.

    Waiting elsewhere, the latter would be overtaken by those that follow, even by more than a
    replay window: with extended sequence numbers, those then count as not authentic.
    """
    data, size, source, tos = arrival
    if len(data) <= size:
        return (arrival,)
    for place in range(4):
        octets = data[place::size].tobytes()
        if octets.count(octets[:1]) != len(octets):
            break
    else:
        return (arrival,)
    starts = range(0, len(data), size)
    news = [at for at in starts[1:] if data[at : at + 4] != data[at - size : at - size + 4]]
    cuts = zip([0, *news], [*news, len(data)], strict=True)
    return [(data[start:end], size, source, tos) for start, end in cuts]
