"""Super-packets: hostile virtio headers, and cutting in place of the kernel."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from offload_packets import (
    ACK,
    CWR,
    DATA_VALID,
    ECE,
    FIN,
    NEEDS_CSUM,
    PSH,
    TIMESTAMPS,
    UDP,
    URG,
    Shape,
    checksums_are_right,
    header_length,
    octets,
    partial,
    virtio,
    words_sum,
)

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.offload import HEADER_LENGTH, check, for_kernel, segments

TCP4, TCP6, ECN = 1, 4, 0x80
ROUTER_ALERT = bytes.fromhex("94040000")
# A destination options header with nothing but padding, before TCP (RFC 8200, 4.6)
DESTINATION_OPTIONS = bytes.fromhex("0600 0104 00000000")


def tso(shape: Shape, size: int, ecn: int = 0) -> bytes:
    start = 40 + len(shape.options) if shape.version == 6 else 20 + len(shape.options)
    return virtio(NEEDS_CSUM, (TCP4 if shape.version == 4 else TCP6) | ecn, 0, size, start)


def unless_refused(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what call returns, None where it refuses by the one error that it may raise."""
    try:
        return call(*arguments)
    except PeerError as error:
        if error.reason is not DropReason.ESP_BAD_OFFLOAD:
            raise
        return None


def tcp_at(packet: bytes, start: int) -> tuple[int, int, bytes]:
    """Return sequence number, flags and payload."""
    sequence, words, flags = struct.unpack_from("!4xI4xBB", packet, start)
    return sequence, flags, packet[start + (words >> 4) * 4 :]


SHAPES = [
    Shape(),
    Shape(options=ROUTER_ALERT, tcp_options=TIMESTAMPS),
    Shape(identification=0xFFFF, sequence=0xFFFFFFF0, tcp_options=bytes((1,)) * 40),
    Shape(options=bytes((1,)) * 40, fragment=0, tos=0xB9, ttl=1),
    Shape(version=6),
    Shape(version=6, tcp_options=TIMESTAMPS, tos=0x2E, sequence=0xFFFFFFFF),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("length", "size"), [(4344, 1448), (4345, 1448), (1449, 1448), (99, 9)])
def test_tcp_is_cut_as_the_kernel_would(shape, length, size):
    payload = octets(length)
    packet = partial(shape, payload)
    start = 40 if shape.version == 6 else header_length(packet)
    cut = segments(tso(shape, size), packet)
    came = b""
    for number, segment in enumerate(cut):
        assert checksums_are_right(segment)
        sequence, flags, data = tcp_at(segment, start)
        assert (sequence, flags) == ((shape.sequence + number * size) % 2**32, ACK)
        assert len(data) == size or number == len(cut) - 1
        if shape.version == 4:
            identification, fragment = struct.unpack_from("!HH", segment, 4)
            assert identification == (shape.identification + number) % 2**16
            assert fragment == shape.fragment
        # Nothing else differs: TOS and TTL, addresses, ports, acknowledgement, window, options.
        kept = slice(start + 14, start + 16), slice(start + 18, len(segment) - len(data))
        assert all(segment[part] == packet[part] for part in kept)
        assert (segment[1], segment[start : start + 4]) == (packet[1], packet[start : start + 4])
        assert segment[8:10] == packet[8:10]
        assert segment[start + 8 : start + 13] == packet[start + 8 : start + 13]
        assert segment[12:start] == packet[12:start]
        came += data
    assert came == payload


@pytest.mark.parametrize(
    ("flags", "first", "middle", "last"),
    [
        (ACK, ACK, ACK, ACK),
        (ACK | PSH, ACK, ACK, ACK | PSH),
        (ACK | FIN, ACK, ACK, ACK | FIN),
        (ACK | CWR | ECE | PSH, ACK | CWR | ECE, ACK | ECE, ACK | ECE | PSH),
        (ACK | URG | CWR | FIN, ACK | URG | CWR, ACK | URG, ACK | URG | FIN),
    ],
)
@pytest.mark.parametrize("ecn", [0, ECN])
def test_which_segment_has_which_flags(flags, first, middle, last, ecn):
    shape = Shape(flags=flags)
    cut = segments(tso(shape, 100, ecn), partial(shape, octets(350)))
    assert [tcp_at(segment, 20)[1] for segment in cut] == [first, middle, middle, last]
    assert all(map(checksums_are_right, cut))


