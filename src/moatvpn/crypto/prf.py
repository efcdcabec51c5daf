"""Pseudorandom functions and prf+ (RFC 7296, 2.13; RFC 4868)."""

from __future__ import annotations

from enum import Enum

from cryptography.hazmat.primitives import hashes, hmac


class Prf(Enum):
    """A PRF by its transform number (RFC 7296, 3.3.2). Key and output lengths are in octets."""

    HMAC_SHA2_256 = 5
    HMAC_SHA2_384 = 6
    HMAC_SHA2_512 = 7

    @property
    def length(self) -> int:
        """Return the output length, which is the preferred key length too."""
        return _HASHES[self.value].digest_size

    def compute(self, key: bytes, data: bytes) -> bytes:
        """Return prf(key, data)."""
        mac = hmac.HMAC(key, _HASHES[self.value])
        mac.update(data)
        return mac.finalize()

    def expand(self, key: bytes, seed: bytes, length: int) -> bytes:
        """Return length octets of prf+(key, seed); at most 255 times the output length."""
        stream, block = b"", b""
        counter = 1
        while len(stream) < length:
            block = self.compute(key, block + seed + bytes((counter,)))
            stream += block
            counter += 1
        return stream[:length]


_HASHES: dict[int, hashes.HashAlgorithm] = {
    5: hashes.SHA256(),
    6: hashes.SHA384(),
    7: hashes.SHA512(),
}
