"""A pre-shared key (RFC 7296, 2.15)."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence

from moatvpn.config import ConnectionConfig
from moatvpn.ike.authentication.contract import Transcript, proof_in, require_name
from moatvpn.ike.failure import ProofError
from moatvpn.ike.task import Payloads
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import AUTH_SHARED_KEY, encode_auth

_PAD = b"Key Pad for IKEv2"


class PskAuthentication:
    """Both sides know one secret. See contract.Authentication."""

    __slots__ = ("_config", "_psk")

    def __init__(self, config: ConnectionConfig, psk: bytes) -> None:
        self._config = config
        self._psk = psk

    @property
    def public_key(self) -> bytes | None:
        """Return None: no key pair has a part in it."""
        return None

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """Return nothing: no CA has a part in it."""
        return ()

    def _mac(self, transcript: Transcript) -> bytes:
        prf = transcript.prf
        return prf.compute(prf.compute(self._psk, _PAD), transcript.octets)

    def can_prove(self, hashes: Collection[int]) -> bool:
        """Return True: the PRF has been agreed."""
        del hashes
        return True

    def prove(self, transcript: Transcript, hashes: Collection[int]) -> Payloads:
        """Return the MAC."""
        del hashes
        return [(PayloadType.AUTH, encode_auth(AUTH_SHARED_KEY, self._mac(transcript)))]

    def verify(
        self, transcript: Transcript, identity: bytes, payloads: Sequence[RawPayload]
    ) -> bytes | None:
        """Raise ProofError unless the peer's MAC is the one that the secret makes."""
        require_name(identity, self._config.remote_identity)
        data = proof_in(payloads, AUTH_SHARED_KEY)
        if not hmac.compare_digest(data, self._mac(transcript)):
            what = f"{self._config.remote_identity} has another pre-shared key than we have"
            raise ProofError(what, "Put the same secret into psk_file on both sides")
        return None
