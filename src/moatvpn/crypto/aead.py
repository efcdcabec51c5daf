"""The combined-mode algorithms of ESP (RFC 4106, RFC 7634)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from moatvpn.esp.child import EspSuite

IV_LENGTH = 8
ICV_LENGTH = 16

Aead = AESGCM | ChaCha20Poly1305
NotAuthentic = InvalidTag


def new_aead(suite: EspSuite, material: bytes) -> tuple[Aead, bytes]:
    """Return the cipher and the salt of keying material (key, then 4 octets of salt)."""
    key, salt = material[: suite.key_length], material[suite.key_length :]
    if len(material) != suite.key_length + suite.salt_length:
        raise ValueError(f"keying material of {len(material)} octets")
    return (AESGCM(key) if suite is EspSuite.AES_256_GCM else ChaCha20Poly1305(key)), salt
