"""The ESP engine: raw packets in and envelopes out, and the other way (RFC 4303, RFC 4301, 5)."""

from __future__ import annotations

from dataclasses import dataclass

from moatvpn.counters import Counters, DropReason
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.esp.ecn import decapsulate_ecn
from moatvpn.esp.sa import MIN_LENGTH, InboundSa, OutboundSa
from moatvpn.esp.selectors import Matcher
from moatvpn.esp.spd import Spd
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.ip import (
    NEXT_HEADER_IPV4,
    NEXT_HEADER_IPV6,
    NEXT_HEADER_NONE,
    addresses,
    total_length,
    traffic_class,
)

_VERSION_OF = {NEXT_HEADER_IPV4: 4, NEXT_HEADER_IPV6: 6}


@dataclass(frozen=True, slots=True)
class Envelope:
    """One ESP packet, from its SPI on, to send to peer: in UDP, or as IP protocol 50 to its host.

    tos is the outer header's DSCP and ECN octet.
    """

    data: bytes
    peer: Endpoint
    udp: bool
    tos: int
    connection: str


@dataclass(frozen=True, slots=True)
class RawPacket:
    """One raw packet that came out of an envelope.

    moved: the envelope is the newest so far and came from elsewhere than the SA's peer.
    """

    data: bytes
    connection: str
    spi_in: int
    moved: bool


@dataclass(frozen=True, slots=True)
class EspStatistics:
    """What a connection's SAs have carried since they were installed; octets of raw packets."""

    packets_in: int = 0
    packets_out: int = 0
    octets_in: int = 0
    octets_out: int = 0
    spi_in: int | None = None
    spi_out: int | None = None
    suite: str | None = None
    esn: bool = False
    udp: bool = False
    sequence: int = 0


