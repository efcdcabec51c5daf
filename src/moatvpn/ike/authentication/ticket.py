"""A ticket (RFC 5723, 4.3.3): the keys of the IKE SA that is resumed prove both sides."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence

from moatvpn.config import ConnectionConfig
from moatvpn.crypto.keymat import IkeKeys
from moatvpn.ike.authentication.contract import Transcript, proof_in, require_name
from moatvpn.ike.failure import ProofError
from moatvpn.ike.task import Payloads
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import AUTH_SHARED_KEY, encode_auth


class TicketAuthentication:
    """SK_pi and SK_pr of the new IKE SA, as a pre-shared key is used. See contract.Authentication.

    initiator says whether we have set the IKE SA up; local_key and remote_key are what proved us
    and the peer in the one that is resumed: they stand behind this one as well.
    """

    def __init__(
        self,
        config: ConnectionConfig,
        keys: IkeKeys,
        initiator: bool,
        local_key: bytes | None,
        remote_key: bytes | None,
    ) -> None:
        self._config = config
        self._local_key, self._remote_key = local_key, remote_key
        ours, theirs = (keys.sk_pi, keys.sk_pr) if initiator else (keys.sk_pr, keys.sk_pi)
        self._ours, self._theirs = ours, theirs

    @property
    def public_key(self) -> bytes | None:
        """Return the key that proved us once."""
        return self._local_key

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """Return nothing: no CA has a part in it."""
        return ()

    def can_prove(self, hashes: Collection[int]) -> bool:
        """Return True: the ticket says which PRF."""
        del hashes
        return True

    def prove(self, transcript: Transcript, hashes: Collection[int]) -> Payloads:
        """Return the MAC, and no CERT."""
        del hashes
        mac = transcript.prf.compute(self._ours, transcript.octets)
        return [(PayloadType.AUTH, encode_auth(AUTH_SHARED_KEY, mac))]

    def verify(
        self, transcript: Transcript, identity: bytes, payloads: Sequence[RawPayload]
    ) -> bytes | None:
        """Raise ProofError unless the peer's MAC is made with the keys that are resumed."""
        require_name(identity, self._config.remote_identity)
        data = proof_in(payloads, AUTH_SHARED_KEY)
        if not hmac.compare_digest(data, transcript.prf.compute(self._theirs, transcript.octets)):
            what = f"{self._config.remote_identity} presents a ticket without its keys"
            raise ProofError(what, "A full call follows; if it fails too, see what it says")
        return self._remote_key
