"""What is answered when something is wrong, and what is only counted (RFC 7296, 2.6 and 2.21)."""

from __future__ import annotations

import dataclasses

import pytest
from network import (
    EMPTY,
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    established,
    exchange_of,
    moat_config,
    pair,
    portal_config,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.errors import OperatorError
from moatvpn.ike.events import IkeDown, IkeUp
from moatvpn.ike.gate import DEFAULT_LIMITS
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.task import body_of, notifies_of
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    NO_SPI,
    Exchange,
    IkeHeader,
    PayloadType,
    RawPayload,
    encode_chain,
    parse_chain,
    parse_header,
)
from moatvpn.wire.ike_payloads import Delete, Notify, NotifyType, encode_ke
from moatvpn.wire.ike_proposal import (
    Proposal,
    Protocol,
    Transform,
    encode_proposals,
)

COOKIES_ABOVE = DEFAULT_LIMITS.cookies_above
STRANGER = Endpoint("203.0.113.66", 500)
AT_PORTAL = Endpoint(PORTAL_HOST, 500)
CREATE, INFORMATIONAL = Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL


def first_request() -> bytes:
    """Return the IKE_SA_INIT request of some moat."""
    network = Network()
    moat, _ = pair(network)
    network.run(0.5)
    del moat
    return network.log[0].data


def changed(request: bytes, drop: int | None = None, **bodies: bytes) -> bytes:
    """Return an IKE_SA_INIT request with other bodies, and without the payloads of one type."""
    header = parse_header(request)
    payloads = [
        (p.type, bodies.get(PayloadType(p.type).name, p.body))
        for p in parse_chain(header.next_payload, request[HEADER_LENGTH:])
        if p.type != drop
    ]
    first, chain = encode_chain(payloads)
    length = HEADER_LENGTH + len(chain)
    return dataclasses.replace(header, next_payload=first, length=length).encode() + chain


def asked(peer: Peer, data: bytes, source: Endpoint = STRANGER, now: float = 1.0) -> list[bytes]:
    """Return the answers to a message."""
    peer.ike.receive_datagram(Datagram(data, AT_PORTAL, source), now)
    return [d.data for d in peer.ike.datagrams_to_send()]


def clear_notify(answer: bytes) -> Notify:
    header = parse_header(answer)
    assert header.response
    (notify,) = notifies_of(parse_chain(header.next_payload, answer[HEADER_LENGTH:]))
    return notify


def new_portal() -> Peer:
    portal = Peer(PORTAL, PORTAL_HOST, 22)
    portal.ike.add_connection(portal_config(Peer(MOAT, MOAT_HOST, 11)), 0.0)
    return portal


def talk(
    moat: Peer, portal: Peer, network: Network, exchange: int, body: list[tuple[int, bytes]]
) -> list[RawPayload]:
    """Have the moat's IKE SA send a request of its own making; return what the portal answers."""
    sa = moat.ike._context.connections["portal"].sa
    assert sa is not None
    return talk_over(sa, portal, network, sa.seal(exchange, sa.next_request, False, body))


def talk_over(sa: IkeSa, portal: Peer, network: Network, data: bytes) -> list[RawPayload]:
    sa.next_request += 1
    portal.ike.receive_datagram(Datagram(data, AT_PORTAL, sa.local), network.now)
    (answer,) = portal.ike.datagrams_to_send()[:1]
    assert sa._open is not None
    inner = sa._open.open(answer.data[HEADER_LENGTH + 4 :], answer.data[: HEADER_LENGTH + 4])
    return parse_chain(answer.data[HEADER_LENGTH], inner[:-1])


# Who answers at all


def test_a_box_that_only_calls_answers_no_stranger():
    network = Network()
    moat, _ = established(network)
    at_moat = Endpoint(MOAT_HOST, 500)
    for source in (STRANGER, Endpoint(MOAT_HOST, 500)):
        moat.ike.receive_datagram(Datagram(first_request(), at_moat, source), 2.0)
    later = bytearray(first_request())
    later[17] = 0x30
    moat.ike.receive_datagram(Datagram(bytes(later), at_moat, STRANGER), 2.0)
    assert moat.ike.datagrams_to_send() == []
    assert moat.counters.value(DropReason.IKE_UNKNOWN_PEER) == 2
    assert tables(moat) == SETTLED


