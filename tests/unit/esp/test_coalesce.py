"""Joining raw packets for the kernel: what is joined comes out again when it is cut."""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from collections.abc import Iterator

import pytest
from offload_packets import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    RST,
    SOURCE,
    SYN,
    TCP,
    TIMESTAMPS,
    UDP,
    URG,
    Shape,
    checksums_are_right,
    header_length,
    octets,
    partial,
    pseudo_header,
    stream,
    virtio,
    whole,
    words_sum,
)

from moatvpn.esp.coalesce import WORTH_JOINING, coalesce
from moatvpn.wire.offload import check, segments

TCP4, TCP6, UDP_L4 = 1, 4, 5
DF = 0x4000


def cut(packet: bytes, offload: bytes) -> Iterator[bytes]:
    """Yield the packets that the kernel would make of what is written to it."""
    if not offload or offload[1] != UDP_L4:
        if offload and int.from_bytes(offload[4:6], "little") >= 8:
            check(offload, packet)  # less is refused of peers
        yield from segments(offload, packet)
        return
    flags, _, end, size, start, at = struct.unpack("<BBHHHH", offload)
    assert (flags, at, end) == (1, 6, start + 8)
    assert partial(shape_of(packet), packet[end:]) == packet
    shape = shape_of(packet)
    for begin in range(end, len(packet), size):
        yield whole(shape, packet[begin : begin + size])
        shape = shape._replace(identification=(shape.identification + 1) % 2**16)


def shape_of(packet: bytes) -> Shape:
    """Return the shape of a UDP datagram from SOURCE or SOURCE6."""
    start = header_length(packet)
    ports = struct.unpack_from("!HH", packet, start)
    if packet[0] >> 4 == 6:
        tos = (packet[0] << 8 | packet[1]) >> 4 & 0xFF
        return Shape(version=6, protocol=UDP, tos=tos, ttl=packet[7], ports=ports)
    identification, fragment, ttl = struct.unpack_from("!HHB", packet, 4)
    return Shape(4, UDP, b"", identification=identification, fragment=fragment,
                 tos=packet[1], ttl=ttl, ports=ports)  # fmt: skip


def written(packets: list[bytes], udp: bool = True) -> list[tuple[bytes, bytes]]:
    views = [memoryview(bytearray(packet)) for packet in packets]
    return [(b"".join(pieces), offload) for pieces, offload in coalesce(views, udp=udp, fewest=2)]


def joined(packets: list[bytes], udp: bool = True) -> list[int]:
    """Return how many packets there are in each one that is written; hold that all come out."""
    groups = [list(cut(packet, offload)) for packet, offload in written(packets, udp)]
    came = [packet for group in groups for packet in group]
    assert sorted(came) == sorted(packets)
    return [len(group) for group in groups]


SHAPES = [
    Shape(),
    Shape(tcp_options=TIMESTAMPS, sequence=0xFFFFFF00, identification=0xFFFF),
    Shape(fragment=0, tos=0xB9, ttl=1),
    Shape(version=6),
    Shape(version=6, tcp_options=bytes((1,)) * 40, tos=2, sequence=0xFFFFFFFF),
    Shape(protocol=UDP),
    Shape(protocol=UDP, fragment=0, identification=0xFFFE),
    Shape(version=6, protocol=UDP, tos=0x2E),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "sizes",
    [(1400, 1400), (1400,) * 40, (1400, 1400, 3), (1, 1, 1), (1399, 1399, 1399, 1398), (7, 7, 6)],
)
def test_what_goes_on_is_joined(shape, sizes):
    packets = stream(shape, *sizes)
    ((packet, offload),) = written(packets)
    kind = UDP_L4 if shape.protocol == UDP else TCP4 if shape.version == 4 else TCP6
    start, at = (20 if shape.version == 4 else 40), (6 if shape.protocol == UDP else 16)
    end = start + (8 if shape.protocol == UDP else 20 + len(shape.tcp_options))
    assert offload == virtio(1, kind, end, sizes[0], start, at)
    assert packet == partial(shape, b"".join(part[end:] for part in packets))
    assert list(cut(packet, offload)) == packets


