"""moatd's side of its workers: who is told what, in which order, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.workers_link import Link, new_pair
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
from moatvpn.daemon.workers_plane import WorkersPlane
from moatvpn.errors import MoatError, OperatorError
from moatvpn.esp.child import ChildSa
from moatvpn.esp.loss import LossEstimate
from moatvpn.esp.statistics import EspStatistics
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Datagram, Endpoint

PEER = Endpoint("192.0.2.10", 4500)


class Workers:
    """A plane, and the far ends of its links. Time goes by where the plane waits."""

    def __init__(self, sealing: tuple[Link, Link], opening: tuple[Link, Link]) -> None:
        self.now = 0.0
        self.counters = Counters()
        self.soon: list[Callable[[], None]] = []
        self.sealing, self.opening = sealing[1], opening[1]
        self.plane = WorkersPlane(
            sealing[0], opening[0], self.counters, lambda: self.now, self.soon.append
        )
        for link in (sealing[0], opening[0]):
            link.wait = self.wait  # type: ignore[method-assign]

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


@pytest.fixture
def workers() -> Iterator[Workers]:
    sealing, opening = new_pair("sealing"), new_pair("opening")
    with closing(sealing[0]), closing(sealing[1]), closing(opening[0]), closing(opening[1]):
        yield Workers(sealing, opening)


def child(spi_in: int) -> ChildSa:
    suite = CipherSuite.AES_256_GCM
    return ChildSa("c1", spi_in, 0x22, suite, True, b"k" * 36, b"K" * 36, (), (), udp=False)


def test_each_worker_gets_its_half_alone(workers: Workers) -> None:
    whole = child(0x11)
    workers.plane.install(whole, PEER, activate_outbound=True)
    opens, seals = workers.opening.receive(), workers.sealing.receive()
    assert opens == [Install(whole.opening_half(), PEER, activate_outbound=True)]
    assert seals == [Install(whole.sealing_half(), PEER, activate_outbound=True)]
    assert workers.plane.has_inbound(0x11)


def test_an_spi_in_use_is_refused_and_one_removed_is_free(workers: Workers) -> None:
    plane = workers.plane
    plane.install(child(0x11), PEER, activate_outbound=True)
    with pytest.raises(MoatError, match="installed already"):
        plane.install(child(0x11), PEER, activate_outbound=True)
    plane.remove(0x11)
    assert not plane.has_inbound(0x11)
    plane.install(child(0x11), PEER, activate_outbound=True)
    plane.remove_connection("c1")
    plane.install(child(0x11), PEER, activate_outbound=True)
    kinds = [type(message) for message in workers.sealing.receive()]
    assert kinds == [Install, Remove, Install, RemoveConnection, Install]


def test_both_are_told_of_all_the_rest(workers: Workers) -> None:
    plane = workers.plane
    plane.activate(0x11)
    plane.set_peer("c1", PEER, udp=True)
    plane.set_local("c1", "198.51.100.2")
    plane.set_metric("c1", 2)
    plane.remove(0x12)  # there is none
    told = [Activate(0x11), SetPeer("c1", PEER, udp=True), SetLocal("c1", "198.51.100.2")]
    told.append(SetMetric("c1", 2))
    assert workers.opening.receive() == workers.sealing.receive() == told


def test_what_one_worker_has_for_the_other_is_passed_on(workers: Workers) -> None:
    for_the_other: list[Message] = [Activate(0x11), ProbeAsked(0x11, 7), ProbeAnswered(0x11, 8)]
    for message in for_the_other:
        workers.opening.send(message)
    assert list(workers.plane.news()) == []
    assert workers.sealing.receive() == for_the_other
    workers.plane.pass_on([(memoryview(b"envelope"), 8, PEER, 2)])
    assert workers.opening.receive() == [Stray(b"envelope", 8, PEER, 2)]
    assert workers.sealing.receive() == []


def test_news_is_for_ike(workers: Workers) -> None:
    news: list[Message] = [
        Carried("c1", inbound=True),
        Moved("c1", PEER),
        IkeMessage(Datagram(b"message", PEER, PEER)),
    ]
    for message in news:
        workers.opening.send(message)
    workers.sealing.send(Worn("c1"))
    assert list(workers.plane.news()) == news
    assert workers.plane.rekeys_wanted() == ["c1"]
    assert workers.plane.rekeys_wanted() == []


def test_figures_are_those_of_whoever_has_them(workers: Workers) -> None:
    loss = LossEstimate(5, 6, 1)
    opened = EspStatistics(packets_in=5, octets_in=500, packets_out=0, loss=loss)
    sealed = EspStatistics(packets_out=7, octets_out=700, spi_in=1, path_mtu=1400)
    asked = AskStatistics(0, "c1")
    workers.opening.send(Carried("c1", inbound=True))
    workers.opening.send(Statistics(0, opened))
    workers.sealing.send(Statistics(0, sealed))
    statistics = workers.plane.statistics("c1")
    assert (statistics.packets_in, statistics.octets_in, statistics.loss) == (5, 500, loss)
    assert (statistics.packets_out, statistics.octets_out) == (7, 700)
    assert (statistics.spi_in, statistics.path_mtu) == (1, 1400)
    assert workers.opening.receive() == workers.sealing.receive() == [asked]
    # What came between is not lost: it is read soon.
    assert workers.soon == [workers.plane.call_later]
    assert list(workers.plane.news()) == [Carried("c1", inbound=True)]


def test_drops_are_counted_once_even_if_late(workers: Workers) -> None:
    workers.opening.send(Drops(0, {DropReason.ESP_REPLAYED: 2}))
    with pytest.raises(OperatorError, match="does not answer"):
        workers.plane.collect()
    assert workers.now == pytest.approx(5.0)
    workers.sealing.send(Drops(0, {DropReason.OUT_NO_SA: 1}))
    assert list(workers.plane.news()) == []
    assert workers.counters.snapshot() == {"esp-replayed": 2, "out-no-sa": 1}
    assert workers.opening.receive() == [AskDrops(0)]
