"""The ESP engine: raw packets in and envelopes out, and the other way (RFC 4303; RFC 4301, 5).

Neither way changes the TTL: the kernel, which forwards each raw packet to the TUN and from it, has
counted its hops already. Nothing here costs more where there are more tunnels.
"""

from __future__ import annotations

from typing import NamedTuple

from moatvpn.counters import Counters, DropReason
from moatvpn.errors import MoatError, PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.esp.ecn import decapsulate_ecn
from moatvpn.esp.sad import Connection, Pair
from moatvpn.esp.spd import Spd
from moatvpn.esp.statistics import EspStatistics, statistics_of
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import MIN_LENGTH
from moatvpn.wire.ip import (
    ECN_MASK,
    NEXT_HEADER_IPV4,
    NEXT_HEADER_IPV6,
    NEXT_HEADER_NONE,
    read_header,
    traffic_class,
)

_VERSION_OF = {NEXT_HEADER_IPV4: 4, NEXT_HEADER_IPV6: 6}


class Envelope(NamedTuple):
    """One ESP packet, from its SPI on, to send to peer: in UDP, or as IP protocol 50 to its host.

    tos is the outer header's DSCP and ECN octet. source is the address of ours to send from, empty
    for the one that the kernel's routing takes.
    """

    data: bytes
    peer: Endpoint
    udp: bool
    tos: int
    connection: str
    source: str = ""


class RawPacket(NamedTuple):
    """One raw packet that came out of an envelope.

    moved: the envelope is the newest so far, and came from elsewhere than the peer's address.
    """

    data: bytes
    connection: str
    spi_in: int
    moved: bool


