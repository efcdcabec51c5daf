"""Signature algorithms as the digital signature method names them (RFC 7427, 3 and appendix A).

A name is the DER of an AlgorithmIdentifier. There are few that we take, so that they stand in a
table, octet by octet, and nothing of a peer's is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives import hashes


class SignatureHash(IntEnum):
    """What SIGNATURE_HASH_ALGORITHMS offers (RFC 7427, 4; RFC 8420, 2). SHA-1 is not among it."""

    SHA2_256 = 2
    SHA2_384 = 3
    SHA2_512 = 4
    IDENTITY = 5

    def algorithm(self) -> hashes.HashAlgorithm | None:
        """Return the hash function, None for the "hash" Identity."""
        return _HASHES.get(self)


_HASHES: dict[SignatureHash, hashes.HashAlgorithm] = {
    SignatureHash.SHA2_256: hashes.SHA256(),
    SignatureHash.SHA2_384: hashes.SHA384(),
    SignatureHash.SHA2_512: hashes.SHA512(),
}


class Scheme(IntEnum):
    """How a kind of key signs."""

    ED25519 = 1
    ECDSA = 2
    RSA_PSS = 3
    RSA_PKCS1 = 4  # verified for peers that know no better (RFC 8247, 3.2), never made


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm. identifier is its AlgorithmIdentifier in DER."""

    scheme: Scheme
    hash: SignatureHash
    identifier: bytes


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes((tag, len(content))) + content  # everything here is shorter than 128 octets


_NULL = b"\x05\x00"
_SHA2_OID = {
    SignatureHash.SHA2_256: bytes.fromhex("0609608648016503040201"),
    SignatureHash.SHA2_384: bytes.fromhex("0609608648016503040202"),
    SignatureHash.SHA2_512: bytes.fromhex("0609608648016503040203"),
}
_RSA_PKCS1_OID = {
    SignatureHash.SHA2_256: bytes.fromhex("06092a864886f70d01010b"),
    SignatureHash.SHA2_384: bytes.fromhex("06092a864886f70d01010c"),
    SignatureHash.SHA2_512: bytes.fromhex("06092a864886f70d01010d"),
}
_ECDSA_OID = {
    SignatureHash.SHA2_256: bytes.fromhex("06082a8648ce3d040302"),
    SignatureHash.SHA2_384: bytes.fromhex("06082a8648ce3d040303"),
    SignatureHash.SHA2_512: bytes.fromhex("06082a8648ce3d040304"),
}
_RSA_PSS_OID = bytes.fromhex("06092a864886f70d01010a")
_MGF1_OID = bytes.fromhex("06092a864886f70d010108")
_TRAILER = _der(0xA3, b"\x02\x01\x01")  # the default, which DER leaves out and RFC 7427 does not
_SEQUENCE = 0x30


def _pss(kind: SignatureHash, null: bytes, trailer: bytes) -> bytes:
    """Return RSASSA-PSS with one hash in both places, and a salt of its length (RFC 4055, 3)."""
    digest = _HASHES[kind]
    name = _der(_SEQUENCE, _SHA2_OID[kind], null)
    mask = _der(_SEQUENCE, _MGF1_OID, name)
    salt = _der(0x02, bytes((digest.digest_size,)))
    parameters = _der(_SEQUENCE, _der(0xA0, name), _der(0xA1, mask), _der(0xA2, salt), trailer)
    return _der(_SEQUENCE, _RSA_PSS_OID, parameters)


def _all() -> list[Algorithm]:
    """Return every algorithm, in the spelling that we send before any other."""
    # id-Ed25519 has no parameters (RFC 8410, 3), nor has ECDSA (RFC 5758, 3.2).
    found = [
        Algorithm(Scheme.ED25519, SignatureHash.IDENTITY, bytes.fromhex("300506032b6570")),
        *(Algorithm(Scheme.ECDSA, k, _der(_SEQUENCE, oid)) for k, oid in _ECDSA_OID.items()),
    ]
    for trailer in (b"", _TRAILER):
        for null in (_NULL, b""):
            found += [Algorithm(Scheme.RSA_PSS, k, _pss(k, null, trailer)) for k in _HASHES]
    for kind, oid in _RSA_PKCS1_OID.items():
        found.append(Algorithm(Scheme.RSA_PKCS1, kind, _der(_SEQUENCE, oid, _NULL)))
    return found


ALGORITHMS = tuple(_all())
BY_IDENTIFIER = {algorithm.identifier: algorithm for algorithm in ALGORITHMS}


def algorithm_for(scheme: Scheme, kind: SignatureHash) -> Algorithm:
    """Return the algorithm of a scheme with a hash, as we spell it."""
    return next(a for a in ALGORITHMS if a.scheme is scheme and a.hash is kind)


def split_auth_data(data: bytes) -> tuple[Algorithm, bytes] | None:
    """Return the algorithm and the signature in an AUTH payload's data (RFC 7427, 3).

    None where it is malformed, or the algorithm none of ours.
    """
    if not data or len(data) < 1 + data[0]:
        return None
    algorithm = BY_IDENTIFIER.get(data[1 : 1 + data[0]])
    return None if algorithm is None else (algorithm, data[1 + data[0] :])
