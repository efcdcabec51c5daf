"""Messages in fragments (RFC 7383): no datagram is longer than 576 octets with its headers.

moat                                  portal
HDR, SAi1, KEi, Ni, N(FRAG) ---->
                            <----  HDR, SAr1, KEr, Nr, N(FRAG)
HDR, SKF(1 of 8){...} ---->
...
HDR, SKF(8 of 8){...} ---->
                            <----  HDR, SKF(1 of 8){...}
                            ...
                            <----  HDR, SKF(8 of 8){...}
"""

from __future__ import annotations

import struct

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
    established,
    exchange_of,
    moat_config,
    portal_config,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.crypto.ike_cipher import sealing_key
from moatvpn.ike import extensions
from moatvpn.ike.fragmentation import (
    LONGEST_MESSAGE,
    MOST_FRAGMENTS,
    REASSEMBLY_SECONDS,
    Opened,
    pieces,
)
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_fragment import Fragment
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    MAX_MESSAGE_LENGTH,
    Exchange,
    PayloadType,
    encode_chain,
)
from moatvpn.wire.ike_payloads import Notify

# So many that IKE_AUTH takes some 4 KB each way.
NETWORKS = tuple(f"10.{100 + n // 256}.{n % 256}.0/24" for n in range(0, 240, 2))
COUNTED = (
    DropReason.IKE_FRAGMENT_UNEXPECTED,
    DropReason.IKE_FRAGMENT_REPEATED,
    DropReason.IKE_FRAGMENT_LIMIT,
    DropReason.IKE_NOT_AUTHENTIC,
    DropReason.IKE_MALFORMED,
    DropReason.IKE_UNEXPECTED_MESSAGE_ID,
)


def long_pair(network: Network) -> tuple[Peer, Peer]:
    """Return a moat and its portal, about to connect, whose IKE_AUTH is long in both directions."""
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, remote_selectors=NETWORKS), network.now)
    moat.ike.add_connection(moat_config(portal, local_selectors=NETWORKS), network.now)
    return moat, portal


def is_fragment(datagram: Datagram) -> bool:
    return datagram.data[16] == PayloadType.SKF


def fragment_of(datagram: Datagram) -> tuple[int, int]:
    number, total = struct.unpack_from("!HH", datagram.data, HEADER_LENGTH + 4)
    return number, total


def drops(peer: Peer) -> dict[DropReason, int]:
    return {reason: n for reason in COUNTED if (n := peer.counters.value(reason))}


def waiting(peer: Peer) -> int:
    return len(peer.ike._context.reassembly)


def sa_of(peer: Peer, name: str) -> IkeSa:
    sa = peer.ike._context.connections[name].sa
    assert sa is not None
    return sa


def test_no_datagram_is_longer_than_every_host_takes() -> None:
    network = Network()
    moat, portal = long_pair(network)
    network.run(1.0)
    assert connected(moat, portal)
    assert moat.inbound.popitem()[1].child.local_ts == portal.inbound.popitem()[1].child.remote_ts
    assert all(len(datagram.data) <= LONGEST_MESSAGE for datagram in network.log)
    for response in (False, True):
        told = [
            fragment_of(d)
            for d in network.log
            if is_fragment(d) and d.data[19] & 32 == 32 * response
        ]
        assert len(told) > 1
        assert told == [(number, len(told)) for number in range(1, len(told) + 1)]
    assert not drops(moat)
    assert not drops(portal)
    assert not waiting(moat) + waiting(portal)


def test_what_fits_goes_whole() -> None:
    network = Network()
    established(network)
    assert not any(is_fragment(datagram) for datagram in network.log)


@pytest.mark.parametrize("suite", CipherSuite)
@pytest.mark.parametrize("length", [500, 501, 960, 4000, 20000])
def test_fragments_are_as_long_as_they_may_be(suite: CipherSuite, length: int) -> None:
    key = sealing_key(suite, bytes(suite.material_length))
    cut = list(pieces(key, bytes(length)))
    assert b"".join(part for _, part in cut) == bytes(length)
    assert [piece for piece, _ in cut] == [Fragment(n + 1, len(cut)) for n in range(len(cut))]
    for _, part in cut:
        assert HEADER_LENGTH + 8 + key.sealed_length(len(part)) <= LONGEST_MESSAGE
    assert (
        HEADER_LENGTH + 8 + key.sealed_length(len(cut[0][1]) + 1) > LONGEST_MESSAGE or len(cut) == 1
    )


