"""What protects the SK payload (RFC 7296, 3.14).

It is AES-GCM or ChaCha20-Poly1305 (RFC 5282, RFC 7634), or AES-CBC with an HMAC:

    IV | ciphertext of payloads, padding and pad length | ICV

The ICV covers the whole message from its header on. Lengths are in octets.
"""

from __future__ import annotations

import struct
from typing import Protocol

from moatvpn.counters import DropReason
from moatvpn.crypto.aead import NotAuthentic, new_aead
from moatvpn.crypto.cbc import BLOCK, CbcHmac
from moatvpn.errors import MoatError, PeerError
from moatvpn.wire.algorithms import CipherSuite

_AEAD_IV = 8
_AEAD_ICV = 16
_PAD_LENGTH = 1  # the octet that says how much padding there is


class SealingKey(Protocol):
    """Encrypts the messages of one direction. No IV comes twice."""

    def sealed_length(self, length: int) -> int:
        """Return how long an SK payload's body is that holds payloads of that length."""
        ...

    def seal(self, payloads: bytes, associated: bytes) -> bytes:
        """Return an SK payload's body; associated is the message up to it."""
        ...


class OpeningKey(Protocol):
    """Decrypts and authenticates the messages of one direction."""

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """Return payloads, padding and pad length; raise PeerError where they are not authentic."""
        ...


class _Counter:
    """Numbers messages, each once."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def next(self) -> int:
        if self._next >> 64:
            raise MoatError("the IKE SA has used up its initialization vectors")
        self._next += 1
        return self._next - 1


# A combined-mode algorithm is made anew for each message: that costs a microsecond, and to keep it
# costs 2.4 KB in each direction, for IKE SAs that have a message to send every few seconds.


class _AeadSealing:
    __slots__ = ("_ivs", "_material", "_suite")

    def __init__(self, suite: CipherSuite, material: bytes) -> None:
        self._suite, self._material = suite, material
        self._ivs = _Counter()

    def sealed_length(self, length: int) -> int:
        return _AEAD_IV + length + _PAD_LENGTH + _AEAD_ICV

    def seal(self, payloads: bytes, associated: bytes) -> bytes:
        iv = struct.pack("!Q", self._ivs.next())
        aead, salt = new_aead(self._suite, self._material)
        return iv + aead.encrypt(salt + iv, payloads + b"\0", associated)


class _AeadOpening:
    __slots__ = ("_material", "_suite")

    def __init__(self, suite: CipherSuite, material: bytes) -> None:
        self._suite, self._material = suite, material

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        if len(sealed) < _AEAD_IV + _PAD_LENGTH + _AEAD_ICV:
            raise PeerError(DropReason.IKE_MALFORMED, "encrypted payload too short")
        iv = sealed[:_AEAD_IV]
        aead, salt = new_aead(self._suite, self._material)
        try:
            return aead.decrypt(salt + iv, sealed[_AEAD_IV:], associated)
        except NotAuthentic as error:
            raise PeerError(DropReason.IKE_NOT_AUTHENTIC, "integrity check failed") from error


class _CbcSealing:
    def __init__(self, suite: CipherSuite, material: bytes) -> None:
        self._cipher = CbcHmac(suite, material)
        self._ivs = _Counter()

    def sealed_length(self, length: int) -> int:
        padding = -(length + _PAD_LENGTH) % BLOCK
        return BLOCK + length + padding + _PAD_LENGTH + self._cipher.icv_length

    def seal(self, payloads: bytes, associated: bytes) -> bytes:
        padding = -(len(payloads) + _PAD_LENGTH) % BLOCK
        plaintext = payloads + bytes(padding) + bytes((padding,))
        sealed = self._cipher.encrypt(self._ivs.next(), plaintext)
        return sealed + self._cipher.icv(associated + sealed)


class _CbcOpening:
    def __init__(self, suite: CipherSuite, material: bytes) -> None:
        self._cipher = CbcHmac(suite, material)

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        end = len(sealed) - self._cipher.icv_length
        if end < 2 * BLOCK or end % BLOCK:
            raise PeerError(DropReason.IKE_MALFORMED, "encrypted payload of the wrong length")
        # The ICV first: padding and everything inside is looked at only where it is the peer's.
        if not self._cipher.is_authentic(associated + sealed[:end], sealed[end:]):
            raise PeerError(DropReason.IKE_NOT_AUTHENTIC, "integrity check failed")
        return self._cipher.decrypt(sealed[:end])


def sealing_key(suite: CipherSuite, material: bytes) -> SealingKey:
    """Return the key of suite that encrypts; material is suite.material_length octets."""
    return _AeadSealing(suite, material) if suite.combined else _CbcSealing(suite, material)


def opening_key(suite: CipherSuite, material: bytes) -> OpeningKey:
    """Return the key of suite that decrypts; material is suite.material_length octets."""
    return _AeadOpening(suite, material) if suite.combined else _CbcOpening(suite, material)
