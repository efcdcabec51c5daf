"""Envelopes into raw packets: the order of checks, and every drop counted once."""

from __future__ import annotations

import pytest
from esp_peers import (
    ALL,
    CORP,
    MOAT,
    PC,
    PROTOCOL_50,
    STRANGER,
    Ends,
    forge,
    ipv4,
    ipv6,
    padded,
    pair,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

ELSEWHERE = Endpoint("203.0.113.66", 4500)
SPI = (0x2001).to_bytes(4, "big")  # the portal's
suites = pytest.mark.parametrize("suite", list(CipherSuite))
esns = pytest.mark.parametrize("esn", [True, False])


@suites
@esns
@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_a_raw_packet_comes_out_as_it_went_in(suite, esn, make):
    moat, portal = pair(Ends(suite=suite, esn=esn))
    raw = portal.receive(moat.send(make(b"hello")).data)
    assert raw is not None
    assert (raw.data, raw.connection, raw.spi_in, raw.moved) == (
        make(b"hello"), "c0001", 0x2001, False,
    )  # fmt: skip
    assert portal.drops == {}


@given(
    payload=st.binary(max_size=1500),
    make=st.sampled_from([ipv4, ipv6]),
    suite=st.sampled_from(CipherSuite),
    esn=st.booleans(),
    tos=st.integers(0, 255),
)
def test_round_trip(payload, make, suite, esn, tos):
    moat, portal = pair(Ends(suite=suite, esn=esn))
    packet = make(payload, tos=tos)
    envelope = moat.send(packet)
    assert portal.receive(envelope.data, tos=envelope.tos).data == packet


@suites
@esns
def test_any_changed_octet_is_dropped(suite, esn):
    moat, portal = pair(Ends(suite=suite, esn=esn))
    moat.send(ipv4())
    data = moat.send(ipv4(b"secret")).data
    for index in range(len(data)):
        for bit in (0x01, 0x80):
            octets = bytearray(data)
            octets[index] ^= bit
            assert portal.receive(bytes(octets), ELSEWHERE) is None
    counted = portal.drops
    assert set(counted) == {"esp-unknown-spi", "esp-not-authentic"}
    assert counted["esp-unknown-spi"] == 2 * 4
    assert sum(counted.values()) == 2 * len(data)
    assert portal.receive(data).data == ipv4(b"secret")


@given(st.data())
def test_any_other_mutation_is_dropped(data):
    moat, portal = pair()
    whole = moat.send(ipv4(b"secret")).data
    at = data.draw(st.integers(0, len(whole)))
    until = data.draw(st.integers(at, len(whole)))
    mutated = whole[:at] + data.draw(st.binary(max_size=8)) + whole[until:]
    expected = ipv4(b"secret") if mutated == whole else None
    raw = portal.receive(mutated)
    assert (raw.data if raw else None) == expected
    assert sum(portal.drops.values()) == (expected is None)


@pytest.mark.parametrize("length", range(36))
def test_too_short(length):
    moat, portal = pair()
    assert portal.receive(moat.send(ipv4()).data[:length]) is None
    assert portal.drops == {"esp-too-short": 1}


def test_unknown_spi():
    moat, portal = pair()
    assert portal.receive(b"\0\0\x77\x77" + moat.send(ipv4()).data[4:]) is None
    assert portal.drops == {"esp-unknown-spi": 1}


def test_a_packet_of_our_own_is_not_for_us():
    """Sent back by someone on the way: the SPI is the peer's, and so is the key."""
    moat, _ = pair()
    data = moat.send(ipv4()).data
    assert moat.receive(data) is None
    assert moat.receive((0x1001).to_bytes(4, "big") + data[4:]) is None
    assert moat.drops == {"esp-unknown-spi": 1, "esp-not-authentic": 1}


def test_a_replay_is_dropped_and_moves_nothing():
    moat, portal = pair()
    data = moat.send(ipv4()).data
    assert portal.receive(data) is not None
    assert portal.receive(data, ELSEWHERE) is None
    assert portal.drops == {"esp-replayed": 1}


def test_a_replay_is_found_before_anything_is_decrypted():
    moat, portal = pair(Ends(esn=False))
    data = moat.send(ipv4()).data
    assert portal.receive(data) is not None
    assert portal.receive(data[:-1] + bytes((data[-1] ^ 1,))) is None
    assert portal.drops == {"esp-replayed": 1}


@esns
def test_reordering_within_the_window_loses_nothing_and_beyond_it_drops(esn):
    moat, portal = pair(Ends(esn=esn))
    packets = [moat.send(ipv4(index.to_bytes(2, "big"))).data for index in range(2100)]
    assert portal.receive(packets[-1]) is not None
    came = [portal.receive(data) is not None for data in packets[-2::-1]]
    assert came == [True] * 2047 + [False] * 52
    # With extended numbers, what is that old is taken for one 2^32 ahead, and is not authentic.
    assert portal.drops == {"esp-not-authentic" if esn else "esp-replayed": 52}


@esns
@pytest.mark.parametrize(
    ("plaintext", "counter"),
    [
        (ipv4() + bytes.fromhex("00000204"), "esp-bad-padding"),
        (ipv4() + bytes.fromhex("0103 0204"), "esp-bad-padding"),
        (bytes.fromhex("01020304"), "esp-bad-padding"),
        (padded(ipv4(), 17), "esp-bad-next-header"),  # transport mode
        (padded(ipv4(), 50), "esp-bad-next-header"),
        (padded(b"", 4), "esp-inner-malformed"),
        (padded(ipv4(), 41), "esp-inner-malformed"),
        (padded(ipv6(), 4), "esp-inner-malformed"),
        (padded(ipv4()[:-1], 4), "esp-inner-malformed"),
        (padded(ipv6(b"12345678")[:-1], 41), "esp-inner-malformed"),
        (padded(bytes(60), 4), "esp-inner-malformed"),
        (padded(ipv4(source=STRANGER), 4), "esp-inner-selector"),
        (padded(ipv4(source=CORP, target=PC), 4), "esp-inner-selector"),
    ],
)
def test_wrong_but_authentic(esn, plaintext, counter):
    ends = Ends(esn=esn)
    _, portal = pair(ends)
    data = forge(ends.portal, 7, plaintext)
    assert portal.receive(data) is None
    assert portal.drops == {counter: 1}
    # It was authentic, so its number is spent.
    assert portal.receive(data) is None
    assert portal.drops == {counter: 1, "esp-replayed": 1}
    assert portal.esp.statistics("c0001").packets_in == 0


def test_padding_of_another_length_than_ours_is_right_too():
    ends = Ends()
    _, portal = pair(ends)
    plaintext = ipv4() + bytes(range(1, 255)) + bytes((254, 4))
    assert portal.receive(forge(ends.portal, 1, plaintext)).data == ipv4()


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("extra", [b"\0", bytes(1000), ipv4(source=STRANGER)])
def test_traffic_flow_confidentiality_padding_is_cut_off(make, extra):
    ends = Ends()
    _, portal = pair(ends)
    plaintext = padded(make(b"hello") + extra, 4 if make is ipv4 else 41)
    assert portal.receive(forge(ends.portal, 1, plaintext)).data == make(b"hello")
    assert portal.drops == {}


@pytest.mark.parametrize("payload", [b"", bytes(100), ipv4()])
def test_a_dummy_packet_is_no_fault_and_spends_its_number(payload):
    ends = Ends()
    _, portal = pair(ends)
    data = forge(ends.portal, 1, padded(payload, 59))
    assert portal.receive(data) is None
    assert portal.drops == {}
    assert portal.receive(data) is None
    assert portal.drops == {"esp-replayed": 1}


def test_selectors_with_ports_are_checked_inside():
    web = TrafficSelector(ALL[0].start, ALL[0].end, 6, 443, 443)
    ends = Ends(corporate=(web,))
    _, portal = pair(ends)
    right, wrong = bytes.fromhex("c00101bb"), bytes.fromhex("c0010050")
    for sequence, (ports, protocol) in enumerate([(right, 6), (wrong, 6), (right, 17)], start=1):
        portal.receive(forge(ends.portal, sequence, padded(ipv4(ports, protocol=protocol), 4)))
    assert portal.drops == {"esp-inner-selector": 2}
    assert portal.esp.statistics("c0001").packets_in == 1


def test_statistics():
    moat, portal = pair(Ends(suite=CipherSuite.CHACHA20_POLY1305))
    for _ in range(3):
        portal.receive(moat.send(ipv4(b"12345")).data)
    sent, received = moat.esp.statistics("portal1"), portal.esp.statistics("c0001")
    assert (sent.packets_out, sent.octets_out, sent.packets_in) == (3, 75, 0)
    assert (received.packets_in, received.octets_in, received.packets_out) == (3, 75, 0)
    assert (sent.spi_in, sent.spi_out, sent.sequence) == (0x1001, 0x2001, 3)
    assert (sent.suite, sent.esn, sent.udp) == ("chacha20-poly1305", True, True)
    moat.esp.remove(0x1001)
    assert moat.esp.statistics("portal1").packets_out == 3
    moat.esp.remove_connection("portal1")
    assert moat.esp.statistics("portal1").packets_out == 0


# A peer that moves


def test_only_the_newest_packet_from_elsewhere_says_that_the_peer_moved():
    moat, portal = pair()
    first, second, third = (moat.send(ipv4()).data for _ in range(3))
    assert portal.receive(second, ELSEWHERE).moved
    portal.esp.set_peer("c0001", ELSEWHERE, udp=True)
    assert not portal.receive(first, MOAT).moved  # late, from where the peer was
    assert not portal.receive(third, ELSEWHERE).moved


def test_a_new_port_is_a_move_in_udp_and_means_nothing_as_protocol_50():
    for udp, moved in ((True, True), (False, False)):
        moat, portal = pair(Ends(udp=udp))
        data = moat.send(ipv4()).data
        assert portal.receive(data, Endpoint(MOAT.host, 31000)).moved is moved


def test_protocol_50_has_no_port_to_compare():
    moat, portal = pair(Ends(udp=False))
    assert not portal.receive(moat.send(ipv4()).data, PROTOCOL_50).moved
    assert portal.receive(moat.send(ipv4()).data, Endpoint("192.0.2.99", 0)).moved


def test_what_is_dropped_after_authentication_moves_nobody():
    ends = Ends()
    _, portal = pair(ends)
    assert portal.receive(forge(ends.portal, 1, padded(b"", 59)), ELSEWHERE) is None
    assert portal.send(ipv4(source=CORP, target=PC)).peer == MOAT


@settings(max_examples=300)
@given(data=st.binary(max_size=200), known=st.booleans(), tos=st.integers(0, 255))
@example(data=bytes(32), known=True, tos=3)
def test_hostile_bytes_only_ever_count(data, known, tos):
    _, portal = pair()
    assert portal.receive(SPI + data if known else data, ELSEWHERE, tos) is None
    assert sum(portal.drops.values()) == 1


@settings(max_examples=300)
@given(
    plaintext=st.binary(min_size=2, max_size=200),
    first=st.sampled_from([None, 0x45, 0x60]),
    last=st.sampled_from([None, b"\0\4", b"\0\x29", b"\1\0\4"]),
    sequence=st.integers(1, 2**32 - 1),
    tos=st.integers(0, 255),
)
def test_a_hostile_peer_with_the_key_gets_a_whole_packet_through_or_a_count(
    plaintext, first, last, sequence, tos
):
    if first is not None:
        plaintext = bytes((first,)) + plaintext[1:]
    ends = Ends(home=ALL)
    _, portal = pair(ends)
    data = forge(ends.portal, sequence, plaintext + (last or b""))
    raw = portal.receive(data, MOAT, tos)
    if raw is None:
        dummy = (plaintext + (last or b""))[-1] == 59
        assert sum(portal.drops.values()) == 1 or dummy
    else:
        assert portal.drops == {}
        assert raw.data[0] >> 4 in (4, 6)
        assert len(raw.data) >= 20
