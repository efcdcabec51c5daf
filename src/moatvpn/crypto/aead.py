"""The combined-mode algorithms of ESP and IKE (RFC 4106, RFC 5282, RFC 7634)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from moatvpn.wire.algorithms import CipherSuite

# Both have encrypt and decrypt of (12-octet nonce, data, associated data); the ICV is the last
# 16 octets of what encrypt returns, and decrypt compares it in constant time.
Aead = AESGCM | ChaCha20Poly1305
NotAuthentic = InvalidTag  # what decrypt raises


def new_aead(suite: CipherSuite, material: bytes) -> tuple[Aead, bytes]:
    """Return the algorithm and the salt of keying material: the key, then 4 octets of salt.

    Raises ValueError for material of another length than the suite's (RFC 4106, 8.1; RFC 7634, 2),
    and for a suite that is no combined mode.
    """
    if len(material) != suite.material_length or not suite.combined:
        raise ValueError(f"keying material of {len(material)} octets for {suite.value}")
    key, salt = material[: suite.key_length], material[suite.key_length :]
    if suite is CipherSuite.CHACHA20_POLY1305:
        return ChaCha20Poly1305(key), salt
    return AESGCM(key), salt
