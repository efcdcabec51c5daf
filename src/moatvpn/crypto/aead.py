"""The combined-mode algorithms of ESP, each with a 256-bit key (RFC 4106, RFC 7634)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

KEY_LENGTH = 32
SALT_LENGTH = 4

# Both have encrypt and decrypt of (12-octet nonce, data, associated data); the ICV is the last
# 16 octets of what encrypt returns, and decrypt compares it in constant time.
Aead = AESGCM | ChaCha20Poly1305
NotAuthentic = InvalidTag  # what decrypt raises


def aes_256_gcm(material: bytes) -> tuple[Aead, bytes]:
    """Return AES-256-GCM and the salt of keying material: 32 octets of key, 4 of salt.

    Raises ValueError for any other length (RFC 4106, 8.1).
    """
    key, salt = _split(material)
    return AESGCM(key), salt


def chacha20_poly1305(material: bytes) -> tuple[Aead, bytes]:
    """Return ChaCha20-Poly1305 and the salt of keying material: 32 octets of key, 4 of salt.

    Raises ValueError for any other length (RFC 7634, 2).
    """
    key, salt = _split(material)
    return ChaCha20Poly1305(key), salt


def _split(material: bytes) -> tuple[bytes, bytes]:
    if len(material) != KEY_LENGTH + SALT_LENGTH:
        raise ValueError(f"keying material of {len(material)} octets")
    return material[:KEY_LENGTH], material[KEY_LENGTH:]