def test_the_header_of_what_is_joined_has_a_right_checksum():
    ((packet, _),) = written(stream(Shape(), 1400, 1400))
    (only,) = segments(virtio(), packet)
    assert checksums_are_right(only)


def test_a_push_ends_what_is_joined():
    first = stream(Shape(), 1000, 1000, 1000, last=ACK | PSH)
    then = stream(Shape(sequence=4000, identification=4), 1000, 1000)
    assert joined(first + then) == [3, 2]


def test_a_shorter_one_is_the_last_and_a_longer_one_the_first():
    assert joined(stream(Shape(), 1000, 1000, 999, 1000, 1000)) == [3, 2]
    assert joined(stream(Shape(), 999, 1000, 1000)) == [1, 2]
    assert joined(stream(Shape(protocol=UDP), 64, 64, 10, 10, 64)) == [3, 1, 1]


def test_65535_octets_are_the_most():
    assert joined(stream(Shape(), *(1000,) * 100)) == [65, 35]
    assert joined(stream(Shape(version=6), *(1000,) * 100)) == [65, 35]
    fill = 65535 - 40 - 40_000
    assert joined(stream(Shape(), 40_000, fill)) == [2]
    assert joined(stream(Shape(), 40_000, fill + 1)) == [1, 1]


def test_one_packet_alone_is_handed_on_as_it_is():
    view = memoryview(whole(Shape(), b"abc"))
    (((piece,), offload),) = coalesce([view], udp=True)
    assert piece is view
    assert offload == b""
    assert coalesce([], udp=True) == []


@pytest.mark.parametrize("number", [1, 2, WORTH_JOINING - 1, WORTH_JOINING])
def test_a_few_packets_are_not_worth_it(number):
    packets = stream(Shape(), *(1400,) * number)
    others = [whole(Shape(ports=(1, port)), b"abc") for port in range(WORTH_JOINING)]
    joined = len(coalesce(packets, udp=True)) == 1 < number
    assert joined == (number == WORTH_JOINING)
    beside = 1 if joined else number
    assert len(coalesce(packets + others, udp=True)) == beside + len(others)


SECOND = Shape(sequence=1500, identification=2)


@pytest.mark.parametrize(
    "other",
    [
        {"sequence": 1501},
        {"sequence": 1499},
        {"acknowledged": 78},
        {"window": 501},
        {"tcp_options": TIMESTAMPS},
        {"tos": 3},
        {"ttl": 63},
        {"identification": 3},
        {"identification": 0},
        {"fragment": 0},
        {"options": bytes(4)},
        {"ports": (49153, 444)},
        {"ports": (49152, 443)},
        {"protocol": UDP},
        *({"flags": ACK | flag} for flag in (FIN, SYN, RST, URG, ECE, CWR)),
        {"flags": 0},
    ],
)
def test_tcp_that_differs_is_not_joined(other):
    first, second = whole(Shape(), octets(500)), whole(SECOND._replace(**other), octets(500, 2))
    assert joined([first, second]) == [1, 1]
    # Nor are such packets among themselves, if it is by the flag.
    if "flags" in other:
        shape = Shape(**other)
        assert joined(stream(shape, 500, 500)) == [1, 1]


@pytest.mark.parametrize(
    "other", [{"acknowledged": 78}, {"window": 501}, {"tcp_options": TIMESTAMPS}, {"ttl": 63}]
)
def test_tcp_that_differs_begins_anew(other):
    then = Shape(sequence=2000, identification=3)._replace(**other)
    assert joined(stream(Shape(), 500, 500) + stream(then, 500, 500)) == [2, 2]


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("fragment", [0x2000, 0x6000, 0x2001, 0x0001, 0x8000])
def test_fragments_are_not_joined(protocol, fragment):
    shape = Shape(protocol=protocol, fragment=fragment)
    assert joined(stream(shape, 500, 500)) == [1, 1]


# Two octets more, which would not even show in the sums, nor in the sequence numbers
@pytest.mark.parametrize(("version", "more"), [(4, b"\xff\xfd"), (6, b"\0\0")])
def test_packets_with_octets_after_their_end_are_not_joined(version, more):
    shape = Shape(version=version)
    then = shape._replace(sequence=1502, identification=2)
    assert joined([whole(part, octets(500)) + more for part in (shape, then)]) == [1, 1]


