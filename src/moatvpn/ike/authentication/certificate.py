"""X.509 certificates (RFC 7296, 3.6 and 3.7; RFC 4945): CAs vouch for the peer.

The peer's identity is the domain name in its certificate's subjectAltName. One that calls itself
by its distinguished name (ID_DER_ASN1_DN) is known by that domain name, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moatvpn.config import ConnectionConfig
from moatvpn.counters import DropReason
from moatvpn.crypto.certificates import dns_names, parse_certificate
from moatvpn.crypto.sign import Signer, verify
from moatvpn.crypto.trust import CertificateError, TrustAnchors
from moatvpn.ike.authentication.contract import Transcript, proof_in, require_name
from moatvpn.ike.authentication.signature import signed
from moatvpn.ike.failure import ProofError
from moatvpn.ike.secrets import Certificates
from moatvpn.ike.task import Payloads, body_of
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    AUTH_DIGITAL_SIGNATURE,
    CERT_X509_SIGNATURE,
    parse_certificate_body,
    parse_distinguished_name,
    parse_fqdn,
)


class CertificateAuthentication:
    """Our certificate against the peer's. See contract.Authentication."""

    __slots__ = ("_anchors", "_certificates", "_config", "_signer")

    def __init__(
        self,
        config: ConnectionConfig,
        signer: Signer,
        certificates: Certificates,
        anchors: TrustAnchors,
    ) -> None:
        self._config = config
        self._signer = signer
        self._certificates = certificates
        self._anchors = anchors

    @property
    def public_key(self) -> bytes | None:
        """Return the key that our certificate is of."""
        return self._signer.public_key

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """Return the CAs that may vouch for the peer."""
        return self._anchors.authorities

    def can_prove(self, hashes: Collection[int]) -> bool:
        """Return whether the peer has a hash that our key signs with."""
        return self._signer.hash_for(hashes) is not None

    def prove(self, transcript: Transcript, hashes: Collection[int]) -> Payloads:
        """Return our certificate, the intermediates after it, and our signature."""
        kind, own = bytes((CERT_X509_SIGNATURE,)), self._certificates.own
        chain = [(PayloadType.CERT, kind + der) for der in (own.der if own is not None else ())]
        return [*chain, signed(self._signer, transcript, hashes)]

    def verify(
        self, transcript: Transcript, identity: bytes, payloads: Sequence[RawPayload]
    ) -> bytes | None:
        """Raise ProofError unless a CA vouches for the peer's name and key, and the key signed."""
        name = self._config.remote_identity
        subject = parse_distinguished_name(identity)
        if subject is None:
            require_name(identity, name)
        data = proof_in(payloads, AUTH_DIGITAL_SIGNATURE)
        # Who is called must have a clock that is right; who calls may set it only afterwards.
        calls, certificates = self._config.initiate, self._certificates
        now = certificates.now_of_caller() if calls else certificates.wall_clock()
        try:
            peer = self._anchors.verify(_chain(payloads), now, certificates.revocations())
        except CertificateError as error:
            raise ProofError(f"{name}: {error.why}", error.remedy) from error
        if name not in peer.dns_names or subject not in (None, peer.subject):
            what = f"certificate {peer.subject_text} is not of {name}"
            remedy = f"Have it issued with the subjectAltName DNS:{name}"
            raise ProofError(what, remedy, DropReason.IKE_UNKNOWN_PEER)
        if not verify(peer.public_key, data, transcript.octets):
            what = f"{name} did not sign with its certificate's key"
            raise ProofError(what, "Have it use the private key that the certificate was made for")
        return peer.public_key


def _chain(payloads: Sequence[RawPayload]) -> list[bytes]:
    """Return the X.509 certificates among payloads, in their order."""
    bodies = [parse_certificate_body(p.body) for p in payloads if p.type == PayloadType.CERT]
    return [der for kind, der in bodies if kind == CERT_X509_SIGNATURE]


def claimed_names(identity: bytes, payloads: Sequence[RawPayload]) -> list[str]:
    """Return the domain names by which a caller may be known here. Nothing of it is proved yet.

    identity is the body of its ID payload.
    """
    name = parse_fqdn(identity)
    if name is not None:
        return [name]
    if parse_distinguished_name(identity) is None or body_of(payloads, PayloadType.CERT) is None:
        return []
    try:
        return sorted(dns_names(parse_certificate(_chain(payloads)[0])))
    except (ValueError, IndexError):
        return []
