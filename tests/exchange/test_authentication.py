"""How two endpoints prove who they are, by every method, and what is refused (RFC 7296, 2.15).

moat                                                        portal
  HDR, SAi1, KEi, Ni, N(SIGNATURE_HASH_ALGORITHMS) -------->
                                  <--------  HDR, SAr1, KEr, Nr, [CERTREQ], N(SIGNATURE_HASH…)
  HDR, SK{IDi, [CERT+], AUTH, [CERTREQ], IDr, SA, TSi, TSr} -->
                                  <--------  HDR, SK{IDr, [CERT+], AUTH, SA, TSi, TSr}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography import x509
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
from pki import DAY, NOW, Authority, Issued

from moatvpn.counters import DropReason
from moatvpn.crypto.certificates import RevocationList
from moatvpn.crypto.prf import Prf
from moatvpn.crypto.trust import TrustAnchors
from moatvpn.errors import OperatorError
from moatvpn.ike.authentication.contract import Transcript
from moatvpn.ike.authentication.psk import PskAuthentication
from moatvpn.ike.events import IkeUp
from moatvpn.ike.failure import ProofError
from moatvpn.ike.secrets import NO_SECRETS, Certificates, ConnectionSecrets
from moatvpn.ike.task import body_of
from moatvpn.wire.ike_header import HEADER_LENGTH, Exchange, PayloadType, RawPayload, parse_chain
from moatvpn.wire.ike_payloads import ID_DER_ASN1_DN, encode_fqdn

SECRET = b"a secret of two boxes and no more"


def by_psk(ours: bytes = SECRET, theirs: bytes = SECRET) -> tuple[Network, Peer, Peer]:
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    changes: dict[str, Any] = {"authentication": "psk", "remote_public_keys": ()}
    portal.ike.add_connection(portal_config(moat, **changes), 0.0, ConnectionSecrets(psk=theirs))
    moat.ike.add_connection(moat_config(portal, **changes), 0.0, ConnectionSecrets(psk=ours))
    return network, moat, portal


def with_certificate(
    identity: str,
    host: str,
    seed: int,
    issued: Issued,
    clock: float = NOW,
    revoked: Sequence[RevocationList] = (),
) -> Peer:
    certificates = Certificates(issued.own, lambda: clock, lambda: revoked)
    return Peer(identity, host, seed, issued.signer, certificates=certificates)


def join(network: Network, moat: Peer, portal: Peer, anchors: Sequence[TrustAnchors]) -> None:
    """Connect the two by certificates; anchors are whom the moat and whom the portal trusts."""
    network.join(moat, portal)
    changes: dict[str, Any] = {"authentication": "certificate", "remote_public_keys": ()}
    for_moat, for_portal = (ConnectionSecrets(anchors=a) for a in anchors)
    portal.ike.add_connection(portal_config(moat, **changes), 0.0, for_portal)
    moat.ike.add_connection(moat_config(portal, **changes), 0.0, for_moat)


def by_certificates(
    of_moat: Issued, of_portal: Issued, anchors: TrustAnchors, **at_portal: Any
) -> tuple[Network, Peer, Peer]:
    network = Network()
    moat = with_certificate(MOAT, MOAT_HOST, 11, of_moat)
    portal = with_certificate(PORTAL, PORTAL_HOST, 22, of_portal, **at_portal)
    join(network, moat, portal, (anchors, anchors))
    return network, moat, portal


def failure(peer: Peer) -> Any:
    """Return what the one connection of peer failed by."""
    (name,) = peer.ike._context.connections
    record = peer.ike.status(name).failure
    assert record is not None
    return record.failure


# By a pre-shared key


def test_two_that_share_a_secret_connect():
    network, moat, portal = by_psk()
    network.run(1.0)
    assert connected(moat, portal)
    assert len(network.log) == 4
    assert moat.counters.snapshot() == portal.counters.snapshot() == {}
    moat.ike.rekey("portal", "ike", network.now)
    network.run(5.0)
    assert connected(moat, portal)


def test_another_secret_is_refused_and_both_say_so():
    network, moat, portal = by_psk(theirs=SECRET[::-1])
    network.run(0.5)
    assert not portal.kinds(IkeUp)
    assert tables(portal) == EMPTY
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) >= 1
    here, there = failure(portal), failure(moat)
    assert (here.side, there.side) == ("here", "peer")
    assert "another pre-shared key" in here.what
    assert "AUTHENTICATION_FAILED" in there.what


def test_a_responder_with_another_secret_is_told_that_its_proof_failed(monkeypatch):
    """The moat cannot verify the portal.

    HDR, SK{IDr, AUTH…}                 <----
    HDR, SK{N(AUTHENTICATION_FAILED)}   ---->   the portal forgets the IKE SA
    """
    network, moat, portal = by_psk()
    real = portal.ike._context.connections["c0001"].authentication
    prove = PskAuthentication.prove

    def wrong(self: PskAuthentication, transcript: Any, hashes: Any) -> Any:
        ((kind, body),) = prove(self, transcript, hashes)
        return [(kind, body[:-1] + bytes((body[-1] ^ (self is real),)))]

    monkeypatch.setattr(PskAuthentication, "prove", wrong)
    network.run(0.5)
    assert portal.kinds(IkeUp)  # it had no reason to doubt
    assert not moat.kinds(IkeUp)
    assert tables(portal) == EMPTY
    assert (failure(moat).side, failure(portal).side) == ("here", "peer")


def test_a_connection_without_its_secret_is_not_taken():
    portal = Peer(PORTAL, PORTAL_HOST, 22)
    moat = Peer(MOAT, MOAT_HOST, 11)
    for authentication, secrets in (
        ("psk", NO_SECRETS),
        ("certificate", NO_SECRETS),
        ("certificate", ConnectionSecrets(anchors=Authority().anchors)),
    ):
        config = portal_config(moat, authentication=authentication, remote_public_keys=())
        with pytest.raises(OperatorError):
            portal.ike.add_connection(config, 0.0, secrets)
    assert portal.ike._context.connections == {}


# By certificates


@pytest.mark.parametrize("of_portal", ["ed25519", "p256", "p384", "rsa2048"])
@pytest.mark.parametrize("of_moat", ["ed25519", "p256", "p384", "rsa2048"])
def test_certificates_of_every_kind_connect(of_moat, of_portal):
    ca = Authority(kind="p256")
    network, moat, portal = by_certificates(
        ca.issue(MOAT, of_moat), ca.issue(PORTAL, of_portal), ca.anchors
    )
    network.run(1.0)
    assert connected(moat, portal)
    assert moat.counters.snapshot() == portal.counters.snapshot() == {}
    assert tables(moat) == tables(portal) == SETTLED


def test_intermediate_authorities_are_sent_and_followed():
    root = Authority("Root", "p384", path_length=1)
    below = Authority("Below", "rsa2048", above=root, path_length=0)
    network, moat, portal = by_certificates(below.issue(MOAT), below.issue(PORTAL), root.anchors)
    network.run(1.0)
    assert connected(moat, portal)


def test_the_portal_asks_for_certificates_before_it_knows_who_calls():
    ca = Authority()
    network, _, portal = by_certificates(ca.issue(MOAT), ca.issue(PORTAL), ca.anchors)
    network.run(1.0)
    (answer,) = [d.data for d in network.log if exchange_of(d) == (Exchange.IKE_SA_INIT, True)]
    asked = body_of(parse_chain(answer[16], answer[HEADER_LENGTH:]), PayloadType.CERTREQ)
    assert asked == b"\x04" + ca.anchors.authorities[0]
    portal.ike.remove_connection("c0001", network.now)
    assert portal.ike._context.certificate_requests() == []


def test_each_side_may_have_a_ca_of_its_own():
    ours, theirs = Authority("Ours"), Authority("Theirs")
    network = Network()
    moat = with_certificate(MOAT, MOAT_HOST, 11, ours.issue(MOAT))
    portal = with_certificate(PORTAL, PORTAL_HOST, 22, theirs.issue(PORTAL))
    join(network, moat, portal, (theirs.anchors, ours.anchors))
    network.run(1.0)
    assert connected(moat, portal)


def as_distinguished_name(peer: Peer, subject: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have peer call itself by its distinguished name, as road-warriors of others may."""
    from moatvpn.ike import auth

    real = auth.encode_fqdn

    def encode(identity: str) -> bytes:
        if identity == peer.identity:
            return bytes((ID_DER_ASN1_DN, 0, 0, 0)) + subject
        return real(identity)

    monkeypatch.setattr(auth, "encode_fqdn", encode)


