"""ML-KEM beside the first key exchange: IKE_INTERMEDIATE (RFC 9242), ADDKE (RFC 9370).

moat                                             portal
HDR, SAi1(KE, ADDKE1), KEi(0), Ni, N(INTERMEDIATE) ---->
                  <----  HDR, SAr1(KE, ADDKE1), KEr(0), Nr, N(INTERMEDIATE)
HDR, SKF(1 of 3){KEi(1)} ...  ---->
                         <----  HDR, SKF(1 of 3){KEr(1)} ...
HDR, SK{IDi, AUTH, SAi2, TSi, TSr} ---->                   with the keys of both
                         <----  HDR, SK{IDr, AUTH, SAr2, TSi, TSr}
"""

from __future__ import annotations

import hashlib
import hmac
from itertools import groupby

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
    portal_config,
    sa_of,
    tables,
)
from quantum import BOTH, INTERMEDIATE, OFF, PREFER, REQUIRE, key_exchanges, quantum_pair

from moatvpn.counters import DropReason
from moatvpn.crypto.keymat import IkeKeys, Seed, rekeyed_ike_keys
from moatvpn.crypto.prf import Prf
from moatvpn.ike import intermediate
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.wire.algorithms import PostQuantum
from moatvpn.wire.endpoint import IKE_PORT, NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    Exchange,
    PayloadType,
    parse_header,
    unsealed,
)

SK_HEAD = HEADER_LENGTH + GENERIC_LENGTH


def test_six_messages_make_a_tunnel_that_quantum_computers_do_not_open() -> None:
    network = Network()
    moat, portal = quantum_pair(network)
    network.run(1.0)
    assert connected(moat, portal)
    assert key_exchanges(moat, portal) == (BOTH, BOTH)
    assert [message for message, _ in groupby(map(exchange_of, network.log))] == [
        (Exchange.IKE_SA_INIT, False),
        (Exchange.IKE_SA_INIT, True),
        (INTERMEDIATE, False),
        (INTERMEDIATE, True),
        (Exchange.IKE_AUTH, False),
        (Exchange.IKE_AUTH, True),
    ]
    assert tables(moat) == tables(portal) == SETTLED
    assert not moat.counters.snapshot()
    assert not portal.counters.snapshot()


def test_a_portal_that_calls_its_moat_does_it_too() -> None:
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, post_quantum=REQUIRE), 0.0)
    moat.ike.add_connection(moat_config(portal, post_quantum=REQUIRE), 0.0)
    network.lose = lambda d: d.local.host == MOAT_HOST and exchange_of(d) == (
        Exchange.IKE_SA_INIT, False
    )  # fmt: skip
    portal.ike.remember_peer("c0001", Endpoint(MOAT_HOST, 500), 0.0)
    network.run(5.0)
    assert connected(moat, portal)
    assert sa_of(portal).initiator
    assert key_exchanges(moat, portal) == (BOTH, BOTH)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        (OFF, OFF, "x25519"),
        (OFF, PREFER, "x25519"),
        (PREFER, OFF, "x25519"),
        (PREFER, PREFER, BOTH),
        (PREFER, REQUIRE, BOTH),
        (REQUIRE, PREFER, BOTH),
        (REQUIRE, REQUIRE, BOTH),
        (REQUIRE, OFF, None),
        (OFF, REQUIRE, None),
    ],
)
def test_what_two_sides_agree_on(
    ours: PostQuantum, theirs: PostQuantum, agreed: str | None
) -> None:
    network = Network()
    moat, portal = quantum_pair(network, ours, theirs)
    network.run(3.0)
    assert connected(moat, portal) is (agreed is not None)
    assert key_exchanges(moat, portal) == (agreed, agreed)
    if agreed is None:
        reasons = (DropReason.IKE_NO_PROPOSAL, DropReason.IKE_UNEXPECTED_EXCHANGE)
        assert sum(map(portal.counters.value, reasons)) > 0


def test_what_one_connection_requires_another_need_not_have() -> None:
    # The portal learns from IKE_AUTH only who calls.
    network = Network()
    moat, portal = quantum_pair(network, OFF, REQUIRE)
    other = Peer("m2.example.net", "192.0.2.77", 5)
    network.join(other)
    config = portal_config(other, name="c2", remote_selectors=("10.202.0.0/24",), post_quantum=OFF)
    portal.ike.add_connection(config, 0.0)
    other.ike.add_connection(moat_config(portal, local_selectors=("10.202.0.0/24",)), 0.0)
    network.run(3.0)
    assert portal.ike.status("c2").state == "established"
    assert portal.ike.status("c0001").state == "waiting"
    assert not connected(moat, portal)


@pytest.mark.parametrize("seed", range(8))
def test_loss_repetition_and_reordering(seed: int) -> None:
    network = Network(seed, loss=0.15, repeat=0.2, jitter=0.3)
    moat, portal = quantum_pair(network, REQUIRE, REQUIRE)
    network.run(60.0)
    network.loss = network.repeat = network.jitter = 0.0
    network.run(network.now + 30.0)
    assert connected(moat, portal)
    assert key_exchanges(moat, portal) == (BOTH, BOTH)
    assert tables(moat) == tables(portal) == SETTLED


