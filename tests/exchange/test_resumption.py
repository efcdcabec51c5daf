"""Session resumption (RFC 5723): a moat goes on where its portal has lost everything.

moat                                            portal, which has its ticket keys yet
HDR, Ni, N(TICKET_OPAQUE), N(NAT…)  ---------->
                                    <----------  HDR, Nr, N(NAT…)
HDR, SK{IDi, IDr, AUTH, SAi2, TSi, TSr, N(TICKET_REQUEST)}  ---------->
                                    <----------  HDR, SK{IDr, AUTH, SAr2, …, N(TICKET_LT_OPAQUE)}
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    exchange_of,
    moat_config,
    nat,
    new_signer,
    portal_config,
    tables,
    watch_usable,
)

from moatvpn.counters import DropReason
from moatvpn.crypto.sign import Signer
from moatvpn.ike import init
from moatvpn.ike.authentication import raw_key
from moatvpn.ike.events import IkeUp
from moatvpn.ike.gate import Limits
from moatvpn.ike.tickets import KEY_SECONDS, TICKET_SECONDS, TicketKeys
from moatvpn.wire.algorithms import PostQuantum
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_header import HEADER_LENGTH, Exchange, parse_chain, parse_header
from moatvpn.wire.ike_payloads import Notify, NotifyType, parse_notify

RESUME, INIT = (Exchange.IKE_SESSION_RESUME, False), (Exchange.IKE_SA_INIT, False)
AT_MOAT, AT_PORTAL = Endpoint(MOAT_HOST, 500), Endpoint(PORTAL_HOST, 500)
EPOCH = 1_700_000_000.0


def keys_for(network: Network, seed: int = 5) -> TicketKeys:
    return TicketKeys(random.Random(seed).randbytes, lambda: EPOCH + network.now)


def pair(network: Network, **moat_changes: Any) -> tuple[Peer, Peer]:
    """Return a moat and a portal that gives tickets, connected."""
    moat = Peer(MOAT, MOAT_HOST, 11)
    portal = Peer(PORTAL, PORTAL_HOST, 22, tickets=keys_for(network))
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), network.now)
    moat.ike.add_connection(moat_config(portal, **moat_changes), network.now)
    network.run(network.now + 1.0)
    assert connected(moat, portal)
    return moat, portal


def restarted(
    network: Network, moat: Peer, portal: Peer, keys: TicketKeys | None = None, **changes: Any
) -> Peer:
    """Put a portal in place of portal that has kept its ticket keys only."""
    network.peers.remove(portal)
    tickets = keys or portal.ike._context.tickets
    limits = changes.pop("limits", portal.ike._context.gate.limits)
    signer = changes.pop("signer", portal.signer)
    again = Peer(portal.identity, PORTAL_HOST, 99, signer, limits, tickets=tickets)
    again.ike.add_connection(portal_config(moat, **changes), network.now)
    network.join(again)
    return again


def misses(moat: Peer, network: Network) -> None:
    """Let the moat find out that its portal is gone."""
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 5.0)


def sent(network: Network, since: int = 0) -> list[tuple[int, bool]]:
    return [exchange_of(d) for d in network.log[since:] if d.local.host == MOAT_HOST]


def payload_kinds(datagram: Datagram) -> list[int]:
    header = parse_header(datagram.data)
    return [p.type for p in parse_chain(header.next_payload, datagram.data[HEADER_LENGTH:])]


def ticket_request(network: Network, since: int = 0) -> Datagram:
    return next(d for d in network.log[since:] if exchange_of(d) == RESUME)


def no_public_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a public-key operation")

    monkeypatch.setattr(init, "new_key_exchange", never)
    monkeypatch.setattr(Signer, "sign", never)
    monkeypatch.setattr(init, "answer_key_exchange", never)
    monkeypatch.setattr(raw_key, "verify", never)


def test_a_lost_portal_is_resumed_without_public_keys(monkeypatch: pytest.MonkeyPatch):
    network = Network()
    moat, portal = pair(network)
    assert not moat.ike.status("portal").resumed
    again = restarted(network, moat, portal)
    before = len(network.log)
    with monkeypatch.context() as patch:
        no_public_keys(patch)
        misses(moat, network)
    assert connected(moat, again)
    exchanges = sent(network, before)
    assert RESUME in exchanges
    assert INIT not in exchanges
    first, answer = [d for d in network.log if exchange_of(d)[0] == Exchange.IKE_SESSION_RESUME][
        -2:
    ]
    for message in (first, answer):
        assert set(payload_kinds(message)) == {40, 41}  # a nonce and notifies, no SA, no KE
    for status in (moat.ike.status("portal"), again.ike.status("c0001")):
        assert (status.resumed, status.resumptions) == (True, 1)
    network.run(network.now + 30.0)
    assert tables(moat) == tables(again) == SETTLED


def test_what_ml_kem_has_given_lasts():
    """A ticket's keys come of both key exchanges, and neither is done again."""
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    portal = Peer(PORTAL, PORTAL_HOST, 22, portal.signer, tickets=keys_for(network))
    network.join(moat, portal)
    config = portal_config(moat, post_quantum=PostQuantum.REQUIRE)
    portal.ike.add_connection(config, 0.0)
    moat.ike.add_connection(moat_config(portal, post_quantum=PostQuantum.REQUIRE), 0.0)
    network.run(1.0)
    again = restarted(network, moat, portal, post_quantum=PostQuantum.REQUIRE)
    before = len(network.log)
    misses(moat, network)
    assert connected(moat, again)
    for status in (moat.ike.status("portal"), again.ike.status("c0001")):
        assert status.resumed
        assert status.key_exchange == "x25519+mlkem768"
    assert (Exchange.IKE_INTERMEDIATE, False) not in sent(network, before)