def test_a_caller_may_call_itself_by_its_distinguished_name(monkeypatch):
    ca = Authority()
    issued = ca.issue(MOAT)
    network, moat, portal = by_certificates(issued, ca.issue(PORTAL), ca.anchors)
    as_distinguished_name(moat, issued.certificate.subject.public_bytes(), monkeypatch)
    network.run(1.0)
    assert connected(moat, portal)


def test_a_distinguished_name_of_somebody_else_is_refused(monkeypatch):
    ca = Authority()
    other = ca.issue("m2.example.net")
    network, moat, portal = by_certificates(ca.issue(MOAT), ca.issue(PORTAL), ca.anchors)
    as_distinguished_name(moat, other.certificate.subject.public_bytes(), monkeypatch)
    network.run(0.5)
    assert not portal.kinds(IkeUp)
    assert "is not of m1.example.net" in failure(portal).what


CA = Authority("The CA", "p256")
STRANGER_CA = Authority("The CA", "p256")  # of the same name, with another key
Case = Callable[[], tuple[Issued, dict[str, Any], str]]


def refused_cases() -> dict[str, Case]:
    issue = CA.issue
    good = issue(MOAT)
    return {
        "expired": lambda: (issue(MOAT, until=NOW - 60), {}, "expired"),
        "not yet valid": lambda: (issue(MOAT, after=NOW + 60), {}, "not valid before"),
        "portal's clock a day late": lambda: (
            issue(MOAT, until=NOW + DAY / 2),
            {"clock": NOW + DAY},
            "12 hours ago by our clock",
        ),
        "portal's clock a day early": lambda: (
            issue(MOAT, after=NOW - DAY / 2),
            {"clock": NOW - DAY},
            "in 12 hours by our clock",
        ),
        "revoked": lambda: (good, {"revoked": [CA.revoke(good)]}, "revoked"),
        "another name": lambda: (issue("m2.example.net"), {}, "is not of m1.example.net"),
        "another CA": lambda: (STRANGER_CA.issue(MOAT), {}, "no CA that we trust"),
        "RSA of 1024 bits": lambda: (issue(MOAT, "rsa1024"), {}, "1024 bits"),
    }


