"""The ESP engine, two of them back to back, and against hostile bytes."""

from __future__ import annotations

import base64
import copy
import pickle
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moatvpn.counters import Counters, DropReason
from moatvpn.esp.child import ChildSa, EspSuite
from moatvpn.esp.processor import EspProcessor
from moatvpn.esp.sa import OutboundSa
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

# RFC 7634, appendix A: the raw packet and the ESP packet of its capture.
RFC7634_KEY = bytes(range(0x80, 0xA0)) + bytes.fromhex("a0a1a2a3")
RFC7634_RAW = base64.b64decode(
    "RQAAVKbyAABAAed4xjNkBcAAAgUIAFt6OggAAFU77BAABzYnCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSor"
    "LC0uLzAxMjM0NTY3"
)
RFC7634_ESP = base64.b64decode(
    "AQIDBAAAAAUQERITFBUWFyQDlCi5f0F+PBN1Ok8FCHtnw1Lmp/qxuYLUZu9AeuXGFO6AmdUoROthqpXfq0wC9yqnHnxMT2TJ"
    "vv4vrMY46PPL7BY/rEabUCdz9vuU5mTakWW4KCn2QeB2qqgma3+w97EbNpkH4a1D"
)

MOAT, PORTAL = Endpoint("192.0.2.10", 500), Endpoint("198.51.100.2", 500)
HOME = (TrafficSelector.from_network("10.201.1.0/24"), TrafficSelector.from_network("fd00:1::/64"))
ALL = (TrafficSelector.from_network("0.0.0.0/0"), TrafficSelector.from_network("::/0"))
KEYS = (bytes(range(36)), bytes(range(36, 72)))


def twins(suite=EspSuite.AES_256_GCM, esn=True, spis=(0x1111, 0x2222), keys=KEYS):
    moat = ChildSa("portal", spis[0], spis[1], suite, esn, keys[0], keys[1], HOME, ALL, False)
    portal = ChildSa("c1", spis[1], spis[0], suite, esn, keys[1], keys[0], ALL, HOME, False)
    return moat, portal


def pair(**options):
    moat, portal = EspProcessor(Counters()), EspProcessor(Counters())
    a, b = twins(**options)
    moat.install(a, PORTAL, activate_outbound=True)
    portal.install(b, MOAT, activate_outbound=True)
    return moat, portal


def ipv4(payload=b"", source="0ac90109", target="0a320001", tos=0):
    head = bytes((0x45, tos)) + (20 + len(payload)).to_bytes(2, "big") + bytes(4)
    return head + bytes((64, 1, 0, 0)) + bytes.fromhex(source + target) + payload


def ipv6(payload=b""):
    head = bytes((0x60, 0, 0, 0)) + len(payload).to_bytes(2, "big") + bytes((59, 64))
    source = bytes.fromhex("fd000001000000000000000000000009")
    return head + source + bytes.fromhex("fd500001000000000000000000000001") + payload


def test_the_published_chacha20_poly1305_packet():
    sa = OutboundSa(
        ChildSa("x", 1, 0x01020304, EspSuite.CHACHA20_POLY1305, False, RFC7634_KEY, RFC7634_KEY,
                ALL, ALL, False), PORTAL,
    )  # fmt: skip
    counters = Counters()
    receiver = EspProcessor(counters)
    child = replace(sa.child, spi_in=0x01020304, spi_out=1)
    receiver.install(child, MOAT, activate_outbound=True)
    raw = receiver.decapsulate(RFC7634_ESP, MOAT, 0)
    assert raw is not None
    assert raw.data == RFC7634_RAW
    assert counters.snapshot() == {}


@pytest.mark.parametrize("suite", list(EspSuite))
@pytest.mark.parametrize("esn", [True, False])
@settings(max_examples=40, deadline=None)
@given(payload=st.binary(max_size=1600), six=st.booleans())
def test_what_goes_in_comes_out(suite, esn, payload, six):
    moat, portal = pair(suite=suite, esn=esn)
    packet = ipv6(payload) if six else ipv4(payload)
    envelope = moat.encapsulate(packet)
    assert envelope is not None
    assert len(envelope.data) % 4 == 0
    raw = portal.decapsulate(envelope.data, MOAT, 0)
    assert raw is not None
    assert (raw.data, raw.moved) == (packet, False)


