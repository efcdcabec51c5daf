"""The ESP engine: raw packets in and envelopes out, and the other way (RFC 4303; RFC 4301, 5).

Neither way changes the TTL: the kernel, which forwards each raw packet to the TUN and from it, has
counted its hops already. Nothing here costs more where there are more tunnels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from moatvpn.counters import Counters
from moatvpn.deadlines import earliest
from moatvpn.errors import MoatError
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.esp.child import ChildSa
from moatvpn.esp.constant import ConstantRates
from moatvpn.esp.inbound import Arrived, Inbound, Probes
from moatvpn.esp.outbound import Outbound, Raw
from moatvpn.esp.paths import Paths
from moatvpn.esp.sad import Connection, Pair
from moatvpn.esp.shares import Shares
from moatvpn.esp.spd import Spd
from moatvpn.esp.statistics import EspStatistics, statistics_of
from moatvpn.wire.endpoint import Endpoint


class Sender(Probes, Protocol):
    """Another process, which sends in our place, and what it is to learn from what comes in."""

    def activated(self, pair: Pair) -> None:
        """Send on a pair that waits for it: its peer has been seen to send on it."""
        ...


class EspProcessor:
    """All SAs of a box: the SAD by inbound SPI, the SPD by destination.

    several_addresses: peers reach us at several, and a NAT before one of them lets in only what
    comes from where it has sent to: so envelopes leave from there, whatever the kernel's routing.
    shares are the queues of what cannot be worked on at once. sender is who sends in our place,
    where only opening halves of CHILD_SAs are installed here.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        several_addresses: bool = False,
        sender: Sender | None = None,
    ) -> None:
        self._counters = counters
        self._several_addresses = several_addresses
        self._sources: dict[str, str] = {}  # by connection, where there are several
        self._pairs: dict[int, Pair] = {}
        self._connections: dict[str, Connection] = {}
        self._spd = Spd()
        self._installed = 0
        self._outbound = Outbound(self._connections, self._spd, counters)
        self._paths = Paths(self._connections, self._outbound)
        self._rates = ConstantRates(self._outbound, counters)
        self._sender = sender
        self._inbound = Inbound(self._pairs, counters, self._seen, sender or self._paths)
        self._told: list[str] = []
        # Both for one packet that has come alone: see there.
        self.seal_alone = self._outbound.alone
        self.open_alone = self._inbound.alone
        self.shares = Shares(self._pairs, self._outbound, counters)

    # SAs

    def install(self, child: ChildSa, peer: Endpoint, *, activate_outbound: bool) -> None:
        """Receive on a CHILD_SA from now on, and send on it at once if activate_outbound.

        If not, its line goes on sending on the CHILD_SA that it has, until activate or the first
        authentic packet on the new one (RFC 7296, 2.8). Raises MoatError where the inbound
        SPI is in use: installed twice, a CHILD_SA would spend its nonces twice.
        """
        if child.spi_in in self._pairs:
            raise MoatError(f"inbound SPI {child.spi_in:#010x} is installed already")
        name = child.connection
        connection = self._connections.get(name)
        if connection is None:
            connection = self._connections[name] = Connection(name, peer, child.udp)
            connection.source = self._sources.get(name, "")
            self._spd.ready(name, False)
            self._route(connection, child)
            self._forget_flows()
        elif (connection.peer, connection.udp) != (peer, child.udp):
            self._paths.changed(connection)  # the peer has come back from elsewhere
        connection.peer, connection.udp = peer, child.udp
        self._installed += 1
        pair = Pair(child, connection, self._installed, self._counters)
        self._pairs[child.spi_in] = connection.pairs[child.spi_in] = pair
        if activate_outbound:
            self._activate(pair)

    def activate(self, spi_in: int) -> None:
        """Send the connection's packets on this CHILD_SA from now on, if it waits for that.

        It is left alone where one of its line installed after it is in use: news of an older rekey
        may come late, and sending goes only forwards.
        """
        pair = self._pairs.get(spi_in)
        if pair is not None and pair.waiting:
            self._activate(pair)

    def _seen(self, pair: Pair) -> None:
        """Take in that the peer sends on a pair that waits."""
        self._activate(pair)
        if self._sender is not None:
            self._sender.activated(pair)

    def _activate(self, pair: Pair) -> None:
        connection = pair.connection
        if connection.go_over_to(pair):
            self._rates.use(pair)
            self._route(connection, pair.child)
            self._spd.ready(connection.name, True)
            self._forget_flows()
            if pair.child.private_blocks is not (connection.path is not None):
                self._paths.changed(connection)

    def _forget_flows(self) -> None:
        self._outbound.forget_flows()
        self._inbound.forget_flows()

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

        The connection's policy stays: if it sent on this one, its packets are dropped from now on,
        but for those that another connection, of whatever metric, is ready to carry.
        """
        pair = self._pairs.pop(spi_in, None)
        if pair is not None:
            pair.connection.forget(pair)
            if not pair.connection.ways:
                self._spd.ready(pair.connection.name, False)
            self._rates.forget(pair)
            self._forget_flows()

    def remove_connection(self, connection: str) -> None:
        """Forget a connection, if there is one: SAs, policy and statistics."""
        self._sources.pop(connection, None)
        known = self._connections.pop(connection, None)
        if known is not None:
            for spi in list(known.pairs):
                self.remove(spi)
            self._paths.forget(connection)
        self._spd.remove(connection)

    def set_metric(self, connection: str, metric: int) -> None:
        """Prefer, of the connections for the same raw packets, the lowest metric that has an SA.

        It is 0 until it is set, and is forgotten with the connection.
        """
        self._spd.prefer(connection, metric)
        self._forget_flows()

    def set_peer(self, connection: str, peer: Endpoint, *, udp: bool) -> None:
        """Send the connection's envelopes to peer from now on, in UDP or as IP protocol 50."""
        known = self._connections.get(connection)
        if known is not None:
            known.peer, known.udp = peer, udp
            self._paths.changed(known)

    def set_local(self, connection: str, host: str) -> None:
        """Take in at which address of ours the connection's peer speaks to us from now on."""
        known = self._connections.get(connection)
        if known is not None:
            self._paths.changed(known)
        if self._several_addresses:
            self._sources[connection] = host
            if known is not None:
                known.source = host

    def has_inbound(self, spi: int) -> bool:
        """Return whether an SA has this inbound SPI."""
        return spi in self._pairs

    def rekeys_wanted(self) -> list[str]:
        """Return the connections whose outbound SA nears its end, each once for each SA."""
        worn, self._outbound.worn = self._outbound.worn, []
        return [pair.connection.name for pair in worn if pair.connection.uses(pair)]

    def statistics(self, connection: str) -> EspStatistics:
        """Return what a connection has carried, all zero where there is none of that name."""
        known = self._connections.get(connection)
        return EspStatistics() if known is None else statistics_of(known)

    # Packets

    def encapsulate(self, packets: Sequence[Raw], now: float) -> Iterator[Burst]:
        """Yield the envelopes of raw packets, each burst to be sent before the next is asked for.

        What is dropped is counted.
        """
        yield from self._outbound.encapsulate(packets, now)
        self._take_note(now)

    def _take_note(self, now: float) -> None:
        noted, self._outbound.noted = self._outbound.noted, []
        self._paths.sent(noted, now)
        self._told += noted

    def decapsulate(self, arrivals: Sequence[Arrival], now: float) -> Iterator[Arrived]:
        """Yield the raw packets in envelopes. Whatever is wrong is counted once."""
        return self._inbound.decapsulate(arrivals, now)

    def told(self) -> list[str]:
        """Return, once, the connections of whose outbound traffic IKE is to be told now."""
        told, self._told = self._told, []
        return told

    def due(self, now: float) -> Iterator[Burst]:
        """Yield what is to be sent by the time, and not because of raw packets.

        That is path probes, answers to the peers', and all that leaves at a constant rate.
        """
        yield from self._paths.due(now)
        yield from self._rates.due(now)
        if self._outbound.noted:
            self._take_note(now)

    def asked(self, spi_in: int, identifier: int) -> None:
        """Answer a path probe of the peer's, which came in on this CHILD_SA elsewhere."""
        pair = self._pairs.get(spi_in)
        if pair is not None:
            self._paths.asked(pair, identifier)

    def answered(self, spi_in: int, identifier: int, now: float) -> None:
        """Take in the answer to a path probe of ours, which came in on this CHILD_SA elsewhere."""
        pair = self._pairs.get(spi_in)
        if pair is not None:
            self._paths.answered(pair, identifier, now)

    def late(self, now: float) -> Iterator[Arrived]:
        """Yield the raw packets in envelopes that have waited long enough for those before them."""
        return self._inbound.handle_timer(now)

    def get_timer(self) -> float | None:
        """Return when due or late have something, None where that is not known."""
        return earliest(self._paths.get_timer(), self._rates.get_timer(), self._inbound.get_timer())
