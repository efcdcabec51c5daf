"""Which certificates are believed (RFC 5280, 6; RFC 4945, 5)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from pki import DAY, NOW, Authority, Issued, new_key, usage

from moatvpn.crypto.certificates import load_certificates, load_own_certificate, load_revocations
from moatvpn.crypto.trust import MOST_CERTIFICATES, CertificateError, Moment, TrustAnchors
from moatvpn.errors import OperatorError

NAME = "m1.example.net"
ROOT = Authority("Root", "p256")
SAN = (x509.SubjectAlternativeName([x509.DNSName(NAME)]), False)
NO_CA = (x509.BasicConstraints(ca=False, path_length=None), True)
A_CA = (x509.BasicConstraints(ca=True, path_length=None), True)


def refused(issued: Issued, anchors: TrustAnchors = ROOT.anchors, **more: Any) -> str:
    with pytest.raises(CertificateError) as caught:
        verify(issued, anchors, **more)
    return caught.value.why


def verify(
    issued: Issued, anchors: TrustAnchors = ROOT.anchors, now: float | Moment = NOW, crls: Any = ()
) -> Any:
    return anchors.verify(issued.der, now, crls)


@pytest.mark.parametrize("of_ca", ["ed25519", "p256", "p384", "p521", "rsa2048"])
@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384", "p521", "rsa2048"])
def test_a_sound_certificate_is_believed(kind, of_ca):
    ca = Authority(kind=of_ca)
    issued = ca.issue(NAME, kind)
    peer = verify(issued, ca.anchors)
    assert peer.dns_names == {NAME}
    assert peer.public_key == issued.signer.public_key


def test_it_is_valid_from_its_first_second_to_its_last():
    issued = ROOT.issue(NAME, after=NOW, until=NOW + DAY)
    verify(issued, now=NOW)
    verify(issued, now=NOW + DAY)
    assert "not valid before 2027-01-15 08:00 UTC, in 1 hours" in refused(issued, now=NOW - 1)
    assert "expired at 2027-01-16 08:00 UTC, 1 hours ago" in refused(issued, now=NOW + DAY + 1)
    assert "30 days ago by our clock" in refused(issued, now=NOW + 31 * DAY)


def test_where_the_time_is_not_known_it_has_to_be_valid_at_some_of_it():
    issued = ROOT.issue(NAME, after=NOW, until=NOW + DAY)
    verify(issued, now=Moment(NOW - 9 * DAY, NOW))
    verify(issued, now=Moment(NOW + DAY, NOW + 9 * DAY))
    assert "not valid before" in refused(issued, now=Moment(NOW - 9 * DAY, NOW - 1))
    assert "1 hours ago" in refused(issued, now=Moment(NOW + DAY + 1, NOW + 9 * DAY))


@pytest.mark.parametrize(("kind", "why"), [("rsa1024", "1024 bits"), ("k1", "curve secp256k1")])
def test_weak_keys_are_refused(kind, why):
    assert why in refused(ROOT.issue(NAME, kind))
    with pytest.raises(OperatorError, match="certificate"):
        _ = Authority(kind=kind).anchors


def test_weak_hashes_are_refused():
    # New ones cannot be made any more, so an old one's name is put in its place.
    issued = ROOT.issue(NAME)
    (der,) = issued.der
    sha256, sha1 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06072a8648ce3d0401")
    assert der.count(sha256) == 2
    weak = rewritten(der, sha256, sha1)
    with pytest.raises(CertificateError, match="sha1, which is too weak"):
        ROOT.anchors.verify([weak], NOW, ())


def rewritten(der: bytes, old: bytes, new: bytes) -> bytes:
    """Return a certificate with another algorithm in both places, and the lengths put right."""
    outer, _ = element(der, 0)
    tbs, end = element(der, len(der) - len(outer))
    rest = der[end:]
    new_tbs = wrapped(0x30, tbs.replace(wrapped(0x30, old), wrapped(0x30, new)))
    return wrapped(0x30, new_tbs + rest.replace(wrapped(0x30, old), wrapped(0x30, new)))


def element(data: bytes, at: int) -> tuple[bytes, int]:
    length, start = data[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, start = int.from_bytes(data[start : start + octets], "big"), start + octets
    return data[start : start + length], start + length


def wrapped(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


@pytest.mark.parametrize(
    ("extensions", "why"),
    [
        ([A_CA, (usage("digital_signature", "key_cert_sign"), True), SAN], "of a CA"),
        ([NO_CA, (usage("key_agreement"), True), SAN], "must not sign"),
        (
            [NO_CA, SAN, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)],
            "not for IKE",
        ),
        (
            [NO_CA, SAN, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True)],
            "1.2.3, which we don't understand",
        ),
    ],
)
def test_what_a_certificate_must_not_be(extensions, why):
    assert why in refused(ROOT.issue(NAME, extensions=extensions))


@pytest.mark.parametrize(
    "extensions",
    [
        [SAN],
        [NO_CA, (usage("content_commitment"), True), SAN],
        [NO_CA, SAN, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.IPSEC_IKE]), True)],
        [NO_CA, SAN, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)],
        [NO_CA, SAN, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), False)],
    ],
)
def test_what_a_certificate_may_be(extensions):
    assert verify(ROOT.issue(NAME, extensions=extensions)).dns_names == {NAME}


def test_one_without_a_domain_name_is_nobody_s():
    assert verify(ROOT.issue(NAME, extensions=[NO_CA])).dns_names == set()


# The way to an anchor


def test_the_order_of_intermediates_does_not_matter():
    upper = Authority("Upper", above=ROOT)
    lower = Authority("Lower", "p384", above=upper)
    issued = lower.issue(NAME)
    own, *others = issued.der
    for chain in ([own, *others], [own, *reversed(others)]):
        assert ROOT.anchors.verify(chain, NOW, ()).dns_names == {NAME}
    # An intermediate can be an anchor itself.
    assert upper.anchors.verify(issued.der, NOW, ()).dns_names == {NAME}


def test_a_missing_intermediate_is_named():
    lower = Authority("Lower", above=Authority("Upper", above=ROOT))
    issued = lower.issue(NAME)
    issued.chain = issued.chain[:1]
    assert "vouches for CN=Lower,O=Moat tests" in refused(issued)


def test_a_ca_of_the_same_name_is_another_ca():
    assert "no CA that we trust" in refused(Authority("Root", "p256").issue(NAME))
    # Both are there while an operator changes one for the other.
    new = Authority("Root", "p256")
    both = TrustAnchors.joined([ROOT.anchors, new.anchors])
    assert verify(new.issue(NAME), both)
    assert verify(ROOT.issue(NAME), both)


def test_an_expired_anchor_does_not_keep_a_sound_one_from_being_used():
    old = Authority("Old", until=NOW - DAY)
    both = TrustAnchors.joined([old.anchors, ROOT.anchors])
    assert verify(ROOT.issue(NAME), both)
    assert "expired" in refused(old.issue(NAME), both)


def test_what_is_not_of_a_ca_vouches_for_nobody():
    def below(extensions: Any) -> Issued:
        fake = Authority("Below", above=ROOT, extensions=extensions)
        return fake.issue(NAME)

    assert "is not of a CA" in refused(below([NO_CA, SAN]))
    assert "is not of a CA" in refused(below([SAN]))
    assert "must not issue" in refused(below([A_CA, (usage("digital_signature"), True)]))
    names = x509.NameConstraints([x509.DNSName("example.net")], None)
    for limits in ((names, True), (names, False), (x509.PolicyConstraints(0, None), True)):
        assert "don't understand" in refused(below([A_CA, limits]))
    assert verify(below([A_CA]))


def test_an_expired_intermediate_vouches_for_nobody():
    lower = Authority("Lower", above=ROOT, until=NOW - 1)
    assert "CN=Lower,O=Moat tests expired" in refused(lower.issue(NAME))


def test_no_more_authorities_than_one_above_allows():
    for length, sound in ((0, False), (1, False), (2, True), (None, True)):
        root = Authority("Short", path_length=length)
        lower = Authority("Lower", above=Authority("Upper", above=root))
        if sound:
            assert verify(lower.issue(NAME), root.anchors)
        else:
            assert "no CA that we trust" in refused(lower.issue(NAME), root.anchors)
    narrow = Authority("Upper", above=ROOT, path_length=0)
    assert verify(narrow.issue(NAME))
    assert "no CA that we trust" in refused(Authority("Lower", above=narrow).issue(NAME))


def test_the_peer_s_own_root_is_not_trusted():
    stranger = Authority("Stranger")
    issued = stranger.issue(NAME)
    issued.chain = (stranger.certificate,)
    assert "no CA that we trust" in refused(issued)


def test_what_the_peer_sends_is_bounded():
    issued = ROOT.issue(NAME)
    with pytest.raises(CertificateError, match="sent 7 certificates"):
        ROOT.anchors.verify(issued.der * (MOST_CERTIFICATES + 1), NOW, ())
    with pytest.raises(CertificateError, match="sent no certificate"):
        ROOT.anchors.verify([], NOW, ())
    with pytest.raises(CertificateError, match="sent what is not a certificate"):
        ROOT.anchors.verify([*issued.der, b"\x30\x00"], NOW, ())


GOOD = ROOT.issue(NAME, "p256").der[0]


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_no_bit_of_a_certificate_can_be_changed(bit):
    changed = bytearray(GOOD)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CertificateError):
        ROOT.anchors.verify([bytes(changed)], NOW, ())


@given(st.binary(max_size=300))
def test_no_octets_pass_for_a_certificate(octets):
    with pytest.raises(CertificateError):
        ROOT.anchors.verify([octets], NOW, ())


# Revocation


def test_a_revoked_certificate_is_refused_and_another_is_not():
    gone, here = ROOT.issue(NAME), ROOT.issue(NAME)
    crls = [ROOT.revoke(gone)]
    assert "is revoked" in refused(gone, crls=crls)
    assert verify(here, crls=crls)


def test_a_revoked_intermediate_vouches_for_nobody():
    lower = Authority("Lower", above=ROOT)
    assert "CN=Lower,O=Moat tests is revoked" in refused(
        lower.issue(NAME), crls=[ROOT.revoke(lower)]
    )


def test_a_crl_counts_only_with_its_issuer_s_signature():
    issued = ROOT.issue(NAME)
    forged = ROOT.revoke(issued, key=new_key("p256"))
    other = Authority("Root", "p256").revoke(issued)
    assert verify(issued, crls=[forged, other])


def test_the_newest_crl_decides_and_an_overdue_one_still_counts():
    issued = ROOT.issue(NAME)
    old = ROOT.revoke(issued, after=NOW - 10 * DAY, until=NOW - 9 * DAY)
    assert "is revoked" in refused(issued, crls=[old])
    lifted = ROOT.revoke(after=NOW - 5 * DAY)
    assert verify(issued, crls=[old, lifted])
    assert verify(issued, crls=[lifted, old])


def test_crls_that_say_only_part_are_not_taken():
    for extension in (
        (x509.DeltaCRLIndicator(1), True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True),
        (
            x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
            False,
        ),
    ):
        with pytest.raises(OperatorError, match="limits what it says"):
            ROOT.revoke(extensions=[extension])
    for content in (b"", b"-----BEGIN X509 CRL-----\n", ROOT.pem):
        with pytest.raises(OperatorError, match="is not a CRL"):
            load_revocations(content, "crl.pem")
    assert load_revocations(ROOT.crl(), "crl.pem").next_due == NOW + DAY


# Files of the operator


def test_anchors_are_of_cas():
    with pytest.raises(OperatorError, match="is not of a CA"):
        TrustAnchors([ROOT.issue(NAME).certificate], "ca.pem")
    with pytest.raises(OperatorError, match="1024 bits"):
        TrustAnchors([Authority(kind="rsa1024").certificate], "ca.pem")
    with pytest.raises(OperatorError, match=r"ca\.pem: holds no certificates"):
        load_certificates(b"nothing", "ca.pem")


def test_our_own_certificate_is_of_our_key():
    issued = Authority("Lower", above=ROOT).issue(NAME)
    own = load_own_certificate(issued.pem, "own.pem", issued.signer.public_key)
    assert list(own.der) == issued.der
    assert own.names(NAME)
    assert not own.names("m2.example.net")
    assert own.period() == (NOW - DAY, NOW + 30 * DAY)
    with pytest.raises(OperatorError, match="not of our private key"):
        load_own_certificate(issued.pem, "own.pem", ROOT.signer.public_key)


def test_equal_anchors_are_equal():
    assert TrustAnchors([ROOT.certificate], "a") == TrustAnchors([ROOT.certificate], "b")
    assert ROOT.anchors != Authority("Root", "p256").anchors
    assert len({ROOT.anchors, TrustAnchors([ROOT.certificate], "b")}) == 1
