"""AES-GCM with a 16-octet ICV for the SK payload (RFC 5282)."""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moatvpn.counters import DropReason
from moatvpn.errors import MoatError, PeerError

SALT_LENGTH = 4
KEY_MATERIAL_LENGTH = 32 + SALT_LENGTH
IV_LENGTH = 8
ICV_LENGTH = 16
OVERHEAD = IV_LENGTH + ICV_LENGTH


class SealingKey:
    """Encrypts the messages of one direction. The IV is a counter, so no nonce comes twice."""

    def __init__(self, material: bytes) -> None:
        self._aead = AESGCM(material[:-SALT_LENGTH])
        self._salt = material[-SALT_LENGTH:]
        self._next_iv = 0

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Return IV, ciphertext and ICV."""
        if self._next_iv >> 64:
            raise MoatError("the IKE SA has used up its initialization vectors")
        iv = struct.pack("!Q", self._next_iv)
        self._next_iv += 1
        return iv + self._aead.encrypt(self._salt + iv, plaintext, associated)


class OpeningKey:
    """Decrypts and authenticates the messages of one direction."""

    def __init__(self, material: bytes) -> None:
        self._aead = AESGCM(material[:-SALT_LENGTH])
        self._salt = material[-SALT_LENGTH:]

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """Return the plaintext; raise PeerError where it is not authentic."""
        if len(sealed) < OVERHEAD + 1:
            raise PeerError(DropReason.IKE_MALFORMED, "encrypted payload too short")
        iv = sealed[:IV_LENGTH]
        try:
            return self._aead.decrypt(self._salt + iv, sealed[IV_LENGTH:], associated)
        except InvalidTag as error:
            raise PeerError(DropReason.IKE_NOT_AUTHENTIC, "integrity check failed") from error
