"""ESP in UDP agreed by both sides, NAT keepalives, and rekeys that don't come all at once."""

from __future__ import annotations

import pytest
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    exchange_of,
    many,
    moat_config,
    nat,
    pair,
    portal_config,
)

from moatvpn.ike.events import PeerMoved
from moatvpn.wire.endpoint import KEEPALIVE, NAT_PORT, Endpoint
from moatvpn.wire.ike_header import Exchange

OUTSIDE = Endpoint("203.0.113.7", 10000)


def keepalives(network: Network) -> list[str]:
    return [d.local.host for d in network.log if d.data == KEEPALIVE]


@pytest.mark.parametrize("moat_says", ["auto", "udp"])
@pytest.mark.parametrize("portal_says", ["auto", "udp"])
@pytest.mark.parametrize("behind_nat", [False, True])
def test_both_sides_use_udp_or_neither(moat_says, portal_says, behind_nat):
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, encapsulation=portal_says), 0.0)
    moat.ike.add_connection(moat_config(portal, encapsulation=moat_says), 0.0)
    if behind_nat:
        network.rewrite = nat(OUTSIDE, MOAT_HOST)
    network.run(1.0)
    assert connected(moat, portal)
    wanted = behind_nat or "udp" in (moat_says, portal_says)
    ups = [moat.outbound["portal"], portal.outbound["c0001"]]
    assert [up.child.udp for up in ups] == [wanted, wanted]
    if wanted:
        assert ups[0].peer == Endpoint(PORTAL_HOST, NAT_PORT)
        assert ups[1].peer.port == (OUTSIDE.port if behind_nat else 0) + NAT_PORT
    moat.ike.rekey("portal", "ike", 1.0)
    network.run(8.0)
    moat.ike.rekey("portal", "child", 8.0)
    network.run(20.0)
    assert moat.outbound["portal"].child.udp == portal.outbound["c0001"].child.udp == wanted
    assert not moat.kinds(PeerMoved)


def quiet_pair(network: Network) -> tuple[Peer, Peer]:
    """Return a moat and a portal that do not ask whether the other lives."""
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, dpd_interval=10_000.0), 0.0)
    moat.ike.add_connection(moat_config(portal, dpd_interval=10_000.0), 0.0)
    return moat, portal


def test_the_side_behind_a_nat_keeps_its_mapping_when_idle():
    network = Network()
    moat, _ = quiet_pair(network)
    network.rewrite = nat(OUTSIDE, MOAT_HOST)
    network.run(1000.0)
    sent = keepalives(network)
    assert set(sent) == {MOAT_HOST}
    assert 45 <= len(sent) <= 50
    (datagram,) = {(d.local.port, d.remote) for d in network.log if d.data == KEEPALIVE}
    assert datagram == (NAT_PORT, Endpoint(PORTAL_HOST, NAT_PORT))
    moat.ike.remove_connection("portal", 1000.0)
    network.run(2000.0)
    assert len(keepalives(network)) == len(sent)


def test_no_keepalive_while_there_is_traffic():
    network = Network()
    moat, _ = quiet_pair(network)
    network.rewrite = nat(OUTSIDE, MOAT_HOST)
    for second in range(1, 1000, 10):
        network.run(float(second))
        moat.ike.note_outbound("portal", network.now)
        moat.ike.note_inbound("portal", network.now)
    assert keepalives(network) == []


@pytest.mark.parametrize("encapsulation", ["auto", "udp"])
def test_no_keepalive_without_a_nat(encapsulation):
    network = Network()
    pair(network, encapsulation=encapsulation, dpd_interval=10_000.0)
    network.run(1000.0)
    assert keepalives(network) == []


def test_many_moats_do_not_rekey_at_once():
    network = Network()
    moats, portal = many(network, 60)
    network.run(12.0)
    statuses = [moat.ike.status("portal") for moat in moats]
    statuses += [portal.ike.status(f"c{n}") for n in range(60)]
    for lifetime, times in (
        (3600.0, [s.child_rekey_at for s in statuses]),
        (14400.0, [s.ike_rekey_at for s in statuses]),
    ):
        assert min(times) > 0.79 * lifetime
        assert max(times) < 0.96 * lifetime + 12.0
        # A tenth of the span never holds more than a third of them.
        span = 0.15 * lifetime
        for tenth in range(10):
            start = 0.8 * lifetime + tenth * span / 10
            assert sum(start <= t < start + span / 10 for t in times) < len(times) / 3


def test_moats_in_step_fall_out_of_it():
    """After an outage, thousands would ask at once for ever whether their portal lives."""
    network = Network()
    moats, portal = many(network, 40)
    network.run(60.0)  # all came up within START_SPREAD
    asked: list[float] = []

    def note() -> None:
        asked.extend(
            network.now for d in network.log if exchange_of(d) == (Exchange.INFORMATIONAL, False)
        )
        network.log.clear()

    network.log.clear()
    network.each_step = note
    network.run(network.now + moat_config(portal).dpd_interval)
    assert len(asked) >= len(moats)
    busiest = max(sum(start <= when < start + 0.5 for when in asked) for start in asked)
    assert busiest < len(moats) / 3
