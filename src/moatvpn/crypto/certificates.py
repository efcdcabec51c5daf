"""X.509 certificates, CRLs, and our own chain (RFC 5280; RFC 4945, 5 for what IKE makes of them).

Reading them is here; whom to believe is decided in trust.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from moatvpn.crypto.sign import weakness
from moatvpn.errors import OperatorError

_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
_LONGEST_NAME = 200  # characters, in what people are told
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# A CRL with one of these speaks of other certificates than all of its issuer's (RFC 5280, 5.2).
_CRL_LIMITS = (x509.DeltaCRLIndicator, x509.IssuingDistributionPoint)


def public_octets(certificate: x509.Certificate) -> bytes:
    """Return a certificate's SubjectPublicKeyInfo in DER."""
    return certificate.public_key().public_bytes(*_SPKI)


def subject_text(certificate: x509.Certificate) -> str:
    """Return a certificate's subject for people."""
    return name_text(certificate.subject)


def name_text(name: x509.Name) -> str:
    """Return a distinguished name for people. A stranger may have chosen it."""
    text = name.rfc4514_string()[:_LONGEST_NAME]
    return "".join(c if c.isprintable() else "?" for c in text) or "(no name)"


def signature_weakness(signed: x509.Certificate | x509.CertificateRevocationList) -> str | None:
    """Return why the signature algorithm on a certificate or a CRL is none of ours, or None."""
    try:
        digest = signed.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "is signed with an algorithm that is not known"
    if digest is None or isinstance(digest, _HASHES):  # Ed25519 has none of its own
        return None
    return f"is signed with {digest.name}, which is too weak"


def parse_certificate(der: bytes) -> x509.Certificate:
    """Return the certificate in der; raise ValueError for anything else."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Parsing is lazy: whatever is malformed is to be found here, and not later.
        _ = certificate.extensions, certificate.subject, certificate.issuer
        certificate.public_key()
    except Exception as error:
        # Not a list: x509 has exceptions of its own for this and that, which derive from no other.
        raise ValueError(f"not a certificate that we can read ({error})") from error
    return certificate


def load_certificates(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a PEM file, in its order.

    Raises OperatorError, which names what, where there is none or one is broken.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
        return tuple(parse_certificate(c.public_bytes(serialization.Encoding.DER)) for c in found)
    except ValueError as error:
        remedy = "Give a PEM file with -----BEGIN CERTIFICATE----- in it"
        raise OperatorError(what, f"holds no certificates ({error})", remedy) from error


class OwnCertificate:
    """Our own certificate and the intermediates that lead to it; der holds them in that order."""

    def __init__(self, chain: Sequence[x509.Certificate], what: str, public_key: bytes) -> None:
        first = chain[0]
        if public_octets(first) != public_key:
            why = "its first certificate is not of our private key"
            raise OperatorError(what, why, "Put our own certificate first, intermediates after it")
        self.certificate = first
        self.der = tuple(c.public_bytes(serialization.Encoding.DER) for c in chain)

    def names(self, identity: str) -> bool:
        """Return whether the certificate is of that domain name."""
        return identity in dns_names(self.certificate)

    def period(self) -> tuple[float, float]:
        """Return from when to when it is valid, in seconds since the epoch."""
        return validity(self.certificate)


def load_own_certificate(pem: bytes, what: str, public_key: bytes) -> OwnCertificate:
    """Return our chain in a PEM file; public_key is the SubjectPublicKeyInfo of our private key.

    Raises OperatorError, which names what.
    """
    return OwnCertificate(load_certificates(pem, what), what, public_key)


def dns_names(certificate: x509.Certificate) -> frozenset[str]:
    """Return the domain names in subjectAltName, in lower case."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(n.lower() for n in extension.value.get_values_for_type(x509.DNSName))


def validity(certificate: x509.Certificate) -> tuple[float, float]:
    """Return from when to when a certificate is valid, in seconds since the epoch."""
    return (
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def authority(certificate: x509.Certificate) -> bytes:
    """Return a CA as CERTREQ names it: SHA-1 of its SubjectPublicKeyInfo (RFC 7296, 3.7)."""
    return hashlib.sha1(public_octets(certificate), usedforsecurity=False).digest()


class RevocationList:
    """A CRL, as its file holds it. Its signature is checked where its issuer's key is known."""

    def __init__(self, crl: x509.CertificateRevocationList) -> None:
        self._crl = crl
        self.issuer = crl.issuer
        self._serials = frozenset(entry.serial_number for entry in crl)
        self._signed_by: dict[bytes, bool] = {}  # by the key that it was checked with

    @property
    def made_at(self) -> float:
        """Return when it was made, in seconds since the epoch."""
        return self._crl.last_update_utc.timestamp()

    @property
    def next_due(self) -> float | None:
        """Return when the next one is due, in seconds since the epoch, or None."""
        due = self._crl.next_update_utc
        return None if due is None else due.timestamp()

    def revokes(self, certificate: x509.Certificate) -> bool:
        """Return whether it lists a certificate of its issuer's."""
        return certificate.serial_number in self._serials

    def is_signed_by(self, issuer: x509.Certificate) -> bool:
        """Return whether issuer made it."""
        octets = public_octets(issuer)
        known = self._signed_by.get(octets)
        if known is None:
            key = issuer.public_key()
            try:
                known = weakness(key) is None and self._crl.is_signature_valid(key)  # type: ignore[arg-type]
            except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
                known = False
            self._signed_by[octets] = known
        return known


def load_revocations(content: bytes, what: str) -> RevocationList:
    """Return the CRL in a file, PEM or DER; raise OperatorError, which names what, otherwise."""
    remedy = "Give a complete CRL of one CA, as PEM or DER"
    try:
        pem = b"-----BEGIN" in content
        crl = x509.load_pem_x509_crl(content) if pem else x509.load_der_x509_crl(content)
        extensions = list(crl.extensions)
        weak = signature_weakness(crl)
        found = RevocationList(crl)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise OperatorError(what, f"is not a CRL ({error})", remedy) from error
    if weak is not None:
        raise OperatorError(what, weak, "Have the CA sign it with SHA-256 or better")
    for extension in extensions:
        if extension.critical or isinstance(extension.value, _CRL_LIMITS):
            why = f"has the extension {extension.oid.dotted_string}, which limits what it says"
            raise OperatorError(what, why, remedy)
    return found
