"""Raw packets through AGGFRAG streams (RFC 9347): whole, or lost with the envelope they were in."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from esp_peers import MOAT, PORTAL, Ends, Peer, checksum, forge, ipv4, ipv6, padded
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_packets import UDP, Shape, partial, virtio, whole

from moatvpn.esp.child import ChildSa
from moatvpn.esp.reassembly import PATIENCE, WINDOW
from moatvpn.wire import aggfrag
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint

NOW = 50.0
Flight = list[bytes]  # envelopes, one by one


def aggregating(private: bool, unsplit: bool = False, suite: CipherSuite | None = None):
    """Return a moat and a portal whose CHILD_SA aggregates."""
    ends = Ends(suite=suite or CipherSuite.AES_256_GCM)

    def also(child: ChildSa) -> ChildSa:
        return replace(child, aggfrag=True, private_blocks=private, unsplit=unsplit)

    moat, portal = Peer("portal1", PORTAL), Peer("c0001", MOAT)
    moat.esp.install(also(ends.moat), PORTAL, activate_outbound=True)
    portal.esp.install(also(ends.portal), MOAT, activate_outbound=True)
    return moat, portal


def send(peer: Peer, *packets: bytes, offload: bytes = b"", now: float = NOW) -> Flight:
    """Return the envelopes of packets that the TUN device had at one reading."""
    flight = []
    for burst in peer.esp.encapsulate([(memoryview(each), offload) for each in packets], now):
        data = bytes(burst.data)
        assert len(data) <= 65_507
        flight += [data[at : at + burst.size] for at in range(0, len(data), burst.size)]
    return flight


def receive(peer: Peer, *flight: bytes, now: float = NOW, tos: int = 0) -> list[bytes]:
    """Return the raw packets that come out of envelopes that arrive together."""
    arrivals = [(memoryview(each), len(each), peer.other, tos) for each in flight]
    return [
        b"".join(pieces)
        for arrived in peer.esp.decapsulate(arrivals, now)
        for pieces, _ in arrived.packets
    ]


def large(size: int, seed: int = 0) -> bytes:
    return ipv4(random.Random(seed).randbytes(size - 20))


both = pytest.mark.parametrize("private", [False, True])


@both
@pytest.mark.parametrize("suite", list(CipherSuite))
@pytest.mark.parametrize("size", [20, 64, 1200, 1500, 8000, 65_535])
def test_a_packet_of_any_size_crosses_whole(private: bool, suite: CipherSuite, size: int) -> None:
    moat, portal = aggregating(private, suite=suite)
    packet = large(size)
    flight = send(moat, packet)
    assert receive(portal, *flight) == [packet]
    assert max(map(len, flight)) + 28 <= 1280
    assert len({len(each) for each in flight[:-1]}) <= 1
    assert moat.drops == portal.drops == {}


@both
def test_small_packets_share_an_envelope(private: bool) -> None:
    moat, portal = aggregating(private)
    packets = [ipv4(bytes([number]) * 20) for number in range(20)] + [ipv6(b"six")]
    flight = send(moat, *packets)
    assert len(flight) == 1
    assert receive(portal, *flight) == packets


def test_packets_of_two_tos_octets_do_not_share_one() -> None:
    moat, portal = aggregating(True)
    packets = [ipv4(b"a"), ipv4(b"b", tos=0xB8), ipv4(b"c")]
    flight = send(moat, *packets)
    assert len(flight) == 2
    assert receive(portal, *flight) == [packets[0], packets[2], packets[1]]


def test_a_peer_that_takes_no_split_packets_gets_none() -> None:
    moat, portal = aggregating(False, unsplit=True)
    packets = [large(3000, seed) for seed in range(3)]
    flight = send(moat, *packets)
    assert len(flight) == 3
    assert receive(portal, *flight) == packets


@both
@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 4000), min_size=1, max_size=30),
    seed=st.integers(0, 1 << 32),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    swaps=st.integers(0, 8),
    copies=st.integers(0, 4),
)
def test_loss_costs_only_what_was_lost(
    private: bool, sizes: list[int], seed: int, loss: float, swaps: int, copies: int
) -> None:
    moat, portal = aggregating(private)
    lots = random.Random(seed)
    packets = [ipv4(number.to_bytes(2, "big") + lots.randbytes(size))
               for number, size in enumerate(sizes)]  # fmt: skip
    flight = send(moat, *packets)
    room = len(flight[0]) - 16 - 16 - 2 - 4 if len(flight) > 1 else 1 << 20
    lost = {at for at in range(len(flight)) if lots.random() < loss}
    # Which packets have a part in an envelope that is lost: the stream is cut at fixed places.
    spared, at = [], 0
    for packet in packets:
        first, last = at // room, (at + len(packet) - 1) // room
        at += len(packet)
        if not lost.intersection(range(first, last + 1)):
            spared.append(packet)
    arriving = [each for at, each in enumerate(flight) if at not in lost]
    arriving += lots.choices(arriving, k=copies) if arriving else []
    for _ in range(swaps):
        at = lots.randrange(max(1, len(arriving) - 1))
        arriving[at : at + 2] = arriving[at : at + 2][::-1]
    came = receive(portal, *arriving)
    now = NOW
    while any(pair.reassembly.deadline for pair in portal.esp._pairs.values()):
        now += PATIENCE
        came += [b"".join(pieces) for each in portal.esp.late(now) for pieces, _ in each.packets]
    assert came == spared


def test_an_envelope_that_is_too_early_waits_for_the_one_before_it() -> None:
    moat, portal = aggregating(True)
    first, second = (send(moat, ipv4(text))[0] for text in (b"first", b"second"))
    assert receive(portal, second) == []
    assert portal.esp.get_timer() == 0.0  # the path's first probes
    list(portal.esp.due(NOW))
    assert receive(portal, first) == [ipv4(b"first"), ipv4(b"second")]


def test_waiting_ends_after_a_short_time() -> None:
    moat, portal = aggregating(False)
    send(moat, ipv4(b"lost"))
    assert receive(portal, *send(moat, ipv4(b"next"))) == []
    assert portal.esp.get_timer() == NOW + PATIENCE
    assert list(portal.esp.late(NOW + PATIENCE / 2)) == []
    arrived = list(portal.esp.late(NOW + PATIENCE))
    assert [b"".join(pieces) for each in arrived for pieces, _ in each.packets] == [ipv4(b"next")]
    assert portal.esp.get_timer() is None


def test_no_more_than_a_window_waits() -> None:
    moat, portal = aggregating(False)
    send(moat, ipv4(b"lost"))
    flights = [send(moat, ipv4(bytes([number])))[0] for number in range(WINDOW + 3)]
    came = receive(portal, *flights)
    assert came == [ipv4(bytes([number])) for number in range(WINDOW + 3)]


def test_what_comes_after_its_turn_gives_its_whole_packets() -> None:
    moat, portal = aggregating(False)
    late = send(moat, ipv4(b"late"))
    early = [send(moat, ipv4(b"x"))[0] for _ in range(WINDOW + 1)]
    assert len(receive(portal, *early)) == WINDOW + 1
    assert receive(portal, *late) == [ipv4(b"late")]


def test_a_lost_part_is_counted_once() -> None:
    moat, portal = aggregating(False)
    flight = send(moat, large(5000))
    assert receive(portal, *flight[:2], *flight[3:]) == []
    list(portal.esp.late(NOW + 1))
    assert portal.drops == {"esp-incomplete": 1}


def test_the_middle_of_a_block_may_be_interrupted_by_padding() -> None:
    _, portal = aggregating(False)
    child = replace(Ends().portal, aggfrag=True)
    packet = large(1500)
    halves = (
        aggfrag.header(0) + packet[:700],
        aggfrag.header(0) + bytes(40),
        aggfrag.header(800) + packet[700:],
    )
    flight = [
        forge(child, number, padded(half, aggfrag.NEXT_HEADER_AGGFRAG))
        for number, half in enumerate(halves, 1)
    ]
    assert receive(portal, *flight) == [packet]
    assert portal.drops == {}


@pytest.mark.parametrize(
    ("payloads", "drops"),
    [
        pytest.param([b""], {"esp-aggfrag-malformed": 1}, id="empty"),
        pytest.param([b"\1\0\0\0" + ipv4()], {"esp-aggfrag-malformed": 1}, id="sub-type"),
        pytest.param([b"\0\0\0\0" + b"\x70" * 9], {"esp-aggfrag-malformed": 1}, id="type"),
        pytest.param([b"\0\0\0\0" + b"\x45\0\0\0"], {"esp-aggfrag-malformed": 1}, id="length"),
        pytest.param([b"\0\0\0\0" + ipv4(b"x")[:-1], b"\0\0\0\2yz"], {"esp-incomplete": 1},
                     id="too much"),
        pytest.param([b"\0\0\0\0" + ipv4(b"x")[:-1], b"\0\0\0\0" + ipv4()],
                     {"esp-incomplete": 1}, id="not continued"),
        pytest.param([b"\0\0\0\0" + ipv4(source="10.9.9.9")], {"esp-inner-selector": 1},
                     id="selector"),
        pytest.param([b"\0\0\0\0" + b"\x80\0\0\x14" + bytes(6) + ipv4()],
                     {"esp-aggfrag-malformed": 1}, id="super-packet not agreed on"),
        pytest.param([b"\0\0\0\0" + aggfrag.probe(1)], {"esp-aggfrag-malformed": 1},
                     id="probe not agreed on"),
    ],
)  # fmt: skip
def test_hostile_payloads_are_counted(payloads: list[bytes], drops: dict[str, int]) -> None:
    _, portal = aggregating(False)
    child = replace(Ends().portal, aggfrag=True)
    flight = [
        forge(child, number, padded(payload, aggfrag.NEXT_HEADER_AGGFRAG))
        for number, payload in enumerate(payloads, 1)
    ]
    receive(portal, *flight)
    assert portal.drops == drops
    # The stream goes on at the next whole packet.
    data = padded(aggfrag.header(0) + ipv4(b"after"), aggfrag.NEXT_HEADER_AGGFRAG)
    assert receive(portal, forge(child, len(payloads) + 1, data))[-1:] == [ipv4(b"after")]


def test_without_aggregation_no_payload_of_it_is_taken() -> None:
    _, portal = aggregating(False)
    plain = padded(ipv4(), 4)
    assert receive(portal, forge(Ends().portal, 1, plain)) == []
    assert portal.drops == {"esp-bad-next-header": 1}


@given(st.lists(st.binary(max_size=90), min_size=1, max_size=6), st.booleans())
def test_any_payloads_at_all(payloads: list[bytes], private: bool) -> None:
    _, portal = aggregating(private)
    child = replace(Ends().portal, aggfrag=True)
    flight = [
        forge(child, number, padded(payload, aggfrag.NEXT_HEADER_AGGFRAG))
        for number, payload in enumerate(payloads, 1)
    ]
    for packet in receive(portal, *flight):
        assert len(packet) >= 20


def test_a_super_packet_crosses_with_its_virtio_header() -> None:
    moat, portal = aggregating(True)
    tcp = bytes((0x1F, 0x90, 0x00, 0x50)) + bytes(8) + bytes((0x50, 0x10, 1, 0)) + bytes(4)
    packet = ipv4(tcp + random.Random(1).randbytes(30_000), protocol=6)
    offload = bytes((1, 1, 40, 0)) + (1448).to_bytes(2, "little") + bytes((20, 0, 16, 0))
    arrivals = [
        (memoryview(each), len(each), MOAT, 0) for each in send(moat, packet, offload=offload)
    ]
    (arrived,) = portal.esp.decapsulate(arrivals, NOW)
    ((pieces, virtio),) = arrived.packets
    assert b"".join(pieces) == packet
    assert virtio == offload


@pytest.mark.parametrize(("size", "left"), [(0, False), (484, False), (485, True)])
def test_the_checksum_of_a_small_packet_is_not_left_to_the_peer(size: int, left: bool) -> None:
    moat, portal = aggregating(True)
    shape, data = Shape(protocol=UDP), random.Random(1).randbytes(size)
    offload = virtio(header=28, at=6)
    arrivals = [
        (memoryview(each), len(each), MOAT, 0)
        for each in send(moat, partial(shape, data), offload=offload)
    ]
    (arrived,) = portal.esp.decapsulate(arrivals, NOW)
    expected = (partial(shape, data), offload) if left else (whole(shape, data), b"")
    assert [(b"".join(pieces), rest) for pieces, rest in arrived.packets] == [expected]


def test_to_others_a_super_packet_goes_as_its_segments() -> None:
    moat, portal = aggregating(False)
    data = random.Random(1).randbytes(10_000)
    pseudo = bytes((10, 201, 1, 10, 10, 50, 0, 10, 0, 6)) + (20 + len(data)).to_bytes(2, "big")
    unfinished = (~checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    tcp = (
        bytes((0x1F, 0x90, 0x00, 0x50))
        + bytes(8)
        + bytes((0x50, 0x10, 1, 0))
        + unfinished
        + bytes(2)
    )
    offload = bytes((1, 1, 40, 0)) + (1448).to_bytes(2, "little") + bytes((20, 0, 16, 0))
    came = receive(portal, *send(moat, ipv4(tcp + data, protocol=6), offload=offload))
    assert b"".join(packet[40:] for packet in came) == data
    for packet in came:
        assert checksum(packet[:20]) == 0
        pseudo = packet[12:20] + bytes((0, 6)) + (len(packet) - 20).to_bytes(2, "big")
        assert checksum(pseudo + packet[20:] + b"\0" * (len(packet) % 2)) == 0


def test_congestion_on_one_envelope_marks_the_packet() -> None:
    moat, portal = aggregating(False)
    packet = ipv4(bytes(3000), tos=2)
    flight = send(moat, packet)
    for each, tos in zip(flight, (2, 3, 2), strict=True):
        came = receive(portal, each, tos=tos)
    assert came[0][1] == 3
    assert checksum(came[0][:20]) == 0


def measure(moat: Peer, portal: Peer, carried: int, now: float) -> None:
    """Carry the probes of both that are due now, and the answers, up to so many octets outside."""
    for sender, receiver in ((moat, portal), (portal, moat)):
        for burst in sender.esp.due(now):
            assert burst.whole
            if len(burst.data) + 28 <= carried:
                receive(receiver, bytes(burst.data), now=now)


def test_two_of_ours_measure_their_path() -> None:
    moat, portal = aggregating(True)
    carried = 1332  # octets of an outer packet
    for tick in range(300):
        measure(moat, portal, carried, NOW + tick * 0.02)
    flight = send(moat, large(20_000))
    assert carried - 16 < max(map(len, flight)) + 28 <= carried
    assert moat.esp.statistics("portal1").path_mtu == carried


def test_single_packets_show_that_a_path_has_shrunk() -> None:
    """Each fits an envelope of the former size, and would be lost for ever."""
    moat, portal = aggregating(True)
    for tick in range(300):
        measure(moat, portal, 1500, NOW + tick * 0.02)
    assert moat.esp.statistics("portal1").path_mtu == 1500
    came = 0
    for tick in range(300, 600):
        now = NOW + tick * 0.02
        measure(moat, portal, 576, now)
        flight = [each for each in send(moat, large(1000), now=now) if len(each) + 28 <= 576]
        came += len(receive(portal, *flight, now=now))
    assert moat.esp.statistics("portal1").path_mtu == 576
    assert came


def test_a_path_is_known_once_there_is_an_answer() -> None:
    moat, _ = aggregating(True)
    assert list(moat.esp.due(NOW))
    assert moat.esp.statistics("portal1").path_mtu is None


def test_the_path_of_others_is_not_measured() -> None:
    moat, _ = aggregating(False)
    list(moat.esp.due(NOW))
    assert moat.esp.statistics("portal1").path_mtu is None


@pytest.mark.parametrize("change", ["peer", "local", "again", "install"])
def test_a_path_that_leads_elsewhere_is_measured_anew(change: str) -> None:
    moat, portal = aggregating(True)
    receive(portal, *(bytes(burst.data) for burst in moat.esp.due(NOW)))
    receive(moat, *(bytes(burst.data) for burst in portal.esp.due(NOW)))
    list(moat.esp.due(NOW))  # answers to the portal's probes
    assert moat.esp.statistics("portal1").path_mtu == 1500
    elsewhere = Endpoint("192.0.2.99", 4500)
    child = replace(Ends(2).moat, aggfrag=True, private_blocks=True)
    if change == "peer":
        moat.esp.set_peer("portal1", elsewhere, udp=True)
    elif change == "local":
        moat.esp.set_local("portal1", "192.0.2.98")
    else:
        to = PORTAL if change == "again" else elsewhere
        moat.esp.install(child, to, activate_outbound=True)
    probes = list(moat.esp.due(NOW + 1.0))
    known = moat.esp.statistics("portal1").path_mtu
    assert (known, probes) == (1500, []) if change == "again" else known is None and probes
