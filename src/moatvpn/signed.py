"""A signed file: octets of what an operator has made, with the operator's signature over them.

The file is a JSON object: format, payload (base64 of the octets) and signature (base64). The
signature covers the format's name too, so that nothing that the key ever signs can pass for
something else. Only what has verified is read any further.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable

from moatvpn.config_fields import object_from_json
from moatvpn.crypto.seal import SIGNATURE_OCTETS, Seal, verify_seal
from moatvpn.errors import ConfigError

MOST_OCTETS = 8 << 20
_AGAIN = "Have the operator make and sign it again, and nobody touch it on the way"


def seal_octets(payload: bytes, form: str, seal: Seal) -> bytes:
    """Return the signed file of payload, which is of the format that form names."""
    record = {
        "format": form,
        "payload": base64.b64encode(payload).decode("ascii"),
        "signature": base64.b64encode(seal.sign(_covered(payload, form))).decode("ascii"),
    }
    return json.dumps(record, indent=1).encode("ascii") + b"\n"


def open_octets(
    data: bytes, form: str, public_keys: Iterable[str], where: str, most: int = MOST_OCTETS
) -> bytes:
    """Return the payload of data, the content of a signed file of that format.

    public_keys are the operator's; most is the largest file that is read at all. Raises
    ConfigError, naming where, for what is no such file, or does not verify under one of them.
    """
    if len(data) > most:
        raise ConfigError(where, f"is larger than {most} octets", _AGAIN)
    record = object_from_json(data, where)
    if record.keys() != {"format", "payload", "signature"} or record["format"] != form:
        raise ConfigError(where, f"is no signed file of the format {form}", _AGAIN)
    payload = _octets(record["payload"], where)
    signature = _octets(record["signature"], where)
    if len(signature) != SIGNATURE_OCTETS or not verify_seal(
        public_keys, signature, _covered(payload, form)
    ):
        raise ConfigError(where, "is not signed by the operator's key, or was changed", _AGAIN)
    return payload


def _covered(payload: bytes, form: str) -> bytes:
    return form.encode("ascii") + b"\0" + payload


def _octets(value: object, where: str) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except (ValueError, binascii.Error) as error:
        raise ConfigError(where, "holds what is no base64", _AGAIN) from error
