"""Raw public keys (RFC 7670): each side lists the other's keys.

The key in a CERT payload is never believed: a signature must verify under a key of the
connection's configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moatvpn.config import ConnectionConfig
from moatvpn.crypto.sign import Signer, verify
from moatvpn.ike.authentication.contract import Transcript, proof_in, require_name
from moatvpn.ike.authentication.signature import signed
from moatvpn.ike.failure import ProofError
from moatvpn.ike.task import Payloads
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import AUTH_DIGITAL_SIGNATURE, CERT_RAW_PUBLIC_KEY


class RawKeyAuthentication:
    """Our key against one of the peer's. See contract.Authentication."""

    __slots__ = ("_config", "_signer")

    def __init__(self, config: ConnectionConfig, signer: Signer) -> None:
        self._config = config
        self._signer = signer

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
    ) -> None:
        """Raise ProofError unless the signature is of one of the configured keys."""
        require_name(identity, self._config.remote_identity)
        data = proof_in(payloads, AUTH_DIGITAL_SIGNATURE)
        if not any(verify(key, data, transcript.octets) for key in self._config.public_keys()):
            what = f"{self._config.remote_identity} signed with a key that is none of its own"
            remedy = "Compare remote_public_keys here with `moatctl identity show` there"
            raise ProofError(what, remedy)