def test_a_connection_that_calls_is_not_called():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    other = portal_config(Peer("m2.example.net", "192.0.2.11", 12), name="c0002")
    portal.ike.add_connection(other, 0.0)
    calling = portal_config(moat, remote_address="192.0.2.99", initiate=True)
    portal.ike.add_connection(calling, 0.0)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(3.0)
    assert not portal.kinds(IkeUp)
    assert portal.counters.value(DropReason.IKE_UNKNOWN_PEER) >= 1


def test_nobody_is_answered_once_the_last_connection_is_gone():
    portal = new_portal()
    assert asked(portal, first_request())
    portal.ike.remove_connection("c0001", 1.0)
    assert not asked(portal, changed(first_request(), NONCE=bytes(16)), AT_PORTAL)


# Before anything is authenticated

UNKNOWN_GROUP = (CipherSuite.AES_256_GCM.encr, Transform(4, 14))


@pytest.mark.parametrize(
    ("change", "notify"),
    [
        ({"KE": encode_ke(15, bytes(384))}, (NotifyType.INVALID_KE_PAYLOAD, b"\x00\x1f")),
        (
            {
                "SA": encode_proposals([Proposal(1, Protocol.IKE, b"", UNKNOWN_GROUP)]),
            },
            (NotifyType.NO_PROPOSAL_CHOSEN, b""),
        ),
    ],
)
def test_a_request_that_we_cannot_take_is_answered_and_forgotten(change, notify):
    portal, request = new_portal(), changed(first_request(), **change)
    (answer,) = asked(portal, request)
    found = clear_notify(answer)
    assert (found.type, found.data) == notify
    assert parse_header(answer).spi_r == NO_SPI
    assert len(answer) <= len(request)
    assert tables(portal) == EMPTY


def test_a_critical_payload_that_we_do_not_know_is_named():
    portal, request = new_portal(), bytearray(first_request())
    chain = bytes((request[16], 0x80, 0, 4)) + bytes(request[HEADER_LENGTH:])
    request[16] = 200
    request[24:28] = (HEADER_LENGTH + len(chain)).to_bytes(4, "big")
    (answer,) = asked(portal, bytes(request[:HEADER_LENGTH]) + chain)
    found = clear_notify(answer)
    assert (found.type, found.data) == (NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes((200,)))
    assert tables(portal) == EMPTY


def test_a_later_version_is_told_ours_but_not_for_ever():
    portal, request = new_portal(), bytearray(first_request())
    request[17] = 0x30
    answers = [a for _ in range(1000) for a in asked(portal, bytes(request))]
    assert clear_notify(answers[0]).type == NotifyType.INVALID_MAJOR_VERSION
    assert parse_header(answers[0]).message_id == 0
    assert 0 < len(answers) <= 10
    assert len(asked(portal, bytes(request), now=2.0)) == 1
    request[19] |= 0x20  # a response is never answered
    assert not asked(portal, bytes(request), now=9.0)
    request[17], request[19] = 0x10, 0x08  # nor is version 1
    assert not asked(portal, bytes(request), now=9.0)
    assert portal.counters.value(DropReason.IKE_VERSION) == 1003


def test_only_the_same_octets_get_the_same_answer():
    portal, request = new_portal(), first_request()
    (answer,) = asked(portal, request)
    assert asked(portal, request) == [answer]
    # A short message with the same SPI would make us send ten times what came in.
    short = dataclasses.replace(parse_header(request), next_payload=0, length=HEADER_LENGTH)
    assert asked(portal, short.encode()) == []


@pytest.mark.parametrize(
    "notify",
    [
        Notify(NotifyType.NO_PROPOSAL_CHOSEN),
        Notify(NotifyType.INVALID_KE_PAYLOAD, b"\x00\x13"),
        Notify(NotifyType.AUTHENTICATION_FAILED),
        Notify(NotifyType.INVALID_SYNTAX),
        Notify(NotifyType.COOKIE, b"once more"),
    ],
)
def test_an_answer_in_clear_ends_no_attempt(notify):
    network = Network()
    moat, portal = pair(network)
    forged = []

    def forge(datagram: Datagram) -> Datagram:
        if exchange_of(datagram) == (Exchange.IKE_SA_INIT, False):
            first, chain = encode_chain([(PayloadType.NOTIFY, notify.encode())])
            spi, length = datagram.data[:8], HEADER_LENGTH + len(chain)
            head = IkeHeader(spi, NO_SPI, first, Exchange.IKE_SA_INIT, False, True, 0, length)
            answer = Datagram(head.encode() + chain, datagram.local, datagram.remote)
            forged.append(answer)
            if notify.type != NotifyType.COOKIE or len(forged) < 4:
                moat.ike.receive_datagram(answer, network.now)
        return datagram

    network.rewrite = forge
    network.run(12.0)
    assert connected(moat, portal)
    assert len(forged) < 10
    assert not moat.kinds(IkeDown)


