"""What protects tickets (RFC 5723, 9.5): keys of their own, used for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ID_LENGTH = 8
KEY_LENGTH = 32
_NONCE_LENGTH = 12


@dataclass(frozen=True, slots=True)
class TicketKey:
    """An AES-256-GCM key by its identifier. made_at is a time of the wall clock, in seconds."""

    id: bytes
    key: bytes = field(repr=False)
    made_at: float

    def seal(self, content: bytes, random: Callable[[int], bytes]) -> bytes:
        """Return content as only open of the same key reads it, after the key's identifier.

        A nonce is random; a key that lives for days makes far fewer than the 2^32 that allows.
        """
        nonce = random(_NONCE_LENGTH)
        return self.id + nonce + AESGCM(self.key).encrypt(nonce, content, self.id)

    def open(self, sealed: bytes) -> bytes | None:
        """Return the content, None where seal of this key did not make it."""
        nonce, rest = sealed[ID_LENGTH:][:_NONCE_LENGTH], sealed[ID_LENGTH + _NONCE_LENGTH :]
        try:
            return AESGCM(self.key).decrypt(nonce, rest, sealed[:ID_LENGTH])
        except (InvalidTag, ValueError):
            return None


def digest(*parts: bytes) -> bytes:
    """Return SHA-256 over parts, whose borders count."""
    sha = hashes.Hash(hashes.SHA256())
    for part in parts:
        sha.update(len(part).to_bytes(8, "big") + part)
    return sha.finalize()
