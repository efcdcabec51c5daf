"""Raw public keys (RFC 7670): each side lists the other's keys.

The key in a CERT payload is never believed: a signature must verify under a key of the
connection's configuration. While a box has two keys of its own, because one takes the other's
place, a connection proves the first, and the other one to a peer that has refused that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from moatvpn.config import ConnectionConfig
from moatvpn.crypto.sign import Signer, verify
from moatvpn.ike.authentication.contract import Transcript, proof_in, require_name
from moatvpn.ike.authentication.signature import signed
from moatvpn.ike.failure import ProofError
from moatvpn.ike.task import Payloads
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import AUTH_DIGITAL_SIGNATURE, CERT_RAW_PUBLIC_KEY


class HasSigners(Protocol):
    """Who has our keys: the one that we want to prove first, then any that it replaces."""

    signers: tuple[Signer, ...]


class RawKeyAuthentication:
    """Our key against one of the peer's. See contract.Authentication."""

    __slots__ = ("_config", "_context", "_refusals")

    def __init__(self, config: ConnectionConfig, context: HasSigners) -> None:
        self._config = config
        self._context = context
        self._refusals = 0

    @property
    def _signer(self) -> Signer:
        signers = self._context.signers
        return signers[self._refusals % len(signers)]

    @property
    def public_key(self) -> bytes | None:
        """Return the one of our keys that is this connection's turn."""
        return self._signer.public_key

    @property
    def first_refused(self) -> bool:
        """Return whether it is not our first key that it proves, for the peer has refused that."""
        return self._refusals % len(self._context.signers) != 0

    def refused(self, key: bytes | None) -> None:
        """Take in that the peer does not accept our key: another one's turn, if we have one."""
        if key == self._signer.public_key:
            self._refusals += 1

    def renew(self) -> None:
        """Prove our first key again from now on."""
        self._refusals = 0

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """Return nothing: no CA has a part in it."""
        return ()

    def can_prove(self, hashes: Collection[int]) -> bool:
        """Return whether the peer has a hash that our key signs with."""
        return self._signer.hash_for(hashes) is not None

    def prove(self, transcript: Transcript, hashes: Collection[int]) -> Payloads:
        """Return our key and our signature."""
        cert = bytes((CERT_RAW_PUBLIC_KEY,)) + self._signer.public_key
        return [(PayloadType.CERT, cert), signed(self._signer, transcript, hashes)]

    def verify(
        self, transcript: Transcript, identity: bytes, payloads: Sequence[RawPayload]
    ) -> bytes | None:
        """Raise ProofError unless the signature is of one of the configured keys."""
        require_name(identity, self._config.remote_identity)
        data = proof_in(payloads, AUTH_DIGITAL_SIGNATURE)
        for key in self._config.public_keys():
            if verify(key, data, transcript.octets):
                return key
        what = f"{self._config.remote_identity} signed with a key that is none of its own"
        remedy = "Compare remote_public_keys here with `moatctl identity show` there"
        raise ProofError(what, remedy)