@pytest.mark.parametrize("kind", [7, 9, 11, 24])
def test_an_error_in_clear_changes_nothing_that_is_established(kind):
    network = Network()
    moat, portal = established(network)
    moat.ike.rekey("portal", "child", network.now)
    (request,) = moat.ike.datagrams_to_send()
    first, chain = encode_chain([(PayloadType.NOTIFY, Notify(kind).encode())])
    header = parse_header(request.data)
    length = HEADER_LENGTH + len(chain)
    answer = dataclasses.replace(
        header, next_payload=first, response=True, length=length, from_initiator=False
    )
    moat.ike.receive_datagram(
        Datagram(answer.encode() + chain, request.local, request.remote), network.now
    )
    network.run(network.now + 20.0)
    assert not moat.kinds(IkeDown)
    assert len(moat.kinds(IkeUp)) == 1
    assert connected(moat, portal)


def test_cookies_without_end_are_followed_for_a_while_only():
    network = Network()
    moat, portal = pair(network)
    network.peers.remove(portal)
    network.run(0.3)
    for n in range(50):
        first, chain = encode_chain(
            [(PayloadType.NOTIFY, Notify(NotifyType.COOKIE, bytes((n,))).encode())]
        )
        asked_with = network.log[-1]
        spi, length = asked_with.data[:8], HEADER_LENGTH + len(chain)
        head = IkeHeader(spi, NO_SPI, first, Exchange.IKE_SA_INIT, False, True, 0, length)
        answer = Datagram(head.encode() + chain, asked_with.local, asked_with.remote)
        moat.ike.receive_datagram(answer, network.now)
    assert len(moat.ike.datagrams_to_send()) == 5
    assert moat.counters.value(DropReason.IKE_UNEXPECTED_EXCHANGE) == 45


def test_another_request_of_the_same_initiator_replaces_the_first():
    portal, request = new_portal(), first_request()
    first = asked(portal, request)
    second = asked(portal, changed(request, NONCE=bytes(32)))
    assert first != second
    assert tables(portal) == EMPTY | {"half_open": 1, "ike_sas": 1, "init_secrets": 1}


# Under load


def flood(portal: Peer, number: int, now: float) -> list[list[bytes]]:
    """Have so many strangers ask, each from its own address and with its own SPI."""
    request = first_request()
    return [
        asked(
            portal,
            n.to_bytes(8, "big") + request[8:],
            Endpoint(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 500),
            now,
        )
        for n in range(1, number + 1)
    ]


def test_under_load_a_stranger_gets_a_cookie_and_no_memory():
    portal = new_portal()
    answers = [answer for answer in flood(portal, 3000, 1.0) if answer]
    # They are of one network, which is not answered at any rate.
    assert len(answers) == DEFAULT_LIMITS.network.burst
    assert portal.counters.value(DropReason.IKE_RATE_LIMIT) == 3000 - len(answers)
    kinds = [exchange_of(Datagram(a[0], AT_PORTAL, STRANGER)) for a in answers]
    assert set(kinds) == {(Exchange.IKE_SA_INIT, True)}
    assert clear_notify(answers[-1][0]).type == NotifyType.COOKIE
    assert len(answers[-1][0]) < len(first_request())
    assert tables(portal)["half_open"] == COOKIES_ABOVE
    portal.ike.handle_timer(12.0)
    assert tables(portal) == EMPTY


def test_under_load_a_moat_comes_up_by_its_cookie():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), 0.0)
    flood(portal, 200, 0.0)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(0.6)
    assert connected(moat, portal)
    assert [exchange_of(d) for d in network.log if d.local.host == MOAT_HOST] == [
        (Exchange.IKE_SA_INIT, False),
        (Exchange.IKE_SA_INIT, False),
        (Exchange.IKE_AUTH, False),
    ]


def with_cookie(portal: Peer, request: bytes, source: Endpoint, now: float) -> bytes:
    cookie = clear_notify(asked(portal, request, source, now)[0])
    header = parse_header(request)
    payloads = [(p.type, p.body) for p in parse_chain(header.next_payload, request[HEADER_LENGTH:])]
    first, chain = encode_chain([(PayloadType.NOTIFY, cookie.encode()), *payloads])
    length = HEADER_LENGTH + len(chain)
    return dataclasses.replace(header, next_payload=first, length=length).encode() + chain


