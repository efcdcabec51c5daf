"""Ed25519 signatures and key files (RFC 8420, RFC 8410)."""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moatvpn.errors import OperatorError

# AlgorithmIdentifier of id-Ed25519, no parameters (RFC 8410, 3), and its length octet
# as the AUTH payload wants it (RFC 7427, 3).
ED25519_ALGORITHM = bytes.fromhex("300506032b6570")
_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class Signer:
    """A private key that signs. public_key is its SubjectPublicKeyInfo in DER."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes(*_SPKI)

    @property
    def public_text(self) -> str:
        """Return the public key as text: base64 of the SubjectPublicKeyInfo."""
        return base64.b64encode(self.public_key).decode("ascii")

    def sign(self, data: bytes) -> bytes:
        """Return the 64-octet signature of data."""
        return self._private.sign(data)


def generate_private_key() -> bytes:
    """Return a new private key as PEM (PKCS #8, not encrypted)."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_private_key(pem: bytes) -> Signer:
    """Return the signer of the key in pem; raise OperatorError where it holds no Ed25519 key."""
    remedy = "Make a key with `moatctl identity create`"
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise OperatorError("private key", "is not an unencrypted PEM key", remedy) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise OperatorError("private key", "is not an Ed25519 key", remedy)
    return Signer(private)


def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether signature is that of data under public_key (SubjectPublicKeyInfo)."""
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True