def test_a_super_packet_of_one_segment_keeps_all_flags():
    shape = Shape(flags=ACK | CWR | PSH | FIN)
    (only,) = segments(tso(shape, 1448), partial(shape, b"abc"))
    assert tcp_at(only, 20) == (shape.sequence, ACK | CWR | PSH | FIN, b"abc")
    assert checksums_are_right(only)


def test_extension_headers_of_our_own_kernels_packets_are_kept():
    shape = Shape(version=6, options=DESTINATION_OPTIONS, first_header=60)
    payload = octets(3001)
    cut = segments(tso(shape, 1000), partial(shape, payload))
    assert b"".join(tcp_at(segment, 48)[2] for segment in cut) == payload
    assert {segment[40:48] for segment in cut} == {DESTINATION_OPTIONS}
    assert all(checksums_are_right(segment, 48, 6) for segment in cut)


def test_random_packets_are_cut_and_put_together_again():
    draw = random.Random(4)
    for _ in range(300):
        shape = Shape(
            version=draw.choice((4, 6)),
            tcp_options=draw.randbytes(4 * draw.randrange(11)),
            flags=draw.randrange(256),
            sequence=draw.getrandbits(32),
            acknowledged=draw.getrandbits(32),
            window=draw.getrandbits(16),
            identification=draw.getrandbits(16),
            tos=draw.randrange(256),
            ttl=draw.randrange(256),
            ports=(draw.getrandbits(16), draw.getrandbits(16)),
        )
        if shape.version == 4:
            shape = shape._replace(options=draw.randbytes(4 * draw.randrange(11)))
        payload = draw.choice((draw.randbytes, bytes))(draw.randrange(1, 2000))
        packet = partial(shape, payload)
        start = header_length(packet)
        size = draw.randrange(1, 1000)
        cut = segments(tso(shape, size), memoryview(bytearray(packet)))
        assert all(map(checksums_are_right, cut))
        assert b"".join(tcp_at(segment, start)[2] for segment in cut) == payload
        assert len(cut) == -(-len(payload) // size)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("length", [0, 1, 2, 1471, 1472, 60000])
def test_a_checksum_that_lacks_is_filled_in(version, protocol, length):
    shape = Shape(version=version, protocol=protocol)
    packet, at = partial(shape, octets(length)), 6 if protocol == UDP else 16
    start = header_length(packet)
    (only,) = segments(virtio(start=start, at=at), packet)
    assert checksums_are_right(only)
    assert only[: start + at] == packet[: start + at]
    assert only[start + at + 2 :] == packet[start + at + 2 :]


@pytest.mark.parametrize(("protocol", "at", "sent"), [(UDP, 6, 0xFFFF), (6, 16, 0)])
def test_a_checksum_of_zero_is_sent_as_ones_in_udp_alone(protocol, at, sent):
    shape = Shape(protocol=protocol)
    # The payload that brings the sum to 0xFFFF, whose complement is 0
    (draft,) = segments(virtio(at=at), partial(shape, bytes(2)))
    (only,) = segments(virtio(at=at), partial(shape, draft[20 + at : 22 + at]))
    assert int.from_bytes(only[20 + at : 22 + at], "big") == sent
    assert checksums_are_right(only)


def test_what_is_whole_stays_as_it_is():
    packet = octets(200)
    assert segments(b"", packet) == [packet]
    assert segments(b"", memoryview(packet)) == [packet]
    assert segments(virtio(0), packet) == [packet]
    assert segments(virtio(DATA_VALID), packet) == [packet]


@pytest.mark.parametrize(
    ("offload", "packet"),
    [
        (virtio()[:9], partial(Shape(), b"abc")),
        (virtio(start=40, at=2), partial(Shape(), b"abc")),  # the field is beyond the end
        (virtio(kind=TCP4, size=0), partial(Shape(), b"abc")),
        (virtio(kind=TCP4, size=1, start=16), partial(Shape(acknowledged=5 << 28), b"abc")),
        (virtio(kind=TCP6, size=1, start=36), partial(Shape(6, acknowledged=5 << 28), b"abc")),
        (virtio(kind=TCP4, size=1), partial(Shape(), b"")),
        (virtio(kind=TCP4, size=1), b""),
        (virtio(kind=TCP6, size=1, start=40), partial(Shape(), octets(100))),
        (virtio(kind=TCP4, size=1, start=40), partial(Shape(version=6), octets(100))),
        (virtio(kind=3, size=100), partial(Shape(), octets(500))),  # of UDP, as it once was
        (virtio(kind=5, size=100), partial(Shape(), octets(500))),
        (virtio(kind=TCP4, size=9), partial(Shape(), b"abc")[:32] + b"\x40" + bytes(99)),
    ],
)
def test_what_cannot_be_cut_is_refused(offload, packet):
    with pytest.raises(PeerError) as caught:
        segments(offload, packet)
    assert caught.value.reason is DropReason.ESP_BAD_OFFLOAD


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ecn", [0, ECN])
def test_a_sound_super_packet_passes(shape, ecn):
    packet = partial(shape, octets(5000))
    start = header_length(packet)
    offload = tso(shape, 1448, ecn)
    check(offload, packet)
    # What the peer says in hdr_len is its own affair.
    offload = offload[:2] + b"\xff\xff" + offload[4:]
    kind = (TCP4 if shape.version == 4 else TCP6) | ecn
    end = start + 20 + len(shape.tcp_options)
    assert for_kernel(offload, memoryview(packet)) == virtio(1, kind, end, 1448, start)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("protocol", "at", "header"), [(6, 16, 20), (17, 6, 8)])
