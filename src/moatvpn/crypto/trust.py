"""Whether a peer's certificate is to be believed (RFC 5280, 6; RFC 4945, 5).

What a peer sends is never trusted. From the trust anchors of the operator downwards, a certificate
is taken in only once its signature has verified under a key that is trusted already. So the work
that a stranger can cause is bounded, and there is no search for paths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from moatvpn.crypto.certificates import (
    RevocationList,
    authority,
    dns_names,
    name_text,
    parse_certificate,
    public_octets,
    signature_weakness,
    subject_text,
    validity,
)
from moatvpn.crypto.sign import weakness
from moatvpn.errors import MoatError, OperatorError

T = TypeVar("T", bound=x509.ExtensionType)

MOST_CERTIFICATES = 6  # of one peer: its own, and the CAs between it and a trust anchor
_FOR_IKE = {
    ExtendedKeyUsageOID.IPSEC_IKE,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
}
# What is looked at below; a critical extension besides these makes a certificate unusable (4.2).
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
_RENEW = "Have its CA issue another one"


class CertificateError(MoatError):
    """A peer's certificate is not to be believed. why says what is wrong, remedy what helps."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}. {remedy}")
        self.why = why
        self.remedy = remedy


class Moment(NamedTuple):
    """When it is, as far as it is known: from earliest to latest, in seconds since the epoch."""

    earliest: float
    latest: float


@dataclass(frozen=True, slots=True)
class _Authority:
    """A CA that is trusted, and how many CAs may come below it."""

    certificate: x509.Certificate
    below: float


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _length(seconds: float) -> str:
    """Return a length of time in words."""
    hours = math.ceil(seconds / 3600)
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


def _check_any(certificate: x509.Certificate, now: Moment) -> None:
    """Raise CertificateError for what no certificate may be, CA or not."""
    name = f"certificate {subject_text(certificate)}"
    weak = signature_weakness(certificate) or weakness(certificate.public_key())
    if weak is not None:
        raise CertificateError(f"{name} {weak}", _RENEW)
    if certificate.version is not x509.Version.v3:
        raise CertificateError(f"{name} is not of version 3", _RENEW)
    first, last = validity(certificate)
    # The difference, because it is what shows a clock that is wrong by a day.
    if now.latest < first:
        when = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        why = f"{name} is not valid before {when}, in {_length(first - now.latest)} by our clock"
        raise CertificateError(why, "Check the clock (NTP) here, and that of the CA")
    if now.earliest > last:
        when = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        why = f"{name} expired at {when}, {_length(now.earliest - last)} ago by our clock"
        raise CertificateError(why, "Renew it; if it is not that old, check the clock (NTP) here")
    for extension in certificate.extensions:
        limits = extension.oid == ExtensionOID.NAME_CONSTRAINTS
        if limits or (extension.critical and extension.oid not in _UNDERSTOOD):
            oid = extension.oid.dotted_string
            why = f"{name} has the extension {oid}, which we don't understand"
            raise CertificateError(why, "Have it issued without")


def _check_authority(certificate: x509.Certificate, now: Moment) -> float:
    """Return how many CAs may come below one; raise CertificateError where it is no sound CA."""
    _check_any(certificate, now)
    name = f"certificate {subject_text(certificate)}"
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise CertificateError(f"{name} is not of a CA, but has issued others", _RENEW)
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise CertificateError(f"{name} must not issue others (keyUsage)", _RENEW)
    return math.inf if constraints.path_length is None else float(constraints.path_length)


def _check_end_entity(certificate: x509.Certificate, now: Moment) -> None:
    _check_any(certificate, now)
    name = f"certificate {subject_text(certificate)}"
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateError(f"{name} is of a CA, which is nobody's identity", _RENEW)
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise CertificateError(f"{name} must not sign (keyUsage; RFC 4945, 5.1.3.2)", _RENEW)
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if extended is not None and not _FOR_IKE & set(extended):
        why = f"{name} is not for IKE (extendedKeyUsage; RFC 4945, 5.1.3.12)"
        raise CertificateError(why, "Have it issued with id-kp-ipsecIKE, or without the extension")


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


