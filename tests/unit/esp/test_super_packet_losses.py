"""A lost envelope costs a super-packet the segments in it, each of which is a raw packet."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from esp_peers import MOAT, PORTAL, Ends, Peer, ipv4
from hypothesis import given
from hypothesis import strategies as st
from offload_packets import TCP, UDP, Shape, checksums_are_right, partial, virtio

from moatvpn.esp.reassembly import PATIENCE
from moatvpn.wire import aggfrag, offload

NOW = 50.0
GSO_TCPV4, PSH_ACK = 1, 0x18
HEADERS = 40  # of IPv4 and TCP


def aggregating() -> tuple[Peer, Peer]:
    ends = Ends()
    moat, portal = Peer("portal1", PORTAL), Peer("c0001", MOAT)
    for peer, child, other in ((moat, ends.moat, PORTAL), (portal, ends.portal, MOAT)):
        both = replace(child, aggfrag=True, private_blocks=True)
        peer.esp.install(both, other, activate_outbound=True)
    return moat, portal


def send(peer: Peer, *raws: tuple[bytes, bytes]) -> list[bytes]:
    """Return the envelopes of raw packets with their virtio headers, read together."""
    flight = []
    for burst in peer.esp.encapsulate([(memoryview(raw), head) for raw, head in raws], NOW):
        data = bytes(burst.data)
        flight += [data[at : at + burst.size] for at in range(0, len(data), burst.size)]
    return flight


def receive(peer: Peer, *flight: bytes) -> list[bytes]:
    """Return the packets that come out at once, and once waiting has ended."""
    arrivals = [(memoryview(each), len(each), MOAT, 0) for each in flight]
    arrived = list(peer.esp.decapsulate(arrivals, NOW))
    for gap in range(1, len(flight) + 1):
        arrived += peer.esp.late(NOW + gap * PATIENCE)
    packets = [(b"".join(pieces), head) for each in arrived for pieces, head in each.packets]
    return [segment for packet, head in packets for segment in offload.segments(head, packet)]


@given(
    payload=st.integers(3000, 65_000),
    size=st.sampled_from([536, 1448, 8000]),
    before=st.integers(0, 3000),
    chance=st.sampled_from([0.0, 0.03, 0.2]),
    seed=st.integers(0, 1 << 32),
)
def test_what_was_not_in_a_lost_envelope_arrives(
    payload: int, size: int, before: int, chance: float, seed: int
) -> None:
    moat, portal = aggregating()
    lots = random.Random(seed)
    shape = Shape(protocol=TCP, flags=PSH_ACK)
    packet = partial(shape, lots.randbytes(payload))
    head = virtio(kind=GSO_TCPV4, size=size)
    first = ipv4(lots.randbytes(before))
    flight = send(moat, (first, b""), (packet, head))
    room = len(flight[0]) - 16 - 16 - 2 - aggfrag.HEADER_LENGTH
    lost = {at for at in range(len(flight)) if lots.random() < chance}

    def spared(start: int, length: int) -> bool:
        return lost.isdisjoint(range(start // room, (start + length - 1) // room + 1))

    begin = len(first)
    data = begin + aggfrag.SUPER_HEADER_LENGTH + HEADERS
    expected = [first] if spared(0, begin) else []
    if spared(begin, data - begin):
        expected += [
            segment
            for number, segment in enumerate(offload.segments(head, packet))
            if spared(data + number * size, len(segment) - HEADERS)
        ]
    last = ipv4(b"last")
    arriving = [each for at, each in enumerate(flight) if at not in lost]
    came = receive(portal, *arriving, *send(moat, (last, b"")))
    assert came == [*expected, last]
    assert all(checksums_are_right(each) for each in came[bool(spared(0, begin)) : -1])


@pytest.mark.parametrize(
    ("shape", "head"),
    [
        (Shape(protocol=UDP), virtio(at=6)),  # one datagram is lost with a part of it
        (Shape(), virtio(kind=GSO_TCPV4, size=8)),  # too many segments to be worth the work
        (Shape(), virtio(kind=GSO_TCPV4, size=7)),  # what a kernel of ours would not have made
    ],
)
def test_what_is_not_cut_is_lost_as_a_whole(shape: Shape, head: bytes) -> None:
    packet = partial(shape, bytes(5000))
    lost = [(3000, 4000)]
    try:
        assert offload.spared(head, packet, lost) == []
    except offload.PeerError:
        assert head[4:6] == b"\7\0"


def test_a_block_that_is_not_the_same_is_not_gone_on_with() -> None:
    """The end of one super-packet and the beginning of another are lost."""
    moat, portal = aggregating()
    head = virtio(kind=GSO_TCPV4, size=1448)
    packets = [partial(Shape(identification=n * 100), bytes([n]) * 20_000) for n in (1, 2)]
    flights = [send(moat, (packet, head)) for packet in packets]
    came = receive(portal, *flights[0][:5], *flights[1][3:], *send(moat, (ipv4(b"last"), b"")))
    whole = offload.segments(head, packets[0])
    assert came[:-1] == whole[: len(came) - 1]
    assert len(came) > 2
