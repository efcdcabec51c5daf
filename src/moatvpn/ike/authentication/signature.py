"""Digital signatures in AUTH (RFC 7427): what raw keys and certificates have in common."""

from __future__ import annotations

from collections.abc import Collection

from moatvpn.crypto.sign import Signer
from moatvpn.errors import MoatError
from moatvpn.ike.authentication.contract import Transcript
from moatvpn.wire.ike_header import PayloadType
from moatvpn.wire.ike_payloads import AUTH_DIGITAL_SIGNATURE, encode_auth


def signed(signer: Signer, transcript: Transcript, hashes: Collection[int]) -> tuple[int, bytes]:
    """Return the AUTH payload with our signature, by the best hash that the peer verifies."""
    kind = signer.hash_for(hashes)
    if kind is None:
        raise MoatError("a signature that the peer cannot verify")
    data = signer.sign(transcript.octets, kind)
    return PayloadType.AUTH, encode_auth(AUTH_DIGITAL_SIGNATURE, data)
