"""The ESP engine as the tests of one packet at a time want it: one in, and one or none out."""

from __future__ import annotations

from typing import NamedTuple

from moatvpn.counters import Counters
from moatvpn.esp.processor import EspProcessor
from moatvpn.wire.endpoint import Endpoint


class Envelope(NamedTuple):
    """One envelope, and what the burst that it was said of it."""

    data: bytes
    peer: Endpoint
    udp: bool
    tos: int
    source: str = ""
    whole: bool = False


class RawPacket(NamedTuple):
    """One raw packet that came out of an envelope."""

    data: bytes
    connection: str
    spi_in: int
    moved: bool


class SingleProcessor(EspProcessor):
    """A processor with calls for one packet each."""

    def __init__(self, counters: Counters, *, several_addresses: bool = False) -> None:
        super().__init__(counters, several_addresses=several_addresses)
        self.now = 0.0

    def envelope(self, packet: bytes) -> Envelope | None:
        """Return the one envelope of a raw packet, None where it was dropped."""
        bursts = [
            Envelope(bytes(burst.data), burst.peer, burst.udp, burst.tos, burst.source, burst.whole)
            for burst in self.encapsulate([(memoryview(packet), b"")], self.now)
        ]
        assert len(bursts) <= 1
        return bursts[0] if bursts else None

    def raw_packet(self, data: bytes, source: Endpoint, tos: int) -> RawPacket | None:
        """Return the one raw packet of an envelope, None where there is none."""
        arrived = list(self.decapsulate([(memoryview(data), len(data), source, tos)], self.now))
        packets = [
            RawPacket(b"".join(pieces), each.connection, each.spi_in, each.moved)
            for each in arrived
            for pieces, _ in each.packets
        ]
        assert len(packets) <= 1
        return packets[0] if packets else None