@pytest.mark.parametrize("esn", [True, False])
def test_any_changed_octet_is_dropped(esn):
    moat, portal = pair(esn=esn)
    envelope = moat.encapsulate(ipv4(b"secret"))
    for index in range(len(envelope.data)):
        octets = bytearray(envelope.data)
        octets[index] ^= 1
        assert portal.decapsulate(bytes(octets), MOAT, 0) is None
    assert sum(portal._counters.snapshot().values()) == len(envelope.data)
    assert portal.decapsulate(envelope.data, MOAT, 0) is not None


def test_a_replay_is_dropped_and_moves_nothing():
    moat, portal = pair()
    envelope = moat.encapsulate(ipv4(b"once"))
    assert portal.decapsulate(envelope.data, MOAT, 0) is not None
    assert portal.decapsulate(envelope.data, Endpoint("203.0.113.66", 0), 0) is None
    assert portal._counters.snapshot() == {"esp-replayed": 1}


def test_only_the_newest_packet_from_elsewhere_says_that_the_peer_moved():
    moat, portal = pair()
    first, second = moat.encapsulate(ipv4(b"1")), moat.encapsulate(ipv4(b"2"))
    elsewhere = Endpoint("192.0.2.99", 0)
    assert portal.decapsulate(second.data, elsewhere, 0).moved
    assert not portal.decapsulate(first.data, elsewhere, 0).moved


def test_inner_packets_outside_the_selectors_are_dropped():
    moat, portal = pair()
    portal_out, moat_in = twins()[1], moat
    assert portal_out.local_ts == ALL
    stray = EspProcessor(Counters())
    stray.install(replace(twins()[0], local_ts=ALL), PORTAL, activate_outbound=True)
    envelope = stray.encapsulate(ipv4(b"", source="0ac90209"))
    assert portal.decapsulate(envelope.data, MOAT, 0) is None
    assert portal._counters.value(DropReason.ESP_INNER_SELECTOR) == 1
    assert moat_in.encapsulate(ipv4(b"", source="0ac90209")) is None


def test_rekey_switches_on_the_first_packet_and_loses_none():
    moat, portal = pair()
    new_moat, new_portal = twins(spis=(0x3333, 0x4444), keys=KEYS[::-1])
    portal.install(new_portal, MOAT, activate_outbound=False)
    before = portal.encapsulate(ipv4(b"", source="0a320001", target="0ac90109"))
    moat.install(new_moat, PORTAL, activate_outbound=True)
    assert moat.decapsulate(before.data, PORTAL, 0) is not None
    assert portal.statistics("c1").spi_in == 0x2222
    assert portal.decapsulate(moat.encapsulate(ipv4()).data, MOAT, 0) is not None
    assert portal.statistics("c1").spi_in == 0x4444
    moat.remove(0x1111)
    portal.remove(0x2222)
    after = portal.encapsulate(ipv4(b"", source="0a320001", target="0ac90109"))
    assert moat.decapsulate(after.data, PORTAL, 0) is not None


def test_without_an_sa_packets_are_dropped_not_sent():
    moat, _ = pair()
    moat.remove(0x1111)
    assert moat.encapsulate(ipv4()) is None
    assert moat._counters.snapshot() == {"out-no-sa": 1}


def test_an_outbound_sa_can_be_neither_copied_nor_stored_and_ends():
    sa = OutboundSa(twins(esn=False)[0], PORTAL)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            attempt(sa)
    moat, _ = pair(esn=False)
    moat._active["portal"][0]._sequence = (1 << 32) - 2
    assert moat.encapsulate(ipv4()) is not None
    assert moat.rekeys_wanted() == ["portal"]
    assert moat.encapsulate(ipv4()) is None
    assert moat._counters.snapshot() == {"out-sa-exhausted": 1}


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), known=st.booleans(), tos=st.integers(0, 255))
def test_hostile_bytes_only_ever_count(data, known, tos):
    _, portal = pair()
    if known:
        data = (0x2222).to_bytes(4, "big") + data
    assert portal.decapsulate(data, MOAT, tos) is None
    assert sum(portal._counters.snapshot().values()) == 1
    assert portal.encapsulate(data) is None
