"""A signed policy: the octets of a compiled one, with the operator's signature over them.

The file is a JSON object: format, payload (base64 of the octets) and signature (base64). The
signature covers the format's name too, so that nothing else that the key ever signs can pass for a
policy. Only what has verified is read any further.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass

from moatvpn.config_fields import object_from_json
from moatvpn.crypto.seal import SIGNATURE_OCTETS, Seal, sha256_hex, verify_seal
from moatvpn.errors import ConfigError
from moatvpn.policy.rules import Compiled, compiled_from_bytes, compiled_to_bytes

FORMAT = "moat-policy-1"
MOST_OCTETS = 8 << 20
_AGAIN = "Have the operator compile and sign it again, and nobody touch it on the way"


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
    payload = compiled_to_bytes(compiled)
    record = {
        "format": FORMAT,
        "payload": base64.b64encode(payload).decode("ascii"),
        "signature": base64.b64encode(seal.sign(_signed_octets(payload))).decode("ascii"),
    }
    return json.dumps(record, indent=1).encode("ascii") + b"\n"


def open_policy(data: bytes, public_keys: Iterable[str], where: str) -> Signed:
    """Return the policy in data, the content of a signed file, once it has verified.

    public_keys are the operator's. Raises ConfigError, naming where, for anything else.
    """
    if len(data) > MOST_OCTETS:
        raise ConfigError(where, f"is larger than {MOST_OCTETS} octets", _AGAIN)
    record = object_from_json(data, where)
    if record.keys() != {"format", "payload", "signature"} or record["format"] != FORMAT:
        raise ConfigError(where, f"is no signed policy of the format {FORMAT}", _AGAIN)
    payload = _octets(record["payload"], where)
    signature = _octets(record["signature"], where)
    if len(signature) != SIGNATURE_OCTETS or not verify_seal(
        public_keys, signature, _signed_octets(payload)
    ):
        raise ConfigError(where, "is not signed by the operator's key, or was changed", _AGAIN)
    return Signed(compiled_from_bytes(payload, where), sha256_hex(payload))


def _signed_octets(payload: bytes) -> bytes:
    return FORMAT.encode("ascii") + b"\0" + payload


def _octets(value: object, where: str) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except (ValueError, binascii.Error) as error:
        raise ConfigError(where, "holds what is no base64", _AGAIN) from error
