"""More than a batch at the devices: nothing modest is lost, all stays in order, IKE is served."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from memory_lab import MOAT_WILD, PORTAL_WILD, Lab, ipv4

from moatvpn.drivers.interfaces import BATCH
from moatvpn.drivers.memory import WildPacket
from moatvpn.wire.endpoint import Endpoint


@pytest.fixture(params=["auto", "udp", "auto, workers", "udp, workers"])
def lab(request: pytest.FixtureRequest, log: Any) -> Lab:
    encapsulation, *workers = request.param.split(", ")
    lab = Lab(encapsulation, log, workers=bool(workers))
    lab.run(3)
    return lab


def test_several_batches_cross_whole_and_in_order(lab: Lab) -> None:
    sent = [ipv4("10.201.1.5", "10.50.0.7", bytes((n >> 8, n & 255))) for n in range(5 * BATCH)]
    lab.moat.tun.waiting.extend(sent)
    lab.settle()
    assert lab.portal.tun.delivered == sent
    assert not lab.portal.counters.snapshot()
    assert not lab.moat.counters.snapshot()


class Lending:
    """A device's call whose octets are the caller's only until the next call, as real ones are."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._lent: list[memoryview] = []

    def __call__(self, *limit: int) -> Any:
        for view in self._lent:
            view[:] = bytes(len(view))
        self._lent = []
        came = self._call(*limit)
        if isinstance(came, tuple):  # envelopes and messages of a UDP port
            return [self._lend(each) for each in came[0]], came[1]
        return [self._lend(each) for each in came]

    def _lend(self, each: tuple[Any, ...]) -> tuple[Any, ...]:
        self._lent.append(memoryview(bytearray(each[0])))
        return self._lent[-1], *each[1:]


def test_what_waits_is_not_the_devices_any_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for box in (lab.moat, lab.portal):
        monkeypatch.setattr(box.tun, "read_batch", Lending(box.tun.read_batch))
        for device in (box.host.raw, box.host.ports[4500]):
            monkeypatch.setattr(device, "receive", Lending(device.receive))
    sent = [ipv4("10.201.1.5", "10.50.0.7", n.to_bytes(2, "big") * 500) for n in range(9 * BATCH)]
    back = [ipv4("10.50.0.7", "10.201.1.5", packet[20:]) for packet in sent]
    lab.moat.tun.waiting.extend(sent)
    lab.portal.tun.waiting.extend(back)
    lab.settle()
    assert lab.portal.tun.delivered == sent
    assert lab.moat.tun.delivered == back
    assert not lab.portal.counters.snapshot()
    assert not lab.moat.counters.snapshot()


def envelope_of(lab: Lab) -> WildPacket:
    before = len(lab.network.sent)
    assert lab.carries()
    return next(
        packet
        for packet in lab.network.sent[before:]
        if not packet.ike and packet.destination.host == PORTAL_WILD
    )


def test_a_flood_beyond_a_share_costs_no_decryption_and_no_turn(lab: Lab) -> None:
    seen = envelope_of(lab)
    spi = seen.data[:4]
    flood = [spi + n.to_bytes(4, "big") + bytes(1400) for n in range(1000, 6000)]
    for data in flood:
        lab.portal.host.arrive(
            WildPacket(data, Endpoint("203.0.113.66", seen.source.port), seen.destination)
        )
    lab.moat.tun.waiting.append(ipv4("10.201.1.5", "10.50.0.7", b"modest"))
    lab.moat.from_tun()
    lab.portal.turn()
    drops = lab.portal.counters.snapshot()
    assert set(drops) <= {"esp-not-authentic", "esp-over-share"}
    lab.settle()
    assert [packet[20:] for packet in lab.portal.tun.delivered][-1:] == [b"modest"]
    drops = lab.portal.counters.snapshot()
    assert drops["esp-over-share"] > 1000
    assert sum(drops.values()) == len(flood)


def test_envelopes_that_came_joined_to_a_message_get_in_line(lab: Lab) -> None:
    if lab.portal.engine.show("m0001", lab.now)["encapsulation"] != "udp":
        return  # as protocol 50, nothing is joined to messages
    sent = [ipv4("10.201.1.5", "10.50.0.7", bytes((n,)) + bytes(999)) for n in range(4 * 50)]
    lab.moat.tun.waiting.extend(sent)
    while lab.moat.busy():
        lab.moat.turn()
    port = lab.portal.host.ports[4500]
    port.established.arrivals.append(port.arrivals.pop())
    for _ in range(2):  # after a pause, one envelope is worked on at once
        lab.portal.from_udp(4500)
    lab.portal.forwarder.from_established(4500)
    assert lab.portal.tun.delivered == sent[:1]
    lab.settle()
    assert lab.portal.tun.delivered == sent


def test_a_slow_machine_works_on_less_in_a_turn(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = [ipv4("10.201.1.5", "10.50.0.7", bytes((n % 256,)) + bytes(999)) for n in range(250)]
    portal, delivered = lab.portal, lab.portal.tun.delivered
    in_one_turn = []
    for step in (0.0, 1.0):  # seconds that pass from one look at the clock to the next
        before = len(delivered)
        lab.moat.tun.waiting.extend(sent)
        while lab.moat.busy():
            lab.moat.turn()
        portal.from_udp(4500)  # after a pause, one alone
        portal.from_raw()
        portal.from_udp(4500)
        with monkeypatch.context() as slow:
            times = itertools.count(lab.now, step)
            slow.setattr(portal, "clock", lambda times=times: next(times))
            lab.portal.soon.popleft()()
        in_one_turn.append(len(delivered) - before)
        lab.settle()
        assert delivered[before:] == sent
    fast, slow_one = in_one_turn
    assert 0 < slow_one < fast * 2 / 3  # one part of the two


def test_ike_is_served_while_envelopes_pile_up(lab: Lab) -> None:
    port = 4500 if lab.portal.engine.show("m0001", lab.now)["encapsulation"] == "udp" else 0
    stranger = Endpoint("203.0.113.66", port)
    for number in range(1, 40 * BATCH):
        data = number.to_bytes(4, "big") + bytes(100)
        lab.portal.host.arrive(WildPacket(data, stranger, Endpoint(PORTAL_WILD, port)))
    lab.moat.engine.rekey("portal1", "child", lab.now)
    lab.moat.forwarder.flush()
    sent = len(lab.network.sent)
    lab.portal.turn()
    answers = [packet for packet in lab.network.sent[sent:] if packet.ike]
    assert [packet.destination.host for packet in answers] == [MOAT_WILD]