def test_the_request_again_gets_the_answer_again_though_keys_have_changed() -> None:
    # HDR, SK{KEi(1)} ---->
    #                   X--  HDR, SK{KEr(1)}         lost
    # HDR, SK{KEi(1)} ---->                          again, with the keys before
    #                  <----  HDR, SK{KEr(1)}        the very same
    network = Network()
    moat, portal = quantum_pair(network)
    network.lose = lambda d: exchange_of(d) == (INTERMEDIATE, True) and network.now < 0.4
    network.run(3.0)
    assert connected(moat, portal)
    answers = [d.data for d in network.log if exchange_of(d) == (INTERMEDIATE, True)]
    assert len(answers) > 3
    assert len(set(answers)) == 3
    # What comes still later, of an exchange before the last, gets nothing.
    late = next(d for d in network.log if exchange_of(d) == (INTERMEDIATE, False))
    portal.ike.receive_datagram(Datagram(late.data, late.remote, late.local), network.now)
    assert not portal.ike.datagrams_to_send()
    assert sa_of(portal)._open_before is None


def test_behind_a_nat_the_exchange_goes_over_port_4500_and_still_counts() -> None:
    # A half-open IKE SA that moves stays on the account of the address that asked first.
    network = Network()
    moat, portal = quantum_pair(network)
    outside = Endpoint("203.0.113.5", 20000)

    def nat(datagram: Datagram) -> Datagram:
        if datagram.local.host == MOAT_HOST:
            public = Endpoint(outside.host, outside.port + datagram.local.port)
            return Datagram(datagram.data, public, datagram.remote)
        inside = Endpoint(MOAT_HOST, datagram.remote.port - outside.port)
        return Datagram(datagram.data, datagram.local, inside)

    network.rewrite = nat
    network.lose = lambda d: exchange_of(d)[0] == Exchange.IKE_AUTH
    network.run(0.4)
    assert tables(portal)["half_open"] == 1
    (key,) = portal.ike._context.half_open._sas
    assert key[1:] == (outside.host, outside.port + IKE_PORT)
    (half_open,) = portal.ike._context.half_open._keys
    assert half_open.remote == Endpoint(outside.host, outside.port + NAT_PORT)
    network.lose = lambda _: False
    network.run(5.0)
    assert connected(moat, portal)
    assert tables(portal) == SETTLED


# Formulas


def test_keys_and_int_auth_are_those_of_the_rfcs(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real = intermediate._take

    def take(sa: IkeSa, secrets: object, messages: tuple[bytes, bytes], shared: bytes) -> None:
        before = sa.keys
        real(sa, secrets, messages, shared)  # type: ignore[arg-type]
        taken.append((sa, secrets, before, sa.keys, messages, shared))

    monkeypatch.setattr(intermediate, "_take", take)
    network = Network()
    _moat, _portal = quantum_pair(network)
    network.run(1.0)
    (sa, secrets, old, new, messages, shared), theirs = taken
    assert messages == theirs[4]
    assert shared == theirs[5]
    assert len(shared) == 32
    assert old.prf is Prf.HMAC_SHA2_512

    def prf(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.sha512).digest()

    # RFC 9242, 3.3.2: IntAuth = IntAuth_i1 | IntAuth_r1 | the message ID of IKE_AUTH.
    both = prf(old.sk_pi, messages[0]) + prf(old.sk_pr, messages[1])
    assert secrets.int_auth == both + bytes((0, 0, 0, 2))
    # RFC 9370, 2.2.3: SKEYSEED(1) = prf(SK_d(0), SK(1) | Ni | Nr), and prf+ as ever.
    skeyseed = prf(old.sk_d, shared + secrets.nonce_i + secrets.nonce_r)
    seed = secrets.nonce_i + secrets.nonce_r + sa.spi_i + sa.spi_r
    assert new.sk_d == prf(skeyseed, seed + b"\x01")
    assert new == rekeyed_ike_keys(
        old.prf, old.suite, old, shared,
        Seed(secrets.nonce_i, secrets.nonce_r, sa.spi_i, sa.spi_r),
    )  # fmt: skip
    for message, response in zip(messages, (False, True), strict=True):
        header = parse_header(message)
        assert (header.next_payload, header.exchange) == (PayloadType.SK, INTERMEDIATE)
        assert (header.response, header.message_id) == (response, 1)
        # The payload's length, less its own header: no IV, padding or ICV (Figure 1).
        assert int.from_bytes(message[HEADER_LENGTH + 2 : SK_HEAD], "big") == len(message) - 28
        size = 1088 if response else 1184
        assert len(message) == SK_HEAD + 8 + size
        assert message[SK_HEAD : SK_HEAD + 8] == bytes((0, 0, 0, 0)[:2]) + (8 + size).to_bytes(
            2, "big"
        ) + bytes((0, 36, 0, 0))


def test_what_auth_covers_does_not_depend_on_fragments() -> None:
    whole = bytes(range(16)) + b"\x2e\x20\x2b\x08\0\0\0\1" + bytes(4) + b"\x22\x80\0\0"
    first = whole[:16] + b"\x35" + whole[17:24] + b"\0\0\2\x20" + b"\x22\x80\2\4"
    assert unsealed(whole, b"chain") == unsealed(first, b"chain")
    assert unsealed(first, b"chain")[24:] == b"\0\0\0\x25" + b"\x22\x80\0\x09" + b"chain"


def test_keys_are_no_part_of_any_text() -> None:
    network = Network()
    moat, _portal = quantum_pair(network)
    network.run(1.0)
    keys = sa_of(moat).keys
    assert isinstance(keys, IkeKeys)
    assert keys.sk_d.hex() not in repr(keys)
    assert str(keys.sk_d) not in repr(keys)
