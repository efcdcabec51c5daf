"""ML-KEM (FIPS 203) as a key exchange method of IKEv2: a key encapsulation mechanism.

The initiator's public value is an encapsulation key, the responder's is the ciphertext that it has
made with it: so there is no answer before the initiator's value is there.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

SEED_LENGTH = 64  # octets: d and z of FIPS 203, 7.1


class MlKem768:
    """An initiator's ephemeral decapsulation key. public is the encapsulation key, 1184 octets."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._private = MLKEM768PrivateKey.from_seed_bytes(random(SEED_LENGTH))
        self.public = self._private.public_key().public_bytes_raw()

    def shared_secret(self, peer_public: bytes) -> bytes:
        """Return the secret in a ciphertext of 1088 octets; PeerError for any other length.

        One that was not made with our key gives a secret that nobody has (implicit rejection).
        """
        try:
            return self._private.decapsulate(peer_public)
        except ValueError as error:
            raise PeerError(DropReason.IKE_MALFORMED, "ciphertext of ML-KEM") from error


def encapsulate_768(peer_public: bytes) -> tuple[bytes, bytes]:
    """Return a ciphertext for an encapsulation key, and the secret in it.

    The library draws its randomness itself. Raises PeerError for octets that are no such key
    (FIPS 203, 7.2).
    """
    try:
        key = MLKEM768PublicKey.from_public_bytes(peer_public)
    except ValueError as error:
        raise PeerError(DropReason.IKE_MALFORMED, "encapsulation key of ML-KEM") from error
    secret, ciphertext = key.encapsulate()
    return ciphertext, secret
