"""Two processors through a rekey: nothing is lost, and sending goes only forwards.

moat (starts the rekey)                     portal
CREATE_CHILD_SA request      ------->       install(new, activate_outbound=False)
install(new, activate=True)  <-------       response; still sends on the old one
ESP on the new one           ------->       first authentic packet: sends on the new one, too
Delete of the old one        ------->       activate(new), for when no ESP came
remove(old)                                 remove(old)
"""

from __future__ import annotations

import gc

import pytest
from esp_peers import CORP, MOAT, PC, PORTAL, Ends, forge, ipv4, padded, pair

from moatvpn.errors import MoatError
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

OLD, NEW, NEWER = Ends(number=1), Ends(number=2), Ends(number=3)


def to_pc(payload=b""):
    return ipv4(payload, source=CORP, target=PC)


def spi_of(envelope):
    return int.from_bytes(envelope.data[:4], "big")


def test_no_packet_is_lost():
    moat, portal = pair(OLD)
    sent, late = [], [moat.send(ipv4(b"late to portal"))]
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    sent.append((portal.send(to_pc(b"1")), moat))
    late_to_moat = portal.send(to_pc(b"late to moat"))
    assert spi_of(late_to_moat) == 0x1001
    moat.esp.install(NEW.moat, PORTAL, activate_outbound=True)
    sent.append((portal.send(to_pc(b"2")), moat))
    first_on_new = moat.send(ipv4(b"3"))
    assert spi_of(first_on_new) == 0x2002
    assert spi_of(portal.send(to_pc())) == 0x1001
    assert portal.receive(first_on_new.data).data == ipv4(b"3")
    assert spi_of(portal.send(to_pc())) == 0x1002
    sent.append((portal.send(to_pc(b"4")), moat))
    sent += [(envelope, portal) for envelope in late] + [(late_to_moat, moat)]
    for envelope, receiver in sent:
        assert receiver.receive(envelope.data) is not None
    moat.esp.remove(0x1001)
    portal.esp.remove(0x2001)
    assert moat.receive(portal.send(to_pc()).data) is not None
    assert portal.receive(moat.send(ipv4()).data) is not None
    assert moat.drops == portal.drops == {}


def test_after_its_removal_the_old_sa_decrypts_no_more():
    moat, portal = pair(OLD)
    late = moat.send(ipv4())
    portal.esp.install(NEW.portal, MOAT, activate_outbound=True)
    portal.esp.remove(0x2001)
    assert portal.receive(late.data) is None
    assert portal.drops == {"esp-unknown-spi": 1}


def test_activate_switches_without_a_packet():
    _, portal = pair(OLD)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    portal.esp.activate(0x2002)
    portal.esp.activate(0x7777)  # unknown: nothing to do
    assert spi_of(portal.send(to_pc())) == 0x1002


def test_a_packet_that_is_not_authentic_switches_nothing():
    moat, portal = pair(OLD)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    moat.esp.install(NEW.moat, PORTAL, activate_outbound=True)
    data = moat.send(ipv4()).data
    assert portal.receive(data[:-1] + bytes((data[-1] ^ 1,))) is None
    assert spi_of(portal.send(to_pc())) == 0x1001
    assert portal.receive(data) is not None
    assert spi_of(portal.send(to_pc())) == 0x1002


def test_a_dummy_packet_switches_too():
    _, portal = pair(OLD)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    assert portal.receive(forge(NEW.portal, 1, padded(b"", 59))) is None
    assert spi_of(portal.send(to_pc())) == 0x1002


def test_the_first_sa_of_a_waiting_side_is_used_from_its_first_packet_on():
    moat, portal = pair(OLD)
    portal.esp.remove(0x2001)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    moat.esp.install(NEW.moat, PORTAL, activate_outbound=True)
    assert portal.esp.envelope(to_pc()) is None
    assert portal.receive(moat.send(ipv4()).data) is not None
    assert spi_of(portal.send(to_pc())) == 0x1002


def test_late_news_of_an_older_rekey_does_not_turn_sending_back():
    """Three rekeys in quick succession: the Delete of each old SA activates its successor late."""
    moat, portal = pair(OLD)
    for ends in (NEW, NEWER):
        portal.esp.install(ends.portal, MOAT, activate_outbound=False)
        moat.esp.install(ends.moat, PORTAL, activate_outbound=True)
    assert portal.receive(moat.send(ipv4()).data) is not None
    for peer, spi, newest in ((portal, 0x2002, 0x1003), (moat, 0x1002, 0x2003)):
        peer.esp.activate(spi)
        packet = to_pc() if peer is portal else ipv4()
        assert spi_of(peer.send(packet)) == newest


