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

import pytest
from fragments import (
    deliver,
    drops,
    fragment_of,
    is_fragment,
    long_pair,
    long_request,
    waiting,
)
from network import (
    MOAT_HOST,
    PORTAL_HOST,
    SETTLED,
    Network,
    connected,
    established,
    exchange_of,
    sa_of,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.crypto.ike_cipher import sealing_key
from moatvpn.ike import extensions
from moatvpn.ike.fragmentation import (
    LONGEST_MESSAGE,
    pieces,
)
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_fragment import Fragment
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    Exchange,
)


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
    sa = sa_of(moat)
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
