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
from collections.abc import Callable
from itertools import groupby

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
    exchange_of,
    moat_config,
    portal_config,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.crypto.ike_cipher import opening_key, sealing_key
from moatvpn.crypto.keymat import IkeKeys, Seed, rekeyed_ike_keys
from moatvpn.crypto.prf import Prf
from moatvpn.ike import intermediate
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.task import Payloads
from moatvpn.wire.algorithms import PostQuantum
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    Exchange,
    PayloadType,
    parse_header,
    unsealed,
)
from moatvpn.wire.ike_payloads import encode_ke
from moatvpn.wire.ike_proposal import ADDITIONAL_TYPES

OFF, PREFER, REQUIRE = PostQuantum
BOTH = "x25519+mlkem768"
INTERMEDIATE = Exchange.IKE_INTERMEDIATE
SK_HEAD = HEADER_LENGTH + GENERIC_LENGTH


def quantum_pair(
    network: Network, ours: PostQuantum = PREFER, theirs: PostQuantum = PREFER
) -> tuple[Peer, Peer]:
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, post_quantum=theirs), network.now)
    moat.ike.add_connection(moat_config(portal, post_quantum=ours), network.now)
    return moat, portal


def key_exchanges(moat: Peer, portal: Peer) -> tuple[str | None, str | None]:
    return moat.ike.status("portal").key_exchange, portal.ike.status("c0001").key_exchange


def sa_of(peer: Peer, name: str) -> IkeSa:
    sa = peer.ike._context.connections[name].sa
    assert sa is not None
    return sa


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
    assert sa_of(portal, "c0001").initiator
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
    assert sa_of(portal, "c0001")._open_before is None


def test_behind_a_nat_the_exchange_goes_over_port_4500_and_still_counts() -> None:
    # A half-open IKE SA that moves to another port is half open there.
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
    assert key[1:] == (outside.host, outside.port + NAT_PORT)
    network.lose = lambda _: False
    network.run(5.0)
    assert connected(moat, portal)
    assert tables(portal) == SETTLED


# What an attacker may try


def attacked(change: Callable[[Datagram], bytes]) -> tuple[Peer, Peer]:
    """Return both after an attempt of which an attacker has changed messages."""
    network = Network()
    moat, portal = quantum_pair(network)
    network.rewrite = lambda d: Datagram(change(d), d.local, d.remote)
    network.run(4.0)
    assert not moat.inbound
    assert not portal.inbound
    return moat, portal


def test_who_takes_ml_kem_out_of_the_proposals_is_found_out() -> None:
    # The transform's type becomes one that nobody knows, so that only the proposal without is left.
    addke = bytes((0, 0, 0, 8, ADDITIONAL_TYPES[0], 0, 0, 36))

    def strip(datagram: Datagram) -> bytes:
        if exchange_of(datagram) != (Exchange.IKE_SA_INIT, False):
            return datagram.data
        assert addke in datagram.data
        return datagram.data.replace(addke, bytes((0, 0, 0, 8, 99, 0, 0, 36)))

    _, portal = attacked(strip)
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) > 0


@pytest.mark.parametrize("response", [False, True])
def test_who_takes_the_notify_away_is_found_out(response: bool) -> None:
    def strip(datagram: Datagram) -> bytes:
        if exchange_of(datagram) != (Exchange.IKE_SA_INIT, response):
            return datagram.data
        return datagram.data.replace(b"\x40\x36", b"\x40\xfe")

    moat, portal = attacked(strip)
    if response:  # ML-KEM without the exchange that carries it
        assert moat.counters.value(DropReason.IKE_NO_PROPOSAL) > 0
    else:
        assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) > 0