def test_a_late_packet_on_an_older_sa_does_not_turn_sending_back():
    moat, portal = pair(OLD)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    moat.esp.install(NEW.moat, PORTAL, activate_outbound=True)
    late = moat.send(ipv4(b"late"))
    portal.esp.install(NEWER.portal, MOAT, activate_outbound=True)
    assert portal.receive(late.data).data == ipv4(b"late")
    assert spi_of(portal.send(to_pc())) == 0x1003


def test_if_the_newest_goes_again_one_that_waits_can_still_take_over():
    """Rekeys from both sides at once, and the later one was deleted (RFC 7296, 2.8.1)."""
    _, portal = pair(OLD)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    portal.esp.install(NEWER.portal, MOAT, activate_outbound=True)
    assert portal.receive(forge(NEW.portal, 1, padded(ipv4(), 4))) is not None
    portal.esp.remove(0x2003)
    assert portal.esp.envelope(to_pc()) is None
    assert portal.drops == {"out-no-sa": 1}
    assert portal.receive(forge(NEW.portal, 2, padded(ipv4(), 4))) is not None
    assert spi_of(portal.send(to_pc())) == 0x1002


def test_a_late_packet_on_the_old_sa_does_not_move_the_peer_back():
    moat, portal = pair(OLD)
    late = moat.send(ipv4())
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    moat.esp.install(NEW.moat, PORTAL, activate_outbound=True)
    elsewhere = Endpoint("192.0.2.99", 4500)
    assert portal.receive(moat.send(ipv4()).data, elsewhere).moved
    portal.esp.set_peer("c0001", elsewhere, udp=False)
    # The newest of its SA, but not of the connection.
    assert not portal.receive(late.data, MOAT).moved


def test_a_move_is_for_every_sa_of_the_connection():
    moat, portal = pair(OLD)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    portal.esp.set_peer("c0001", Endpoint("192.0.2.99", 31000), udp=True)
    assert portal.send(to_pc()).peer.host == "192.0.2.99"
    moat.esp.install(NEW.moat, PORTAL, activate_outbound=True)
    assert portal.receive(moat.send(ipv4()).data) is not None
    assert portal.send(to_pc()).peer.host == "192.0.2.99"


def test_the_policy_follows_the_selectors_of_the_sa_in_use():
    _, portal = pair(OLD)
    other = (TrafficSelector.from_network("10.201.1.0/25"),)
    narrowed = Ends(number=2, home=other)
    portal.esp.install(narrowed.portal, MOAT, activate_outbound=False)
    outside = ipv4(source=CORP, target="10.201.1.200")
    assert portal.send(outside) is not None
    portal.esp.activate(0x2002)
    assert portal.esp.envelope(outside) is None
    assert portal.drops == {"out-no-policy": 1}


def test_a_child_sa_cannot_be_installed_twice():
    """Its outbound half would start again at number 1, with the same key."""
    moat, _ = pair(OLD)
    for activate in (True, False):
        with pytest.raises(MoatError, match="0x00001001"):
            moat.esp.install(OLD.moat, PORTAL, activate_outbound=activate)
    assert moat.send(ipv4()).data[4:8] == b"\0\0\0\1"


def test_statistics_add_up_over_a_rekey():
    moat, portal = pair(OLD)
    portal.receive(moat.send(ipv4()).data)
    moat.esp.install(NEW.moat, PORTAL, activate_outbound=True)
    portal.esp.install(NEW.portal, MOAT, activate_outbound=False)
    portal.receive(moat.send(ipv4()).data)
    before = moat.esp.statistics("portal1"), portal.esp.statistics("c0001")
    moat.esp.remove(0x1001)
    portal.esp.remove(0x2001)
    assert before == (moat.esp.statistics("portal1"), portal.esp.statistics("c0001"))
    assert (before[0].packets_out, before[0].octets_out, before[0].sequence) == (2, 40, 1)
    assert (before[1].packets_in, before[1].octets_in) == (2, 40)


def test_what_is_removed_does_not_wait_for_the_garbage_collector():
    # Of which moatd has almost none: see tests/exchange/test_garbage.py.
    _, portal = pair(OLD)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        portal.esp.install(NEW.portal, MOAT, activate_outbound=True)
        portal.esp.remove(0x2001)
        portal.esp.remove_connection(OLD.portal.connection)
        gc.collect()
        kinds = {type(thing) for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not [kind for kind in kinds if kind.__module__.startswith("moatvpn")]