@pytest.mark.parametrize("length", [0, 1, 1400])
def test_a_packet_that_lacks_its_checksum_passes(version, protocol, at, header, length):
    packet = partial(Shape(version=version, protocol=protocol), octets(length))
    start = header_length(packet)
    offload = virtio(start=start, at=at)
    assert for_kernel(offload, packet) == virtio(1, 0, start + header, 0, start, at)


TCP, TCP_V6 = partial(Shape(), octets(3000)), partial(Shape(version=6), octets(3000))
DATAGRAM = partial(Shape(protocol=UDP), octets(3000))


def changed(packet: bytes, at: int, *values: int) -> bytes:
    return packet[:at] + bytes(values) + packet[at + len(values) :]


@pytest.mark.parametrize(
    ("offload", "packet"),
    [
        (b"", TCP),
        (virtio()[:9], TCP),
        (virtio() + b"\0", TCP),
        (virtio(0, TCP4, 0, 1448), TCP),  # segments without a checksum of their own
        (virtio(DATA_VALID), TCP),
        (virtio(NEEDS_CSUM | DATA_VALID), TCP),
        (virtio(NEEDS_CSUM | 4), TCP),
        (virtio(kind=TCP6, size=1448), TCP),
        (virtio(kind=TCP4, size=1448, start=40), TCP_V6),
        (virtio(kind=3, size=1448), TCP),
        (virtio(kind=5, size=1448, at=6), DATAGRAM),
        (virtio(kind=TCP4, size=1448, at=6), DATAGRAM),
        (virtio(kind=ECN), TCP),
        (virtio(kind=TCP4, size=0), TCP),
        (virtio(kind=TCP4, size=7), TCP),  # a storm
        (virtio(kind=TCP4, size=0xFFFF), TCP),  # GSO_BY_FRAGS
        (virtio(size=1448), TCP),
        (virtio(start=0), TCP),
        (virtio(start=24), TCP),
        (virtio(start=0xFFFF), TCP),
        (virtio(at=6), TCP),
        (virtio(at=0xFFFF), TCP),
        (virtio(at=16), DATAGRAM),
        (virtio(start=20), TCP_V6),
        (virtio(kind=TCP4, size=1448), partial(Shape(), b"")),  # nothing to cut
        (virtio(), TCP[:-1]),
        (virtio(), TCP + b"\0"),
        (virtio(start=40), TCP_V6[:-1]),
        (virtio(start=40), TCP_V6 + b"\0"),
        (virtio(), b""),
        (virtio(), b"\x45"),
        (virtio(start=40), b"\x60"),
        (virtio(), changed(TCP, 0, 0x44)),
        (virtio(start=60), changed(TCP, 0, 0x4F)[:30]),
        (virtio(), changed(TCP, 0, 0x55)),
        (virtio(), changed(TCP, 6, 0x20, 0)),  # a first fragment
        (virtio(), changed(TCP, 6, 0, 1)),  # a later one
        (virtio(), changed(TCP, 9, 132)),  # SCTP has another kind of checksum
        (virtio(at=2), changed(TCP, 9, 1)),
        (virtio(start=40), changed(TCP_V6, 6, 60)),  # extension headers
        (virtio(start=48), changed(TCP_V6, 6, 60)),
        (virtio(), changed(TCP, 32, 0x40)),  # TCP's header of 16 octets
        (virtio(), changed(partial(Shape(), b""), 32, 0x60)),  # and one beyond the end
        (virtio(at=6), changed(DATAGRAM, 24, 0, 8)),  # UDP's length is less
        (virtio(), partial(Shape(), b"")[:2] + b"\0\x27" + partial(Shape(), b"")[4:39]),
        (virtio(at=6), changed(partial(Shape(protocol=UDP), b"")[:27], 3, 27)),
    ],
)
def test_a_header_that_does_not_fit_is_refused(offload, packet):
    with pytest.raises(PeerError) as caught:
        check(offload, packet)
    assert caught.value.reason is DropReason.ESP_BAD_OFFLOAD