@pytest.mark.parametrize("seed", range(8))
def test_fragments_that_are_lost_repeated_and_reordered(seed: int) -> None:
    # A message of eight fragments comes whole less often; but what has come of it is kept.
    network = Network(seed, loss=0.15, repeat=0.2, jitter=0.3)
    moat, portal = long_pair(network)
    network.run(60.0)
    network.loss = network.repeat = network.jitter = 0.0
    network.run(network.now + 30.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert not waiting(moat) + waiting(portal)


def test_one_lost_fragment_comes_with_the_next_sending() -> None:
    network = Network()
    moat, portal = long_pair(network)
    lost: list[Datagram] = []

    def lose(datagram: Datagram) -> bool:
        first = is_fragment(datagram) and fragment_of(datagram)[0] == 3 and not lost
        lost.extend([datagram] * first)
        return first

    network.lose = lose
    network.run(0.4)
    assert lost
    assert waiting(portal) == 1
    network.run(1.5)
    assert connected(moat, portal)
    # HDR, SKF(1..8) ----> again: all but the third have come before; the rest follows the answer.
    assert portal.counters.value(DropReason.IKE_FRAGMENT_REPEATED) > 0
    assert not waiting(portal)


def test_the_first_fragment_again_gets_the_whole_answer_again() -> None:
    # HDR, SKF(1 of 8) ---->                    (a copy, after the answer)
    #                   <----  HDR, SKF(1 of 8) ... HDR, SKF(8 of 8)
    # HDR, SKF(2 of 8) ---->                    nothing (2.6.1)
    network = Network()
    _, portal = long_pair(network)
    network.run(1.0)
    asked = [d for d in network.log if is_fragment(d) and d.local.host == MOAT_HOST]
    answered = [d.data for d in network.log if is_fragment(d) and d.local.host == PORTAL_HOST]
    for datagram in asked:
        arrived = Datagram(datagram.data, datagram.remote, datagram.local)
        portal.ike.receive_datagram(arrived, network.now)
        again = [d.data for d in portal.ike.datagrams_to_send()]
        assert again == (answered if fragment_of(datagram)[0] == 1 else [])
    assert drops(portal) == {DropReason.IKE_FRAGMENT_REPEATED: len(asked) - 1}


def test_a_peer_without_fragmentation_gets_messages_whole() -> None:
    network = Network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extensions, "offer", lambda sa, _: [])
        moat, portal = long_pair(network)
        network.run(1.0)
    assert connected(moat, portal)
    assert not any(is_fragment(datagram) for datagram in network.log)
    sa = sa_of(moat, "portal")
    sa.fragmentation = True
    for data in long_request(sa):
        assert deliver(portal, sa, data, network.now) == []
    assert portal.counters.value(DropReason.IKE_FRAGMENT_UNEXPECTED) > 1


def test_who_takes_the_notify_away_is_found_out() -> None:
    # The notify stands in what both sides sign.
    network = Network()
    moat, portal = long_pair(network)

    def strip(datagram: Datagram) -> Datagram:
        if exchange_of(datagram)[0] != Exchange.IKE_SA_INIT:
            return datagram
        data = datagram.data.replace(b"\x40\x2e", b"\x40\xfe")  # 16430 becomes one unknown
        return Datagram(data, datagram.local, datagram.remote)

    network.rewrite = strip
    network.run(3.0)
    assert not moat.inbound
    assert not portal.inbound
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) > 0


def test_rekeyed_ike_sas_go_on_with_fragments() -> None:
    network = Network()
    moat, portal = long_pair(network)
    network.run(1.0)
    moat.ike.rekey("portal", "ike", network.now)
    network.run(2.0)
    network.log.clear()
    moat.ike.rekey("portal", "child", network.now)
    network.run(3.0)
    assert connected(moat, portal)
    assert sum(is_fragment(datagram) for datagram in network.log) > 4
    assert all(len(datagram.data) <= LONGEST_MESSAGE for datagram in network.log)


# Hostile fragments


def long_request(sa: IkeSa, octets: int = 2000) -> tuple[bytes, ...]:
    """Return an authentic liveness check with a notify that nobody knows, in fragments."""
    body = [(PayloadType.NOTIFY, Notify(40000, bytes(octets)).encode())]
    return sa.datagrams(Exchange.INFORMATIONAL, sa.next_request, False, body)


