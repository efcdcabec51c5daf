"""The security association database: every CHILD_SA, by connection (RFC 4301, 4.4.2)."""

from __future__ import annotations

from moatvpn.esp.child import ChildSa
from moatvpn.esp.sa import inbound_sa, outbound_sa
from moatvpn.esp.selectors import Matcher
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector


class Pair:
    """The two SAs of one CHILD_SA, and which raw packets they are for.

    serial counts installations on this box. waiting: the outbound SA is to be used as soon as the
    peer shows that it has the pair. reported: a rekey has been asked for.
    """

    __slots__ = (
        "arriving", "child", "connection", "inbound", "leaving", "outbound", "reported", "serial",
        "waiting",
    )  # fmt: skip

    def __init__(self, child: ChildSa, connection: Connection, serial: int) -> None:
        self.child = child
        self.connection = connection
        self.serial = serial
        self.inbound = inbound_sa(child)
        self.outbound = outbound_sa(child)
        self.arriving = Matcher(child.remote_ts, child.local_ts)
        self.leaving = Matcher(child.local_ts, child.remote_ts)
        self.waiting = True
        self.reported = False


class Connection:
    """A connection's pairs by inbound SPI, those in use for sending, and the peer's address.

    udp: envelopes travel in UDP, which may change while the pairs live (RFC 4555, 3.5). ways has
    the pair in use of each line, the one installed last first, for a packet to find its own. routed
    are the selectors of the raw packets that the connection gets. The counts are of raw packets
    that removed pairs have carried.
    """

    __slots__ = (
        "name", "octets_in", "octets_out", "packets_in", "packets_out", "pairs", "peer", "routed",
        "udp", "ways",
    )  # fmt: skip

    def __init__(self, name: str, peer: Endpoint, udp: bool) -> None:
        self.name = name
        self.peer = peer
        self.routed: tuple[TrafficSelector, ...] = ()
        self.udp = udp
        self.pairs: dict[int, Pair] = {}
        self.ways: tuple[Pair, ...] = ()
        self.packets_in = self.packets_out = self.octets_in = self.octets_out = 0

    def used(self, line: int) -> Pair | None:
        """Return the pair in use of a line, or None."""
        return next((pair for pair in self.ways if pair.child.line == line), None)

    def leader(self) -> Pair | None:
        """Return the pair in use of the lowest line, which stands for the connection, or None."""
        return min(self.ways, key=lambda pair: pair.child.line, default=None)

    def use(self, pair: Pair) -> None:
        """Send on pair from now on, in place of the one of its line."""
        others = [way for way in self.ways if way.child.line != pair.child.line]
        self.ways = tuple(sorted([pair, *others], key=lambda way: -way.serial))

    def forget(self, pair: Pair) -> None:
        """Take pair out, keeping what it has carried."""
        self.ways = tuple(way for way in self.ways if way is not pair)
        del self.pairs[pair.child.spi_in]
        self.packets_in += pair.inbound.packets
        self.octets_in += pair.inbound.octets
        self.packets_out += pair.outbound.sequence
        self.octets_out += pair.outbound.octets