def test_the_resumed_is_resumed_with_its_own_ticket():
    network = Network()
    moat, portal = pair(network)
    for count in range(1, 4):
        portal = restarted(network, moat, portal)
        misses(moat, network)
        assert connected(moat, portal)
        assert moat.ike.status("portal").resumptions == count
    opaque = {d.data[-400:] for d in network.log if exchange_of(d) == RESUME}
    assert len(opaque) >= 3


@pytest.mark.parametrize("sa", ["child", "ike"])
@pytest.mark.parametrize("who", ["moat", "portal"])
def test_what_is_resumed_either_side_rekeys(who: str, sa: str):
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    misses(moat, network)
    peer, name = {"moat": (moat, "portal"), "portal": (again, "c0001")}[who]
    peer.ike.rekey(name, "ike" if sa == "ike" else "child", network.now)
    network.run(network.now + 20.0)
    assert connected(moat, again)
    assert tables(moat) == tables(again) == SETTLED


@pytest.mark.parametrize("who", ["moat", "portal"])
def test_a_rekeyed_ike_sa_gets_a_ticket_of_its_own(who: str):
    """HDR, SK{N(TICKET_REQUEST)} ---->  <---- HDR, SK{N(TICKET_LT_OPAQUE)}, whoever rekeyed."""
    network = Network()
    moat, portal = pair(network)
    old = moat.ike._context.connections["portal"].tickets.held
    peer, name = {"moat": (moat, "portal"), "portal": (portal, "c0001")}[who]
    peer.ike.rekey(name, "ike", network.now)
    network.run(network.now + 0.5)
    tickets = moat.ike._context.connections["portal"].tickets
    assert tickets.held is None  # a ticket of the IKE SA before is void
    network.run(network.now + 3.0)
    assert tickets.held is not None
    assert old is not None
    assert tickets.held.sk_d != old.sk_d
    again = restarted(network, moat, portal)
    misses(moat, network)
    assert connected(moat, again)
    assert moat.ike.status("portal").resumed


def test_a_moat_that_was_called_asks_for_a_ticket():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    again.ike.remember_peer("c0001", AT_MOAT, network.now)
    network.run(network.now + 3.0)
    assert connected(moat, again)
    assert not moat.ike.status("portal").resumed
    third = restarted(network, moat, again)
    misses(moat, network)
    assert connected(moat, third)
    assert moat.ike.status("portal").resumed


def refused(network: Network, moat: Peer, again: Peer) -> None:
    """Check that the moat presented its ticket, was refused, and called in full."""
    before = len(network.log)
    misses(moat, network)
    assert connected(moat, again)
    exchanges = sent(network, before)
    assert exchanges.index(RESUME) < exchanges.index(INIT)
    assert again.counters.value(DropReason.IKE_TICKET_REFUSED) >= 1
    assert not again.ike.status("c0001").resumed
    network.run(network.now + 30.0)
    assert tables(moat) == tables(again) == SETTLED


def test_a_portal_with_other_ticket_keys_refuses():
    network = Network()
    moat, portal = pair(network)
    refused(network, moat, restarted(network, moat, portal, keys_for(network, 6)))


@pytest.mark.parametrize(
    "changes",
    [
        {"child_lifetime": 1800.0},
        {"remote_selectors": ("10.201.1.0/24", "fd00:201:1::/64", "10.201.2.0/24")},
        {"encapsulation": "udp"},
    ],
)
def test_a_connection_that_is_another_one_now_is_not_resumed(changes: dict[str, Any]):
    network = Network()
    moat, portal = pair(network)
    refused(network, moat, restarted(network, moat, portal, **changes))


