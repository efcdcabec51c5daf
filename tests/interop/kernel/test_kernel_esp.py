"""Our ESP engine against the Linux kernel's: each suite, raw and in UDP, ESN on and off.

ours                                    the kernel
ESP(echo request)             -->       answers it
                              <--       ESP(echo reply)
                              <--       ESP(echo request), of its own ping
ESP(echo reply)               -->
"""

from __future__ import annotations

import pytest
from boxes import wait_for
from kernel_peer import CORP, CORP6, OURS, PC, PC6, THEIRS, KernelPeer, Ours, answer_to, echo
from single import RawPacket

from moatvpn.counters import DropReason
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import NAT_PORT, Endpoint

WAYS = [pytest.param(False, id="raw"), pytest.param(True, id="udp")]
SIZES = (0, 1, 2, 3, 64, 1300)
# For what does not depend on the algorithm.
TWO = [CipherSuite.AES_256_GCM, CipherSuite.AES_256_CBC_SHA2_512]
SEQUENCES = [pytest.param(False, id="32 bits"), pytest.param(True, id="esn")]


@pytest.fixture(params=CipherSuite, ids=lambda suite: suite.value)
def suite(request: pytest.FixtureRequest) -> CipherSuite:
    suite: CipherSuite = request.param
    return suite


@pytest.fixture(params=WAYS)
def udp(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=SEQUENCES)
def ours(request: pytest.FixtureRequest, kernel: KernelPeer, suite: CipherSuite, udp: bool) -> Ours:
    """Our end of a fresh pair of SAs."""
    kernel.arrivals()
    return kernel.pair(suite, esn=bool(request.param), udp=udp)


def send(kernel: KernelPeer, ours: Ours, packet: bytes) -> bytes:
    """Send a raw packet through the tunnel; return its envelope."""
    envelope = ours.esp.envelope(packet)
    assert envelope is not None, ours.counters.snapshot()
    kernel.send(envelope.data, udp=envelope.udp, tos=envelope.tos)
    return envelope.data


def receive(kernel: KernelPeer, ours: Ours) -> list[RawPacket]:
    """Return the raw packets that the kernel has sent through the tunnel by now."""
    arrivals = kernel.arrivals()
    way = NAT_PORT if ours.child.udp else 0
    assert {arrival.source for arrival in arrivals} <= {Endpoint(THEIRS, way)}
    packets = [ours.esp.raw_packet(a.data, a.source, a.tos) for a in arrivals]
    assert ours.counters.snapshot() == {}
    assert None not in packets
    return [packet for packet in packets if packet is not None]


def asked(kernel: KernelPeer, ours: Ours, request: bytes) -> bytes:
    """Return the kernel's answer to an echo request of ours."""
    send(kernel, ours, request)
    (reply,) = wait_for(lambda: receive(kernel, ours), "the echo reply", 10)
    return reply.data


def test_traffic_both_ways(kernel: KernelPeer, ours: Ours) -> None:
    number = 0
    for source, target in ((PC, CORP), (PC6, CORP6)):
        for size in SIZES:
            number += 1
            data = bytes(at % 256 for at in range(size))
            reply = asked(kernel, ours, echo(source, target, number, data))
            assert reply.endswith(echo(target, source, number, data, reply=True)[-8 - size :])
    for program, address in (("ping", PC), ("ping6", PC6)):
        answered = []

        def answer(answered: list[bytes] = answered) -> None:
            for packet in receive(kernel, ours):
                answered.append(packet.data)
                send(kernel, ours, answer_to(packet.data))

        kernel.say(f"{program} -c 1 -s 300 -W 5 {address}")
        status, output = kernel.outcome(30, meanwhile=answer)
        assert status == 0, output
        assert len(answered) == 1
    counts = kernel.counts(ours.child.spi_out)
    assert (counts["replay"], counts["failed"]) == (0, 0)