def piece(sa: IkeSa, number: int, total: int, inner: bytes, message_id: int | None = None) -> bytes:
    """Return one authentic fragment of a request of sa's owner."""
    asked = sa.next_request if message_id is None else message_id
    message = (Exchange.INFORMATIONAL, asked, False)
    start = struct.pack("!HH", number, total)
    return sa._protect(PayloadType.SKF, message, PayloadType.NOTIFY, start, inner)


def deliver(peer: Peer, sa: IkeSa, data: bytes, now: float) -> list[bytes]:
    """Hand one datagram of sa's owner to its peer; return what that sends."""
    peer.ike.receive_datagram(Datagram(data, sa.remote, sa.local), now)
    return [datagram.data for datagram in peer.ike.datagrams_to_send()]


def settled() -> tuple[Network, IkeSa, Peer]:
    network = Network()
    moat, portal = established(network)
    return network, sa_of(moat, "portal"), portal


def test_fragments_are_put_together_in_any_order() -> None:
    network, sa, portal = settled()
    *rest, first = reversed(long_request(sa))
    for data in rest:
        assert deliver(portal, sa, data, network.now) == []
    assert len(deliver(portal, sa, first, network.now)) == 1
    assert not drops(portal)


def test_what_is_not_authentic_takes_no_place() -> None:
    network, sa, portal = settled()
    whole = long_request(sa)
    for data in whole:
        for at in (HEADER_LENGTH + 4, HEADER_LENGTH + 5, HEADER_LENGTH + 7, 60, len(data) - 1):
            forged = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            assert deliver(portal, sa, forged, network.now) == []
        assert waiting(portal) == 0
    counted = drops(portal)
    assert set(counted) <= {
        DropReason.IKE_NOT_AUTHENTIC, DropReason.IKE_MALFORMED, DropReason.IKE_FRAGMENT_LIMIT
    }  # fmt: skip
    assert sum(counted.values()) == 5 * len(whole)
    answers = [answer for data in whole for answer in deliver(portal, sa, data, network.now)]
    assert len(answers) == 1


def test_a_forged_total_does_not_drop_what_has_come() -> None:
    network, sa, portal = settled()
    *rest, last = long_request(sa)
    for data in rest:
        deliver(portal, sa, data, network.now)
    at = HEADER_LENGTH + 6
    forged = rest[0][:at] + struct.pack("!H", 60) + rest[0][at + 2 :]
    assert deliver(portal, sa, forged, network.now) == []
    assert len(deliver(portal, sa, last, network.now)) == 1


@pytest.mark.parametrize(
    ("number", "total"), [(0, 3), (4, 3), (1, 0), (0, 0), (1, MOST_FRAGMENTS + 1), (1, 65535)]
)
def test_numbers_that_cannot_be(number: int, total: int) -> None:
    network, sa, portal = settled()
    assert deliver(portal, sa, piece(sa, number, total, bytes(8)), network.now) == []
    limit = number == 1 and total > MOST_FRAGMENTS
    reason = DropReason.IKE_FRAGMENT_LIMIT if limit else DropReason.IKE_MALFORMED
    assert drops(portal) == {reason: 1}
    assert not waiting(portal)


def test_a_fragment_comes_once_and_the_first_counts() -> None:
    # HDR, SKF(2 of 2){empty} ---->,  HDR, SKF(2 of 2){other} ---->  dropped
    network, sa, portal = settled()
    _, chain = encode_chain([(PayloadType.NOTIFY, Notify(40000, b"x").encode())])
    deliver(portal, sa, piece(sa, 2, 2, b""), network.now)
    deliver(portal, sa, piece(sa, 2, 2, b"other octets"), network.now)
    assert drops(portal) == {DropReason.IKE_FRAGMENT_REPEATED: 1}
    assert len(deliver(portal, sa, piece(sa, 1, 2, chain), network.now)) == 1


def test_fewer_in_all_are_dropped_and_more_begin_anew() -> None:
    # HDR, SKF(1 of 3) ---->, HDR, SKF(2 of 2) ----> dropped, HDR, SKF(2 of 4) ----> anew (2.6)
    network, sa, portal = settled()
    _, chain = encode_chain([(PayloadType.NOTIFY, Notify(40000, b"xyz").encode())])
    deliver(portal, sa, piece(sa, 1, 3, b"old"), network.now)
    deliver(portal, sa, piece(sa, 2, 2, b"old"), network.now)
    assert drops(portal) == {DropReason.IKE_FRAGMENT_UNEXPECTED: 1}
    deliver(portal, sa, piece(sa, 2, 4, chain[4:6]), network.now)
    deliver(portal, sa, piece(sa, 3, 4, chain[6:]), network.now)
    deliver(portal, sa, piece(sa, 4, 4, b""), network.now)
    assert len(deliver(portal, sa, piece(sa, 1, 4, chain[:4]), network.now)) == 1


