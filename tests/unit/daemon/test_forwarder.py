"""Two daemons' engines in memory, with real IKE and real ESP, through their forwarders."""

from __future__ import annotations

from typing import Any

import pytest
from memory_lab import BACK, MOAT_WILD, OUT, Lab

from moatvpn.drivers.memory import WildPacket
from moatvpn.errors import OperatorError


@pytest.fixture(params=["auto", "udp", "auto, workers", "udp, workers"])
def lab(request: pytest.FixtureRequest, log: Any) -> Lab:
    encapsulation, *workers = request.param.split(", ")
    lab = Lab(encapsulation, log, workers=bool(workers))
    lab.run(3)
    return lab


def is_esp(packet: WildPacket) -> bool:
    return not packet.ike


def test_packets_cross_both_ways_in_envelopes(lab: Lab) -> None:
    assert lab.carries()
    seen = [packet for packet in lab.network.sent if is_esp(packet)]
    assert len(seen) == 2
    udp = lab.moat.engine.show("portal1", lab.now)["encapsulation"] == "udp"
    for packet in seen:
        assert packet.destination.port == (4500 if udp else 0)
        assert b"corp" not in packet.data


def test_a_replayed_envelope_is_dropped(lab: Lab) -> None:
    lab.network.path = lambda packet: (packet, packet)
    lab.moat.tun.waiting.append(OUT)
    lab.settle()
    assert len(lab.portal.tun.delivered) == 1
    assert lab.portal.counters.snapshot()["esp-replayed"] == 1


@pytest.mark.parametrize("sa", ["child", "ike"])
@pytest.mark.parametrize("who", ["moat", "portal"])
def test_packets_cross_during_and_after_a_rekey(lab: Lab, who: str, sa: Any) -> None:
    box, name = {"moat": (lab.moat, "portal1"), "portal": (lab.portal, "m0001")}[who]
    spi = {"child": "spi_out", "ike": "ike_spi_i"}[sa]
    before = box.engine.show(name, lab.now)[spi]
    box.engine.rekey(name, sa, lab.now)
    box.forwarder.flush()
    for _ in range(20):
        assert lab.carries()
        lab.run(0.5)
    assert box.engine.show(name, lab.now)[spi] != before


def test_an_attackers_copy_from_elsewhere_moves_nothing(lab: Lab) -> None:
    assert lab.carries()
    sent = next(packet for packet in lab.network.sent if is_esp(packet))
    forged = WildPacket(sent.data, type(sent.source)("203.0.113.66", 4500), sent.destination)
    lab.portal.host.arrive(forged)
    lab.settle()
    assert lab.portal.engine.show("m0001", lab.now)["peer"].startswith(MOAT_WILD)
    assert lab.carries()


def test_the_moat_moves_and_the_portal_learns_it(lab: Lab) -> None:
    spi = lab.moat.engine.show("portal1", lab.now)["spi_in"]
    lab.network.move(lab.moat.host, "203.0.113.9")
    lab.moat.engine.local_address_changed(lab.now)
    lab.moat.forwarder.flush()
    lab.run(1)
    assert lab.portal.engine.show("m0001", lab.now)["peer"].startswith("203.0.113.9:")
    assert lab.carries()
    assert lab.moat.engine.show("portal1", lab.now)["spi_in"] == spi


def test_an_envelope_alone_tells_of_a_move(lab: Lab) -> None:
    lab.network.move(lab.moat.host, "203.0.113.9")
    assert lab.carries()
    assert lab.portal.engine.show("m0001", lab.now)["peer"].startswith("203.0.113.9:")


def test_after_a_deletion_nothing_crosses_in_clear(lab: Lab) -> None:
    lab.portal.engine.delete("m0001", lab.now)
    lab.portal.forwarder.flush()
    lab.settle()
    sent = len(lab.network.sent)
    lab.portal.tun.waiting.append(BACK)
    lab.moat.tun.waiting.append(OUT)
    lab.settle()
    assert not [packet for packet in lab.network.sent[sent:] if is_esp(packet)]
    assert lab.portal.counters.snapshot()["out-no-policy"] == 1
    assert lab.moat.counters.snapshot()["out-no-sa"] == 1
    with pytest.raises(OperatorError):
        lab.portal.engine.show("m0001", lab.now)


def test_a_silent_peer_is_found_out_and_found_again(lab: Lab) -> None:
    lab.network.path = lambda packet: ()
    lab.run(60)
    assert lab.moat.engine.show("portal1", lab.now)["state"] == "connecting"
    assert lab.portal.engine.show("m0001", lab.now)["state"] == "established"  # it waits 5 minutes
    lab.run(300)
    assert lab.portal.engine.show("m0001", lab.now)["state"] == "waiting"
    lab.network.path = lambda packet: (packet,)
    lab.run(120)
    assert lab.carries()
