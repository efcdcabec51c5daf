"""The IPv4 header that a raw socket delivers is checked and taken off (RFC 791, 3.1)."""

from __future__ import annotations

import pytest
from bursts import burst
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.raw import NoRawSocket, strip_ip_header
from moatvpn.errors import PeerError
from moatvpn.wire.endpoint import Endpoint


def ipv4(payload: bytes, *, options: bytes = b"", tos: int = 0, total: int | None = None) -> bytes:
    header = 20 + len(options)
    length = header + len(payload) if total is None else total
    return (
        bytes([0x40 | header // 4, tos])
        + length.to_bytes(2, "big")
        + bytes([0, 0, 0, 0, 64, 50, 0, 0])
        + bytes([192, 0, 2, 7])
        + bytes([198, 51, 100, 2])
        + options
        + payload
    )


@pytest.mark.parametrize("options", [b"", bytes(4), bytes(40)])
def test_payload_source_and_tos(options: bytes) -> None:
    packet = ipv4(b"\x01\x02\x03\x04 and more", options=options, tos=0xB9)
    arrival = strip_ip_header(memoryview(packet), len(packet))
    assert arrival == (b"\x01\x02\x03\x04 and more", 13, Endpoint("192.0.2.7", 0), 0xB9)


def test_octets_behind_the_packet_are_cut_off() -> None:
    packet = ipv4(b"payload", total=24) + b"trailer"
    assert strip_ip_header(memoryview(packet), len(packet))[:2] == (b"payl", 4)


def test_octets_of_an_earlier_packet_do_not_count() -> None:
    earlier = memoryview(ipv4(b"payload"))
    for size in (0, 19, 26):
        with pytest.raises(PeerError):
            strip_ip_header(earlier, size)


def test_a_packet_without_anything_in_it_is_a_drop() -> None:
    with pytest.raises(PeerError) as caught:
        strip_ip_header(memoryview(ipv4(b"", options=bytes(4))), 24)
    assert caught.value.reason is DropReason.ESP_TOO_SHORT


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        ipv4(b"")[:19],
        b"\x65" + ipv4(b"payload")[1:],  # version 6
        b"\x44" + ipv4(b"payload")[1:],  # a header of 16 octets
        b"\x4f" + ipv4(b"payload")[1:],  # a header longer than the packet
        ipv4(b"payload", total=19),
        ipv4(b"payload", total=28),
        ipv4(b"payload", options=bytes(8), total=27),  # the total ends within the header
    ],
)
def test_contradicting_lengths_are_a_drop(packet: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        strip_ip_header(memoryview(packet), len(packet))
    assert caught.value.reason is DropReason.WILD_MALFORMED


@given(st.binary(max_size=90))
def test_hostile_octets_are_a_drop_or_a_part_of_themselves(packet: bytes) -> None:
    try:
        data, size, source, tos = strip_ip_header(memoryview(packet), len(packet))
    except PeerError:
        return
    assert len(packet) >= 20
    assert bytes(data) in packet[20:]
    assert len(data) == size > 0
    assert source.port == 0
    assert tos == packet[1]


def test_where_there_is_no_raw_socket_nothing_comes_and_what_goes_is_counted() -> None:
    counters = Counters()
    none = NoRawSocket(counters)
    assert none.receive() == []
    assert not none.send_burst(burst(b"a", b"b", b"c", to=Endpoint("192.0.2.7", 0)))
    assert counters.snapshot() == {"out-send-failed": 3}
