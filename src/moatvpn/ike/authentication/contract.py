"""What every method of authentication does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from moatvpn.counters import DropReason
from moatvpn.crypto.prf import Prf
from moatvpn.ike.failure import ProofError
from moatvpn.ike.task import Payloads, body_of
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    AUTH_DIGITAL_SIGNATURE,
    AUTH_SHARED_KEY,
    parse_auth,
    parse_fqdn,
)

_METHODS = {
    1: "an RSA signature with SHA-1",
    AUTH_SHARED_KEY: "a pre-shared key",
    9: "an ECDSA signature of RFC 4754",
    10: "an ECDSA signature of RFC 4754",
    11: "an ECDSA signature of RFC 4754",
    AUTH_DIGITAL_SIGNATURE: "a digital signature",
}


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one side's AUTH covers (2.15), and the PRF of the IKE SA."""

    prf: Prf
    octets: bytes = field(repr=False)


class Authentication(Protocol):
    """One connection's method. hashes are those that the peer verifies (RFC 7427, 4)."""

    @property
    def public_key(self) -> bytes | None:
        """Return our SubjectPublicKeyInfo that prove proves, None where it is something else."""
        ...

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """Return the CAs that may vouch for the peer, as CERTREQ names them; often none."""
        ...

    def can_prove(self, hashes: Collection[int]) -> bool:
        """Return whether the peer can verify what prove would make."""
        ...

    def prove(self, transcript: Transcript, hashes: Collection[int]) -> Payloads:
        """Return our CERT payloads, if any, and AUTH."""
        ...

    def verify(
        self, transcript: Transcript, identity: bytes, payloads: Sequence[RawPayload]
    ) -> bytes | None:
        """Raise ProofError unless payloads prove that the peer is the connection's.

        identity is the body of the peer's ID payload. Returns the peer's SubjectPublicKeyInfo that
        verified its signature, None where there was none.
        """
        ...


def proof_in(payloads: Sequence[RawPayload], wanted: int) -> bytes:
    """Return the data of the AUTH payload; raise ProofError where it is not of method wanted."""
    body = body_of(payloads, PayloadType.AUTH)
    if body is None:
        raise ProofError("the peer wants EAP, or sent no AUTH", "Configure another method there")
    method, data = parse_auth(body)
    if method != wanted:
        theirs = _METHODS.get(method, f"method {method}")
        what = f"the peer proves itself by {theirs}, we want {_METHODS[wanted]}"
        raise ProofError(what, "Configure the same authentication on both sides")
    return data


def require_name(identity: bytes, name: str) -> None:
    """Raise ProofError unless an ID payload's body is the domain name that we look for."""
    if parse_fqdn(identity) != name:
        raise ProofError(
            f"the peer is another one than {name}",
            "Compare remote_identity here with the identity there",
            DropReason.IKE_UNKNOWN_PEER,
        )