def test_a_key_that_is_not_trusted_any_more_is_not_resumed():
    network = Network()
    moat, portal = pair(network)
    other = Peer(MOAT, MOAT_HOST, 3)
    changes = {"remote_public_keys": (other.signer.public_text,)}
    again = restarted(network, moat, portal, **changes)
    misses(moat, network)
    network.run(network.now + 20.0)
    assert again.counters.value(DropReason.IKE_TICKET_REFUSED) == 1
    assert again.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) >= 1
    assert not again.kinds(IkeUp)


def test_what_is_resumed_stands_on_the_keys_of_before():
    """So keys are changed in place, and proved anew, after a portal's restart as before it."""
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    misses(moat, network)
    for peer, name, other in ((moat, "portal", portal), (again, "c0001", moat)):
        status = peer.ike.status(name)
        assert status.resumed
        assert status.local_key == (moat if peer is moat else portal).signer.public_key
        assert status.remote_key == other.signer.public_key
    new = new_signer()
    watch_usable(network, moat, again)
    keys = (moat.signer.public_text, new.public_text)
    assert again.ike.change_keys(portal_config(moat, remote_public_keys=keys), network.now)
    assert moat.ike.use_keys((new, moat.signer), network.now) == 1
    network.run(network.now + 20.0)
    assert again.ike.status("c0001").remote_key == new.public_key
    only = portal_config(moat, remote_public_keys=keys[1:])
    assert again.ike.change_keys(only, network.now)


def test_a_moat_that_trusts_its_portals_key_no_more_drops_the_ticket():
    """While there is no IKE SA, nothing else says whose key the ticket stands on."""
    network = Network()
    moat, portal = pair(network)
    network.lose = lambda _: True
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 300.0)
    assert moat.ike.status("portal").state == "connecting"
    assert moat.ike.status("portal").ticket
    keys = (new_signer().public_text,)
    assert moat.ike.change_keys(moat_config(portal, remote_public_keys=keys), network.now)
    assert not moat.ike.status("portal").ticket
    network.lose = lambda _: False
    network.run(network.now + 60.0)
    assert moat.ike.status("portal").state == "connecting"


def test_a_removed_connection_is_not_resumed():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    again.ike.remove_connection("c0001", network.now)
    again.ike.add_connection(
        portal_config(Peer("m2.example.net", "192.0.2.99", 4), name="c2"), network.now
    )
    misses(moat, network)
    network.run(network.now + 10.0)
    assert again.counters.value(DropReason.IKE_TICKET_REFUSED) == 1
    assert not again.kinds(IkeUp)


def test_a_portal_with_a_new_key_of_its_own_does_not_resume():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal, signer=Peer(PORTAL, PORTAL_HOST, 8).signer)
    misses(moat, network)
    assert again.counters.value(DropReason.IKE_TICKET_REFUSED) == 1
    network.run(network.now + 20.0)
    assert len(moat.kinds(IkeUp)) == 1


def test_a_connection_that_changes_between_the_two_exchanges():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    network.lose = lambda d: exchange_of(d) == (Exchange.IKE_AUTH, False)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 4.0)
    assert tables(again)["half_open"] == 1
    again.ike.remove_connection("c0001", network.now)
    again.ike.add_connection(portal_config(moat, child_lifetime=1800.0), network.now)
    network.lose = lambda _: False
    network.run(network.now + 20.0)
    assert again.counters.value(DropReason.IKE_TICKET_REFUSED) == 1
    assert connected(moat, again)
    assert not moat.ike.status("portal").resumed


def test_a_ticket_is_good_once():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    misses(moat, network)
    assert connected(moat, again)
    # Somebody on the path says the same again, as somebody else.
    first = ticket_request(network)
    other = bytes(8 * [7]) + first.data[8:]
    source = Endpoint("203.0.113.9", 500)
    again.ike.receive_datagram(Datagram(other, AT_PORTAL, source), network.now)
    (answer,) = again.ike.datagrams_to_send()
    assert payload_kinds(answer) == [41]
    (notify,) = parse_chain(41, answer.data[HEADER_LENGTH:])
    assert parse_notify(notify.body) == Notify(NotifyType.TICKET_NACK)
    assert tables(again) == SETTLED
    assert connected(moat, again)


