"""The operator's own signatures, over what boxes are told: Ed25519 (RFC 8032)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moatvpn.errors import OperatorError

SIGNATURE_OCTETS = 64
_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
_WHAT = "signing key"
_REMEDY = "Make one with `moat-policy keygen`"


class Seal:
    """A private key that signs for an operator."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @property
    def public_text(self) -> str:
        """Return the public key as text: base64 of the SubjectPublicKeyInfo."""
        return base64.b64encode(self._private.public_key().public_bytes(*_SPKI)).decode("ascii")

    def sign(self, data: bytes) -> bytes:
        """Return the signature of data, 64 octets."""
        return self._private.sign(data)


def generate_seal(passphrase: bytes) -> bytes:
    """Return a new private key as PEM (PKCS #8), encrypted under passphrase; none is empty."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )


def is_encrypted(pem: bytes) -> bool:
    """Return whether a PEM key is encrypted (RFC 7468, 11)."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem


def load_seal(pem: bytes, passphrase: bytes | None) -> Seal:
    """Return the key in pem; raise OperatorError where there is none of Ed25519.

    passphrase is None for a key that is not encrypted.
    """
    try:
        private = serialization.load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "cannot be opened: it is no PEM key, or its passphrase is another one"
        raise OperatorError(_WHAT, why, "Give the passphrase that it was made with") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise OperatorError(_WHAT, "is no Ed25519 key", _REMEDY)
    return Seal(private)


def is_public_text(text: str) -> bool:
    """Return whether text is an Ed25519 public key, as Seal.public_text writes it."""
    return _public(text) is not None


def verify_seal(public_keys: Iterable[str], signature: bytes, data: bytes) -> bool:
    """Return whether signature is one of data under any of public_keys (texts)."""
    for text in public_keys:
        key = _public(text)
        if key is not None:
            try:
                key.verify(signature, data)
            except InvalidSignature:
                continue
            return True
    return False


def sha256_hex(data: bytes) -> str:
    """Return data's SHA-256, in hexadecimal."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize().hex()


def _public(text: str) -> Ed25519PublicKey | None:
    try:
        key = serialization.load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, Ed25519PublicKey) else None
