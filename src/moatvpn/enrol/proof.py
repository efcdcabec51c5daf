"""A box's proof that it has its private key, for one request on one connection.

What is signed names the certificate that the box has reached and the service's nonce, so that no
other server can hand a proof on, and none is good twice. The service itself makes no proofs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypeVar

from moatvpn.config import public_key_from_text
from moatvpn.crypto.sign import Signer, verify
from moatvpn.crypto.signature_algorithms import SignatureHash
from moatvpn.enrol.messages import Request

# The key signs IKE_AUTH too, over octets that begin with an IKE header (RFC 7296, 2.15). Octet 17
# of that is the version 2.0, which no letter here is: neither signature passes for the other.
LABEL = b"moat-enrolment-1/proof\0"

_Asked = TypeVar("_Asked", bound=Request)


def proof_octets(request: Request, nonce: bytes, certificate_digest: str) -> bytes:
    """Return what a box signs. certificate_digest: SHA-256 of the server's certificate, in hex."""
    fields = json.dumps(request.fields, sort_keys=True, separators=(",", ":")).encode("ascii")
    return LABEL + bytes.fromhex(certificate_digest) + nonce + fields


def prove(request: _Asked, signer: Signer, nonce: bytes, certificate_digest: str) -> _Asked:
    """Return the request with its proof."""
    kind = signer.hash_for(tuple(SignatureHash))
    if kind is None:
        raise ValueError("this key signs nothing")
    octets = proof_octets(request, nonce, certificate_digest)
    return replace(request, proof=signer.sign(octets, kind))


def is_proved(request: Request, nonce: bytes, certificate_digest: str) -> bool:
    """Return whether who asks has the key that the request shows."""
    octets = proof_octets(request, nonce, certificate_digest)
    return verify(public_key_from_text(request.public_key), request.proof, octets)