@pytest.mark.parametrize("other", [{"tos": 1}, {"ttl": 9}, {"ports": (49153, 9)}])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_ipv6_that_differs_is_not_joined(protocol, other):
    shape = Shape(version=6, protocol=protocol)
    then = shape._replace(sequence=1500, **other)
    assert joined([whole(shape, octets(500)), whole(then, octets(500))]) == [1, 1]


def test_tcp_with_flags_of_later_rfcs_is_not_joined():
    packets = stream(Shape(), 500, 500)
    accurate = [packet[:32] + bytes((packet[32] | 1,)) + packet[33:] for packet in packets]
    assert joined(accurate) == [1, 1]  # RFC 9768's AE


def test_another_flow_label_is_not_joined():
    one, two = stream(Shape(version=6), 500, 500)
    assert joined([one, two[:3] + b"\x46" + two[4:]]) == [1, 1]


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_identifications_may_stand_still_where_nothing_may_be_fragmented(protocol):
    shape = Shape(protocol=protocol, identification=0)
    packets = [whole(shape._replace(sequence=1000 + 500 * n), octets(500, n)) for n in range(3)]
    ((packet, offload),) = written(packets)
    again = list(cut(packet, offload))
    assert [part[20:] for part in again] == [part[20:] for part in packets]
    # Once they have stood still, they must go on so.
    odd = whole(shape._replace(sequence=2500, identification=1), octets(500))
    assert [offload == b"" for _, offload in written([*packets, odd])] == [False, True]
    fragmentable = [
        whole(shape._replace(sequence=1000 + 500 * n, fragment=0), octets(500)) for n in range(3)
    ]
    assert joined(fragmentable) == [1, 1, 1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [500, 501])
def test_what_is_corrupted_gets_no_checksum_that_is_right(shape, size):
    packets = stream(shape, size, size, size)
    header = len(packets[0]) - size
    start = 40 if shape.version == 6 else 20
    in_header = {10} if shape.version == 4 else set()  # IPv4's checksum
    transport = {start + (6 if shape.protocol == UDP else 16)}
    for number in range(3):
        for at in in_header | transport | {header, header + 1, header + size - 1}:
            broken = bytearray(packets[number])
            broken[at] ^= 0x10
            packets_now = [*packets[:number], bytes(broken), *packets[number + 1 :]]
            groups = written(packets_now)
            assert (bytes(broken), b"") in groups
            assert [part for group in groups for part in cut(*group)] == packets_now


def test_ipv4_checksums_that_are_wrong_alike_are_not_made_right():
    packets = stream(Shape(), 500, 500, 500)
    late = [packet[:8] + bytes((packet[8] - 1,)) + packet[9:] for packet in packets]  # TTL
    assert joined(late) == [1, 1, 1]


def test_udp_without_a_checksum_stays_as_it_is():
    shape = Shape(protocol=UDP)
    draft = whole(shape, bytes(2))
    one = whole(shape, draft[26:28])
    assert one[26:28] == b"\xff\xff"
    two = whole(shape._replace(identification=2), draft[26:28])
    assert joined([one, two]) == [2]
    # No checksum is a fact of its own, though its zero would verify.
    assert joined([packet[:26] + bytes(2) + packet[28:] for packet in (one, two)]) == [1, 1]


@pytest.mark.parametrize("stated", [8, 507, 509, 0])
def test_udp_that_states_another_length_stays_as_it_is(stated):
    wrong = []
    for packet in stream(Shape(protocol=UDP), 500, 500):
        checksum = (int.from_bytes(packet[26:28], "big") + 508 - stated) % 0xFFFF
        wrong.append(packet[:24] + struct.pack("!HH", stated, checksum) + packet[28:])
    assert joined(wrong) == [1, 1]


def test_a_pseudo_headers_sum_is_never_none():
    shape = Shape(protocol=UDP)
    draft = whole(shape, b"")
    missing = 0xFFFF - words_sum(pseudo_header(draft, 20, UDP)) + len(draft) - 20 - 8
    ((packet, _),) = written(stream(shape, 30_000, missing - 30_000))
    assert packet[26:28] == b"\xff\xff"


