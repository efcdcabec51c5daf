"""Envelopes at a constant rate and of one size, with traffic or without (tfc "constant")."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
from esp_peers import Ends, ipv4, ipv6
from hidden import Path, per_second

from moatvpn.esp.stream import LEAST_QUEUE, PATIENCE, QUEUE_SECONDS, TICK
from moatvpn.esp.tfc import Tfc, TfcMode
from moatvpn.wire.algorithms import CipherSuite

OCTETS = 1200
SETTLED = 5.0  # seconds after which the path is measured, and ...
PROBES = 60  # ... the envelopes that it takes for that at least


def settled(rate: int = 100, octets: int = OCTETS, carries: int = 1500, **more: object) -> Path:
    path = Path(Tfc(TfcMode.CONSTANT, octets, rate), **more)  # type: ignore[arg-type]
    path.carries = carries
    path.run(max(SETTLED, PROBES / rate))
    path.watch()
    return path


def packet(number: int, size: int = 100) -> bytes:
    return ipv4(number.to_bytes(4, "big").ljust(size, b"\x5a"))


@pytest.mark.parametrize(
    ("rate", "suite"),
    [
        *((100, suite) for suite in CipherSuite),
        *((rate, CipherSuite.AES_256_GCM) for rate in (3, 251, 5000)),
    ],
)
def test_the_rate_is_exact_with_nothing_to_carry(rate: int, suite: CipherSuite) -> None:
    path = settled(rate, suite=suite)
    start = path.now
    path.run(10.0)
    assert abs(len(path.seen) - 10 * rate) <= max(1, rate * TICK)
    assert all(abs(n - rate) <= max(1, rate * TICK) for n in per_second(path.seen, start, 10))
    assert len(path.sizes) == 1
    assert path.came == []
    assert path.portal.drops == path.moat.drops == {}


@pytest.mark.parametrize("rate", [20, 100, 2000])
@pytest.mark.parametrize("private", [False, True])
def test_traffic_changes_nothing_that_shows(private: bool, rate: int) -> None:
    busy = settled(rate, private_blocks=private)
    idle = settled(rate, private_blocks=private)
    lots = random.Random(1)
    sizes = (4, 80, 700, 1400, 6000 if rate > 20 else 1900)
    sent = []
    for number in range(500):
        sent.append(packet(number, lots.choice(sizes) if number % 9 else 40))
        busy.send(sent[-1])
        busy.run(2 * len(sent[-1]) / (rate * 1000))  # half of what the rate takes
        idle.run(2 * len(sent[-1]) / (rate * 1000))
    assert busy.came[: len(sent) - 3] == sent[: len(sent) - 3]
    assert {each._replace(when=0.0, spi=0) for each in busy.seen} == {
        each._replace(when=0.0, spi=0) for each in idle.seen
    }
    assert len(busy.sizes) == 1
    assert {each.tos for each in busy.seen} == {0}
    times = [round(each.when, 3) for each in busy.seen]
    assert times == [round(each.when, 3) for each in idle.seen]
    assert busy.moat.drops == busy.portal.drops == {}


def test_the_order_is_kept_whatever_the_tos_octet_and_the_version() -> None:
    path = settled()
    sent = [packet(0), ipv4(b"marked", tos=0xB9), ipv6(b"six", tos=3), packet(1), ipv6(b"6")]
    path.send(*sent)
    path.run(0.1)
    assert path.came == sent
    assert {each.tos for each in path.seen} == {0}


@pytest.mark.parametrize("size", [1500, 20_000, 65_515])
def test_a_packet_of_any_size_crosses(size: int) -> None:
    path = settled()
    path.send(packet(1, size))
    path.run(1.0)
    assert path.came == [packet(1, size)]
    assert path.sizes == {OCTETS}


@pytest.mark.parametrize("rate", [1, 10, 100, 1000])
def test_what_waits_is_bounded(rate: int) -> None:
    path = settled(rate)
    sent = [packet(number, 1000) for number in range(3000)]
    path.send(*sent)
    most = max(LEAST_QUEUE, rate * QUEUE_SECONDS)
    path.run(2 * most / rate + 1 / rate + PATIENCE)
    taken = len(path.came)
    assert path.came == sent[:taken]
    assert most * 0.9 <= taken <= most * OCTETS / 1000
    assert path.moat.drops == {"out-queue-full": len(sent) - taken}
    path.watch()
    path.send(packet(7))  # there is room again
    path.run(2.0 / rate + 0.01)
    assert path.came == [packet(7)]


def test_a_super_packet_is_cut_up_so_that_a_part_of_it_may_wait() -> None:
    path = settled(100, private_blocks=True)
    tcp = bytes((0x1F, 0x90, 0x00, 0x50)) + bytes(8) + bytes((0x50, 0x10, 1, 0)) + bytes(4)
    offload = bytes((1, 1, 40, 0)) + (1000).to_bytes(2, "little") + bytes((20, 0, 16, 0))
    path.send(packet(1), ipv4(tcp + bytes(30_000), protocol=6), offload=b"")
    path.watch()
    path.run(1.0)
    path.watch()
    path.send(ipv4(tcp + bytes(30_000), protocol=6), offload=offload)
    path.run(1.0)
    assert 8 <= len(path.came) <= 12
    assert {len(each) for each in path.came} == {1040}


def test_what_has_waited_too_long_is_dropped() -> None:
    """The loop may have stood still, as on a machine that slept."""
    path = settled()
    path.send(packet(1))
    path.now += PATIENCE + 0.5
    path.send(packet(2))
    path.run(0.1)
    assert path.came == [packet(2)]
    assert path.moat.drops == {"out-queue-full": 1}
    assert len(path.seen) <= 100 * 0.2 + 2  # nor is the time made up for


@pytest.mark.parametrize("step", [0.0, 0.003, 0.012, 0.05])
def test_a_rekey_in_the_middle_loses_nothing(step: float) -> None:
    path = settled()
    start = path.now
    sent = [packet(number, 1500) for number in range(6)]
    path.send(*sent)
    path.run(0.02)
    path.install(2)
    path.run(step)
    path.moat.esp.remove(Ends(1).moat.spi_in)
    path.portal.esp.remove(Ends(1).portal.spi_in)
    path.run(1.0)
    assert path.came == sent
    assert {each.spi for each in path.seen} == {Ends(1).moat.spi_out, Ends(2).moat.spi_out}
    assert path.sizes == {OCTETS}
    gaps = [b.when - a.when for a, b in zip(path.seen, path.seen[1:], strict=False)]
    assert max(gaps) < 0.013
    assert abs(len(path.seen) - (path.now - start) * 100) <= 1
    assert path.moat.drops == path.portal.drops == {}


def test_it_ends_with_its_last_sa_and_begins_again_with_the_next() -> None:
    path = settled(10)
    path.send(packet(1, 4000), packet(2))
    path.run(0.1)
    path.moat.esp.remove(Ends(1).moat.spi_in)
    assert path.moat.drops == {"out-no-sa": 2}
    path.watch()
    path.run(1.0)
    assert path.seen == []
    assert path.moat.esp.get_timer() is None or path.moat.esp.get_timer() > path.now
    path.install(3)
    path.run(1.0)
    path.send(packet(3))
    path.run(0.3)
    assert path.came == [packet(3)]
    path.moat.esp.remove_connection("portal1")
    path.watch()
    path.run(1.0)
    assert path.seen == []


def test_nothing_of_it_waits_in_a_cycle() -> None:
    path = settled()
    gc.collect()
    gc.disable()
    try:
        (connection,) = path.moat.esp._connections.values()
        leader = connection.leader()
        assert leader is not None
        assert leader.stream is not None
        gone = weakref.ref(leader.stream)
        del connection, leader
        path.moat.esp.remove_connection("portal1")
        path.run(1.0)
        assert gone() is None
    finally:
        gc.enable()


def test_the_size_follows_the_path() -> None:
    path = settled(octets=0)
    assert path.sizes == set()
    path.run(1.0)
    assert path.sizes == {1500}
    path.carries = 1280
    for number in range(40):
        path.send(packet(number, 300))
        path.run(0.1)
    path.watch()
    path.run(1.0)
    assert path.sizes == {1280}
    assert abs(len(path.seen) - 100) <= 1
    path.send(packet(9999, 8000))
    path.run(1.0)
    assert path.came == [packet(9999, 8000)]


def test_probes_take_the_place_of_envelopes() -> None:
    path = Path(Tfc(TfcMode.CONSTANT, 0, 50))
    start = path.now
    path.run(10.0)
    assert len(path.sizes) > 5  # it has been measured
    assert per_second(path.seen, start, 10) == pytest.approx([50] * 10, abs=1)
    path.watch()
    path.run(30.0)  # and is confirmed once a second
    assert path.sizes == {1500}
    assert abs(len(path.seen) - 1500) <= 1


@pytest.mark.parametrize("size", [40, 1400])
def test_probing_leaves_every_other_envelope_to_the_packets(size: int) -> None:
    """At a low rate a round of probes takes longer than the search waits for answers."""
    path = Path(Tfc(TfcMode.CONSTANT, 0, 2))
    sent = [packet(number, size) for number in range(60)]
    for each in sent:
        path.send(each)
        path.run(4.0)
    path.run(2.0)
    assert path.came == sent


def test_probes_amid_a_packet_leave_it_whole() -> None:
    path = settled(octets=0)
    for number in range(20):
        path.send(packet(number, 20_000))
        path.run(0.05)
        path.moat.esp.set_peer("portal1", path.moat.other, udp=True)  # measures anew
        path.run(1.0)
    assert path.came == [packet(number, 20_000) for number in range(20)]
    assert path.portal.drops == {}


def test_probes_of_the_peer_are_answered_in_what_leaves_anyway() -> None:
    path = settled()
    path.portal.esp.set_peer("c0001", path.portal.other, udp=True)
    path.run(2.0)
    assert path.sizes == {OCTETS}
    assert abs(len(path.seen) - 200) <= 1
    assert path.portal.esp.statistics("c0001").path_mtu == 1500


def test_no_packet_delays_what_measures_the_path() -> None:
    """Else a probe would seem lost, and those that follow would tell of the packet."""
    path = settled(20, octets=1500, back=Tfc(TfcMode.CONSTANT, 1500, 20))
    path.send(packet(1, 65_515))
    path.run(5.0)
    assert path.came == [packet(1, 65_515)]
    assert path.sizes == {1500}


def test_each_line_has_a_rate_of_its_own() -> None:
    """Which of several CHILD_SAs has something to carry does not show either."""
    path = settled(50)
    path.install(2, line=1)
    path.run(1.0)
    path.watch()
    path.send(packet(1))
    path.run(2.0)
    assert path.came == [packet(1)]
    by_spi = [sum(each.spi == spi for each in path.seen) for spi in path.spis]
    assert by_spi == pytest.approx([100, 100], abs=1)


def test_ike_is_told_that_envelopes_leave() -> None:
    path = settled()
    path.moat.esp.told()
    path.run(1.0)
    assert path.moat.esp.told()
    assert path.moat.esp.told() == []


def test_both_ways_at_once() -> None:
    tfc = Tfc(TfcMode.CONSTANT, OCTETS, 100)
    path = settled(back=tfc)
    sent = [packet(number) for number in range(50)]
    for each in sent:
        path.send(each)
        path.run(0.02)
    path.run(0.1)
    assert path.came == sent
    assert path.portal.drops == path.moat.drops == {}


def test_raw_packets_are_counted_as_they_leave() -> None:
    path = settled(10)
    path.send(packet(1, 500), packet(2, 600))
    before = path.moat.esp.statistics("portal1")
    path.run(1.0)
    after = path.moat.esp.statistics("portal1")
    assert before.packets_out == 0
    assert (after.packets_out, after.octets_out) == (2, 520 + 620)
