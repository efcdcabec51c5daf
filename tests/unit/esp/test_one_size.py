"""Envelopes of one size, whatever is in them (tfc "pad")."""

from __future__ import annotations

import random

import pytest
from esp_peers import ipv4, ipv6
from hidden import Path

from moatvpn.esp.tfc import NO_TFC, Tfc, TfcMode
from moatvpn.wire.algorithms import CipherSuite

SIZES = [0, 1, 30, 500, 1100, 1152, 1200, 1480, 4000, 30_000, 65_515]
ALIGNMENT = {True: 4, False: 16}


def packets(seed: int = 0) -> list[bytes]:
    lots = random.Random(seed)
    return [ipv4(lots.randbytes(size)) for size in SIZES] + [ipv6(lots.randbytes(99))]


@pytest.mark.parametrize("suite", list(CipherSuite))
@pytest.mark.parametrize("octets", [128, 500, 577, 1200, 1500])
@pytest.mark.parametrize("private", [False, True])
def test_every_envelope_has_the_size_that_is_asked_for(
    private: bool, octets: int, suite: CipherSuite
) -> None:
    path = Path(Tfc(TfcMode.PAD, octets), suite, private_blocks=private)
    path.run(3.0)  # the path is measured, at first with envelopes that any path carries
    path.watch()
    for packet in packets():
        path.send(packet)
    path.send(*packets(1))
    path.run(3.0)
    assert path.came == packets() + packets(1)
    (size,) = path.sizes
    assert octets - ALIGNMENT[suite.combined] < size <= octets
    assert path.moat.drops == path.portal.drops == {}


@pytest.mark.parametrize("private", [False, True])
def test_without_a_size_it_is_what_the_path_carries(private: bool) -> None:
    path = Path(Tfc(TfcMode.PAD), private_blocks=private)
    path.carries = 1400
    path.run(10.0)
    path.watch()
    path.send(*packets())
    assert path.came == packets()
    (size,) = path.sizes
    assert size == (1400 if private else 1280)


def test_a_path_that_carries_less_makes_it_less_and_probes_are_never_longer() -> None:
    path = Path(Tfc(TfcMode.PAD, 1200))
    path.run(3.0)
    assert max(path.sizes) == 1200
    for carries, seconds in ((1000, 10), (1500, 800)):
        path.carries = carries
        for _ in range(seconds):
            path.send(ipv4(bytes(1300)))
            path.run(1.0)
        assert max(path.sizes) <= 1200
        path.watch()
        path.send(ipv4(b"small"))
        assert path.sizes == {min(carries, 1200)}
        assert path.came == [ipv4(b"small")]


def test_what_every_path_carries_is_not_probed_for() -> None:
    least = Tfc(TfcMode.PAD, 576)
    path = Path(least, back=least)
    path.run(3.0)
    assert path.seen == []


@pytest.mark.parametrize("octets", [128, 1200])
def test_probes_of_the_peer_are_answered_at_that_size(octets: int) -> None:
    path = Path(Tfc(TfcMode.PAD, octets))
    path.run(1.0)
    path.watch()
    path.portal.esp.set_peer("c0001", path.portal.other, udp=True)  # measures anew
    path.run(1.0)
    assert len(path.seen) > 3
    assert path.sizes == {octets}


def test_the_tos_octet_stays_outside() -> None:
    path = Path(Tfc(TfcMode.PAD, 500))
    path.send(ipv4(b"a", tos=0xB8), ipv4(b"b"))
    assert [each.tos for each in path.seen] == [0xB8, 0]


@pytest.mark.parametrize("suite", list(CipherSuite))
@pytest.mark.parametrize("unsplit", [False, True])
def test_packets_that_cannot_be_split_are_padded_to_a_multiple(
    unsplit: bool, suite: CipherSuite
) -> None:
    path = Path(
        Tfc(TfcMode.PAD, 600), suite, aggfrag=unsplit, unsplit=unsplit, private_blocks=False
    )
    sent = [packet for packet in packets() if len(packet) < 65_000]  # an envelope holds no more
    for packet in sent:
        path.send(packet)
    assert path.came == sent
    for packet, seen in zip(sent, path.seen, strict=True):
        assert not seen.whole  # which the network may fragment
        times = -(-seen.octets // 600)
        assert times * 600 - ALIGNMENT[suite.combined] < seen.octets <= times * 600
        assert (times - 1) * 600 < len(packet) + 128
    assert len({seen.octets for seen in path.seen[:3]}) == 1
    assert path.moat.drops == path.portal.drops == {}


def test_without_aggregation_and_a_size_it_is_one_that_nearly_all_paths_carry() -> None:
    path = Path(Tfc(TfcMode.PAD), aggfrag=False, private_blocks=False)
    path.send(ipv4(b""), ipv4(bytes(1000)))
    assert path.sizes == {1280}


def test_a_change_of_encapsulation_leaves_the_size_as_it_is() -> None:
    path = Path(Tfc(TfcMode.PAD, 500))
    path.send(ipv4(b"in UDP"))
    path.moat.esp.set_peer("portal1", path.moat.other, udp=False)
    path.udp = False
    path.send(ipv4(b"as protocol 50"))
    assert path.sizes == {500}


def test_statistics_tell_what_is_hidden() -> None:
    path = Path(Tfc(TfcMode.PAD, 1200), back=Tfc(TfcMode.PAD, 128))
    path.run(1.0)
    told = path.moat.esp.statistics("portal1")
    assert (told.tfc, told.envelope_octets) == (TfcMode.PAD, 1200)
    assert path.portal.esp.statistics("c0001").envelope_octets == 128


def test_statistics_tell_that_nothing_is_hidden() -> None:
    told = Path(NO_TFC).moat.esp.statistics("portal1")
    assert (told.tfc, told.envelope_octets) == (TfcMode.OFF, None)