def test_a_kernel_that_cannot_cut_udp_gets_none():
    packets = stream(Shape(protocol=UDP), 500, 500) + stream(Shape(), 500, 500)
    assert joined(packets, udp=False) == [1, 1, 2]


def test_flows_that_are_interleaved_are_joined_each():
    flows = [stream(Shape(ports=(port, 443)), *(1000,) * 5) for port in range(4)]
    packets = [packet for row in zip(*flows, strict=True) for packet in row]
    assert joined(packets) == [5] * 4


@pytest.mark.parametrize(
    ("between", "groups"),
    [
        (whole(Shape(), b""), [1, 1, 1]),  # an acknowledgement of the same flow
        (whole(Shape(protocol=UDP), b""), [1, 1, 1]),
        (whole(Shape(ports=(1, 2)), b""), [2, 1]),
        (whole(Shape(protocol=1), b"ping"), [2, 1]),
        (whole(Shape(ports=(1, 2), options=bytes(4)), b"abc"), [1, 1, 1]),
        (whole(Shape(fragment=0x2000), b"abc"), [1, 1, 1]),
        (whole(Shape(fragment=0x0001, ports=(1, 2)), b"abc"), [1, 1, 1]),
        (whole(Shape(version=6, first_header=44, options=bytes(8)), b"abc"), [1, 1, 1]),
    ],
)
def test_nothing_is_overtaken_in_its_own_flow(between, groups):
    one, two = stream(Shape(), 500, 500)
    assert joined([one, between, two]) == groups
    if groups == [1, 1, 1]:
        assert [packet for packet, _ in written([one, between, two])] == [one, between, two]


def flow_of(packet: bytes) -> bytes:
    start = header_length(packet)
    return packet[start - (8 if start == 20 else 32) : start + 4]


def by_flow(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    flows: dict[bytes, list[bytes]] = defaultdict(list)
    for packet in packets:
        if len(packet) >= 44:
            flows[flow_of(packet)].append(packet)
    return flows


def test_random_traffic_keeps_its_order_in_every_flow():
    draw = random.Random(11)
    super_packets = 0
    for _ in range(150):
        flows = [draw.choice(SHAPES)._replace(ports=(port, 443), window=9) for port in range(1, 4)]
        packets = []
        for _ in range(draw.randrange(2, 64)):
            at = draw.randrange(len(flows))
            shape = flows[at]
            size = draw.choice((100, 100, 100, 101, 50, 0))
            flags = draw.choice((ACK,) * 12 + (ACK | PSH, ACK | FIN, SYN))
            packet = bytearray(whole(shape._replace(flags=flags), draw.randbytes(size)))
            if draw.random() < 0.03:
                packet[draw.randrange(len(packet))] ^= 1 << draw.randrange(8)
            if draw.random() < 0.03:
                del packet[draw.randrange(len(packet)) :]
            packets.append(bytes(packet))
            step = draw.choice((1,) * 9 + (2,))
            flows[at] = shape._replace(
                sequence=(shape.sequence + size * step) % 2**32,
                identification=(shape.identification + step) % 2**16,
            )
        groups = written(packets)
        super_packets += sum(offload != b"" for _, offload in groups)
        came = [part for group in groups for part in cut(*group)]
        assert sorted(came) == sorted(packets)
        assert by_flow(came) == by_flow(packets)
    assert super_packets > 300


def test_hostile_octets_raise_nothing():
    draw = random.Random(12)
    for _ in range(5000):
        packets = stream(draw.choice(SHAPES), *(draw.randrange(1, 50),) * 3)
        for number, packet in enumerate(packets):
            broken = bytearray(packet)
            for _ in range(draw.randrange(3)):
                broken[draw.randrange(len(broken))] = draw.randrange(256)
            if draw.random() < 0.2:
                del broken[draw.randrange(len(broken)) :]
            packets[number] = bytes(broken)
        came = [part for group in written(packets) for part in cut(*group)]
        assert sorted(map(len, came)) == sorted(map(len, packets))


def test_the_flows_of_the_shapes_are_ours():
    assert SOURCE in flow_of(whole(Shape(), b"abc"))