@pytest.mark.parametrize("case", refused_cases())
def test_a_bad_certificate_is_refused_and_both_say_so(case):
    """The portal refuses the moat's certificate.

    HDR, SK{IDi, CERT, AUTH, …}            ---->
                                           <----  HDR, SK{N(AUTHENTICATION_FAILED)}
    """
    issued, at_portal, why = refused_cases()[case]()
    network, moat, portal = by_certificates(issued, CA.issue(PORTAL), CA.anchors, **at_portal)
    network.run(0.5)
    assert not portal.kinds(IkeUp)
    assert not moat.kinds(IkeUp)
    assert tables(portal) == EMPTY
    assert failure(portal).side == "here"
    assert why in failure(portal).what
    assert failure(portal).remedy
    assert failure(moat).side == "peer"
    assert "AUTHENTICATION_FAILED" in failure(moat).what


@pytest.mark.parametrize("case", ["expired", "another name", "another CA", "revoked"])
def test_a_portal_with_a_bad_certificate_is_refused_by_the_moat(case):
    revoked = CA.issue(PORTAL)
    issued, crls, why = {
        "expired": (CA.issue(PORTAL, until=NOW - 60), [], "expired"),
        "another name": (CA.issue("other.example.net"), [], "is not of portal.example.net"),
        "another CA": (STRANGER_CA.issue(PORTAL), [], "no CA that we trust"),
        "revoked": (revoked, [CA.revoke(revoked)], "revoked"),
    }[case]
    network = Network()
    moat = with_certificate(MOAT, MOAT_HOST, 11, CA.issue(MOAT), revoked=crls)
    portal = with_certificate(PORTAL, PORTAL_HOST, 22, issued)
    join(network, moat, portal, (CA.anchors, CA.anchors))
    network.run(0.5)
    assert not moat.kinds(IkeUp)
    assert not moat.inbound
    assert tables(portal) == EMPTY
    assert failure(moat).side == "here"
    assert why in failure(moat).what
    assert failure(portal).side == "peer"


