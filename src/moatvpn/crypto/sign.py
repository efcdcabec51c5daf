"""Signatures over IKE_AUTH, and the keys that make them (RFC 7427, 8420, 8410)."""

from __future__ import annotations

import base64
from collections.abc import Collection

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moatvpn.crypto.signature_algorithms import (
    Scheme,
    SignatureHash,
    algorithm_for,
    split_auth_data,
)
from moatvpn.errors import OperatorError

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

LEAST_RSA_BITS = 2048
MOST_RSA_BITS = 8192  # what we spend on one verification is bounded
_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_ALL = (SignatureHash.SHA2_256, SignatureHash.SHA2_384, SignatureHash.SHA2_512)


def weakness(key: object) -> str | None:
    """Return why a public key proves nothing to us, or None where it does."""
    if isinstance(key, Ed25519PublicKey):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey):
        fits = isinstance(key.curve, _CURVES)
        return None if fits else f"is on the curve {key.curve.name}, which is none of ours"
    if isinstance(key, rsa.RSAPublicKey):
        fits = LEAST_RSA_BITS <= key.key_size <= MOST_RSA_BITS
        limits = f"{LEAST_RSA_BITS} to {MOST_RSA_BITS}"
        return None if fits else f"is an RSA key of {key.key_size} bits, not of {limits}"
    return "is neither Ed25519, ECDSA nor RSA"


class Signer:
    """A private key that signs. public_key is its SubjectPublicKeyInfo in DER."""

    def __init__(self, private: PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes(*_SPKI)

    @property
    def is_ed25519(self) -> bool:
        """Return whether the key is one of Ed25519."""
        return isinstance(self._private, Ed25519PrivateKey)

    @property
    def public_text(self) -> str:
        """Return the public key as text: base64 of the SubjectPublicKeyInfo."""
        return base64.b64encode(self.public_key).decode("ascii")

    def hash_for(self, offered: Collection[int]) -> SignatureHash | None:
        """Return the hash to sign with for a peer that verifies those offered, None for no such."""
        return next((kind for kind in self._hashes() if kind in offered), None)

    def _hashes(self) -> tuple[SignatureHash, ...]:
        """Return the hashes that fit the key, best first."""
        if isinstance(self._private, Ed25519PrivateKey):
            return (SignatureHash.IDENTITY,)
        if isinstance(self._private, ec.EllipticCurvePrivateKey):
            # The hash as long as the group's order first (RFC 5480, 4).
            first = min(_CURVES.index(type(self._private.curve)), 2)
            return (*_ALL[first:], *_ALL[:first])
        return _ALL

    def sign(self, data: bytes, kind: SignatureHash) -> bytes:
        """Return what AUTH carries (RFC 7427, 3): the algorithm's name and the signature of data.

        kind is one that hash_for gave.
        """
        private, digest = self._private, kind.algorithm()
        if isinstance(private, Ed25519PrivateKey):
            scheme, signature = Scheme.ED25519, private.sign(data)
        elif digest is None:
            raise ValueError("this key needs a hash function")
        elif isinstance(private, ec.EllipticCurvePrivateKey):
            scheme, signature = Scheme.ECDSA, private.sign(data, ec.ECDSA(digest))
        else:
            scheme, signature = Scheme.RSA_PSS, private.sign(data, _pss(digest), digest)
        identifier = algorithm_for(scheme, kind).identifier
        return bytes((len(identifier),)) + identifier + signature


def _pss(digest: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


def fingerprint(public_key: bytes) -> str:
    """Return the SHA-256 of a SubjectPublicKeyInfo in hex, which names it in few octets."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_key)
    return digest.finalize().hex()


def generate_private_key() -> bytes:
    """Return a new private key as PEM (PKCS #8, not encrypted)."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_private_key(pem: bytes) -> Signer:
    """Return the signer of the key in pem; raise OperatorError where it holds none of ours."""
    remedy = "Make a key with `moatctl identity create`"
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OperatorError("private key", "is not an unencrypted PEM key", remedy) from error
    if not isinstance(private, Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise OperatorError("private key", "is neither Ed25519, ECDSA nor RSA", remedy)
    why = weakness(private.public_key())
    if why is not None:
        raise OperatorError("private key", why, remedy)
    return Signer(private)


def verify(public_key: bytes, auth_data: bytes, data: bytes) -> bool:
    """Return whether auth_data, as AUTH carries it, is a signature of data under public_key.

    public_key is a SubjectPublicKeyInfo. Whatever a peer sends, the answer is True or False.
    """
    parts = split_auth_data(auth_data)
    key = _load(public_key)
    if parts is None or key is None:
        return False
    algorithm, signature = parts
    digest = algorithm.hash.algorithm()
    try:
        match key, algorithm.scheme, digest:
            case Ed25519PublicKey(), Scheme.ED25519, None:
                key.verify(signature, data)
            case ec.EllipticCurvePublicKey(), Scheme.ECDSA, hashes.HashAlgorithm():
                key.verify(signature, data, ec.ECDSA(digest))
            case rsa.RSAPublicKey(), Scheme.RSA_PSS, hashes.HashAlgorithm():
                key.verify(signature, data, _pss(digest), digest)
            case rsa.RSAPublicKey(), Scheme.RSA_PKCS1, hashes.HashAlgorithm():
                key.verify(signature, data, padding.PKCS1v15(), digest)
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _load(public_key: bytes) -> PublicKey | None:
    try:
        key = serialization.load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, PublicKey) or weakness(key) is not None:
        return None
    return key
