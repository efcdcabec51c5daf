"""What we know of the SAs that the kernel has for us, by connection (RFC 4301, 4.4.2)."""

from __future__ import annotations

from dataclasses import replace

from moatvpn.drivers.xfrm_messages import KernelSa, SaState, Selector, Template, sequence_out
from moatvpn.esp.child import ChildSa
from moatvpn.esp.statistics import EspStatistics
from moatvpn.esp.ways import Ways
from moatvpn.wire.endpoint import NAT_PORT, Endpoint


class KernelPair:
    """The two SAs of one CHILD_SA: an esp.ways.Way; reported as in esp.sad.Pair.

    packets and octets are of raw packets, inbound first; sequence is the last outbound number that
    the kernel told us. before is what the SAs had carried that these two go on for.
    """

    __slots__ = (
        "before", "child", "connection", "inbound", "octets", "outbound", "packets", "reported",
        "sequence", "serial", "waiting",
    )  # fmt: skip

    def __init__(
        self, child: ChildSa, connection: KernelConnection, serial: int, if_id: int
    ) -> None:
        self.child = child
        self.connection = connection
        self.serial = serial
        self.waiting = True
        self.reported = False
        self.packets, self.octets, self.sequence = [0, 0], [0, 0], 0
        self.before = [(0, 0), (0, 0)]
        common = (connection.reqid, if_id, child.suite)
        inbound = KernelSa("", "", child.spi_in, *common, child.key_in, child.esn, True, None)
        outbound = KernelSa("", "", child.spi_out, *common, child.key_out, child.esn, False, None)
        self.inbound, self.outbound = self.between(inbound), self.between(outbound)

    def sas(self) -> tuple[KernelSa, KernelSa]:
        """Return both SAs, the inbound one first."""
        return self.inbound, self.outbound

    def between(self, sa: KernelSa) -> KernelSa:
        """Return sa as it has to be between the addresses of its connection."""
        local, peer = self.connection.local, self.connection.peer
        ports = (peer.port, NAT_PORT) if sa.inbound else (NAT_PORT, peer.port)
        source, target = (peer.host, local) if sa.inbound else (local, peer.host)
        ports_or_none = ports if self.connection.udp else None
        return replace(sa, source=source, target=target, ports=ports_or_none)

    def put(self, sa: KernelSa) -> None:
        """Take sa in place of the one of its direction, whose counts it goes on from."""
        way = 0 if sa.inbound else 1
        self.before[way] = (self.packets[way], self.octets[way])
        if sa.inbound:
            self.inbound = sa
        else:
            self.outbound = sa

    def note(self, sa: KernelSa, state: SaState) -> None:
        """Take in what the kernel has counted on one of the SAs."""
        way = 0 if sa.inbound else 1
        packets, octets = self.before[way]
        self.packets[way], self.octets[way] = packets + state.packets, octets + state.octets
        if not sa.inbound:
            self.sequence = sequence_out(state.replay)


class KernelConnection(Ways[KernelPair]):
    """A connection's pairs by inbound SPI, its addresses, and the policies that the kernel has.

    udp is as in esp.sad.Connection. reqid binds policies to SAs, and is the connection's
    alone. policies are by direction and selector.
    """

    def __init__(self, name: str, peer: Endpoint, udp: bool, local: str, reqid: int) -> None:
        super().__init__()
        self.name = name
        self.peer = peer
        self.udp = udp
        self.local = local
        self.reqid = reqid
        self.pairs: dict[int, KernelPair] = {}
        self.policies: dict[tuple[int, Selector], Template] = {}
        self.packets, self.octets = [0, 0], [0, 0]  # of pairs that are gone

    def forget(self, pair: KernelPair) -> None:
        """Take pair out, keeping what it has carried."""
        self.leave(pair)
        del self.pairs[pair.child.spi_in]
        for way in (0, 1):
            self.packets[way] += pair.packets[way]
            self.octets[way] += pair.octets[way]

    def statistics(self) -> EspStatistics:
        """Return what the connection has carried, as its pairs know it."""
        pairs = self.pairs.values()
        leader = self.leader()
        packets = [self.packets[way] + sum(p.packets[way] for p in pairs) for way in (0, 1)]
        octets = [self.octets[way] + sum(p.octets[way] for p in pairs) for way in (0, 1)]
        counts = EspStatistics(
            packets_in=packets[0], packets_out=packets[1],
            octets_in=octets[0], octets_out=octets[1], child_sas=len(self.ways),
        )  # fmt: skip
        if leader is None:
            return counts
        child = leader.child
        return replace(
            counts,
            spi_in=child.spi_in, spi_out=child.spi_out, suite=child.suite.value,
            esn=child.esn, udp=self.udp, sequence=leader.sequence,
        )  # fmt: skip