class EspProcessor:
    """All SAs of a box: the SAD by inbound SPI, the SPD by destination.

    several_addresses: peers reach us at several, and a NAT before one of them lets in only what
    comes from where it has sent to: so envelopes leave from there, whatever the kernel's routing.
    """

    def __init__(self, counters: Counters, *, several_addresses: bool = False) -> None:
        self._counters = counters
        self._several_addresses = several_addresses
        self._sources: dict[str, str] = {}  # by connection, where there are several
        self._inbound: dict[int, Pair] = {}
        self._connections: dict[str, Connection] = {}
        self._spd = Spd()
        self._worn: list[Pair] = []
        self._installed = 0

    # SAs

    def install(self, child: ChildSa, peer: Endpoint, *, activate_outbound: bool) -> None:
        """Receive on a CHILD_SA from now on, and send on it at once if activate_outbound.

        If not, its line goes on sending on the CHILD_SA that it has, until activate or the first
        authentic packet on the new one (RFC 7296, 2.8). Raises MoatError where the inbound
        SPI is in use: installed twice, a CHILD_SA would spend its nonces twice.
        """
        if child.spi_in in self._inbound:
            raise MoatError(f"inbound SPI {child.spi_in:#010x} is installed already")
        name = child.connection
        connection = self._connections.get(name)
        if connection is None:
            connection = self._connections[name] = Connection(name, peer, child.udp)
            connection.source = self._sources.get(name, "")
            self._route(connection, child)
        connection.peer, connection.udp = peer, child.udp
        self._installed += 1
        pair = Pair(child, connection, self._installed)
        self._inbound[child.spi_in] = connection.pairs[child.spi_in] = pair
        if activate_outbound:
            self._activate(pair)

    def activate(self, spi_in: int) -> None:
        """Send the connection's packets on this CHILD_SA from now on, if it waits for that.

        It is left alone where one of its line installed after it is in use: news of an older rekey
        may come late, and sending goes only forwards.
        """
        pair = self._inbound.get(spi_in)
        if pair is not None and pair.waiting:
            self._activate(pair)

    def _activate(self, pair: Pair) -> None:
        if pair.connection.go_over_to(pair):
            self._route(pair.connection, pair.child)

    def _route(self, connection: Connection, child: ChildSa) -> None:
        """Give the connection the packets for all that it sends on; child is the one that is new.

        What it had before stays its own until then, so that packets without an SA are dropped.
        """
        remote = child.remote_ts
        if len(connection.ways) > 1:
            every = (ts for way in connection.ways for ts in way.child.remote_ts)
            remote = tuple(dict.fromkeys(every))
        if connection.routed != remote:
            connection.routed = remote
            self._spd.set(connection.name, remote)

    def remove(self, spi_in: int) -> None:
        """Forget a CHILD_SA, if there is one.

        The connection's policy stays: if it sent on this one, its packets are dropped from now on.
        """
        pair = self._inbound.pop(spi_in, None)
        if pair is not None:
            pair.connection.forget(pair)

    def remove_connection(self, connection: str) -> None:
        """Forget a connection, if there is one: SAs, policy and statistics."""
        self._sources.pop(connection, None)
        known = self._connections.pop(connection, None)
        if known is not None:
            for spi in list(known.pairs):
                self.remove(spi)
            self._spd.remove(connection)

    def set_peer(self, connection: str, peer: Endpoint, *, udp: bool) -> None:
        """Send the connection's envelopes to peer from now on, in UDP or as IP protocol 50."""
        known = self._connections.get(connection)
        if known is not None:
            known.peer, known.udp = peer, udp

    def set_local(self, connection: str, host: str) -> None:
        """Take in at which address of ours the connection's peer speaks to us from now on."""
        if self._several_addresses:
            self._sources[connection] = host
            known = self._connections.get(connection)
            if known is not None:
                known.source = host

    def has_inbound(self, spi: int) -> bool:
        """Return whether an SA has this inbound SPI."""
        return spi in self._inbound

    def rekeys_wanted(self) -> list[str]:
        """Return the connections whose outbound SA nears its end, each once for each SA."""
        worn, self._worn = self._worn, []
        return [pair.connection.name for pair in worn if pair.connection.uses(pair)]

    def statistics(self, connection: str) -> EspStatistics:
        """Return what a connection has carried, all zero where there is none of that name."""
        known = self._connections.get(connection)
        return EspStatistics() if known is None else statistics_of(known)

    # Packets

    def encapsulate(self, packet: bytes) -> Envelope | None:
        """Return the envelope for a raw packet, or None where it was dropped and counted."""
        envelope = self._encapsulate(packet)
        if isinstance(envelope, DropReason):
            self._counters.drop(envelope)
            return None
        return envelope

    def _encapsulate(self, packet: bytes) -> Envelope | DropReason:
        try:
            version, length, source, destination = read_header(packet)
        except PeerError:
            return DropReason.OUT_MALFORMED
        if length != len(packet):
            return DropReason.OUT_MALFORMED
        name = self._spd.find(version, destination)
        if name is None:
            return DropReason.OUT_NO_POLICY
        connection = self._connections[name]
        for pair in connection.ways:
            if pair.leaving.matches(packet, version, source, destination):
                break
        else:
            return DropReason.OUT_NO_POLICY if connection.ways else DropReason.OUT_NO_SA
        outbound = pair.outbound
        next_header = NEXT_HEADER_IPV4 if version == 4 else NEXT_HEADER_IPV6
        data = outbound.encrypt(packet, next_header)
        if outbound.worn and not pair.reported:
            pair.reported = True
            self._worn.append(pair)
        if data is None:
            return DropReason.OUT_SA_EXHAUSTED
        # The outer header takes the inner DSCP and ECN (RFC 4301, 5.1.2.1; RFC 6040, 4.1).
        tos = traffic_class(packet)
        return Envelope(data, connection.peer, connection.udp, tos, name, connection.source)

    def decapsulate(self, data: bytes, source: Endpoint, outer_tos: int) -> RawPacket | None:
        """Return the raw packet in an ESP packet, or None where there is none to deliver.

        data begins at the SPI; source has port 0 for IP protocol 50. Whatever is wrong is counted
        once; a dummy packet (RFC 4303, 2.6) is no fault.
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
        pair = self._inbound.get(spi)
        if pair is None:
            raise PeerError(DropReason.ESP_UNKNOWN_SPI, f"SPI {spi:#010x}")
        inbound = pair.inbound
        payload, next_header, newest = inbound.decrypt(data)
        if pair.waiting:
            # The peer sends on the new SAs, so it has them: so may we (RFC 7296, 2.8).
            self._activate(pair)
        if next_header == NEXT_HEADER_NONE:
            return None
        version, length, inner_source, inner_destination = _read_inner(payload, next_header)
        if length != len(payload):
            payload = payload[:length]  # traffic flow confidentiality padding (2.7)
        if not pair.arriving.matches(payload, version, inner_source, inner_destination):
            raise PeerError(DropReason.ESP_INNER_SELECTOR)
        if outer_tos & ECN_MASK:
            payload = decapsulate_ecn(payload, outer_tos)
        inbound.packets += 1
        inbound.octets += length
        connection = pair.connection
        moved = newest and source != connection.peer and _is_elsewhere(pair, source)
        return RawPacket(payload, connection.name, spi, moved)


def _read_inner(payload: bytes, next_header: int) -> tuple[int, int, int, int]:
    """Return what wire.ip.read_header says of payload, which must be what next_header says.

    Raises PeerError: ESP_BAD_NEXT_HEADER for what is no tunnel mode, ESP_INNER_MALFORMED for a
    payload that is not such a packet.
    """
    version = _VERSION_OF.get(next_header)
    if version is None:
        raise PeerError(DropReason.ESP_BAD_NEXT_HEADER, f"next header {next_header}")
    header = read_header(payload)
    if header[0] != version:
        raise PeerError(DropReason.ESP_INNER_MALFORMED, "version and next header differ")
    return header


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
