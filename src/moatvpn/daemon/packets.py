"""The engine of a daemon that carries the packets itself, through esp.processor.

What IKE wants to know about traffic it is told at most twice a second and connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from moatvpn.counters import Counters
from moatvpn.daemon.engine import Beside, Engine
from moatvpn.daemon.log import LogCall
from moatvpn.deadlines import earliest
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.esp.inbound import Arrived, Delivery
from moatvpn.esp.outbound import Raw
from moatvpn.esp.processor import EspProcessor
from moatvpn.ike.endpoint import IkeEndpoint


class PacketEngine(Engine):
    """An engine whose data plane is the processor that packets pass through here.

    shares are the processor's queues, which whoever reads the devices fills and empties.
    """

    def __init__(
        self,
        ike: IkeEndpoint,
        esp: EspProcessor,
        counters: Counters,
        log: LogCall,
        **beside: Unpack[Beside],
    ) -> None:
        super().__init__(ike, esp, counters, log, **beside)
        self._processor = esp
        self.shares = esp.shares
        # What comes alone is waited for: each call that it does not make brings an answer sooner.
        self.seal_alone = esp.seal_alone
        self.open_alone = esp.open_alone

    def from_tun(self, packets: Sequence[Raw], now: float) -> Iterator[Burst]:
        """Yield the envelopes of raw packets of ours, each burst to be sent before the next.

        What is dropped is counted.
        """
        yield from self._processor.encapsulate(packets, now)
        for name in self._processor.told():
            self.carried(name, False, now)

    def from_esp(self, arrivals: Sequence[Arrival], now: float) -> Iterator[list[Delivery]]:
        """Yield the raw packets that envelopes held; what is dropped is counted.

        A source has port 0 where they came as IP protocol 50.
        """
        for arrived in self._processor.decapsulate(arrivals, now):
            yield self._take_in(arrived, now)

    def late(self, now: float) -> Iterator[list[Delivery]]:
        """Yield the raw packets that have waited long enough for envelopes before theirs."""
        for arrived in self._processor.late(now):
            yield self._take_in(arrived, now)

    def bursts_to_send(self, now: float) -> Iterator[Burst]:
        """Yield the envelopes that are due by the time, each burst to be sent before the next."""
        yield from self._processor.due(now)
        for name in self._processor.told():
            self.carried(name, False, now)

    def get_timer(self) -> float | None:
        """Return when handle_timer, late or bursts_to_send is due, None where none is."""
        return earliest(super().get_timer(), self._processor.get_timer())

    def _take_in(self, arrived: Arrived, now: float) -> list[Delivery]:
        if arrived.moved:
            self.peer_seen_at(arrived.connection, arrived.source, now)
        if arrived.told:
            self.carried(arrived.connection, True, now)
        return arrived.packets

    def _speaks_from(self, name: str, host: str) -> None:
        self._processor.set_local(name, host)
