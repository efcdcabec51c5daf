"""The engine of a daemon whose kernel carries the packets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Unpack

from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.engine import Beside, Engine
from moatvpn.daemon.log import LogCall
from moatvpn.drivers.kernel_plane import KernelPlane
from moatvpn.esp.burst import Arrival
from moatvpn.ike.endpoint import IkeEndpoint


class Drops(Protocol):
    """What the kernel has dropped of ours (drivers.xfrm_drops)."""

    def collect(self, counters: Counters) -> None:
        """Count what was dropped since the last call."""
        ...


class KernelEngine(Engine):
    """An engine that hears of traffic from the kernel, some time after it."""

    def __init__(
        self,
        ike: IkeEndpoint,
        plane: KernelPlane,
        drops: Drops,
        counters: Counters,
        log: LogCall,
        **beside: Unpack[Beside],
    ) -> None:
        super().__init__(ike, plane, counters, log, **beside, one_for_each_network=True)
        self._plane = plane
        self._drops = drops

    def take_news(self, now: float) -> None:
        """Take in the news that the kernel has of its SAs."""
        for name, inbound, moved in self._plane.news():
            if moved is not None:
                self.peer_seen_at(name, moved, now)
            self.carried(name, inbound, now)
        self.rekey_worn(now)

    def misplaced(self, arrivals: Sequence[Arrival]) -> None:
        """Take in what could be envelopes and is not: the kernel takes all that can."""
        for _ in arrivals:
            self._counters.drop(DropReason.ESP_TOO_SHORT)

    def _speaks_from(self, name: str, host: str) -> None:
        self._plane.set_local(name, host)

    def status(self, now: float) -> dict[str, Any]:
        """Return every connection's row and the counters of drops, as a JSON object."""
        self._drops.collect(self._counters)
        return super().status(now)