def test_a_name_that_a_certificate_has_besides_ours_is_not_ours():
    both = x509.SubjectAlternativeName([x509.DNSName(n) for n in (PORTAL, "other.example.net")])
    _, moat, portal = by_certificates(
        CA.issue(MOAT), CA.issue(PORTAL, extensions=[(both, False)]), CA.anchors
    )
    ours = moat.ike._context.connections["portal"].authentication
    theirs = portal.ike._context.connections["c0001"].authentication
    transcript = Transcript(Prf.HMAC_SHA2_256, b"octets")
    proof = [RawPayload(k, False, body) for k, body in theirs.prove(transcript, {2, 3, 4, 5})]
    ours.verify(transcript, encode_fqdn(PORTAL), proof)
    with pytest.raises(ProofError, match="another one than portal"):
        ours.verify(transcript, encode_fqdn("other.example.net"), proof)


def test_a_certificate_without_its_private_key_proves_nothing():
    issued = CA.issue(MOAT)
    thief = CA.issue(MOAT)  # its key signs, under the other's certificate
    network = Network()
    certificates = Certificates(issued.own, lambda: NOW)
    moat = Peer(MOAT, MOAT_HOST, 11, thief.signer, certificates=certificates)
    portal = with_certificate(PORTAL, PORTAL_HOST, 22, CA.issue(PORTAL))
    join(network, moat, portal, (CA.anchors, CA.anchors))
    network.run(0.5)
    assert not portal.kinds(IkeUp)
    assert "did not sign" in failure(portal).what


YEARS = 3650 * DAY


@pytest.mark.parametrize("clock", [0.0, NOW - YEARS, NOW - 2 * DAY, NOW + YEARS])
def test_a_moat_whose_clock_is_wrong_gets_its_tunnel_all_the_same(clock):
    """It would set the clock through the tunnel. The portal's certificate is newer than its own."""
    network = Network()
    moat = with_certificate(MOAT, MOAT_HOST, 11, CA.issue(MOAT, after=NOW - 9 * DAY), clock)
    portal = with_certificate(PORTAL, PORTAL_HOST, 22, CA.issue(PORTAL, after=NOW - DAY))
    join(network, moat, portal, (CA.anchors, CA.anchors))
    network.run(1.0)
    assert connected(moat, portal)


@pytest.mark.parametrize("clock", [NOW - 2 * DAY, NOW + YEARS])
def test_a_portal_whose_clock_is_wrong_believes_no_certificate(clock):
    network = Network()
    moat = with_certificate(MOAT, MOAT_HOST, 11, CA.issue(MOAT))
    portal = with_certificate(PORTAL, PORTAL_HOST, 22, CA.issue(PORTAL), clock)
    join(network, moat, portal, (CA.anchors, CA.anchors))
    network.run(0.5)
    assert not portal.kinds(IkeUp)


@pytest.mark.parametrize("clock", [NOW - YEARS, NOW + YEARS])
def test_a_moat_with_a_wrong_clock_believes_no_certificate_of_another_time(clock):
    """It expired before our own began, or begins once ours has expired; and a revoked one."""
    ours = CA.issue(MOAT, after=NOW - 9 * DAY)
    revoked = CA.issue(PORTAL)
    for theirs, crls in (
        (CA.issue(PORTAL, after=NOW - 20 * DAY, until=NOW - 10 * DAY), []),
        (CA.issue(PORTAL, after=NOW + 40 * DAY, until=NOW + 50 * DAY), []),
        (revoked, [CA.revoke(revoked)]),
    ):
        network = Network()
        moat = with_certificate(MOAT, MOAT_HOST, 11, ours, clock, crls)
        portal = with_certificate(PORTAL, PORTAL_HOST, 22, theirs)
        join(network, moat, portal, (CA.anchors, CA.anchors))
        network.run(0.5)
        assert not moat.kinds(IkeUp)
        assert failure(moat).side == "here"


