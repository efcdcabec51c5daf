"""Postquantum pre-shared keys (RFC 8784).

moat                                                  portal
HDR, SAi1, KEi, Ni, N(USE_PPK) ---->
                        <----  HDR, SAr1, KEr, Nr, N(USE_PPK)
HDR, SK{IDi, AUTH, ..., N(PPK_IDENTITY)(id), [N(NO_PPK_AUTH)]} ---->
                        <----  HDR, SK{IDr, AUTH, ..., [N(PPK_IDENTITY)]}
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

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
    sa_of,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.crypto.keymat import IkeKeys, with_ppk
from moatvpn.crypto.prf import Prf
from moatvpn.errors import OperatorError
from moatvpn.ike import ppk as module
from moatvpn.ike.secrets import ConnectionSecrets
from moatvpn.wire.algorithms import CipherSuite, PostQuantum
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_header import Exchange

SECRET = bytes(range(32))
ID = "c0001-2026"
# What a side has: nothing, a PPK, one that it requires; another's id, another's secret.
NONE: dict[str, Any] = {}
OPTIONAL = {"ppk_id": ID, "ppk_required": False}
REQUIRED = {"ppk_id": ID, "ppk_required": True}


def pair(
    network: Network,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    secrets: tuple[bytes, bytes] = (SECRET, SECRET),
    **both: Any,
) -> tuple[Peer, Peer]:
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    here, there = (ConnectionSecrets(ppk=secret, psk=bytes(32)) for secret in secrets)
    portal.ike.add_connection(portal_config(moat, **theirs, **both), network.now, there)
    moat.ike.add_connection(moat_config(portal, **ours, **both), network.now, here)
    return moat, portal


def named(moat: Peer, portal: Peer) -> tuple[str | None, str | None]:
    return moat.ike.status("portal").ppk, portal.ike.status("c0001").ppk


USED, PLAIN, REFUSED = "used", "plain", "refused"


@pytest.mark.parametrize("authentication", ["raw-public-key", "psk"])
@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        (NONE, NONE, PLAIN),
        (NONE, OPTIONAL, PLAIN),
        (NONE, REQUIRED, REFUSED),
        (OPTIONAL, NONE, PLAIN),
        (OPTIONAL, OPTIONAL, USED),
        (OPTIONAL, REQUIRED, USED),
        (REQUIRED, NONE, REFUSED),
        (REQUIRED, OPTIONAL, USED),
        (REQUIRED, REQUIRED, USED),
        (OPTIONAL, {"ppk_id": "other", "ppk_required": False}, PLAIN),
        (OPTIONAL, {"ppk_id": "other", "ppk_required": True}, REFUSED),
        (REQUIRED, {"ppk_id": "other", "ppk_required": False}, REFUSED),
    ],
)
def test_what_two_sides_agree_on(
    ours: dict[str, Any], theirs: dict[str, Any], outcome: str, authentication: str
) -> None:
    """RFC 8784, table 1, and its counterpart on the initiator's side."""
    method: dict[str, Any] = {"authentication": authentication}
    if authentication == "psk":
        method["remote_public_keys"] = ()
    network = Network()
    moat, portal = pair(network, ours, theirs, **method)
    network.run(0.4)
    assert connected(moat, portal) is (outcome != REFUSED)
    assert named(moat, portal) == ((ID, ID) if outcome == USED else (None, None))
    if outcome == REFUSED:
        assert any(
            peer.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) for peer in (moat, portal)
        )
        assert tables(portal)["child_spis"] == 0
    else:
        assert tables(moat) == tables(portal) == SETTLED
        assert not moat.counters.snapshot()
        assert not portal.counters.snapshot()


@pytest.mark.parametrize("settings", [OPTIONAL, REQUIRED])
def test_another_secret_of_the_same_name_is_refused(settings: dict[str, Any]) -> None:
    network = Network()
    moat, portal = pair(network, settings, settings, (SECRET, SECRET[::-1]))
    network.run(0.4)
    assert not moat.inbound
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) == 1
    assert tables(portal) == EMPTY


def test_a_connection_of_the_portal_has_its_own() -> None:
    # USE_PPK is answered before the portal knows who calls; NO_PPK_AUTH is for that.
    network = Network()
    moat, portal = pair(network, OPTIONAL, NONE)
    other = Peer("m2.example.net", "192.0.2.77", 5)
    network.join(other)
    selectors = ("10.202.0.0/24",)
    config = portal_config(other, name="c2", remote_selectors=selectors, **REQUIRED)
    portal.ike.add_connection(config, 0.0, ConnectionSecrets(ppk=SECRET))
    other.ike.add_connection(
        moat_config(portal, local_selectors=selectors, **REQUIRED),
        0.0,
        ConnectionSecrets(ppk=SECRET),
    )
    network.run(0.5)
    assert connected(moat, portal)
    assert named(moat, portal) == (None, None)
    assert portal.ike.status("c2").ppk == other.ike.status("portal").ppk == ID


