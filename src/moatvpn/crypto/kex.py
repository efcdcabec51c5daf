"""Diffie-Hellman: Curve25519 (RFC 7748, RFC 8031)."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

GROUP_X25519 = 31
PUBLIC_LENGTH = 32


class KeyExchange:
    """One ephemeral key pair of group 31, made from 32 random octets and used once."""

    def __init__(self, random_octets: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(random_octets)
        self.public = self._private.public_key().public_bytes_raw()

    def shared_secret(self, peer_public: bytes) -> bytes:
        """Return the shared secret with the peer's public value.

        Raises PeerError for a value of the wrong length, or of small order, whose secret would be
        all zero (RFC 8031, 2.3).
        """
        if len(peer_public) != PUBLIC_LENGTH:
            raise PeerError(DropReason.IKE_MALFORMED, "public value of the wrong length")
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise PeerError(DropReason.IKE_MALFORMED, "public value of small order") from error
