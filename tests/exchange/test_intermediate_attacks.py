"""What an attacker may try on IKE_INTERMEDIATE; test_intermediate.py has the picture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from network import (
    EMPTY,
    Network,
    Peer,
    exchange_of,
    tables,
)
from quantum import INTERMEDIATE, OFF, PREFER, quantum_pair

from moatvpn.counters import DropReason
from moatvpn.crypto.ike_cipher import opening_key, sealing_key
from moatvpn.ike import intermediate
from moatvpn.ike.task import Payloads
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    Exchange,
    PayloadType,
)
from moatvpn.wire.ike_payloads import encode_ke
from moatvpn.wire.ike_proposal import ADDITIONAL_TYPES

SK_HEAD = HEADER_LENGTH + GENERIC_LENGTH


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
