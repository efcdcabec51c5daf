"""A signed policy: a signed file (moatvpn.signed) whose octets are a compiled policy's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moatvpn.crypto.seal import Seal, sha256_hex
from moatvpn.policy.rules import Compiled, compiled_from_bytes, compiled_to_bytes
from moatvpn.signed import open_octets, seal_octets

FORMAT = "moat-policy-1"


@dataclass(frozen=True, slots=True)
class Signed:
    """A policy whose signature has been verified. digest is the SHA-256 of its octets, in hex."""

    compiled: Compiled
    digest: str


def digest_of(compiled: Compiled) -> str:
    """Return the hash by which a policy is known."""
    return sha256_hex(compiled_to_bytes(compiled))


def seal_policy(compiled: Compiled, seal: Seal) -> bytes:
    """Return the signed file of a policy."""
    return seal_octets(compiled_to_bytes(compiled), FORMAT, seal)


def open_policy(data: bytes, public_keys: Iterable[str], where: str) -> Signed:
    """Return the policy in data, the content of a signed file, once it has verified.

    public_keys are the operator's. Raises ConfigError, naming where, for anything else.
    """
    payload = open_octets(data, FORMAT, public_keys, where)
    return Signed(compiled_from_bytes(payload, where), sha256_hex(payload))
