"""moatd's side of its workers: a data plane that two other processes are, one for each way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Unpack

from moatvpn.counters import Counters
from moatvpn.daemon.engine import Beside, Engine
from moatvpn.daemon.log import LogCall
from moatvpn.daemon.workers_link import PATIENCE, REMEDY, Link
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
from moatvpn.drivers.interfaces import Clock
from moatvpn.errors import MoatError, OperatorError
from moatvpn.esp.burst import Arrival
from moatvpn.esp.child import ChildSa
from moatvpn.esp.statistics import EspStatistics
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.wire.endpoint import Endpoint

News = Carried | Moved | IkeMessage
Answer = Statistics | Drops
_UNFIT = OperatorError("a worker of moatd", "answers something else", REMEDY)


class WorkersPlane:
    """The data plane (esp.dataplane) of a daemon with workers; keys pass through it to them.

    What is said is said to the worker that opens first: so it can open what a peer sends because of
    what the other one has sent. soon has a callback called; call_later is called, by it, where news
    came between other things, and waits for news.
    """

    def __init__(
        self,
        sealing: Link,
        opening: Link,
        counters: Counters,
        clock: Clock,
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._sealing = sealing
        self._opening = opening
        self._counters = counters
        self._clock = clock
        self._soon = soon
        self.call_later: Callable[[], None] = lambda: None
        self._installed: dict[int, str] = {}  # connections by inbound SPI
        self._spis: dict[str, set[int]] = {}  # and the other way round
        self._worn: list[str] = []
        self._unread: list[Message] = []
        self._numbers = count()

    # SAs

    def install(self, child: ChildSa, peer: Endpoint, *, activate_outbound: bool) -> None:
        """Receive on a CHILD_SA from now on, and send on it at once if activate_outbound.

        Raises MoatError where the inbound SPI is in use.
        """
        if child.spi_in in self._installed:
            raise MoatError(f"inbound SPI {child.spi_in:#010x} is installed already")
        self._installed[child.spi_in] = child.connection
        self._spis.setdefault(child.connection, set()).add(child.spi_in)
        self._opening.send(Install(child.opening_half(), peer, activate_outbound))
        self._sealing.send(Install(child.sealing_half(), peer, activate_outbound))

    def _say(self, message: Message) -> None:
        self._opening.send(message)
        self._sealing.send(message)

    def activate(self, spi_in: int) -> None:
        """Send on this CHILD_SA from now on, if it waits for that."""
        self._say(Activate(spi_in))

    def remove(self, spi_in: int) -> None:
        """Forget a CHILD_SA, if there is one."""
        connection = self._installed.pop(spi_in, None)
        if connection is not None:
            self._spis[connection].discard(spi_in)
            self._say(Remove(spi_in))

    def remove_connection(self, connection: str) -> None:
        """Forget a connection, if there is one: SAs, policy and statistics."""
        for spi in self._spis.pop(connection, ()):
            del self._installed[spi]
        self._say(RemoveConnection(connection))

    def set_metric(self, connection: str, metric: int) -> None:
        """Prefer, of the connections for the same raw packets, the lowest metric that has an SA."""
        self._say(SetMetric(connection, metric))

    def set_peer(self, connection: str, peer: Endpoint, *, udp: bool) -> None:
        """Send the connection's envelopes to peer from now on, in UDP or as IP protocol 50."""
        self._say(SetPeer(connection, peer, udp))

    def set_local(self, connection: str, host: str) -> None:
        """Take in at which address of ours the connection's peer speaks to us from now on."""
        self._say(SetLocal(connection, host))

    def has_inbound(self, spi: int) -> bool:
        """Return whether an SA has this inbound SPI."""
        return spi in self._installed

    def rekeys_wanted(self) -> list[str]:
        """Return the connections whose outbound SA nears its end, each once for each SA."""
        worn, self._worn = self._worn, []
        return worn

    # News

    def news(self) -> Iterator[News]:
        """Yield what IKE is to hear of, in order; pass on what one worker has for the other."""
        unread, self._unread = self._unread, []
        for message in (*unread, *self._opening.receive(), *self._sealing.receive()):
            match message:
                case Carried() | Moved() | IkeMessage():
                    yield message
                case Activate() | ProbeAsked() | ProbeAnswered():
                    self._sealing.send(message)
                case Worn(connection):
                    self._worn.append(connection)
                case Drops():  # an answer that came too late
                    self._count(message)
                case _:
                    pass

    def pass_on(self, arrivals: Sequence[Arrival]) -> None:
        """Have envelopes opened that came where messages of IKE come."""
        for data, size, source, tos in arrivals:
            self._opening.send(Stray(bytes(data), size, source, tos))

    # Figures

    def statistics(self, connection: str) -> EspStatistics:
        """Return what a connection has carried, all zero where there is none of that name.

        Raises OperatorError where a worker does not answer.
        """
        opened, sealed = self._ask(lambda number: AskStatistics(number, connection))
        if not isinstance(opened, Statistics) or not isinstance(sealed, Statistics):
            raise _UNFIT
        of = opened.statistics
        return replace(
            sealed.statistics, packets_in=of.packets_in, octets_in=of.octets_in, loss=of.loss
        )

    def collect(self) -> None:
        """Count what the workers have dropped since the last call. Raises as statistics does."""
        self._ask(AskDrops)

    def _ask(self, question: Callable[[int], AskStatistics | AskDrops]) -> list[Answer]:
        """Return the answers of the worker that opens and of the one that seals."""
        number = next(self._numbers)
        links = (self._opening, self._sealing)
        for link in links:
            link.send(question(number))
        deadline = self._clock() + PATIENCE
        return [self._answer(link, number, deadline) for link in links]

    def _answer(self, link: Link, number: int, deadline: float) -> Answer:
        while True:
            found = None
            for message in link.receive():
                if isinstance(message, Drops):
                    self._count(message)
                if isinstance(message, Statistics | Drops):
                    if message.number == number:
                        found = message
                else:
                    if not self._unread:
                        self._soon(self.call_later)
                    self._unread.append(message)
            if found is not None:
                return found
            if not link.wait(deadline - self._clock()):
                raise OperatorError("a worker of moatd", "does not answer", REMEDY)

    def _count(self, message: Drops) -> None:
        for reason, number in message.drops.items():
            self._counters.drop(reason, number)


class WorkersEngine(Engine):
    """An engine that hears of traffic from its workers, soon after it."""

    def __init__(
        self,
        ike: IkeEndpoint,
        plane: WorkersPlane,
        counters: Counters,
        log: LogCall,
        **beside: Unpack[Beside],
    ) -> None:
        super().__init__(ike, plane, counters, log, **beside)
        self._plane = plane

    def take_news(self, now: float) -> None:
        """Take in the news that the workers have, and the messages of IKE that came to them."""
        for message in self._plane.news():
            match message:
                case Carried(connection, inbound):
                    self.carried(connection, inbound, now)
                case Moved(connection, source):
                    self.peer_seen_at(connection, source, now)
                case IkeMessage(datagram):
                    self.from_ike(datagram, now)
        self.rekey_worn(now)

    def misplaced(self, arrivals: Sequence[Arrival]) -> None:
        """Take in envelopes that the kernel has joined to messages of IKE."""
        self._plane.pass_on(arrivals)

    def _speaks_from(self, name: str, host: str) -> None:
        self._plane.set_local(name, host)

    def status(self, now: float) -> dict[str, Any]:
        """Return every connection's row and the counters of drops, as a JSON object."""
        self._plane.collect()
        return super().status(now)
