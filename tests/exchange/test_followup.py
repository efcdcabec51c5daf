"""ML-KEM in rekeys: IKE_FOLLOWUP_KE (RFC 9370, 2.2.4).

HDR, SK{N(REKEY_SA), SA(KE, ADDKE1), Ni, KEi(0), TSi, TSr} ---->
       <----  HDR, SK{SA, Nr, KEr(0), TSi, TSr, N(ADDITIONAL_KEY_EXCHANGE)(link)}
HDR, SKF(1 of 3){KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link)} ... ---->
       <----  HDR, SKF(1 of 3){KEr(1)} ...
"""

from __future__ import annotations

import hashlib
import hmac
from itertools import groupby
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
    portal_config,
    sa_of,
    tables,
    watch_usable,
)
from quantum import BOTH, CREATE, FOLLOWUP, OFF, PREFER, key_exchanges, pending, quantum, start

from moatvpn.ike import child, rekey
from moatvpn.ike.additional import kems_of
from moatvpn.ike.events import IkeDown, IkeRekeyed
from moatvpn.ike.proposal import IkeChoice

SIDES = ["moat", "portal"]


def messages(network: Network) -> list[tuple[int, bool]]:
    return [message for message, _ in groupby(map(exchange_of, network.log))]


def in_order(moat: Peer, portal: Peer) -> None:
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert not pending(moat) + pending(portal)
    assert not moat.kinds(IkeDown)
    assert sa_of(moat).spi_i == sa_of(portal).spi_i
    assert key_exchanges(moat, portal) == (BOTH, BOTH)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["child", "ike"])
def test_four_messages_rekey(kind: str, side: str) -> None:
    network = Network()
    moat, portal = quantum(network)
    watch_usable(network, moat, portal)
    before = moat.outbound["portal"].child, sa_of(moat).spi_i
    start(moat if side == "moat" else portal, kind, network)
    network.run(network.now + 0.5)
    expected = [(CREATE, False), (CREATE, True), (FOLLOWUP, False), (FOLLOWUP, True)]
    assert messages(network)[:4] == expected
    network.run(network.now + 20.0)
    in_order(moat, portal)
    after = moat.outbound["portal"].child, sa_of(moat).spi_i
    assert (before[0] != after[0], before[1] != after[1]) == (kind == "child", kind == "ike")
    assert not moat.counters.snapshot()
    assert not portal.counters.snapshot()


def test_one_more_child_sa() -> None:
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    two, all_of_it = ("10.201.1.0/24", "10.202.1.0/24"), ("0.0.0.0/0",)
    there = portal_config(
        moat, post_quantum=PREFER, local_selectors=all_of_it, remote_selectors=two
    )
    here = moat_config(
        portal,
        post_quantum=PREFER,
        local_selectors=two,
        remote_selectors=all_of_it,
        child_sas="per-pair",
    )
    portal.ike.add_connection(there, 0.0)
    moat.ike.add_connection(here, 0.0)
    network.run(1.0)
    assert messages(network)[-4:] == [
        (CREATE, False), (CREATE, True), (FOLLOWUP, False), (FOLLOWUP, True)
    ]  # fmt: skip
    assert len(moat.inbound) == len(portal.inbound) == 2
    keys = {up.child.spi_out: up.child.key_out for up in moat.inbound.values()}
    assert keys == {up.child.spi_in: up.child.key_in for up in portal.inbound.values()}


def test_a_peer_without_is_not_asked_again() -> None:
    network = Network()
    moat, portal = quantum(network, PREFER, OFF)
    for peer in (moat, portal):
        for kind in ("child", "ike"):
            start(peer, kind, network)
            network.run(network.now + 10.0)
    assert FOLLOWUP not in {exchange for exchange, _ in messages(network)}
    assert connected(moat, portal)
    assert not moat.counters.snapshot()
    assert not portal.counters.snapshot()


def test_without_pfs_a_child_sa_is_rekeyed_without() -> None:
    network = Network()
    moat, portal = quantum(network, pfs=False)
    start(moat, "child", network)
    network.run(network.now + 10.0)
    assert FOLLOWUP not in {exchange for exchange, _ in messages(network)}
    in_order(moat, portal)


