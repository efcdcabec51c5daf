"""The file that an operator publishes for one enrolment service: whom it serves, and with what.

JSON lines: one that counts the others and holds voucher and handovers, then one for each moat. The
settings in it are signed; the service can read them, and make none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from moatvpn.config_fields import FQDN, Record, object_from_json
from moatvpn.enrol.claims import Open
from moatvpn.errors import ConfigError

FORMAT = "moat-published-1"
_HASH = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(r"[\x20-\x7e\n]+")
_AGAIN = "Publish it again, and bring it over whole"


@dataclass(frozen=True, slots=True)
class Entry:
    """One moat: its keys (base64 of SubjectPublicKeyInfo), its claims, its signed settings."""

    identity: str
    keys: tuple[str, ...]
    claims: tuple[Open, ...]
    configuration: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class Published:
    """All that a service knows. entries: by identity; claims: by hash; owners: by key."""

    voucher: bytes = b""
    handovers: tuple[bytes, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict)
    claims: dict[str, Open] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)


def publish(voucher: bytes, handovers: Iterable[bytes], entries: Iterable[Entry]) -> bytes:
    """Return the file's content."""
    lines = [_line(_entry_record(entry)) for entry in entries]
    head = {
        "format": FORMAT,
        "moats": len(lines),
        "voucher": voucher.decode("ascii"),
        "handovers": [each.decode("ascii") for each in handovers],
    }
    return b"".join((_line(head), *lines))


def read_published(data: bytes, where: str) -> Published:
    """Return what is in the file; raise ConfigError, naming where, for one that is not whole."""
    lines = data.splitlines()
    if not lines:
        raise ConfigError(where, "is empty", _AGAIN)
    get = Record(where, object_from_json(lines[0], where), _HEAD)
    if get.record.get("format") != FORMAT or get.record.get("moats") != len(lines) - 1:
        raise ConfigError(where, f"is no whole file of the format {FORMAT}", _AGAIN)
    handovers = get.record.get("handovers")
    if not isinstance(handovers, list) or not all(isinstance(each, str) for each in handovers):
        raise get.error("handovers", "is no list of signed files", _AGAIN)
    entries = [_entry(line, f"{where}: line {n}") for n, line in enumerate(lines[1:], 2)]
    return Published(
        voucher=get.text("voucher", _TEXT, "a signed file").encode("ascii"),
        handovers=tuple(each.encode("ascii") for each in handovers),
        entries={entry.identity: entry for entry in entries},
        claims={claim.token_hash: claim for entry in entries for claim in entry.claims},
        owners={key: entry.identity for entry in entries for key in entry.keys},
    )


_HEAD = ("format", "moats", "voucher", "handovers")
_FIELDS = ("identity", "keys", "claims", "configuration", "serial")


def _entry_record(entry: Entry) -> dict[str, Any]:
    return {
        "identity": entry.identity,
        "keys": list(entry.keys),
        "claims": [
            {"hash": each.token_hash, "expires": each.expires, "used_key": each.used_key}
            for each in entry.claims
        ],
        "configuration": entry.configuration.decode("ascii"),
        "serial": entry.serial,
    }


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


def _entry(line: bytes, where: str) -> Entry:
    get = Record(where, object_from_json(line, where), _FIELDS)
    identity = get.text("identity", FQDN, "a domain name in lower case")
    claims = get.record.get("claims")
    if not isinstance(claims, list) or not all(isinstance(each, dict) for each in claims):
        raise get.error("claims", "is no list of records", _AGAIN)
    serial = get.record.get("serial")
    if type(serial) is not int or serial < 1:
        raise get.error("serial", "is no serial number", _AGAIN)
    return Entry(
        identity=identity,
        keys=get.texts("keys") if get.record.get("keys") else (),
        claims=tuple(_claim(each, identity, where) for each in claims),
        configuration=get.text("configuration", _TEXT, "a signed file").encode("ascii"),
        serial=serial,
    )


def _claim(record: dict[str, Any], identity: str, where: str) -> Open:
    get = Record(where, record, ("hash", "expires", "used_key"))
    expires, used = record.get("expires"), record.get("used_key")
    if (
        isinstance(expires, bool)
        or not isinstance(expires, int | float)
        or not (used is None or isinstance(used, str))
    ):
        raise get.error("claims", "is no claim", _AGAIN)
    return Open(get.text("hash", _HASH, "a SHA-256"), identity, float(expires), used)