class EspProcessor:
    """All SAs of a box: the SAD by inbound SPI, the SPD by destination."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._inbound: dict[int, InboundSa] = {}
        self._pairs: dict[int, OutboundSa] = {}  # the outbound half, by the pair's inbound SPI
        self._active: dict[str, tuple[OutboundSa, Matcher]] = {}
        self._waiting: dict[int, str] = {}  # inbound SPIs whose outbound half is not in use yet
        self._spd = Spd()
        self._rekeys: list[str] = []
        self._past: dict[str, list[int]] = {}  # in and out, packets and octets of removed SAs

    # SAs

    def install(self, child: ChildSa, peer: Endpoint, *, activate_outbound: bool) -> None:
        """Receive on a CHILD_SA from now on, and send on it at once if activate_outbound."""
        self._inbound[child.spi_in] = InboundSa(child, peer)
        self._pairs[child.spi_in] = OutboundSa(child, peer)
        if activate_outbound:
            self.activate(child.spi_in)
        else:
            self._waiting[child.spi_in] = child.connection

    def activate(self, spi_in: int) -> None:
        """Send the connection's packets on this CHILD_SA from now on."""
        self._waiting.pop(spi_in, None)
        sa = self._pairs.get(spi_in)
        if sa is None:
            return
        child = sa.child
        self._active[child.connection] = (sa, Matcher(child.local_ts, child.remote_ts))
        self._spd.set(child.connection, child.remote_ts)

    def remove(self, spi_in: int) -> None:
        """Forget a CHILD_SA; the connection's policy stays, so that its packets are dropped."""
        inbound, outbound = self._inbound.pop(spi_in, None), self._pairs.pop(spi_in, None)
        self._waiting.pop(spi_in, None)
        if inbound is None or outbound is None:
            return
        name = inbound.child.connection
        past = self._past.setdefault(name, [0, 0, 0, 0])
        for index, amount in enumerate(
            (inbound.packets, outbound.sequence, inbound.octets, outbound.octets)
        ):
            past[index] += amount
        active = self._active.get(name)
        if active is not None and active[0] is outbound:
            del self._active[name]

    def remove_connection(self, connection: str) -> None:
        """Forget a connection: SAs, policy and statistics."""
        for spi in [s for s, sa in self._inbound.items() if sa.child.connection == connection]:
            self.remove(spi)
        self._spd.remove(connection)
        self._past.pop(connection, None)

    def set_peer(self, connection: str, peer: Endpoint) -> None:
        """Send the connection's envelopes to peer from now on; port 0 keeps the port."""
        for spi, inbound in self._inbound.items():
            if inbound.child.connection == connection:
                moved = Endpoint(peer.host, peer.port or inbound.peer.port)
                inbound.peer = self._pairs[spi].peer = moved

    def has_inbound(self, spi: int) -> bool:
        """Return whether an SA has this inbound SPI."""
        return spi in self._inbound

    def rekeys_wanted(self) -> list[str]:
        """Return the connections whose SA nears its end, each once for each SA."""
        wanted, self._rekeys = self._rekeys, []
        return wanted

    def statistics(self, connection: str) -> EspStatistics:
        """Return what a connection has carried."""
        own = [sa for sa in self._inbound.values() if sa.child.connection == connection]
        outs = [self._pairs[sa.child.spi_in] for sa in own]
        past = self._past.get(connection, [0, 0, 0, 0])
        active = self._active.get(connection)
        sa = active[0] if active is not None else None
        return EspStatistics(
            packets_in=past[0] + sum(s.packets for s in own),
            packets_out=past[1] + sum(s.sequence for s in outs),
            octets_in=past[2] + sum(s.octets for s in own),
            octets_out=past[3] + sum(s.octets for s in outs),
            spi_in=sa.child.spi_in if sa else None,
            spi_out=sa.child.spi_out if sa else None,
            suite=sa.child.suite.value if sa else None,
            esn=sa.child.esn if sa else False,
            udp=sa.udp if sa else False,
            sequence=sa.sequence if sa else 0,
        )

    # Packets

    def encapsulate(self, packet: bytes) -> Envelope | None:
        """Return the envelope for a raw packet, or None where it was dropped and counted."""
        try:
            length = total_length(packet)
        except PeerError:
            self._counters.drop(DropReason.OUT_MALFORMED)
            return None
        if length != len(packet):
            self._counters.drop(DropReason.OUT_MALFORMED)
            return None
        version, _, destination = addresses(packet)
        name = self._spd.find(version, destination)
        if name is None:
            self._counters.drop(DropReason.OUT_NO_POLICY)
            return None
        active = self._active.get(name)
        if active is None:
            self._counters.drop(DropReason.OUT_NO_SA)
            return None
        sa, matcher = active
        if not matcher.matches(packet):
            self._counters.drop(DropReason.OUT_NO_POLICY)
            return None
        try:
            data = sa.encrypt(packet, NEXT_HEADER_IPV4 if version == 4 else NEXT_HEADER_IPV6)
        except PeerError as error:
            self._counters.drop(error.reason)
            return None
        if sa.wants_rekey and not sa.reported:
            sa.reported = True
            self._rekeys.append(name)
        # The outer header takes the inner DSCP and ECN (RFC 4301, 5.1.2.1; RFC 6040, 4.1).
        return Envelope(data, sa.peer, sa.udp, traffic_class(packet), name)

    def decapsulate(self, data: bytes, source: Endpoint, outer_tos: int) -> RawPacket | None:
        """Return the raw packet in an ESP packet, or None where there is none to deliver.

        source has port 0 for IP protocol 50. Whatever is wrong is counted once; a dummy packet
        (RFC 4303, 2.6) is no fault.
        """
        try:
            return self._decapsulate(data, source, outer_tos)
        except PeerError as error:
            self._counters.drop(error.reason)
            return None

    def _decapsulate(self, data: bytes, source: Endpoint, outer_tos: int) -> RawPacket | None:
        if len(data) < MIN_LENGTH:
            raise PeerError(DropReason.ESP_TOO_SHORT, f"{len(data)} octets")
        spi = int.from_bytes(data[:4], "big")
        sa = self._inbound.get(spi)
        if sa is None:
            raise PeerError(DropReason.ESP_UNKNOWN_SPI)
        payload, next_header, newest = sa.decrypt(data)
        if self._waiting and spi in self._waiting:
            # The peer uses the new SA, so it has it: we may send on it too (RFC 7296, 2.8).
            self.activate(spi)
        if next_header == NEXT_HEADER_NONE:
            return None
        version = _VERSION_OF.get(next_header)
        if version is None:
            raise PeerError(DropReason.ESP_BAD_NEXT_HEADER, f"next header {next_header}")
        length = total_length(payload)
        if payload[0] >> 4 != version:
            raise PeerError(DropReason.ESP_INNER_MALFORMED, "version and next header differ")
        if length != len(payload):
            payload = payload[:length]  # traffic-flow confidentiality padding (2.7)
        if not sa.selectors.matches(payload):
            raise PeerError(DropReason.ESP_INNER_SELECTOR)
        if outer_tos & 3:
            payload = decapsulate_ecn(payload, outer_tos)
        sa.packets += 1
        sa.octets += length
        peer = sa.peer
        moved = newest and (source.host != peer.host or source.port not in (0, peer.port))
        return RawPacket(payload, sa.child.connection, spi, moved)