def test_a_cookie_is_good_for_its_sender_and_its_time_only():
    portal = new_portal()
    flood(portal, COOKIES_ABOVE, 0.0)
    request = with_cookie(portal, first_request(), STRANGER, 1.0)
    elsewhere = asked(portal, request, Endpoint("203.0.113.67", 500), 2.0)
    assert clear_notify(elsewhere[0]).type == NotifyType.COOKIE
    for age, good in ((59.0, True), (100.0, True), (130.0, False)):
        portal = new_portal()
        flood(portal, COOKIES_ABOVE, 0.0)
        request = with_cookie(portal, first_request(), STRANGER, 0.0)
        answer = asked(portal, request, STRANGER, age)[0]  # the flood is still there: no timer ran
        found = body_of(parse_chain(answer[16], answer[HEADER_LENGTH:]), PayloadType.SA)
        assert (found is not None) == good, age


def test_one_address_with_cookies_does_not_fill_the_table():
    portal = new_portal()
    flood(portal, COOKIES_ABOVE, 0.0)
    most, request = DEFAULT_LIMITS.half_open_of_host, first_request()
    for n in range(1, 2 * most):
        asked(
            portal,
            with_cookie(portal, (n << 32).to_bytes(8, "big") + request[8:], STRANGER, 1.0),
            STRANGER,
            1.0,
        )
    assert tables(portal)["half_open"] == COOKIES_ABOVE + most
    assert portal.counters.value(DropReason.IKE_HALF_OPEN_LIMIT) == most - 1
    # Another address has its place still.
    elsewhere = Endpoint("203.0.113.67", 500)
    assert asked(portal, with_cookie(portal, request, elsewhere, 1.0), elsewhere, 1.0)
    assert tables(portal)["half_open"] == COOKIES_ABOVE + most + 1


# After authentication, everything is answered


def kinds_of(payloads: list[RawPayload]) -> list[int]:
    return [n.type for n in notifies_of(payloads)]


def test_a_rekey_of_an_unknown_child_sa_is_told_which():
    network = Network()
    moat, portal = established(network)
    rekey = Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=b"\1\2\3\4")
    answer = talk(moat, portal, network, CREATE, [(PayloadType.NOTIFY, rekey.encode())])
    (notify,) = notifies_of(answer)
    assert (notify.type, notify.spi) == (NotifyType.CHILD_SA_NOT_FOUND, b"\1\2\3\4")
    assert portal.ike.status("c0001").state == "established"


def test_a_rekey_in_another_group_is_told_ours():
    network = Network()
    moat, portal = established(network)
    context = moat.ike._context
    moat.ike.rekey("portal", "ike", network.now)
    (request,) = moat.ike.datagrams_to_send()
    sa = context.connections["portal"].sa
    assert sa is not None
    task = sa.take_response(2, CREATE)
    assert task is not None
    sa.rekeying = False
    sa.next_request -= 1
    body = [
        (kind, encode_ke(15, bytes(384)) if kind == PayloadType.KE else octets)
        for kind, octets in task.build(network.now) or []
    ]
    sa.rekeying = False
    answer = talk(moat, portal, network, CREATE, body)
    assert kinds_of(answer) == [NotifyType.INVALID_KE_PAYLOAD]
    assert portal.ike.status("c0001").state == "established"
    del request


def test_a_critical_payload_within_an_exchange_is_refused_alone():
    network = Network()
    moat, portal = established(network)
    sa = moat.ike._context.connections["portal"].sa
    assert sa is not None
    # The critical bit is the first of the octet after the next payload's type.
    data = sealed(sa, 200, b"\0\x80\0\4")
    assert kinds_of(talk_over(sa, portal, network, data)) == [
        NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    ]
    assert portal.ike.status("c0001").state == "established"


def sealed(sa: IkeSa, first: int, inner: bytes) -> bytes:
    """Return an authentic message whose content, of whole payloads or not, begins with first."""
    assert sa._seal is not None
    length = 4 + sa._seal.sealed_length(len(inner))
    head = sa.header(PayloadType.SK, INFORMATIONAL, sa.next_request, False, HEADER_LENGTH + length)
    associated = head + bytes((first, 0)) + length.to_bytes(2, "big")
    return associated + sa._seal.seal(inner, associated)