@pytest.mark.parametrize("response", [False, True])
def test_who_has_the_first_keys_cannot_change_the_exchange(response: bool) -> None:
    """A quantum computer has found SK_e: it seals what it likes. Here one reserved bit."""
    network = Network()
    moat, portal = quantum_pair(network)
    changed = []

    def forge(datagram: Datagram) -> Datagram:
        data = datagram.data
        first = data[SK_HEAD : SK_HEAD + 2] == b"\x00\x01"
        if exchange_of(datagram) != (INTERMEDIATE, response) or not first:
            return datagram
        # Both hold the keys before; the sender of the response has others by now.
        holder = moat.ike._context.connections["portal"].attempt
        assert holder is not None
        keys = holder[0].keys
        assert keys is not None
        key = keys.sk_r if response else keys.sk_i
        start = SK_HEAD + 4
        inner = opening_key(keys.suite, key).open(data[start:], data[:start])[:-1]
        head = data[: HEADER_LENGTH + 1] + b"\x01" + data[HEADER_LENGTH + 2 : start]
        sealing = sealing_key(keys.suite, key)
        for _ in range(100):
            sealing._ivs.next()  # type: ignore[attr-defined]
        changed.append(datagram)
        return Datagram(head + sealing.seal(inner, head), datagram.local, datagram.remote)

    network.rewrite = forge
    network.run(4.0)
    assert changed
    assert not portal.inbound
    assert not moat.inbound
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) > 0


def patched_request(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Payloads], Payloads]
) -> tuple[Peer, Peer]:
    """Return both after an attempt in which the moat's IKE_INTERMEDIATE has other payloads."""
    network = Network()
    real = intermediate.IntermediateTask.build
    monkeypatch.setattr(
        intermediate.IntermediateTask, "build", lambda self, now: change(real(self, now))
    )
    moat, portal = quantum_pair(network)
    network.run(0.4)
    assert not moat.inbound
    assert tables(portal) == EMPTY
    return moat, portal


@pytest.mark.parametrize(
    "body",
    [
        encode_ke(36, bytes(1183)),
        encode_ke(36, b"\xff" * 1184),
        encode_ke(35, bytes(1184)),
        encode_ke(31, bytes(32)),
        b"\0\0",
    ],
)
def test_a_public_value_that_no_honest_peer_sends(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    _, portal = patched_request(monkeypatch, lambda _: [(PayloadType.KE, body)])
    assert portal.counters.value(DropReason.IKE_MALFORMED) == 1


def test_an_exchange_without_a_public_value(monkeypatch: pytest.MonkeyPatch) -> None:
    _, portal = patched_request(monkeypatch, lambda _: [])
    assert portal.counters.value(DropReason.IKE_MALFORMED) == 1


def test_ike_auth_does_not_come_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        intermediate,
        "proceed",
        lambda connection, sa, secrets, now: sa.start(
            intermediate.auth.AuthTask(connection, sa, secrets), now
        ),
    )
    network = Network()
    moat, portal = quantum_pair(network)
    network.run(0.4)
    assert not moat.inbound
    assert tables(portal) == EMPTY
    assert portal.counters.value(DropReason.IKE_UNEXPECTED_EXCHANGE) == 1


def test_one_that_was_not_agreed_on_ends_the_attempt() -> None:
    network = Network()
    moat, portal = quantum_pair(network, OFF, PREFER)
    network.lose = lambda d: exchange_of(d)[0] == Exchange.IKE_AUTH
    network.run(0.3)
    attempt = moat.ike._context.connections["portal"].attempt
    assert attempt is not None
    sa = attempt[0]
    body = [(PayloadType.KE, encode_ke(36, bytes(1184)))]
    data = sa.seal(INTERMEDIATE, 1, False, body)
    portal.ike.receive_datagram(Datagram(data, sa.remote, sa.local), network.now)
    assert portal.counters.value(DropReason.IKE_UNEXPECTED_EXCHANGE) == 1
    assert tables(portal) == EMPTY


def test_a_ciphertext_that_is_not_for_us_makes_keys_that_nobody_has() -> None:
    """FIPS 203's implicit rejection: no error, but IKE_AUTH is not authentic."""
    network = Network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intermediate, "answer_key_exchange", lambda *_: (bytes(1088), bytes(32)))
        moat, portal = quantum_pair(network)
        network.run(0.5)
    assert not moat.inbound
    assert portal.counters.value(DropReason.IKE_NOT_AUTHENTIC) > 0


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
    keys = sa_of(moat, "portal").keys
    assert isinstance(keys, IkeKeys)
    assert keys.sk_d.hex() not in repr(keys)
    assert str(keys.sk_d) not in repr(keys)
