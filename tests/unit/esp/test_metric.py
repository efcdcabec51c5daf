"""Two connections for the same packets, as of a moat with two portals: which one carries them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from esp_peers import CORP, CORP6, MOAT, PC, PC6, PORTAL, Ends, Peer, ipv4, ipv6, pair

from moatvpn.counters import DropReason
from moatvpn.wire.endpoint import Endpoint

OTHER = Endpoint("198.51.100.3", 4500)
OLD, NEW = Ends(number=1), Ends(number=2)
OUT, OUT6 = ipv4(), ipv6()
BACK, BACK6 = ipv4(source=CORP, target=PC), ipv6(source=CORP6, target=PC6)


def _to_new(number: int = 2):
    return replace(Ends(number=number).moat, connection="portal2")


def spi_of(envelope):
    return int.from_bytes(envelope.data[:4], "big")


@pytest.fixture
def three():
    """A moat with two portals, the one that it uses and one of metric 1."""
    moat, old = pair(OLD)
    new = Peer("c0001", MOAT)
    new.esp.install(NEW.portal, MOAT, activate_outbound=True)
    moat.esp.set_metric("portal2", 1)
    moat.esp.install(_to_new(), OTHER, activate_outbound=True)
    return moat, old, new


def test_packets_leave_by_the_lowest_metric_and_a_change_loses_none(three):
    moat, old, new = three
    for packet in (OUT, OUT6):
        assert old.receive(moat.send(packet).data) is not None
    moat.esp.set_metric("portal1", 2)
    for packet in (OUT, OUT6):
        envelope = moat.send(packet)
        assert (spi_of(envelope), envelope.peer) == (0x2002, OTHER)
        assert new.receive(envelope.data) is not None
    moat.esp.remove_connection("portal1")
    assert spi_of(moat.send(OUT)) == 0x2002
    assert moat.drops == old.drops == new.drops == {}


@pytest.mark.parametrize("metric", [0, 2])
def test_packets_come_in_by_both_whichever_they_leave_by(three, metric):
    moat, old, new = three
    moat.esp.set_metric("portal1", metric)
    for _ in range(3):
        for portal, source in ((old, PORTAL), (new, OTHER)):
            for packet in (BACK, BACK6):
                assert moat.receive(portal.send(packet).data, source) is not None
    assert moat.drops == {}


def test_one_without_an_sa_gives_way_until_it_has_one(three):
    moat, _, _ = three
    moat.esp.remove(0x1001)
    assert spi_of(moat.send(OUT)) == 0x2002
    moat.esp.remove(0x1002)
    assert moat.esp.envelope(OUT) is None
    assert moat.drops == {DropReason.OUT_NO_SA.value: 1}
    moat.esp.install(_to_new(4), OTHER, activate_outbound=True)
    moat.esp.install(Ends(number=3).moat, PORTAL, activate_outbound=False)
    assert spi_of(moat.send(OUT)) == 0x2004
    moat.esp.activate(0x1003)
    assert spi_of(moat.send(OUT)) == 0x2003


def test_a_connection_that_comes_back_has_no_metric_of_before(three):
    moat, _, _ = three
    moat.esp.remove_connection("portal2")
    moat.esp.set_metric("portal1", 1)
    moat.esp.install(_to_new(4), OTHER, activate_outbound=True)
    assert spi_of(moat.send(OUT)) == 0x2004
