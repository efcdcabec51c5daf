"""The reader of captures knows what it is looking at: the other tests rest on it."""

from __future__ import annotations

import pcap
import pytest
from frames import file_of, frame, ipv4, ipv6, udp

A, B = "192.0.2.10", "198.51.100.2"
WORDS = [
    (frame(0x0806, bytes(28)), "ARP"),
    (frame(0x0800, ipv4(50, bytes(40), A, B)), "ESP"),
    (frame(0x0800, ipv4(50, bytes(40), A, B, fragment=185)), "ESP"),
    (frame(0x0800, ipv4(17, udp(500, 500), A, B)), "IKE"),
    (frame(0x0800, ipv4(17, udp(4500, 33333), A, B)), "IKE"),
    (frame(0x0800, ipv4(17, udp(68, 67), "0.0.0.0", "255.255.255.255")), "DHCP"),
    (frame(0x0800, ipv4(17, udp(53, 67), A, B)), f"protocol 17 from {A} to {B}"),
    (frame(0x0800, ipv4(17, udp(500, 500), A, B, fragment=2)), f"protocol 17 from {A} to {B}"),
    (frame(0x0800, ipv4(1, bytes(8), A, B)), f"protocol 1 from {A} to {B}"),
    (frame(0x86DD, ipv6(58, bytes(8), "fe80::1", "ff02::1")), "IPv6 link-local"),
    (frame(0x86DD, ipv6(0, bytes([58, 0]) + bytes(14), "::", "ff02::16")), "IPv6 link-local"),
    (frame(0x86DD, ipv6(58, b"", "fd00::1", "ff02::1")), "protocol 58 from fd00::1 to ff02::1"),
    (frame(0x86DD, ipv6(50, bytes(40), "fd00::1", "fd00::2")), "ESP"),
    (frame(0x88CC, bytes(20)), "ethertype 0x88cc"),
    (frame(0x0800, b"\x45"), "ethertype 0x0800"),
]


@pytest.mark.parametrize(("one", "word"), WORDS)
def test_a_frame_is_described(one: pcap.Frame, word: str) -> None:
    assert pcap.describe(one) == word


@pytest.mark.parametrize("order", ["<", ">"])
def test_frames_come_back_as_they_were_written(order: str) -> None:
    frames = [one for one, _ in WORDS]
    read = list(pcap.read_pcap(file_of(*frames, order=order)))
    assert [one.data for one in read] == [one.data for one in frames]
    assert read[0].time == 7.5
    assert read[0].source_mac == "02:00:00:00:02:10"


def test_a_record_that_is_cut_short_ends_the_file() -> None:
    data = file_of(*(one for one, _ in WORDS[:2]))
    assert len(list(pcap.read_pcap(data[:-1]))) == 1


def test_padding_is_no_payload() -> None:
    padded = frame(0x0800, ipv4(17, udp(500, 500, b"abc"), A, B) + bytes(15))
    packet = pcap.parse_packet(padded)
    assert packet is not None
    assert packet.payload[8:] == b"abc"


MORE, DF = 0x2000, 0x4000


@pytest.mark.parametrize(
    ("one", "part"),
    [
        (frame(0x0800, ipv4(50, bytes(40), A, B)), False),
        (frame(0x0800, ipv4(50, bytes(40), A, B, fragment=DF)), False),
        (frame(0x0800, ipv4(50, bytes(40), A, B, fragment=MORE)), True),
        (frame(0x0800, ipv4(50, bytes(40), A, B, fragment=185)), True),
        (frame(0x86DD, ipv6(50, bytes(40), "fd00::1", "fd00::2")), False),
        (frame(0x86DD, ipv6(44, bytes(40), "fd00::1", "fd00::2")), True),
    ],
)
def test_a_fragment_is_known(one: pcap.Frame, part: bool) -> None:
    packet = pcap.parse_packet(one)
    assert packet is not None
    assert packet.fragment is part


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (frame(0x0800, ipv4(1, b"\x03\x04" + bytes(34), A, B)), True),
        (frame(0x0800, ipv4(1, b"\x03\x01" + bytes(34), A, B)), False),
        (frame(0x0800, ipv4(1, b"\x08\x00" + bytes(34), A, B)), False),
        (frame(0x0800, ipv4(17, b"\x03\x04" + bytes(34), A, B)), False),
        (frame(0x86DD, ipv6(58, b"\x02" + bytes(47), "fd00::1", "fd00::2")), True),
        (frame(0x86DD, ipv6(58, b"\x80" + bytes(47), "fd00::1", "fd00::2")), False),
    ],
)
def test_it_is_known_what_tells_a_sender_to_send_less(one: pcap.Frame, told: bool) -> None:
    packet = pcap.parse_packet(one)
    assert packet is not None
    assert packet.says_too_big() is told


@pytest.mark.parametrize("data", [b"", bytes(24), b"\xd4\xc3\xb2\xa1" + bytes(20)])
def test_what_is_no_capture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no pcap file"):
        list(pcap.read_pcap(data))
