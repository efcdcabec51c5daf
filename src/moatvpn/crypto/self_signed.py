"""A key and a certificate of its own, for a server that is known by its certificate's hash."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID


def self_signed(name: str, begin: Any, end: Any) -> tuple[bytes, bytes]:
    """Return a new private key (PKCS #8) and its certificate for name, both as PEM.

    begin and end are datetimes; who pins a certificate by its hash asks for neither.
    """
    private = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(private, None)
    )
    key = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, certificate.public_bytes(serialization.Encoding.PEM)
