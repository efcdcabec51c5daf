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
from pathlib import Path

from moatvpn.config_fields import object_from_json
from moatvpn.crypto.seal import SIGNATURE_OCTETS, Seal, is_public_text, verify_seal
from moatvpn.errors import ConfigError, OperatorError

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


def read_public_keys(path: Path) -> tuple[str, ...]:
    """Return the operator's public keys, one a line; raise OperatorError where there is none.

    Who may write the file decides what a box believes, so it is its owner's alone to write.
    """
    lines = [line.strip() for line in _text(path).splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    remedy = "Put the public keys there that `moat-policy keygen` shows, one a line"
    if path.stat().st_mode & 0o022:
        raise OperatorError(str(path), "may be written by others than its owner", "chmod 0644 it")
    if not keys or not all(is_public_text(key) for key in keys):
        raise OperatorError(str(path), "holds what is no Ed25519 public key, or none", remedy)
    return keys


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
        raise OperatorError(str(path), why, "Check that it exists, and who may read it") from error
    except UnicodeDecodeError as error:
        raise OperatorError(str(path), "is not UTF-8", "Save it as UTF-8 text") from error