@pytest.mark.parametrize(
    ("first", "inner"),
    [(PayloadType.NOTIFY, b"\0\0\0\3"), (PayloadType.DELETE, b"\0\0\0\5\3"), (0, b"trailing")],
)
def test_what_is_authentic_and_malformed_ends_the_ike_sa_on_both_sides(first, inner):
    network = Network()
    moat, portal = established(network)
    sa = moat.ike._context.connections["portal"].sa
    assert sa is not None
    answer = talk_over(sa, portal, network, sealed(sa, first, inner))
    assert kinds_of(answer) == [NotifyType.INVALID_SYNTAX]
    portal.take_events()
    assert portal.kinds(IkeDown)
    assert tables(portal) == EMPTY
    assert portal.counters.value(DropReason.IKE_MALFORMED) == 1


def test_the_one_that_is_told_invalid_syntax_starts_over():
    network = Network()
    moat, portal = established(network)
    real = IkeSa.datagrams

    def misspelt(sa: IkeSa, exchange: int, number: int, response: bool, body: object) -> object:
        if response and sa.context is portal.ike._context and exchange == INFORMATIONAL:
            body = [(PayloadType.NOTIFY, Notify(NotifyType.INVALID_SYNTAX).encode())]
        return real(sa, exchange, number, response, body)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IkeSa, "datagrams", misspelt)
        moat.ike.note_outbound("portal", network.now)
        network.run(network.now + 2.5)
    assert moat.kinds(IkeDown)
    network.run(network.now + 5.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_an_exchange_type_that_nobody_knows_is_answered():
    network = Network()
    moat, portal = established(network)
    answer = talk(moat, portal, network, 200, [])
    assert kinds_of(answer) == [NotifyType.INVALID_SYNTAX]


def test_selectors_without_anything_in_common_are_told_with_the_proof():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, remote_selectors=("10.9.9.0/24",)), 0.0)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(0.5)
    assert tables(portal) == EMPTY
    notices = [e.text for e in moat.events if "refused by the peer" in getattr(e, "text", "")]
    assert "TS_UNACCEPTABLE" in notices[0]
    # The portal tells even a peer that would go on without a CHILD_SA.
    told = [exchange_of(d) for d in network.log if d.local.host == PORTAL_HOST]
    assert (INFORMATIONAL, False) in told


def test_a_peer_that_lost_the_child_sa_makes_us_start_over():
    network = Network()
    moat, portal = established(network)
    portal.ike._context.connections["c0001"].children.clear()
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 5.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_a_delete_of_what_is_not_there_is_answered_empty():
    network = Network()
    moat, portal = established(network)
    body = [(int(PayloadType.DELETE), Delete(Protocol.ESP, (b"\1\2\3\4",)).encode())]
    assert talk(moat, portal, network, INFORMATIONAL, body) == []


# Very many traffic selectors


def test_more_selectors_than_a_payload_holds_are_narrowed():
    networks = tuple(f"10.{n >> 8}.{n & 255}.0/24" for n in range(2, 257))
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    # Each of 255 wanted meets two of those allowed: twice as many as there is room for.
    halves = tuple(f"10.{n >> 8}.{n & 255}.{h}/25" for n in range(2, 257) for h in (0, 128))[:255]
    portal.ike.add_connection(portal_config(moat, remote_selectors=halves), 0.0)
    wide = networks[:127] + ("10.0.0.0/15",) * 128
    moat.ike.add_connection(moat_config(portal, local_selectors=wide), 0.0)
    network.run(2.0)
    assert connected(moat, portal)
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 10.0)
    assert connected(moat, portal)
    assert len(moat.outbound["portal"].child.local_ts) <= 255


def test_as_many_selectors_of_ipv6_as_there_may_be_come_up():
    networks = tuple(f"fd00:{n:x}::/64" for n in range(1, 256))
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(
        portal_config(moat, remote_selectors=networks, local_selectors=networks), 0.0
    )
    moat.ike.add_connection(
        moat_config(portal, local_selectors=networks, remote_selectors=networks), 0.0
    )
    network.run(2.0)
    assert connected(moat, portal)


def test_too_many_configured_selectors_are_refused():
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    networks = tuple(f"10.{n >> 8}.{n & 255}.0/24" for n in range(256))
    with pytest.raises(OperatorError, match="255"):
        moat.ike.add_connection(moat_config(portal, local_selectors=networks), 0.0)
