"""The security association database: every CHILD_SA, by connection (RFC 4301, 4.4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moatvpn.counters import Counters
from moatvpn.esp.child import ChildSa
from moatvpn.esp.loss import NOTHING_YET, last_estimate
from moatvpn.esp.path_mtu import PathMtu
from moatvpn.esp.reassembly import Reassembly
from moatvpn.esp.sa import inbound_sa, outbound_sa
from moatvpn.esp.selectors import Matcher
from moatvpn.esp.tfc import NO_TFC
from moatvpn.esp.ways import Ways
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

if TYPE_CHECKING:
    from moatvpn.esp.stream import Stream

NOTE_EVERY = 0.5  # seconds between what IKE is told of a connection's traffic, each way


class Pair:
    """The two SAs of one CHILD_SA, and which raw packets they are for.

    serial counts installations on this box. waiting: the outbound SA is to be used as soon as the
    peer shows that it has the pair. reported: a rekey has been asked for. reassembly is the stream
    of an SA whose peer aggregates, None for one that has a raw packet in each envelope. hides: the
    lengths of envelopes are to tell nothing. stream is what leaves at a constant rate, None where
    raw packets leave as they come. aggregates: so do we, with nothing to be hidden.
    """

    __slots__ = (
        "aggregates", "arriving", "child", "connection", "hides", "inbound", "leaving", "outbound",
        "reassembly", "reported", "serial", "stream", "waiting",
    )  # fmt: skip

    def __init__(
        self, child: ChildSa, connection: Connection, serial: int, counters: Counters
    ) -> None:
        self.child = child
        self.connection = connection
        self.serial = serial
        self.inbound = inbound_sa(child)
        self.outbound = outbound_sa(child)
        self.arriving = Matcher(child.remote_ts, child.local_ts)
        self.leaving = Matcher(child.local_ts, child.remote_ts)
        self.reassembly = Reassembly(counters) if child.aggfrag else None
        self.hides = child.tfc.asked_for
        self.aggregates = child.aggfrag and not child.unsplit and child.tfc == NO_TFC
        self.stream: Stream | None = None
        self.waiting = True
        self.reported = False


class Connection(Ways[Pair]):
    """A connection's pairs by inbound SPI, those in use for sending, and the peer's address.

    udp: envelopes travel in UDP, which may change while the pairs live (RFC 4555, 3.5). source is
    the address of ours that they leave from, empty for any. routed are the selectors of the raw
    packets that the connection gets. The counts are of raw packets that removed pairs have carried,
    and loss is of the envelopes that carried them here.

    path measures what the way to the peer carries, None where the peer does not answer probes.
    answers are the identifiers of its probes that are to be answered. large: envelopes that a
    smaller path would lose have left since the path was told. noted_in and noted_out say when IKE
    is next to be told of traffic.
    """

    __slots__ = (
        "answers", "large", "loss", "name", "noted_in", "noted_out", "octets_in", "octets_out",
        "packets_in", "packets_out", "pairs", "path", "peer", "routed", "source", "udp",
    )  # fmt: skip

    def __init__(self, name: str, peer: Endpoint, udp: bool) -> None:
        super().__init__()
        self.name = name
        self.peer = peer
        self.routed: tuple[TrafficSelector, ...] = ()
        self.udp = udp
        self.source = ""
        self.path: PathMtu | None = None
        self.answers: list[int] = []
        self.large = False
        self.noted_in = self.noted_out = 0.0
        self.pairs: dict[int, Pair] = {}
        self.packets_in = self.packets_out = self.octets_in = self.octets_out = 0
        self.loss = NOTHING_YET

    def forget(self, pair: Pair) -> None:
        """Take pair out, keeping what it has carried."""
        self.leave(pair)
        del self.pairs[pair.child.spi_in]
        self.packets_in += pair.inbound.packets
        self.octets_in += pair.inbound.octets
        self.packets_out += pair.outbound.packets
        self.octets_out += pair.outbound.octets
        self.loss = self.loss.plus(last_estimate(pair.inbound.window))
