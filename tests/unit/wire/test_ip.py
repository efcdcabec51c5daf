"""IP headers: what is read of them, and what hostile ones do."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ip import protocol_and_ports, read_header, set_ecn, traffic_class

SOURCE, TARGET = ip_address("10.201.1.10"), ip_address("10.50.0.10")
SOURCE6, TARGET6 = ip_address("fd00:201:1::10"), ip_address("fd00:50::ff:10")
PORTS = bytes.fromhex("c001 0035")  # 49153 to 53


def ipv4(payload=b"", tos=0, protocol=17, offset=0, options=b"", total=None):
    words = 5 + len(options) // 4
    total = words * 4 + len(payload) if total is None else total
    head = bytes((0x40 | words, tos)) + total.to_bytes(2, "big") + bytes(2)
    head += (offset // 8 | 0x2000).to_bytes(2, "big") + bytes((64, protocol, 0x12, 0x34))
    return head + SOURCE.packed + TARGET.packed + options + payload


def ipv6(payload=b"", tos=0, protocol=17, length=None):
    length = len(payload) if length is None else length
    head = (6 << 28 | tos << 20 | 0xFFFFF).to_bytes(4, "big") + length.to_bytes(2, "big")
    return head + bytes((protocol, 64)) + SOURCE6.packed + TARGET6.packed + payload


def test_an_ipv4_header():
    assert read_header(ipv4(b"abc")) == (4, 23, int(SOURCE), int(TARGET))


def test_an_ipv6_header():
    assert read_header(ipv6(b"abc")) == (6, 43, int(SOURCE6), int(TARGET6))


def test_what_follows_the_stated_length_is_not_counted():
    assert read_header(ipv4(b"abc", total=21) + b"tfc")[1] == 21
    assert read_header(ipv6(b"abc", length=1) + b"tfc")[1] == 41


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        ipv4()[:19],
        ipv6()[:39],
        ipv4(b"abc")[:-1],
        ipv6(b"abc")[:-1],
        ipv4(total=19),  # less than the header
        ipv4(total=0),
        b"\x44" + ipv4()[1:],  # a header of 16 octets
        b"\x4f" + ipv4()[1:],  # a header of 60 octets in a packet of 20
        b"\x40" + ipv4()[1:],
        b"\x55" + ipv4()[1:],
        b"\x05" + ipv4()[1:],
        bytes(60),
        b"\xff" * 60,
    ],
)
def test_what_is_no_whole_packet(packet):
    with pytest.raises(PeerError) as raised:
        read_header(packet)
    assert raised.value.reason is DropReason.ESP_INNER_MALFORMED


@given(st.binary(max_size=120), st.sampled_from([None, 0x45, 0x46, 0x60]))
def test_hostile_bytes_are_read_or_refused(data, first):
    if first is not None and data:
        data = bytes((first,)) + data[1:]
    try:
        version, length, source, destination = read_header(data)
    except PeerError:
        return
    bits = {4: 32, 6: 128}[version]
    assert (20 if version == 4 else 40) <= length <= len(data)
    assert source >> bits == destination >> bits == 0
    protocol, *ports = protocol_and_ports(data)
    assert 0 <= protocol <= 255
    assert all(port is None or 0 <= port <= 65535 for port in ports)
    assert 0 <= traffic_class(data) <= 255


def extension(next_header, units=1):
    return bytes((next_header, units - 1)) + bytes(units * 8 - 2)


def fragment(next_header, offset, more=True):
    return bytes((next_header, 0)) + (offset | more).to_bytes(2, "big") + bytes(4)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (ipv4(PORTS), (17, 49153, 53)),
        (ipv4(PORTS, protocol=6), (6, 49153, 53)),
        (ipv4(PORTS, protocol=132), (132, 49153, 53)),
        (ipv4(PORTS, protocol=33), (33, 49153, 53)),
        (ipv4(PORTS, options=bytes(8)), (17, 49153, 53)),
        (ipv4(PORTS, protocol=1), (1, None, None)),  # ICMP has no ports
        (ipv4(PORTS, offset=8), (17, None, None)),  # the ports were in the first fragment
        (ipv4(PORTS[:3]), (17, None, None)),
        (ipv6(PORTS), (17, 49153, 53)),
        (ipv6(PORTS[:3]), (17, None, None)),
        (ipv6(b"", protocol=59), (59, None, None)),
        (ipv6(extension(17) + PORTS, protocol=0), (17, 49153, 53)),
        (ipv6(extension(43, 3) + extension(60) + extension(6) + PORTS, protocol=0), (6, 49153, 53)),
        (ipv6(fragment(17, 0) + PORTS, protocol=44), (17, 49153, 53)),
        (ipv6(fragment(17, 8) + PORTS, protocol=44), (17, None, None)),
        # A later fragment that would look like headers: it is the middle of something.
        (ipv6(fragment(60, 8) + extension(6) + PORTS, protocol=44), (60, None, None)),
        # Headers that are cut off: what comes after them is unknown.
        (ipv6(extension(6, 2)[:8], protocol=0), (6, None, None)),
        (ipv6(extension(6)[:7], protocol=0), (0, None, None)),
        (ipv6(b"", protocol=0), (0, None, None)),
        (ipv6(extension(0, 256)[:64], protocol=0), (0, None, None)),
    ],
)
def test_protocol_and_ports(packet, expected):
    assert protocol_and_ports(packet) == expected


@pytest.mark.parametrize("tos", [0, 1, 0x2E << 2, 0xB9, 0xFF])
def test_traffic_class_is_at_its_place_in_both_versions(tos):
    assert traffic_class(ipv4(tos=tos)) == tos
    assert traffic_class(ipv6(tos=tos)) == tos


def plain_checksum(header):
    total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, len(header), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(
    header=st.binary(min_size=20, max_size=20), ecn=st.integers(0, 3), payload=st.binary(max_size=9)
)
def test_set_ecn_keeps_a_right_ipv4_checksum_right(header, ecn, payload):
    header = b"\x45" + header[1:10] + bytes(2) + header[12:]
    right = header[:10] + plain_checksum(header).to_bytes(2, "big") + header[12:]
    changed = set_ecn(right + payload, ecn)
    assert changed[1] == right[1] & 0xFC | ecn
    assert plain_checksum(changed[:20]) == 0
    untouched = [*range(1), *range(2, 10), *range(12, len(changed))]
    assert all(changed[at] == (right + payload)[at] for at in untouched)


def test_set_ecn_keeps_a_wrong_checksum_wrong():
    wrong = ipv4()
    assert plain_checksum(wrong[:20]) != 0
    assert plain_checksum(set_ecn(wrong, 3)[:20]) == plain_checksum(wrong[:20])


@given(st.binary(min_size=40, max_size=60), st.integers(0, 3))
def test_set_ecn_changes_two_bits_of_an_ipv6_packet(data, ecn):
    packet = bytes((0x60 | data[0] & 0x0F,)) + data[1:]
    changed = set_ecn(packet, ecn)
    mask = 0x3 << 20
    before, after = int.from_bytes(packet[:4], "big"), int.from_bytes(changed[:4], "big")
    assert after == before & ~mask | ecn << 20
    assert changed[4:] == packet[4:]