class TrustAnchors:
    """The CAs that an operator trusts for a connection. Equal where they are the same CAs."""

    def __init__(self, certificates: Sequence[x509.Certificate], what: str) -> None:
        for certificate in certificates:
            constraints = _extension(certificate, x509.BasicConstraints)
            weak = weakness(certificate.public_key())
            why = weak or (None if constraints and constraints.ca else "is not of a CA")
            if why is not None:
                why = f"certificate {subject_text(certificate)} {why}"
                raise OperatorError(what, why, "Give the certificates of CAs")
        self._certificates = tuple(certificates)
        self.authorities = tuple(dict.fromkeys(authority(c) for c in certificates))

    @classmethod
    def joined(cls, parts: Sequence[TrustAnchors]) -> TrustAnchors:
        """Return all CAs of parts."""
        return cls([c for part in parts for c in part._certificates], "CA files")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrustAnchors) and self._certificates == other._certificates

    def __hash__(self) -> int:
        return hash(self.authorities)

    def verify(
        self,
        chain: Sequence[bytes],
        now: float | Moment,
        revocations: Sequence[RevocationList],
    ) -> PeerCertificate:
        """Return the first certificate of chain, verified at now.

        now is in seconds since the epoch, or a Moment where that is not known: each certificate
        has to be valid at some time of it.

        chain is what the peer sent: its own certificate, then others in any order. Raises
        CertificateError where it is not to be believed.
        """
        if not isinstance(now, Moment):
            now = Moment(now, now)
        if not chain:
            raise CertificateError("it sent no certificate", "Give it one, and have it sent")
        if len(chain) > MOST_CERTIFICATES:
            why = f"it sent {len(chain)} certificates, of which {MOST_CERTIFICATES} would do"
            raise CertificateError(why, "Have it send its own and the intermediates only")
        try:
            own, *others = (parse_certificate(der) for der in chain)
        except ValueError as error:
            raise CertificateError(f"it sent what is {error}", _RENEW) from error
        _check_end_entity(own, now)
        issuers, faults = self._trusted(others, now, revocations)
        issuer = next((i for i in issuers if _issued_by(own, i.certificate)), None)
        if issuer is None:
            name = name_text(own.issuer)
            why = f"no CA that we trust vouches for {name}, the issuer of {subject_text(own)}"
            remedy = "Give that CA in ca_files, or have the peer send the intermediate CAs"
            raise faults[0] if faults else CertificateError(why, remedy)
        _check_revoked(own, issuer.certificate, revocations)
        return PeerCertificate(own)

    def _trusted(
        self,
        others: Sequence[x509.Certificate],
        now: Moment,
        revocations: Sequence[RevocationList],
    ) -> tuple[list[_Authority], list[CertificateError]]:
        """Return the CAs that are to be trusted at now, and why others are not.

        They are the sound ones of our anchors, and those of others that follow from them.
        """
        trusted: list[_Authority] = []
        faults: list[CertificateError] = []
        for certificate in self._certificates:
            try:
                trusted.append(_Authority(certificate, _check_authority(certificate, now)))
            except CertificateError as error:
                faults.append(error)
        waiting = list(others)
        # trusted grows meanwhile; every one of others enters it once at most.
        for parent in trusted:
            for certificate in list(waiting):
                if parent.below < 1 or not _issued_by(certificate, parent.certificate):
                    continue
                waiting.remove(certificate)
                try:
                    below = min(parent.below - 1, _check_authority(certificate, now))
                    _check_revoked(certificate, parent.certificate, revocations)
                    trusted.append(_Authority(certificate, below))
                except CertificateError as error:
                    faults.append(error)
        return trusted, faults


def _check_revoked(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    revocations: Sequence[RevocationList],
) -> None:
    """Raise CertificateError where the newest CRL of a certificate's issuer lists it.

    One that is overdue still says what it says, and there may be none at all.
    """
    theirs = [r for r in revocations if r.issuer == issuer.subject and r.is_signed_by(issuer)]
    newest = max(theirs, key=lambda r: r.made_at, default=None)
    if newest is not None and newest.revokes(certificate):
        why = f"certificate {subject_text(certificate)} is revoked by its CA"
        raise CertificateError(why, "Give the peer a new key and certificate, if it may come back")


class PeerCertificate:
    """A certificate that has been verified, and whom it is of."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._certificate = certificate
        self.public_key = public_octets(certificate)

    @property
    def dns_names(self) -> frozenset[str]:
        """Return the domain names that it is of."""
        return dns_names(self._certificate)

    @property
    def subject(self) -> bytes:
        """Return its subject's DER, which is an identity of type ID_DER_ASN1_DN."""
        return self._certificate.subject.public_bytes()

    @property
    def subject_text(self) -> str:
        """Return its subject for people."""
        return subject_text(self._certificate)