def test_a_portal_that_calls_its_moat_uses_it_too() -> None:
    network = Network()
    moat, portal = pair(network, REQUIRED, REQUIRED)
    network.lose = lambda d: d.local.host == MOAT_HOST and exchange_of(d) == (
        Exchange.IKE_SA_INIT, False
    )  # fmt: skip
    portal.ike.remember_peer("c0001", Endpoint(MOAT_HOST, 500), 0.0)
    network.run(5.0)
    assert connected(moat, portal)
    assert sa_of(portal).initiator
    assert named(moat, portal) == (ID, ID)


@pytest.mark.parametrize("seed", range(4))
def test_beside_ml_kem_on_a_bad_network_and_through_rekeys(seed: int) -> None:
    network = Network(seed, loss=0.1, repeat=0.2, jitter=0.2)
    moat, portal = pair(network, REQUIRED, REQUIRED, post_quantum=PostQuantum.REQUIRE)
    network.run(40.0)
    network.loss = network.repeat = network.jitter = 0.0
    network.run(network.now + 20.0)
    for kind in ("ike", "child", "ike"):
        portal.ike.rekey("c0001", kind, network.now)  # type: ignore[arg-type]
        network.run(network.now + 20.0)
    assert connected(moat, portal)
    assert named(moat, portal) == (ID, ID)
    assert portal.ike.status("c0001").key_exchange == "x25519+mlkem768"
    assert tables(moat) == tables(portal) == SETTLED


@pytest.mark.parametrize("response", [False, True])
def test_who_takes_the_notify_away_is_found_out(response: bool) -> None:
    # N(USE_PPK) stands in what both sides sign, even where it is optional.
    def strip(datagram: Datagram) -> Datagram:
        if exchange_of(datagram) != (Exchange.IKE_SA_INIT, response):
            return datagram
        data = datagram.data.replace(b"\x40\x33", b"\x40\xfe")
        return Datagram(data, datagram.local, datagram.remote)

    network = Network()
    network.rewrite = strip
    moat, portal = pair(network, OPTIONAL, OPTIONAL)
    network.run(3.0)
    assert not moat.inbound
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) > 0


def test_an_initiator_that_names_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "notifies", lambda *_: [])
    network = Network()
    moat, portal = pair(network, OPTIONAL, OPTIONAL)
    network.run(0.4)
    assert not moat.inbound
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) == 1


@pytest.mark.parametrize("required", [False, True])
def test_a_responder_that_does_not_say_so_has_not_used_it(
    monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    # It has, so that its proof is not good without; and where it is required, none is.
    monkeypatch.setattr(module, "answer", lambda _: [])
    network = Network()
    settings = {"ppk_id": ID, "ppk_required": required}
    moat, _ = pair(network, settings, settings)
    network.run(0.4)
    assert not moat.inbound
    assert moat.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) == 1


def test_keys_are_those_of_the_rfc() -> None:
    """RFC 8784, 3: SK_d = prf+ (PPK, SK_d') and so on; the keys in use stay as they are."""
    suite, prf = CipherSuite.AES_256_GCM, Prf.HMAC_SHA2_256
    old = IkeKeys(prf, suite, b"d" * 32, b"i" * 36, b"r" * 36, b"p" * 32, b"q" * 32)
    new = with_ppk(old, SECRET)

    def once(key: bytes) -> bytes:
        return hmac.new(SECRET, key + b"\x01", hashlib.sha256).digest()

    assert (new.sk_d, new.sk_pi, new.sk_pr) == tuple(map(once, (old.sk_d, old.sk_pi, old.sk_pr)))
    assert (new.sk_i, new.sk_r, new.prf, new.suite) == (old.sk_i, old.sk_r, prf, suite)


def test_a_name_without_a_secret_makes_no_connection() -> None:
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    with pytest.raises(OperatorError, match="has no PPK"):
        moat.ike.add_connection(moat_config(portal, **REQUIRED), 0.0)


def test_the_secret_is_no_part_of_any_text() -> None:
    network = Network()
    moat, portal = pair(network, REQUIRED, REQUIRED)
    network.run(0.4)
    (connection,) = moat.ike._context.connections.values()
    for shown in (connection.ppk, ConnectionSecrets(ppk=SECRET), sa_of(portal).keys):
        assert SECRET.hex() not in repr(shown)
        assert repr(SECRET) not in repr(shown)
