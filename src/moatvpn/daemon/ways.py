"""The inner loops, one for each way: raw packets out as envelopes, envelopes in as raw packets.

What a device has beyond one batch is read, too, and waits in fair shares (esp.shares): so the
kernel's queues, which drop everybody's packets alike, stay short. Both ways may run in one process
or each in one of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from moatvpn.drivers.interfaces import Clock, EspSocket, RawSocket, Tun, UdpQueue
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.esp.coalesce import WORTH_JOINING, joined
from moatvpn.esp.inbound import Delivery
from moatvpn.esp.outbound import Raw
from moatvpn.esp.shares import Shares

Callback = Callable[[], None]
_FURTHER = 8  # batches that are read beyond the first, and wait
_PAUSE = 0.0005  # seconds without packets: what comes then is mostly alone, and waited for
# What is worked on, each way, of what waits, before the devices are read again: so many octets, in
# parts that begin within so many seconds. Who has just come waits for that about twice, whatever
# the machine's speed, and what is joined with its neighbours loses little by parts of this size.
_AT_ONCE, _PART, _SECONDS = 1 << 18, 1 << 17, 0.002


class Seals(Protocol):
    """What makes envelopes. Each burst is to be sent before the next is asked for."""

    shares: Shares

    def seal_alone(self, raw: Raw, now: float) -> Burst | None:
        """Return the envelope of one raw packet, as esp.outbound.Outbound.alone does."""
        ...

    def from_tun(self, packets: Sequence[Raw], now: float) -> Iterator[Burst]:
        """Yield the envelopes of raw packets of ours."""
        ...

    def bursts_to_send(self, now: float) -> Iterator[Burst]:
        """Yield the envelopes that are due by the time."""
        ...


class Opens(Protocol):
    """What opens envelopes."""

    shares: Shares

    def open_alone(self, arrival: Arrival, now: float) -> bytes | None:
        """Return the raw packet in one envelope, as esp.inbound.Inbound.alone does."""
        ...

    def from_esp(self, arrivals: Sequence[Arrival], now: float) -> Iterator[list[Delivery]]:
        """Yield the raw packets that envelopes held."""
        ...

    def late(self, now: float) -> Iterator[list[Delivery]]:
        """Yield the raw packets that have waited long enough for envelopes before theirs."""
        ...


class _Way(ABC):
    """One way, and its turns while more waits than is worked on at once.

    No method blocks; each takes a bounded batch. soon has a callback called once all devices have
    been looked at; after is called at the end of whatever a device, or soon, has begun.
    """

    def __init__(self, clock: Clock, soon: Callable[[Callback], None], after: Callback) -> None:
        self._clock = clock
        self._soon = soon
        self._after = after
        self._awaited = False  # _serve is to be called soon

    @abstractmethod
    def _work(self) -> bool:
        """Work on some of what waits; return whether more does."""

    def _parts(self) -> Iterator[None]:
        """Yield once for each part that there is time for, and for the first in any case."""
        end = self._clock() + _SECONDS
        for _ in range(_AT_ONCE // _PART):
            yield
            if self._clock() >= end:
                return

    def _serve_soon(self) -> None:
        if not self._awaited:
            self._awaited = True
            self._soon(self._serve)

    def _serve(self) -> None:
        self._awaited = False
        if self._work():
            self._serve_soon()
        self._after()


class Outward(_Way):
    """From the TUN to the wild side."""

    def __init__(
        self,
        seals: Seals,
        tun: Tun,
        raw: EspSocket,
        udp: EspSocket,
        clock: Clock,
        soon: Callable[[Callback], None],
        after: Callback,
    ) -> None:
        super().__init__(clock, soon, after)
        self._seals = seals
        self._shares = seals.shares
        self._tun = tun
        self._send_raw, self._send_udp = raw.send_burst, udp.send_burst
        self._left = 0.0  # when raw packets were last there

    def from_tun(self) -> bool:
        """Send the raw packets that wait at the TUN as envelopes.

        Return whether no deadline has changed: nearly always where one packet alone has come.
        """
        tun, shares = self._tun, self._shares
        now = self._clock()
        paused, self._left = now - self._left > _PAUSE, now
        # After a pause one is read and sent; whether there are more, the next call finds out.
        packets = tun.read_batch(1) if paused else tun.read_batch()
        if len(packets) == 1 and not self._awaited and (paused or not tun.more):
            burst = self._seals.seal_alone(packets[0], now)
            if burst is not None:
                (self._send_udp if burst.udp else self._send_raw)(burst)
                return True
            self._send(self._seals.from_tun(packets, now))
        elif tun.more or shares.packets_wait:
            shares.leave(packets)
            for _ in range(_FURTHER):
                if not tun.more:
                    break
                shares.leave(tun.read_batch())
            self._serve_soon()
        else:
            self._send(self._seals.from_tun(packets, now))
        self._after()
        return False

    def send_due(self) -> None:
        """Send the envelopes that are due."""
        self._send(self._seals.bursts_to_send(self._clock()))

    def _work(self) -> bool:
        for _ in self._parts():
            if not self._shares.packets_wait:
                break
            self._send(self._seals.from_tun(self._shares.packets(_PART), self._clock()))
        return self._shares.packets_wait

    def _send(self, bursts: Iterable[Burst]) -> None:
        send_raw, send_udp = self._send_raw, self._send_udp
        for burst in bursts:
            (send_udp if burst.udp else send_raw)(burst)


class Inward(_Way):
    """From the wild side to the TUN."""

    def __init__(
        self,
        opens: Opens,
        tun: Tun,
        clock: Clock,
        soon: Callable[[Callback], None],
        after: Callback,
    ) -> None:
        super().__init__(clock, soon, after)
        self._opens = opens
        self._shares = opens.shares
        self._tun = tun
        self._came = 0.0  # when datagrams were last there

    def paused(self) -> bool:
        """Take in that datagrams are there; return whether one is to be read alone, after a pause.

        Whether there are more, the next call finds out.
        """
        now = self._clock()
        paused, self._came = now - self._came > _PAUSE, now
        return paused and not self._awaited

    def opened_alone(self, arrivals: Sequence[Arrival]) -> bool:
        """Deliver what a single envelope holds; return False where arrivals need more than that."""
        if len(arrivals) != 1:
            return False
        packet = self._opens.open_alone(arrivals[0], self._clock())
        if packet is None:
            return False
        self._tun.write((packet,))
        return True

    def take_from(self, source: RawSocket | UdpQueue, receive: Callable[[], list[Arrival]]) -> bool:
        """Take in the ESP packets that wait at source, which receive returns a batch of.

        Return as Outward.from_tun does.
        """
        arrivals, shares = receive(), self._shares
        if source.more or (self._awaited and shares.arrivals_wait):
            shares.arrive(arrivals)
            for _ in range(_FURTHER):
                if not source.more or not arrivals:
                    break
                arrivals = receive()
                shares.arrive(arrivals)
            self._serve_soon()
        elif self.opened_alone(arrivals):
            return True
        else:
            self._open(arrivals)
        self._after()
        return False

    def arrived(self, arrivals: Sequence[Arrival]) -> None:
        """Take in ESP packets that the kernel has joined to messages; they get in line, too."""
        if self._shares.arrivals_wait:
            self._shares.arrive(arrivals)
            self._serve_soon()
        else:
            self._open(arrivals)

    def deliver_late(self) -> None:
        """Deliver what has waited long enough for envelopes before its own."""
        self._deliver(self._opens.late(self._clock()))

    def _work(self) -> bool:
        for _ in self._parts():
            if not self._shares.arrivals_wait:
                break
            self._open(self._shares.arrivals(_PART))
        return self._shares.arrivals_wait

    def _open(self, arrivals: Sequence[Arrival]) -> None:
        self._deliver(self._opens.from_esp(arrivals, self._clock()))

    def _deliver(self, arrived: Iterable[list[Delivery]]) -> None:
        tun = self._tun
        for packets in arrived:
            many = tun.takes_super_packets and len(packets) >= WORTH_JOINING
            for pieces, offload in joined(packets, udp=tun.takes_udp) if many else packets:
                tun.write(pieces, offload)
