"""What runs in each worker: one way of the ESP engine, told what to do by moatd over a link."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.ways import Inward, Outward
from moatvpn.daemon.workers_link import Link
from moatvpn.daemon.workers_messages import (
    Activate,
    AskDrops,
    AskStatistics,
    Carried,
    Drops,
    IkeMessage,
    Install,
    Message,
    Moved,
    ProbeAnswered,
    ProbeAsked,
    Remove,
    RemoveConnection,
    SetLocal,
    SetMetric,
    SetPeer,
    Statistics,
    Stray,
    Worn,
)
from moatvpn.deadlines import earliest
from moatvpn.drivers.interfaces import BATCH, Clock, EspSocket, RawSocket, Tun, UdpQueue
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.esp.inbound import Arrived, Delivery
from moatvpn.esp.outbound import Raw
from moatvpn.esp.processor import EspProcessor
from moatvpn.esp.sad import Pair
from moatvpn.wire.endpoint import Endpoint

_TRY_AGAIN = 0.01  # seconds until what found no room on the link is sent again
_MOVED_EVERY = 0.1  # seconds between what moatd is told of one move


class Half:
    """One worker's processor, and what moatd has it do. soon is as daemon.ways has it."""

    def __init__(
        self, processor: EspProcessor, link: Link, counters: Counters, clock: Clock
    ) -> None:
        self._processor = processor
        self._link = link
        self._counters = counters
        self._clock = clock
        self.shares = processor.shares

    def take_orders(self) -> bool:
        """Do what moatd has said so far; return whether there was anything.

        Raises OperatorError where moatd has gone.
        """
        messages = self._link.receive()
        for message in messages:
            self._apply(message)
        return bool(messages)

    def get_timer(self) -> float | None:
        """Return when handle_timer is due, None where it is not."""
        again = self._clock() + _TRY_AGAIN if self._link.waiting else None
        return earliest(self._processor.get_timer(), again)

    def _apply(self, message: Message) -> None:
        esp = self._processor
        match message:
            case Install(child, peer, activate_outbound):
                esp.install(child, peer, activate_outbound=activate_outbound)
            case Activate(spi_in):
                esp.activate(spi_in)
            case Remove(spi_in):
                esp.remove(spi_in)
            case RemoveConnection(connection):
                esp.remove_connection(connection)
            case SetMetric(connection, metric):
                esp.set_metric(connection, metric)
            case SetPeer(connection, peer, udp):
                esp.set_peer(connection, peer, udp=udp)
            case SetLocal(connection, host):
                esp.set_local(connection, host)
            case ProbeAsked(spi_in, identifier):
                esp.asked(spi_in, identifier)
            case ProbeAnswered(spi_in, identifier):
                esp.answered(spi_in, identifier, self._clock())
            case AskStatistics(number, connection):
                self._link.send(Statistics(number, esp.statistics(connection)))
            case AskDrops(number):
                self._link.send(Drops(number, self._counters.take()))
            case _:
                pass


