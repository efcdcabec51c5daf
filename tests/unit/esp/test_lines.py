"""A connection with several CHILD_SAs side by side: which one a raw packet takes."""

from __future__ import annotations

from dataclasses import replace

from esp_peers import CORP, MOAT, PC, PORTAL, Ends, ipv4, pair

from moatvpn.counters import DropReason
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

OTHER = "10.60.0.9"
FIRST = Ends(number=1, corporate=(TrafficSelector.from_network("10.50.0.0/16"),))
SECOND = Ends(number=2, corporate=(TrafficSelector.from_network("10.60.0.0/16"),))


def two_lines():
    moat, portal = pair(FIRST)
    moat.esp.install(replace(SECOND.moat, line=1), PORTAL, activate_outbound=True)
    portal.esp.install(replace(SECOND.portal, line=1), MOAT, activate_outbound=True)
    return moat, portal


def spi_of(envelope):
    return int.from_bytes(envelope.data[:4], "big")


def test_each_packet_takes_the_line_of_its_networks_both_ways():
    moat, portal = two_lines()
    for number, corporate in ((1, CORP), (2, OTHER)):
        out = moat.send(ipv4(target=corporate))
        assert spi_of(out) == 0x2000 + number
        assert portal.receive(out.data) is not None
        back = portal.send(ipv4(source=corporate, target=PC))
        assert spi_of(back) == 0x1000 + number
        assert moat.receive(back.data) is not None
    assert moat.drops == portal.drops == {}
    assert moat.esp.statistics("portal1").child_sas == 2
    assert moat.esp.statistics("portal1").packets_out == 2


def test_nothing_comes_in_on_the_line_of_other_networks():
    moat, portal = two_lines()
    envelope = moat.send(ipv4(target=CORP))
    portal.esp.remove(0x2001)
    wrong = replace(FIRST.portal, line=0, remote_ts=FIRST.portal.remote_ts,
                    local_ts=SECOND.portal.local_ts)  # fmt: skip
    portal.esp.install(wrong, MOAT, activate_outbound=True)
    assert portal.receive(envelope.data) is None
    assert portal.drops == {DropReason.ESP_INNER_SELECTOR.value: 1}


def test_a_line_that_goes_takes_no_other_with_it_and_its_packets_go_nowhere():
    moat, _ = two_lines()
    moat.esp.remove(0x1002)
    assert spi_of(moat.send(ipv4(target=CORP))) == 0x2001
    assert moat.esp.envelope(ipv4(target=OTHER)) is None
    assert moat.drops == {DropReason.OUT_NO_POLICY.value: 1}
    moat.esp.remove(0x1001)
    assert moat.esp.envelope(ipv4(target=CORP)) is None
    assert moat.drops[DropReason.OUT_NO_SA.value] == 1


def test_a_rekey_replaces_within_its_line():
    moat, portal = two_lines()
    new = Ends(number=3, corporate=SECOND.corporate)
    portal.esp.install(replace(new.portal, line=1), MOAT, activate_outbound=False)
    moat.esp.install(replace(new.moat, line=1), PORTAL, activate_outbound=True)
    assert spi_of(moat.send(ipv4(target=CORP))) == 0x2001
    assert spi_of(portal.send(ipv4(source=OTHER, target=PC))) == 0x1002
    first = moat.send(ipv4(target=OTHER))
    assert spi_of(first) == 0x2003
    assert portal.receive(first.data) is not None
    assert spi_of(portal.send(ipv4(source=OTHER, target=PC))) == 0x1003
    assert spi_of(portal.send(ipv4(source=CORP, target=PC))) == 0x1001


def test_of_two_lines_for_the_same_networks_the_newer_one_sends():
    moat, portal = pair(FIRST)
    again = Ends(number=2, corporate=FIRST.corporate)
    portal.esp.install(replace(again.portal, line=1), MOAT, activate_outbound=True)
    moat.esp.install(replace(again.moat, line=1), PORTAL, activate_outbound=True)
    assert spi_of(moat.send(ipv4())) == 0x2002
    moat.esp.remove(0x1002)
    assert spi_of(moat.send(ipv4())) == 0x2001


def test_only_the_first_line_tells_that_the_peer_has_moved():
    """A packet held back on a quiet line is its newest, and may be older than the move."""
    moat, portal = two_lines()
    elsewhere = Endpoint("203.0.113.9", 4500)
    held = moat.send(ipv4(target=OTHER))
    first = portal.receive(moat.send(ipv4(target=CORP)).data, elsewhere)
    assert first.moved
    assert not portal.receive(held.data, Endpoint("203.0.113.66", 4500)).moved


def test_statistics_say_what_the_first_line_s_envelopes_hold():
    moat, _ = two_lines()
    said = [moat.esp.statistics("portal1")]
    for line, private in ((1, True), (0, False), (0, True)):
        child = replace((FIRST, SECOND)[line].moat, spi_in=0x3000 + len(said), line=line)
        child = replace(child, aggfrag=True, private_blocks=private)
        moat.esp.install(child, PORTAL, activate_outbound=True)
        said.append(moat.esp.statistics("portal1"))
    aggfrag, super_packets = [s.aggfrag for s in said], [s.super_packets for s in said]
    assert aggfrag == [False, False, True, True]
    assert super_packets == [False, False, False, True]