def test_hostile_octets_raise_nothing_else():
    draw = random.Random(9)
    passed = refused = 0
    for _ in range(20_000):
        shape = Shape(version=draw.choice((4, 6)), protocol=draw.choice((6, 17)))
        packet = bytearray(partial(shape, draw.randbytes(draw.randrange(200))))
        start, at = header_length(packet), 16 if shape.protocol == 6 else 6
        kind = draw.choice((0, TCP4 if shape.version == 4 else TCP6))
        offload = bytearray(virtio(1, kind, 0, kind and 100, start, at))
        for _ in range(draw.randrange(3)):
            offload[draw.randrange(HEADER_LENGTH)] = draw.randrange(256)
        for _ in range(draw.randrange(3)):
            packet[draw.randrange(min(len(packet), 60))] = draw.randrange(256)
        shorter = draw.choice((len(packet), draw.randrange(len(packet))))
        data = bytes(packet[:shorter])
        sound = unless_refused(for_kernel, bytes(offload), data)
        if sound is None:
            refused += 1
        else:
            # Whatever passes can be cut, and the kernel gets no octet that was not worked out.
            flags, kind, header, size, start, at = struct.unpack("<BBHHHH", sound)
            assert flags == NEEDS_CSUM
            assert start == header_length(data)
            assert start + at + 2 <= header <= len(data)
            assert bool(kind) == bool(size)
            assert segments(sound, data)
            passed += 1
        unless_refused(segments, bytes(offload), data)
    assert min(passed, refused) > 2000


@pytest.mark.parametrize("at", range(HEADER_LENGTH))
def test_every_octet_of_the_header_counts(at):
    """Any other value is refused, or is hdr_len's, a segment size, or the ECN bit."""
    sound = virtio(1, TCP4, 40, 1448)
    expected = for_kernel(sound, TCP)
    for value in set(range(256)) - {sound[at]}:
        offload = sound[:at] + bytes((value,)) + sound[at + 1 :]
        result = unless_refused(for_kernel, offload, TCP)
        if at in (2, 3):
            assert result == expected
        elif result is not None:
            assert at in (4, 5) or (at, value) == (1, TCP4 | ECN)


def test_the_slow_sum_is_the_rfcs():
    # RFC 1071, 3: a numerical example
    assert words_sum(bytes.fromhex("0001 f203 f4f5 f6f7")) == 0xDDF2