@pytest.mark.parametrize("kind", ["child", "ike"])
def test_several_rounds(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """As with more methods than we have: each runs thrice, on both sides."""
    for choice in (IkeChoice, child.Choice):
        thrice = property(lambda self: kems_of(self.additional) * 3)
        monkeypatch.setattr(choice, "kems", thrice)
    network = Network()
    moat, portal = quantum(network)
    start(portal, kind, network)
    network.run(network.now + 0.5)
    rounds = [(FOLLOWUP, False), (FOLLOWUP, True)] * 3
    assert messages(network)[:8] == [(CREATE, False), (CREATE, True), *rounds]
    network.run(network.now + 10.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["child", "ike"])
def test_loss_repetition_and_reordering(kind: str, seed: int) -> None:
    network = Network(seed)
    moat, portal = quantum(network, dpd_interval=60.0)
    network.loss, network.repeat, network.jitter = 0.1, 0.2, 0.2
    start(portal, kind, network)
    network.run(network.now + 6.0)
    network.loss = network.repeat = network.jitter = 0.0
    network.run(network.now + 40.0)
    in_order(moat, portal)
    assert len(moat.inbound) == 1


# Rekeys that cross (RFC 7296, 2.8.1, 2.8.2)


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("kind", ["child", "ike"])
def test_both_sides_rekey_at_once(kind: str, seed: int) -> None:
    # CREATE_CHILD_SA and IKE_FOLLOWUP_KE of both sides in any order: each message takes its time.
    network = Network(seed)
    moat, portal = quantum(network)
    watch_usable(network, moat, portal)
    before = moat.outbound["portal"].child, sa_of(moat).spi_i
    network.jitter = 0.25
    start(moat, kind, network)
    network.run(network.now + 0.02 * (seed % 4))
    start(portal, kind, network)
    network.run(network.now + 5.0)
    network.jitter = 0.0
    network.run(network.now + 45.0)
    in_order(moat, portal)
    assert len(moat.inbound) == len(portal.inbound) == 1
    after = moat.outbound["portal"].child, sa_of(moat).spi_i
    assert before[kind == "ike"] != after[kind == "ike"]


@pytest.mark.parametrize("seed", range(8))
def test_one_rekeys_the_ike_sa_and_the_other_the_child_sa(seed: int) -> None:
    network = Network(seed)
    moat, portal = quantum(network)
    watch_usable(network, moat, portal)
    before = moat.outbound["portal"].child
    network.jitter = 0.25
    first, second = (moat, portal) if seed % 2 else (portal, moat)
    start(first, "ike", network)
    network.run(network.now + 0.03 * (seed // 2))
    start(second, "child", network)
    network.run(network.now + 60.0)
    network.jitter = 0.0
    network.run(network.now + 60.0)
    in_order(moat, portal)
    assert moat.outbound["portal"].child != before
    assert moat.kinds(IkeRekeyed)


# Formulas


def test_keying_material_is_that_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    real_child, real_ike = child.child_keys, rekey.rekeyed_ike_keys

    def child_keys(*values: Any) -> tuple[bytes, bytes]:
        calls.append(("child", *values, real_child(*values)))
        return real_child(*values)

    def ike_keys(*values: Any) -> Any:
        calls.append(("ike", *values, real_ike(*values)))
        return real_ike(*values)

    network = Network()
    moat, _ = quantum(network)
    monkeypatch.setattr(child, "child_keys", child_keys)
    monkeypatch.setattr(rekey, "rekeyed_ike_keys", ike_keys)
    start(moat, "child", network)
    network.run(network.now + 10.0)
    start(moat, "ike", network)
    network.run(network.now + 1.0)
    ours, theirs, ike = calls
    assert ours[2:] == theirs[2:]

    def prf(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.sha512).digest()

    # KEYMAT = prf+(SK_d, SK(0) | Ni | Nr | SK(1)): RFC 9370, 2.2.4
    _, keys, first, nonce_i, nonce_r, length, second, made = ours
    assert (len(first), len(second)) == (32, 32)
    data = first + nonce_i + nonce_r + second
    block = prf(keys.sk_d, data + b"\x01")
    stream = block + prf(keys.sk_d, block + data + b"\x02")
    assert made == (stream[:length], stream[length : 2 * length])
    # And SKEYSEED is prf of the same.
    _, _, _, old, first, seed, second, new = ike
    skeyseed = prf(old.sk_d, first + seed.nonce_i + seed.nonce_r + second)
    spis = seed.nonce_i + seed.nonce_r + seed.spi_i + seed.spi_r
    assert new.sk_d == prf(skeyseed, spis + b"\x01")