def test_replays_and_forgeries_are_refused_by_both(kernel: KernelPeer, ours: Ours) -> None:
    envelope = send(kernel, ours, echo(PC, CORP, 1, b"once"))
    (arrival,) = wait_for(kernel.arrivals, "the echo reply", 10)
    # Ours.
    assert ours.esp.raw_packet(arrival.data, arrival.source, arrival.tos) is not None
    assert ours.esp.raw_packet(arrival.data, arrival.source, arrival.tos) is None
    assert ours.counters.snapshot() == {"esp-replayed": 1}
    forged = arrival.data[:7] + b"\7" + arrival.data[8:]
    assert ours.esp.raw_packet(forged, arrival.source, arrival.tos) is None
    assert ours.counters.value(DropReason.ESP_NOT_AUTHENTIC) == 1
    # The kernel's.
    udp = ours.child.udp
    kernel.send(envelope, udp=udp)
    kernel.send(envelope[:-1] + bytes((envelope[-1] ^ 1,)), udp=udp)  # seen, so a replay, too
    kernel.send(envelope[:7] + b"\7" + envelope[8:], udp=udp)
    # What comes after them is answered, and they were not.
    send(kernel, ours, echo(PC, CORP, 2, b"twice"))
    (later,) = wait_for(kernel.arrivals, "the echo reply", 10)
    raw = ours.esp.raw_packet(later.data, later.source, later.tos)
    assert raw is not None
    assert raw.data.endswith(b"twice")
    counts = kernel.counts(ours.child.spi_out)
    assert (counts["replay"], counts["failed"]) == (2, 1)


@pytest.mark.parametrize("suite", TWO, ids=lambda suite: suite.value)
def test_late_packets_within_the_window_arrive(kernel: KernelPeer, ours: Ours) -> None:
    late = [ours.esp.envelope(echo(PC, CORP, number, b"late")) for number in range(3)]
    asked(kernel, ours, echo(PC, CORP, 3, b"early"))
    for envelope in reversed(late):
        assert envelope is not None
        kernel.send(envelope.data, udp=envelope.udp)
    found: list[RawPacket] = []
    wait_for(lambda: found.extend(receive(kernel, ours)) or len(found) == 3, "three replies", 10)


def test_extended_numbers_go_beyond_32_bits(
    kernel: KernelPeer, suite: CipherSuite, udp: bool
) -> None:
    ours = kernel.pair(suite, esn=True, udp=udp)
    child = ours.child
    # The kernel goes on where an old pair of SAs would have been: just before the low half ends.
    spis, keys = (child.spi_in, child.spi_out), (child.key_in, child.key_out)
    ends = ((THEIRS, OURS), (OURS, THEIRS))
    places = ("replay-oseq 0xfffffffd", "replay-seq 0xfffffffd")
    for (source, target), spi, key, place in zip(ends, spis, keys, places, strict=True):
        kernel.run(f"/bin/ip xfrm state delete src {source} dst {target} proto esp spi {spi:#x}")
        kernel.run(kernel.state(source, target, spi, key, child, place))
    # Nobody but a test may move it.
    ours.esp._pairs[child.spi_in].outbound._sequence = 0xFFFFFFFD
    for number in range(5):
        reply = asked(kernel, ours, echo(PC, CORP, number, b"on and on"))
        assert reply.endswith(b"on and on")
    assert ours.esp.statistics("kernel").sequence == 0x100000002


@pytest.mark.parametrize("suite", TWO, ids=lambda suite: suite.value)
def test_congestion_is_told_both_ways(kernel: KernelPeer, ours: Ours) -> None:
    """RFC 6040: the mark of the wire arrives on the packet, and goes out on the envelope."""
    ect, ce = 0b10, 0b11
    request = bytearray(echo(PC, CORP, 1, b"ect"))
    request[1] = ect
    request[10:12] = (int.from_bytes(request[10:12], "big") - ect).to_bytes(2, "big")
    envelope = ours.esp.envelope(bytes(request))
    assert envelope is not None
    assert envelope.tos == ect
    kernel.send(envelope.data, udp=envelope.udp, tos=ce)
    # An echo reply has the TOS octet of its request, the mark included.
    (arrival,) = wait_for(kernel.arrivals, "the echo reply", 10)
    raw = ours.esp.raw_packet(arrival.data, arrival.source, arrival.tos)
    assert raw is not None
    assert raw.data[1] & 0b11 == ce