def test_a_stolen_ticket_is_worth_nothing():
    """Who has seen a ticket, but not the keys that it is for, gets no further than half open."""
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    network.lose = lambda d: exchange_of(d) == RESUME
    moat.ike.note_outbound("portal", network.now)
    while not (stolen := [d for d in network.log if exchange_of(d) == RESUME]):
        network.run(network.now + 0.1)
    thief = Peer(MOAT, "203.0.113.9", 66, moat.signer)  # worst: it had the moat's key, too
    thief.ike.add_connection(moat_config(portal), network.now)
    tickets = thief.ike._context.connections["portal"].tickets
    held = moat.ike._context.connections["portal"].tickets.held
    assert held is not None
    tickets.held = replace(held, sk_d=bytes(len(held.sk_d)))
    assert held.octets in stolen[0].data
    network.peers.remove(moat)
    network.lose = lambda _: False
    network.join(thief)
    network.run(network.now + 0.3)
    assert [exchange_of(d) for d in network.log if d.local.host == thief.host][:2] == [
        RESUME,
        (Exchange.IKE_AUTH, False),
    ]
    assert not again.kinds(IkeUp)
    assert again.counters.value(DropReason.IKE_NOT_AUTHENTIC) >= 1


@pytest.mark.parametrize("at", [0, 9, 30, -1])
def test_an_altered_ticket_is_refused(at: int):
    network = Network()
    moat, portal = pair(network)
    tickets = moat.ike._context.connections["portal"].tickets
    assert tickets.held is not None
    octets = bytearray(tickets.held.octets)
    octets[at] ^= 1
    tickets.held = replace(tickets.held, octets=bytes(octets))
    refused(network, moat, restarted(network, moat, portal))


def test_a_ticket_whose_time_is_over_is_not_presented():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    network.lose = lambda _: True
    network.run(network.now + 14400.0 + 10.0)
    network.lose = lambda _: False
    before = len(network.log)
    network.run(network.now + 10.0)
    assert connected(moat, again)
    assert RESUME not in sent(network, before)


def test_a_ticket_whose_time_is_over_is_not_taken():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    connection = moat.ike._context.connections["portal"]
    assert connection.tickets.held is not None
    # The moat's clock is slow.
    connection.tickets.held = replace(connection.tickets.held, expires_at=1e9)
    network.lose = lambda _: True
    network.run(network.now + 14410.0)
    while connection.attempt is None or not connection.attempt[0].resumed:
        network.run(network.now + 0.1)
    network.lose = lambda _: False
    network.run(network.now + 30.0)
    assert again.counters.value(DropReason.IKE_TICKET_REFUSED) == 1
    assert connected(moat, again)
    assert not moat.ike.status("portal").resumed


def test_silence_about_a_ticket_leads_to_a_full_call():
    """A portal that knows no IKE_SESSION_RESUME any more says nothing."""
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    network.lose = lambda d: exchange_of(d) == RESUME
    before = len(network.log)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 16.0)
    assert connected(moat, again)
    exchanges = sent(network, before)
    assert exchanges.count(RESUME) == 4
    assert exchanges.count(INIT) == 1


def test_an_outage_longer_than_one_call_still_ends_by_a_ticket():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    network.lose = lambda _: True
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 60.0)
    network.lose = lambda _: False
    network.run(network.now + 16.0)
    assert connected(moat, again)
    tickets = moat.ike._context.connections["portal"].tickets
    assert tickets.held is not None


def test_a_forged_refusal_costs_a_full_call_and_nothing_else():
    """Anybody on the path can say TICKET_NACK in clear."""
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    moat.ike.note_outbound("portal", network.now)
    network.lose = lambda d: exchange_of(d)[0] == Exchange.IKE_SESSION_RESUME
    while not any(exchange_of(d) == RESUME for d in network.log):
        network.run(network.now + 0.05)
    asked = ticket_request(network)
    body = Notify(NotifyType.TICKET_NACK).encode()
    payload = bytes((0, 0, 0, 4 + len(body))) + body
    length = (HEADER_LENGTH + len(payload)).to_bytes(4, "big")
    forged = asked.data[:16] + bytes((41, 0x20, 38, 0x20)) + bytes(4) + length + payload
    moat.ike.receive_datagram(Datagram(forged, AT_MOAT, AT_PORTAL), network.now)
    moat.ike.receive_datagram(Datagram(forged, AT_MOAT, AT_PORTAL), network.now)
    network.run(network.now + 1.0)
    assert connected(moat, again)
    network.run(network.now + 30.0)
    assert tables(moat) == tables(again) == SETTLED


