"""Two daemons' engines in memory, with real IKE and real ESP, through their forwarders."""

from __future__ import annotations

import random
from typing import Any

import pytest

from moatvpn.config import connection_from_dict
from moatvpn.counters import Counters
from moatvpn.crypto.sign import generate_private_key, load_private_key
from moatvpn.daemon.engine import Engine
from moatvpn.daemon.forwarder import Forwarder
from moatvpn.drivers.memory import MemoryNetwork, MemoryTun, WildPacket
from moatvpn.errors import OperatorError
from moatvpn.esp.processor import EspProcessor
from moatvpn.ike.endpoint import IkeEndpoint

MOAT_WILD, PORTAL_WILD = "192.0.2.10", "198.51.100.2"


def ipv4(source: str, destination: str, payload: bytes) -> bytes:
    octets = [bytes(map(int, address.split("."))) for address in (source, destination)]
    total = (20 + len(payload)).to_bytes(2, "big")
    header = b"\x45\x00" + total + bytes(4) + b"\x40\x11" + bytes(2) + b"".join(octets)
    words = [int.from_bytes(header[at : at + 2], "big") for at in range(0, 20, 2)]
    folded = sum(words)
    while folded >> 16:
        folded = (folded & 0xFFFF) + (folded >> 16)
    return header[:10] + (~folded & 0xFFFF).to_bytes(2, "big") + header[12:] + payload


OUT = ipv4("10.201.1.5", "10.50.0.7", b"from pc to corp")
BACK = ipv4("10.50.0.7", "10.201.1.5", b"from corp to pc")


class Box:
    """One daemon's engine at in-memory devices."""

    def __init__(self, lab: Lab, identity: str, address: str, seed: int, log: Any) -> None:
        self.counters = Counters()
        self.signer = load_private_key(generate_private_key())
        self.host = lab.network.attach(address, self.counters)
        self.tun = MemoryTun()
        randomness = random.Random(seed)
        ike = IkeEndpoint(
            identity, self.signer, self.counters, randomness.randbytes, self.host.local_address
        )
        self.engine = Engine(ike, EspProcessor(self.counters), self.counters, log)
        self.forwarder = Forwarder(
            self.engine, self.tun, self.host.raw, self.host.ports, lambda: lab.now
        )

    def turn(self) -> None:
        self.forwarder.from_tun()
        self.forwarder.from_raw()
        for port in self.host.ports:
            self.forwarder.from_udp(port)

    def busy(self) -> bool:
        ports = self.host.ports.values()
        return bool(
            self.tun.waiting
            or self.host.raw.waiting
            or any(port.messages or port.arrivals for port in ports)
        )


class Lab:
    """A moat and a portal, and time that goes where the test wants it."""

    def __init__(self, encapsulation: str, log: Any) -> None:
        self.now = 1000.0
        self.network = MemoryNetwork()
        self.moat = Box(self, "m1.moats.example.net", MOAT_WILD, 1, log)
        self.portal = Box(self, "portal.example.net", PORTAL_WILD, 2, log)
        private, corporate = ["10.201.1.0/24"], ["10.50.0.0/24"]
        self.portal.engine.add(
            connection_from_dict(
                {
                    "name": "m0001",
                    "remote_identity": "m1.moats.example.net",
                    "remote_public_keys": [self.moat.signer.public_text],
                    "local_selectors": corporate,
                    "remote_selectors": private,
                    "encapsulation": encapsulation,
                }
            ),
            self.now,
        )
        self.moat.engine.add(
            connection_from_dict(
                {
                    "name": "portal1",
                    "remote_identity": "portal.example.net",
                    "remote_public_keys": [self.portal.signer.public_text],
                    "local_selectors": private,
                    "remote_selectors": corporate,
                    "remote_address": PORTAL_WILD,
                    "initiate": True,
                    "encapsulation": encapsulation,
                }
            ),
            self.now,
        )

    def settle(self) -> None:
        """Let everything that is under way arrive."""
        boxes = (self.moat, self.portal)
        while any(box.busy() for box in boxes):
            for box in boxes:
                box.turn()

    def run(self, seconds: float) -> None:
        """Let time go by, from deadline to deadline."""
        end = self.now + seconds
        while True:
            self.settle()
            timers = [box.engine.get_timer() for box in (self.moat, self.portal)]
            due = min((timer for timer in timers if timer is not None), default=end)
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for box in (self.moat, self.portal):
                box.forwarder.handle_timer()

    def carries(self) -> bool:
        """Whether a packet goes each way."""
        for box, packet, other in (
            (self.moat, OUT, self.portal),
            (self.portal, BACK, self.moat),
        ):
            other.tun.delivered.clear()
            box.tun.waiting.append(packet)
            self.settle()
            if [packet[20:]] != [p[20:] for p in other.tun.delivered]:
                return False
        return True


@pytest.fixture(params=["auto", "udp"])
def lab(request: pytest.FixtureRequest, log: Any) -> Lab:
    lab = Lab(request.param, log)
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
