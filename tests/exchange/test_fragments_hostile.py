"""Fragments that are forged, too many, too large, or never complete (RFC 7383, 2.6)."""

from __future__ import annotations

import struct

import pytest
from fragments import (
    NETWORKS,
    deliver,
    drops,
    fragment_of,
    is_fragment,
    long_request,
    piece,
    waiting,
)
from network import (
    SETTLED,
    Network,
    Peer,
    established,
    moat_config,
    sa_of,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.ike.fragmentation import (
    MOST_FRAGMENTS,
    REASSEMBLY_SECONDS,
    Opened,
)
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    MAX_MESSAGE_LENGTH,
    Exchange,
    PayloadType,
    encode_chain,
)
from moatvpn.wire.ike_payloads import Notify


def settled() -> tuple[Network, IkeSa, Peer]:
    network = Network()
    moat, portal = established(network)
    return network, sa_of(moat), portal


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
    sa = sa_of(moat)
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