class SealingHalf(Half):
    """What the worker does that takes raw packets from the TUN to the wild side."""

    def __init__(
        self,
        processor: EspProcessor,
        link: Link,
        counters: Counters,
        clock: Clock,
        tun: Tun,
        raw: EspSocket,
        udp: EspSocket,
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(processor, link, counters, clock)
        self.seal_alone = processor.seal_alone
        self._outward = Outward(self, tun, raw, udp, clock, soon, self.flush)
        self.from_tun_device = self._outward.from_tun

    def from_link(self) -> None:
        """Do what moatd says, and send what comes of it."""
        self.take_orders()
        self.flush()

    def flush(self) -> None:
        """Send the envelopes that are due, and tell moatd what is new."""
        self._outward.send_due()
        self._link.flush()

    handle_timer = flush

    def from_tun(self, packets: Sequence[Raw], now: float) -> Iterator[Burst]:
        """Yield the envelopes of raw packets of ours, as daemon.ways.Seals has it."""
        yield from self._processor.encapsulate(packets, now)
        self._tell()

    def bursts_to_send(self, now: float) -> Iterator[Burst]:
        """Yield the envelopes that are due, as daemon.ways.Seals has it."""
        yield from self._processor.due(now)
        self._tell()

    def _tell(self) -> None:
        if told := self._processor.told():
            for connection in told:
                self._link.send(Carried(connection, inbound=False))
            for connection in self._processor.rekeys_wanted():
                self._link.send(Worn(connection))


class Reports:
    """Tells, over a link, what envelopes that came in say to whoever sends."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def activated(self, pair: Pair) -> None:
        """Tell that a pair may be sent on."""
        self._link.send(Activate(pair.child.spi_in))

    def asked(self, pair: Pair, identifier: int) -> None:
        """Tell of a path probe of the peer's."""
        self._link.send(ProbeAsked(pair.child.spi_in, identifier))

    def answered(self, pair: Pair, identifier: int, now: float) -> None:
        """Tell of an answer to a path probe of ours."""
        del now  # a little later for whoever measures, which is how much later it acts, too
        self._link.send(ProbeAnswered(pair.child.spi_in, identifier))


class OpeningHalf(Half):
    """What the worker does that takes envelopes from the wild side to the TUN.

    processor is one whose sender is Reports.
    """

    def __init__(
        self,
        processor: EspProcessor,
        link: Link,
        counters: Counters,
        clock: Clock,
        tun: Tun,
        raw: RawSocket,
        udp: UdpQueue,
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(processor, link, counters, clock)
        self.open_alone = processor.open_alone
        self._raw = raw
        self._udp = udp
        self._moves: dict[str, tuple[Endpoint, float]] = {}  # told of, by connection
        self._inward = Inward(self, tun, clock, soon, link.flush)

    def from_link(self) -> None:
        """Do what moatd says."""
        self.take_orders()
        self.handle_timer()

    def from_raw(self) -> bool:
        """Take in the ESP packets that wait at the raw socket; return as daemon.ways does."""
        return self._take_from(self._raw, self._raw.receive)

    def from_udp(self) -> bool:
        """Take in the ESP packets at port 4500; a message of IKE goes on to moatd."""
        inward = self._inward
        if inward.paused():
            arrivals = self._receive_udp(1)
            if not self.take_orders() and not self._link.waiting and inward.opened_alone(arrivals):
                return True
            inward.arrived(arrivals)
            self._link.flush()
            return False
        return self._take_from(self._udp, self._receive_udp)

    def _receive_udp(self, limit: int = BATCH) -> list[Arrival]:
        arrivals, messages = self._udp.receive(limit)
        for message in messages:
            if not self._link.send(IkeMessage(message)):
                self._counters.drop(DropReason.WILD_OVERFLOW)
        return arrivals

    def _take_from(
        self, source: RawSocket | UdpQueue, receive: Callable[[], list[Arrival]]
    ) -> bool:
        told = False

        def receive_informed() -> list[Arrival]:
            # What moatd has said before these were sent is known before they are looked at.
            nonlocal told
            arrivals = receive()
            told = self.take_orders() or told
            return arrivals

        alone = self._inward.take_from(source, receive_informed)
        return alone and not told and not self._link.waiting

    def handle_timer(self) -> None:
        """Deliver what has waited long enough, and tell moatd what is new."""
        self._inward.deliver_late()
        for _ in self._processor.due(self._clock()):
            pass  # without keys there is nothing to be sent; but what was due is done with
        self._link.flush()

    def from_esp(self, arrivals: Sequence[Arrival], now: float) -> Iterator[list[Delivery]]:
        """Yield the raw packets that envelopes held, as daemon.ways.Opens has it."""
        for arrived in self._processor.decapsulate(arrivals, now):
            yield self._take_in(arrived, now)

    def late(self, now: float) -> Iterator[list[Delivery]]:
        """Yield the raw packets that have waited long enough, as daemon.ways.Opens has it."""
        for arrived in self._processor.late(now):
            yield self._take_in(arrived, now)

    def _take_in(self, arrived: Arrived, now: float) -> list[Delivery]:
        if arrived.moved:
            self._tell_of_move(arrived.connection, arrived.source, now)
        if arrived.told:
            self._link.send(Carried(arrived.connection, inbound=True))
        return arrived.packets

    def _tell_of_move(self, connection: str, source: Endpoint, now: float) -> None:
        told, when = self._moves.get(connection, (None, 0.0))
        if told != source or now >= when + _MOVED_EVERY:
            self._moves[connection] = source, now
            self._link.send(Moved(connection, source))

    def _apply(self, message: Message) -> None:
        super()._apply(message)
        match message:
            case RemoveConnection(connection):
                self._moves.pop(connection, None)
            case Stray(data, size, source, tos):
                self._inward.arrived([(memoryview(data), size, source, tos)])
