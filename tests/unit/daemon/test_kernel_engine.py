"""The engine beside a kernel that carries the packets: its news reach IKE, IKE's reach it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.forwarder import NewsForwarder
from moatvpn.daemon.kernel import KernelEngine
from moatvpn.drivers.kernel_plane import News
from moatvpn.drivers.memory import MemoryNetwork
from moatvpn.ike.events import LocalAddress
from moatvpn.wire.endpoint import NAT_PORT, Endpoint

PEER = Endpoint("192.0.2.10", 5555)


class Fake:
    """Notes what it is called with; has the events, news and worn SAs that a test puts in."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.events: deque[Any] = deque()
        self.told: list[News] = []
        self.worn: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append((name, *arguments))

    def next_event(self) -> Any:
        return self.events.popleft() if self.events else None

    def strangers(self) -> list[Any]:
        return []

    def datagrams_to_send(self) -> list[Any]:
        return []

    def news(self) -> list[News]:
        return self.told

    def rekeys_wanted(self) -> list[str]:
        worn, self.worn = self.worn, []
        return worn

    def collect(self, counters: Counters) -> None:
        counters.drop(DropReason.ESP_REPLAYED, 3)


class Made:
    def __init__(self, log: Any) -> None:
        self.ike, self.plane, self.counters = Fake(), Fake(), Counters()
        self.engine = KernelEngine(
            self.ike,  # type: ignore[arg-type]
            self.plane,  # type: ignore[arg-type]
            Fake(),
            self.counters,
            log,
        )


@pytest.fixture
def made(log: Any) -> Made:
    return Made(log)


def test_traffic_and_moves_reach_ike(made: Made) -> None:
    made.plane.told = [News("m1", True), News("m2", False), News("m3", True, PEER)]
    made.engine.take_news(7.0)
    assert made.ike.calls == [
        ("note_inbound", "m1", 7.0),
        ("note_outbound", "m2", 7.0),
        ("peer_moved", "m3", PEER, 7.0),
        ("note_inbound", "m3", 7.0),
    ]


def test_worn_sas_are_rekeyed_without_any_other_news(made: Made) -> None:
    made.plane.worn = ["m1"]
    made.engine.take_news(7.0)
    assert made.ike.calls == [("rekey", "m1", "child", 7.0)]


def test_the_plane_hears_of_our_own_address(made: Made) -> None:
    made.ike.events.append(LocalAddress("m1", "192.0.2.1"))
    made.engine.handle_timer(7.0)
    assert made.plane.calls == [("set_local", "m1", "192.0.2.1")]


def test_status_has_what_the_kernel_dropped(made: Made) -> None:
    assert made.engine.status(7.0)["drops"] == {"esp-replayed": 3}


def test_what_the_kernel_leaves_at_the_udp_port_is_no_esp(made: Made) -> None:
    host = MemoryNetwork().attach("192.0.2.1", made.counters)
    forwarder = NewsForwarder(made.engine, host.ports, lambda: 7.0)
    host.ports[NAT_PORT].arrivals.append((b"\1\2\3", PEER, 0))
    forwarder.from_udp(NAT_PORT)
    assert made.counters.value(DropReason.ESP_TOO_SHORT) == 1
    made.plane.told = [News("m1", True)]
    forwarder.from_carrier()
    assert made.ike.calls == [("note_inbound", "m1", 7.0)]
