"""Digital signatures as AUTH carries them (RFC 7427, 3 and appendix A)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st
from pki import new_key

from moatvpn.crypto.sign import Signer, load_private_key, verify
from moatvpn.crypto.signature_algorithms import (
    BY_IDENTIFIER,
    Scheme,
    SignatureHash,
    algorithm_for,
    split_auth_data,
)
from moatvpn.errors import OperatorError

KINDS = ("ed25519", "p256", "p384", "p521", "rsa2048")
EVERY = frozenset(SignatureHash)
PKCS1_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")  # RFC 7427, A.1.2
ECDSA_SHA512 = bytes.fromhex("300a06082a8648ce3d040304")  # A.3.4
PSS_SHA256 = bytes.fromhex(  # A.4.3
    "304606092a864886f70d01010a3039a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120a303020101"
)
PSS_EMPTY = bytes.fromhex("300d06092a864886f70d01010a3000")  # A.4.1: SHA-1
SHA1_RSA = bytes.fromhex("300d06092a864886f70d0101050500")  # A.1.1


def in_auth(identifier: bytes, signature: bytes) -> bytes:
    return bytes((len(identifier),)) + identifier + signature


def test_the_names_are_those_of_rfc_7427():
    assert BY_IDENTIFIER[PSS_SHA256].scheme is Scheme.RSA_PSS
    assert BY_IDENTIFIER[PSS_SHA256].hash is SignatureHash.SHA2_256
    assert BY_IDENTIFIER[PKCS1_SHA256].scheme is Scheme.RSA_PKCS1
    assert algorithm_for(Scheme.ECDSA, SignatureHash.SHA2_512).identifier == ECDSA_SHA512
    assert SHA1_RSA not in BY_IDENTIFIER
    assert PSS_EMPTY not in BY_IDENTIFIER


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_key_signs_verifies_under_it_alone(kind):
    signer, other = Signer(new_key(kind)), Signer(new_key("p256"))
    chosen = signer.hash_for(EVERY)
    assert chosen is not None
    data = signer.sign(b"octets", chosen)
    assert verify(signer.public_key, data, b"octets")
    assert not verify(signer.public_key, data, b"other octets")
    assert not verify(other.public_key, data, b"octets")


@pytest.mark.parametrize(
    ("kind", "best"), [("ed25519", 5), ("p256", 2), ("p384", 3), ("p521", 4), ("rsa2048", 2)]
)
def test_the_hash_fits_the_key_and_is_one_that_the_peer_offers(kind, best):
    signer = Signer(new_key(kind))
    assert signer.hash_for(EVERY) == best
    assert signer.hash_for(()) is None
    assert signer.hash_for((1,)) is None  # SHA-1
    if kind != "ed25519":
        assert signer.hash_for((4,)) == 4
        assert signer.hash_for((5,)) is None
    else:
        assert signer.hash_for((2, 3, 4)) is None


def test_rsa_by_pkcs_1_is_verified_but_never_made():
    key = new_key("rsa2048")
    signer = Signer(key)
    old = in_auth(PKCS1_SHA256, key.sign(b"octets", padding.PKCS1v15(), hashes.SHA256()))
    assert verify(signer.public_key, old, b"octets")
    for kind in (SignatureHash.SHA2_256, SignatureHash.SHA2_384, SignatureHash.SHA2_512):
        parts = split_auth_data(signer.sign(b"octets", kind))
        assert parts is not None
        assert (parts[0].scheme, parts[0].hash) == (Scheme.RSA_PSS, kind)


def test_pss_is_understood_in_each_spelling():
    key = new_key("rsa2048")
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    signature = key.sign(b"octets", pss, hashes.SHA256())
    spelled = [i for i, a in BY_IDENTIFIER.items() if a.scheme is Scheme.RSA_PSS and a.hash == 2]
    assert len(spelled) == 4
    assert PSS_SHA256 in spelled
    for identifier in spelled:
        assert verify(Signer(key).public_key, in_auth(identifier, signature), b"octets")


def test_sha_1_and_other_salts_do_not_verify():
    key = new_key("rsa2048")
    public = Signer(key).public_key
    sha1 = key.sign(b"octets", padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    assert not verify(public, in_auth(SHA1_RSA, sha1), b"octets")
    short = key.sign(b"octets", padding.PSS(padding.MGF1(hashes.SHA256()), 20), hashes.SHA256())
    assert not verify(public, in_auth(PSS_SHA256, short), b"octets")


def test_a_name_of_another_algorithm_does_not_verify():
    signers = [Signer(new_key(kind)) for kind in KINDS]
    for signer in signers:
        kind = signer.hash_for(EVERY)
        assert kind is not None
        data = signer.sign(b"octets", kind)
        parts = split_auth_data(data)
        assert parts is not None
        for identifier, algorithm in BY_IDENTIFIER.items():
            same = (algorithm.scheme, algorithm.hash) == (parts[0].scheme, parts[0].hash)
            assert verify(signer.public_key, in_auth(identifier, parts[1]), b"octets") == same


@given(st.sampled_from(KINDS), st.binary(max_size=300))
def test_whatever_comes_is_true_or_false(kind, data):
    public = Signer(new_key("rsa2048" if kind.startswith("rsa") else kind)).public_key
    assert not verify(public, data, b"octets")
    assert not verify(data, data, data)


@pytest.mark.parametrize("kind", ["rsa1024", "k1"])
def test_a_weak_key_signs_nothing_and_verifies_nothing(kind):
    from pki import Issued

    key = new_key(kind)
    pem = Issued(None, key).key_pem()  # type: ignore[arg-type]
    with pytest.raises(OperatorError, match="private key"):
        load_private_key(pem)
    data = Signer(key).sign(b"octets", SignatureHash.SHA2_256)
    assert not verify(Signer(key).public_key, data, b"octets")
