"""Raw packets into envelopes: form, policy, limits; and every drop counted once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from esp_peers import (
    ALL,
    CORP,
    HOME,
    MOAT,
    PC,
    PORTAL,
    STRANGER,
    Ends,
    Peer,
    ipv4,
    ipv6,
    pair,
)
from hypothesis import given
from hypothesis import strategies as st
from single import SingleProcessor

from moatvpn.counters import Counters
from moatvpn.esp import sa as sa_module
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector


@pytest.mark.parametrize("udp", [True, False])
def test_an_envelope(udp):
    moat, _ = pair(Ends(udp=udp))
    envelope = moat.send(ipv4(b"hello"))
    assert (envelope.peer, envelope.udp, envelope.whole) == (PORTAL, udp, False)
    assert envelope.data[:8].hex(" ", 4) == "00002001 00000001"
    # SPI, number and IV; 25 octets of packet, 1 of padding, 2 of trailer; ICV.
    assert len(envelope.data) == 16 + 28 + 16
    assert moat.drops == {}


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("tos", [0, 0x2E << 2, 0x2E << 2 | 1, 3, 0xFF])
def test_the_outer_header_takes_dscp_and_ecn_of_the_inner_one(make, tos):
    moat, _ = pair()
    assert moat.send(make(tos=tos)).tos == tos


@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_the_ttl_is_left_to_the_kernel(make):
    moat, portal = pair()
    packet = make(b"payload")
    assert portal.receive(moat.send(packet).data).data == packet


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        ipv4()[:-1],
        ipv6()[:-1],
        ipv4() + b"\0",
        ipv6() + b"\0",
        bytes(40),
        b"\xff" * 9,
    ],
)
def test_what_is_no_ip_packet(packet):
    moat, _ = pair()
    assert moat.esp.envelope(packet) is None
    assert moat.drops == {"out-malformed": 1}


def test_a_destination_without_policy():
    moat = Peer("portal1", PORTAL)
    assert moat.esp.envelope(ipv4()) is None
    _, portal = pair()
    assert portal.esp.envelope(ipv4(source=CORP, target=STRANGER)) is None
    assert moat.drops == portal.drops == {"out-no-policy": 1}


def test_a_source_outside_the_selectors():
    moat, _ = pair()
    assert moat.esp.envelope(ipv4(source=STRANGER)) is None
    assert moat.drops == {"out-no-policy": 1}


def test_protocols_and_ports_outside_the_selectors():
    dns = TrafficSelector(*(HOME[0].start, HOME[0].end), 17, 53, 53)
    _, portal = pair(Ends(home=(dns,)))
    to = {"source": CORP, "target": PC}
    portal.send(ipv4(bytes.fromhex("c001003500080000"), **to))
    assert portal.esp.envelope(ipv4(bytes.fromhex("c001003600080000"), **to)) is None
    assert portal.esp.envelope(ipv4(bytes.fromhex("c001003500080000"), protocol=6, **to)) is None
    assert portal.drops == {"out-no-policy": 2}


def test_without_an_sa_nothing_leaves():
    moat, _ = pair()
    moat.esp.remove(0x1001)
    moat.esp.remove(0x1001)
    assert moat.esp.envelope(ipv4()) is None
    assert moat.drops == {"out-no-sa": 1}
    assert moat.esp.statistics("portal1").spi_out is None


def test_before_its_first_sa_is_activated_a_connection_has_a_policy_and_sends_nothing():
    portal = Peer("c0001", MOAT)
    portal.esp.install(Ends().portal, MOAT, activate_outbound=False)
    assert portal.esp.envelope(ipv4(source=CORP, target=PC)) is None
    assert portal.drops == {"out-no-sa": 1}


def test_a_removed_connection_has_no_policy_and_leaves_others_alone():
    portal = Peer("c0001", MOAT)
    other_home = (TrafficSelector.from_network("10.201.2.0/24"),)
    other = replace(Ends(number=2, home=other_home).portal, connection="c0002")
    portal.esp.install(Ends().portal, MOAT, activate_outbound=True)
    portal.esp.install(other, Endpoint("203.0.113.9", 4500), activate_outbound=True)
    portal.esp.remove_connection("c0001")
    portal.esp.remove_connection("c0001")
    assert portal.esp.envelope(ipv4(source=CORP, target=PC)) is None
    assert portal.drops == {"out-no-policy": 1}
    assert not portal.esp.has_inbound(0x2001)
    assert portal.esp.has_inbound(0x2002)
    assert portal.send(ipv4(source=CORP, target=STRANGER)).peer.host == "203.0.113.9"


def test_the_peer_of_each_connection_is_its_own():
    portal = Peer("c0001", MOAT)
    portal.esp.install(Ends().portal, MOAT, activate_outbound=True)
    portal.esp.set_peer("c0001", Endpoint("192.0.2.77", 31000), udp=True)
    portal.esp.set_peer("nobody", Endpoint("192.0.2.78", 1), udp=True)
    assert portal.send(ipv4(source=CORP, target=PC)).peer == Endpoint("192.0.2.77", 31000)


@pytest.mark.parametrize("several", [True, False])
def test_envelopes_leave_from_where_the_peer_speaks_to_if_there_are_several_addresses(several):
    esp = SingleProcessor(Counters(), several_addresses=several)
    for before in ("198.51.100.2", "203.0.113.2"):
        esp.set_local("c0001", before)
    esp.install(Ends().portal, MOAT, activate_outbound=True)
    for host in ("203.0.113.2", "198.51.100.2"):
        esp.set_local("c0001", host)
        envelope = esp.envelope(ipv4(source=CORP, target=PC))
        assert envelope is not None
        assert envelope.source == (host if several else "")
    esp.remove_connection("c0001")
    esp.install(Ends().portal, MOAT, activate_outbound=True)
    envelope = esp.envelope(ipv4(source=CORP, target=PC))
    assert envelope is not None
    assert envelope.source == ""


def test_the_encapsulation_changes_under_an_sa():
    portal = Peer("c0001", MOAT)
    portal.esp.install(Ends(udp=False).portal, MOAT, activate_outbound=True)
    for udp in (False, True, False):
        portal.esp.set_peer("c0001", MOAT, udp=udp)
        assert portal.send(ipv4(source=CORP, target=PC)).udp is udp
        assert portal.esp.statistics("c0001").udp is udp


@pytest.mark.parametrize("esn", [True, False])
def test_a_worn_sa_asks_once_for_a_rekey_and_ends_without_a_repeat(monkeypatch, esn):
    monkeypatch.setattr(sa_module, "LAST_PACKET_EXTENDED", 8)
    monkeypatch.setattr(sa_module, "LAST_SEQUENCE", 8)
    moat, _ = pair(Ends(esn=esn))
    asked = []
    for _ in range(8):
        moat.send(ipv4())
        asked.append(moat.esp.rekeys_wanted())
    assert asked == [[]] * 5 + [["portal1"]] + [[]] * 2
    assert moat.esp.envelope(ipv4()) is None
    assert moat.drops == {"out-sa-exhausted": 1}
    moat.esp.install(Ends(number=2, esn=esn).moat, PORTAL, activate_outbound=True)
    assert moat.send(ipv4()).data[:8].hex(" ", 4) == "00002002 00000001"


def test_no_rekey_is_asked_for_an_sa_that_has_been_replaced(monkeypatch):
    monkeypatch.setattr(sa_module, "LAST_PACKET_EXTENDED", 4)
    moat, _ = pair()
    for _ in range(3):
        moat.send(ipv4())
    moat.esp.install(Ends(number=2).moat, PORTAL, activate_outbound=True)
    assert moat.esp.rekeys_wanted() == []


@given(data=st.binary(max_size=200), first=st.sampled_from([None, 0x45, 0x60]))
def test_hostile_bytes_are_sent_whole_or_counted(data, first):
    if first is not None:
        data = bytes((first,)) + data[1:]
    moat, portal = pair(Ends(home=ALL))
    envelope = moat.esp.envelope(data)
    if envelope is None:
        assert sum(moat.drops.values()) == 1
    else:
        assert portal.receive(envelope.data).data == data
        assert moat.drops == portal.drops == {}
