"""A certification authority for tests. Nothing that it makes is ever stored."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moatvpn.crypto.certificates import (
    OwnCertificate,
    RevocationList,
    load_own_certificate,
    load_revocations,
)
from moatvpn.crypto.sign import PrivateKey, Signer
from moatvpn.crypto.trust import TrustAnchors

DAY = 86400.0
NOW = 1_800_000_000.0  # seconds since the epoch: the wall clock of tests, unless they say otherwise

# Making an RSA key takes long: one of each length serves all tests of a run.
_RSA: dict[int, rsa.RSAPrivateKey] = {}


def new_key(kind: str) -> Any:
    """Return a private key: ed25519, p256, p384, p521, k1, or rsa with a number of bits."""
    if kind == "ed25519":
        return Ed25519PrivateKey.generate()
    if kind.startswith("rsa"):
        bits = int(kind[3:])
        if bits not in _RSA:
            _RSA[bits] = rsa.generate_private_key(65537, bits)
        return _RSA[bits]
    curves = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1, "k1": ec.SECP256K1}
    return ec.generate_private_key(curves[kind]())


def name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Moat tests"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
        ]
    )


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def usage(*allowed: str) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{key: key in allowed for key in names})


@dataclass
class Issued:
    """A certificate with its private key, and the intermediates to send with it."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def signer(self) -> Signer:
        return Signer(self.key)

    @property
    def pem(self) -> bytes:
        certificates = (self.certificate, *self.chain)
        return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)

    @property
    def der(self) -> list[bytes]:
        certificates = (self.certificate, *self.chain)
        return [c.public_bytes(serialization.Encoding.DER) for c in certificates]

    @property
    def own(self) -> OwnCertificate:
        return load_own_certificate(self.pem, "test", self.signer.public_key)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


class Authority(Issued):
    """A CA, at the root or below another one."""

    def __init__(
        self,
        common: str = "Test CA",
        kind: str = "ed25519",
        above: Authority | None = None,
        path_length: int | None = None,
        **changes: Any,
    ) -> None:
        key = new_key(kind)
        settings: dict[str, Any] = {
            "extensions": [
                (x509.BasicConstraints(ca=True, path_length=path_length), True),
                (usage("key_cert_sign", "crl_sign"), True),
            ],
            "after": NOW - 100 * DAY,
            "until": NOW + 1000 * DAY,
        }
        issuer = above or self
        if above is None:
            self.key, self._name = key, name(common)
        made = _build(name(common), key, issuer, **(settings | changes))
        chain = () if above is None else (made, *above.sent)
        super().__init__(made, key, ())
        self._name = name(common)
        self.sent: tuple[x509.Certificate, ...] = chain  # what is sent of it: not the root

    @property
    def anchors(self) -> TrustAnchors:
        return TrustAnchors([self.certificate], "test CA")

    def issue(self, identity: str, kind: str = "ed25519", **changes: Any) -> Issued:
        """Return a sound certificate of identity but for changes: see _build."""
        key = changes.pop("key", None) or new_key(kind)
        settings: dict[str, Any] = {
            "extensions": [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (usage("digital_signature"), True),
                (x509.SubjectAlternativeName([x509.DNSName(identity)]), False),
            ],
        }
        made = _build(name(identity), key, self, **(settings | changes))
        return Issued(made, key, self.sent)

    def revoke(self, *revoked: Issued, **changes: Any) -> RevocationList:
        """Return a CRL that lists revoked."""
        return load_revocations(self.crl(*revoked, **changes), "test CRL")

    def crl(
        self,
        *revoked: Issued,
        after: float = NOW - DAY,
        until: float = NOW + DAY,
        extensions: Any = (),
        digest: Any = None,
        key: Any = None,
    ) -> bytes:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(at(after)).next_update(at(until))
        for issued in revoked:
            entry = x509.RevokedCertificateBuilder()
            entry = entry.serial_number(issued.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(at(after)).build())
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        signed_with = key or self.key
        made = builder.sign(signed_with, digest or _digest(signed_with))
        return made.public_bytes(serialization.Encoding.PEM)


def _digest(key: PrivateKey) -> hashes.HashAlgorithm | None:
    return None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()


def _build(
    subject: x509.Name,
    key: PrivateKey,
    issuer: Authority,
    *,
    extensions: Any,
    after: float = NOW - DAY,
    until: float = NOW + 30 * DAY,
    digest: Any = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer._name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at(after))
        .not_valid_after(at(until))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer.key, digest or _digest(issuer.key))