def test_without_a_wall_clock_every_certificate_is_refused():
    network = Network()
    moat = with_certificate(MOAT, MOAT_HOST, 11, CA.issue(MOAT))
    issued = CA.issue(PORTAL)
    own = Certificates(issued.own)
    portal = Peer(PORTAL, PORTAL_HOST, 22, issued.signer, certificates=own)
    join(network, moat, portal, (CA.anchors, CA.anchors))
    network.run(0.5)
    assert not portal.kinds(IkeUp)


# Which method, and which hash


def test_a_portal_serves_each_connection_by_its_own_method():
    ca = Authority()
    network = Network()
    portal = with_certificate(PORTAL, PORTAL_HOST, 22, ca.issue(PORTAL, "p256"))
    names = [f"m{n}.example.net" for n in range(3)]
    moats = [
        Peer(names[0], "192.0.2.20", 1),
        with_certificate(names[1], "192.0.2.21", 2, ca.issue(names[1])),
        Peer(names[2], "192.0.2.22", 3),
    ]
    network.join(portal, *moats)
    methods: list[tuple[dict[str, Any], ConnectionSecrets]] = [
        ({"authentication": "psk", "remote_public_keys": ()}, ConnectionSecrets(psk=SECRET)),
        (
            {"authentication": "certificate", "remote_public_keys": ()},
            ConnectionSecrets(anchors=ca.anchors),
        ),
        ({}, NO_SECRETS),
    ]
    for n, (moat, (changes, secrets)) in enumerate(zip(moats, methods, strict=True)):
        selector = {"remote_selectors": (f"10.201.{n}.0/24",)}
        portal.ike.add_connection(
            portal_config(moat, name=f"c{n}", **selector, **changes), 0.0, secrets
        )
        ours = {"local_selectors": (f"10.201.{n}.0/24",)}
        moat.ike.add_connection(moat_config(portal, **ours, **changes), 0.0, secrets)
    network.run(2.0)
    # The last one lists the portal's key, which is of ECDSA: raw keys of any kind verify.
    assert {up.connection for up in portal.kinds(IkeUp)} == {"c0", "c1", "c2"}


def test_another_method_than_configured_is_named():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    changes: dict[str, Any] = {"authentication": "psk", "remote_public_keys": ()}
    portal.ike.add_connection(portal_config(moat, **changes), 0.0, ConnectionSecrets(psk=SECRET))
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(0.5)
    what = failure(portal).what
    assert "by a digital signature, we want a pre-shared key" in what


def hear(peer: Peer, hashes: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the other one of two peers believe that peer verifies only these hashes."""
    from moatvpn.ike import init

    real = init.hash_algorithms
    monkeypatch.setattr(init, "hash_algorithms", lambda n: real(n) & frozenset(hashes))
    del peer


@pytest.mark.parametrize(("hashes", "name"), [((2,), "02"), ((3, 4), "03"), ((4,), "04")])
def test_the_hash_is_one_that_the_peer_verifies(hashes, name, monkeypatch):
    network, moat, portal = by_certificates(
        CA.issue(MOAT, "rsa2048"), CA.issue(PORTAL, "p256"), CA.anchors
    )
    hear(portal, hashes, monkeypatch)
    used = []
    from moatvpn.crypto.sign import Signer

    real = Signer.sign

    def sign(self: Signer, data: bytes, kind: int) -> bytes:
        used.append(f"{kind:02d}")
        return real(self, data, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(Signer, "sign", sign)
    network.run(1.0)
    assert connected(moat, portal)
    assert used == [name, name]


def test_who_cannot_verify_our_signature_is_not_sent_any(monkeypatch):
    network, moat, portal = by_certificates(CA.issue(MOAT), CA.issue(PORTAL), CA.anchors)
    hear(portal, (2, 3, 4), monkeypatch)  # no Ed25519
    network.run(0.5)
    assert not portal.kinds(IkeUp)
    assert [exchange_of(d) for d in network.log if d.local.host == MOAT_HOST] == [
        (Exchange.IKE_SA_INIT, False)
    ]
    assert "cannot verify" in failure(moat).what