def test_an_orderly_end_voids_the_ticket():
    network = Network()
    moat, portal = pair(network)
    portal.ike.shutdown(network.now)
    network.run(network.now + 0.05)
    assert moat.ike._context.connections["portal"].tickets.held is None
    again = restarted(network, moat, portal)
    network.run(network.now + 15.0)
    assert connected(moat, again)
    assert not moat.ike.status("portal").resumed


def test_a_portal_that_gives_none_is_not_asked_again():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, dpd_interval=600.0), 0.0)
    moat.ike.add_connection(moat_config(portal, dpd_interval=600.0), 0.0)
    network.run(1.0)
    before = len(network.log)
    network.run(300.0)
    assert len(network.log) == before
    assert moat.ike._context.connections["portal"].tickets.held is None


def test_under_load_a_ticket_needs_a_cookie():
    network = Network()
    moat, portal = pair(network)
    again = restarted(network, moat, portal, limits=replace(Limits(), cookies_above=0))
    before = len(network.log)
    misses(moat, network)
    assert connected(moat, again)
    assert moat.ike.status("portal").resumed
    assert again.counters.value(DropReason.IKE_COOKIE_NEEDED) == 1
    first, second = [d for d in network.log[before:] if exchange_of(d) == RESUME][-2:]
    assert payload_kinds(second) == [41, *payload_kinds(first)]


def test_behind_a_nat():
    network = Network()
    network.rewrite = nat(Endpoint("203.0.113.9", 10000), MOAT_HOST)
    moat, portal = pair(network)
    again = restarted(network, moat, portal)
    misses(moat, network)
    assert connected(moat, again)
    assert moat.ike.status("portal").resumed
    assert again.ike.status("c0001").peer == Endpoint("203.0.113.9", 14500)
    assert next(iter(moat.inbound.values())).child.udp


@pytest.mark.parametrize("seed", range(30))
def test_on_a_bad_network(seed: int):
    network = Network(seed)
    moat, portal = pair(network)
    network.loss, network.repeat, network.jitter = 0.25, 0.1, 0.3
    again = restarted(network, moat, portal)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 40.0)
    network.loss = network.repeat = network.jitter = 0.0
    network.run(network.now + 60.0)
    assert connected(moat, again)
    assert tables(moat) == tables(again) == SETTLED


def test_all_at_once():
    """Two hundred moats lose their portal and resume: no more than two exchanges each."""
    network = Network()
    keys = keys_for(network)
    portal = Peer(PORTAL, PORTAL_HOST, 2, tickets=keys)
    network.join(portal)
    moats = [Peer(f"m{n}.example.net", f"192.0.2.{n + 10}", n) for n in range(200)]
    configs = [
        portal_config(moat, name=f"c{n}", remote_selectors=(f"10.201.{n}.0/24",))
        for n, moat in enumerate(moats)
    ]
    for n, moat in enumerate(moats):
        network.join(moat)
        portal.ike.add_connection(configs[n], 0.0)
        moat.ike.add_connection(moat_config(portal, local_selectors=(f"10.201.{n}.0/24",)), 0.0)
    network.run(5.0)
    network.peers.remove(portal)
    again = Peer(PORTAL, PORTAL_HOST, 3, portal.signer, tickets=keys)
    for config in configs:
        again.ike.add_connection(config, network.now)
    network.join(again)
    for moat in moats:
        moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 20.0)
    assert all(again.ike.status(f"c{n}").resumed for n in range(200))
    assert tables(again) == SETTLED | {"ike_sas": 200, "child_spis": 200}


def test_keys_change_daily_and_read_for_as_long_as_tickets_last():
    now = EPOCH
    saved: list[int] = []
    keys = TicketKeys(
        random.Random(1).randbytes, lambda: now, save=lambda held: saved.append(len(held))
    )
    network = Network()
    moat, _ = pair(network)
    tickets = moat.ike._context.connections["portal"].tickets
    assert tickets.held is not None
    choice, sk_d = tickets.held.choice, tickets.held.sk_d

    def make() -> bytes:
        return keys.make(MOAT, b"c", 1e9, choice, ("ours", "theirs"), sk_d)[1]

    first = make()
    assert keys.read(first) is not None
    now += KEY_SECONDS - 1
    last = make()
    assert saved == [1]
    now += TICKET_SECONDS - 1
    make()
    assert saved == [1, 2]
    assert keys.read(last) is not None
    assert keys.read(first) is None
    now += 2
    assert keys.read(last) is None
    make()
    assert saved == [1, 2, 1]
    # A clock that was ahead and is set right: what was made in its future is not believed.
    future = make()
    now -= KEY_SECONDS
    assert keys.read(future) is None