def test_a_message_is_no_longer_than_it_may_be() -> None:
    network, sa, portal = settled()
    held = portal.ike._context.reassembly._held
    count = MAX_MESSAGE_LENGTH // 1000
    for number in range(1, count + 2):
        assert max(held.values()) <= MAX_MESSAGE_LENGTH
        deliver(portal, sa, piece(sa, number, MOST_FRAGMENTS, bytes(1000)), network.now)
    assert drops(portal) == {DropReason.IKE_FRAGMENT_LIMIT: 1}
    assert set(held.values()) == {0}
    assert not waiting(portal)


def test_fragments_that_are_alone_are_forgotten() -> None:
    network, sa, portal = settled()
    deliver(portal, sa, piece(sa, 1, 2, bytes(1000)), network.now)
    assert waiting(portal) == 1
    network.run(network.now + REASSEMBLY_SECONDS + 0.1)
    assert not waiting(portal)
    assert set(portal.ike._context.reassembly._held.values()) == {0}
    assert tables(portal) == SETTLED


def test_fragments_go_with_their_exchange_and_with_their_ike_sa() -> None:
    network, sa, portal = settled()
    deliver(portal, sa, piece(sa, 1, 2, bytes(1000)), network.now)
    whole = sa.seal(Exchange.INFORMATIONAL, sa.next_request, False, [])
    assert len(deliver(portal, sa, whole, network.now)) == 1
    assert not waiting(portal)
    sa.next_request += 1
    deliver(portal, sa, piece(sa, 1, 2, bytes(1000)), network.now)
    portal.ike.shutdown(network.now)
    assert not waiting(portal)
    assert set(portal.ike._context.reassembly._held.values()) == {0}


def test_only_the_next_request_is_collected() -> None:
    network, sa, portal = settled()
    for ahead in (1, 2, 1000):
        data = piece(sa, 1, 2, b"", sa.next_request + ahead)
        assert deliver(portal, sa, data, network.now) == []
    assert drops(portal) == {DropReason.IKE_UNEXPECTED_MESSAGE_ID: 3}
    assert not waiting(portal)


def test_a_response_in_fragments_has_to_be_awaited() -> None:
    network, sa, portal = settled()
    message = (Exchange.INFORMATIONAL, 7, True)
    data = sa._protect(PayloadType.SKF, message, 0, struct.pack("!HH", 1, 2), b"")
    assert deliver(portal, sa, data, network.now) == []
    assert drops(portal) == {DropReason.IKE_UNEXPECTED_MESSAGE_ID: 1}


def test_strangers_together_hold_so_much_and_the_oldest_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moatvpn.ike.fragmentation.MOST_OF_STRANGERS", 3000)
    network = Network()
    moat, portal = established(network)
    strangers = []
    for n in range(2, 7):
        stranger = Peer(f"m{n}.example.net", f"192.0.2.{90 + n}", n)
        network.join(stranger)
        stranger.ike.add_connection(moat_config(portal, local_selectors=NETWORKS), network.now)
        strangers.append(stranger)
    network.lose = lambda d: is_fragment(d) and fragment_of(d)[0] > 2
    network.run(network.now + 0.4)
    assert len(portal.ike._context.half_open) == len(strangers)
    assert 0 < waiting(portal) < len(strangers)
    held = portal.ike._context.reassembly._held
    assert held[True] <= 3000
    # What is an authenticated peer's is no part of it.
    sa = sa_of(moat, "portal")
    *rest, last = long_request(sa, 6000)
    for data in rest:
        deliver(portal, sa, data, network.now)
    assert held[False] > 3000
    assert len(deliver(portal, sa, last, network.now)) == 1
    network.lose = lambda _: False
    network.run(network.now + 30.0)
    assert not any(held.values())
    assert not any(portal.ike._context.reassembly._keys.values())


def test_padding_that_does_not_fit_is_malformed() -> None:
    with pytest.raises(Exception, match="padding"):
        Opened(bytes(32), b"\x05\x02").payloads()
    assert Opened(bytes(32), b"\0").payloads() == []
