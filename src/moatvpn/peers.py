"""A peer set: all connections that a portal is to have, in one document that an operator signs.

It says what all connections have in common once, and of each what is its own; 10,000 take about
3 MB. The serial number only grows: a portal takes none that is older than what it has. The file of
the set in force lies beside the connections, and what is not in it is no connection of the portal.

The signature covers who a peer is, by which public key, for which networks, and by which
algorithms. It does not cover PPKs, which are files of the box: they come besides, and only ever
make it harder to be believed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moatvpn.config import ConnectionConfig, connection_from_dict
from moatvpn.config_fields import FQDN, Record, object_from_json, short
from moatvpn.crypto.seal import Seal, sha256_hex
from moatvpn.errors import ConfigError
from moatvpn.signed import open_octets, seal_octets

FORMAT = "moat-peers-1"
FILE = "peers.signed"
MOST_OCTETS = 32 << 20
# What a box may have of a connection besides what is signed.
BESIDES = ("ppk_id", "ppk_file", "ppk_required")

_MOST_SERIAL = 2**53 - 1  # what every reader of JSON takes for the number that it is
_RAW = "raw-public-key"
_REMEDY = "Sign the portal's peers anew (`moat-fleet peers sign`)"


@dataclass(frozen=True, slots=True)
class PeerSet:
    """The connections of one portal: what all have (common), and of each the rest (rows)."""

    portal: str
    serial: int
    common: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the connections' records, as ConnectionConfig describes them."""
        for row in self.rows:
            yield {**self.common, **row}

    def connections(self) -> dict[str, ConnectionConfig]:
        """Return the connections by name; raise ConfigError for one that cannot be."""
        found: dict[str, ConnectionConfig] = {}
        for number, record in enumerate(self.records()):
            where = f"{FORMAT}: connections[{number}]"
            if not record.keys().isdisjoint(BESIDES):
                raise ConfigError(where, "has a PPK, which is not for signing", _REMEDY)
            config = connection_from_dict(record, where)
            if config.authentication != _RAW:
                raise ConfigError(where, "does without a public key", _REMEDY)
            if config.name in found:
                raise ConfigError(where, f"is a second {config.name}", _REMEDY)
            found[config.name] = config
        return found

    @property
    def content(self) -> bytes:
        """Return all but portal and serial, as octets: other ones mean another set."""
        return _canonical({"common": dict(self.common), "rows": [dict(row) for row in self.rows]})


def make_peers(
    portal: str, records: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> PeerSet:
    """Return a set, of serial 0, of connections' records, each of which has settings, too.

    Raises ConfigError for what cannot be signed.
    """
    whole = [{**record, **settings} for record in records]
    first = whole[0] if whole else {}
    common = {
        name: value
        for name, value in first.items()
        if name != "name" and all(name in each and each[name] == value for each in whole)
    }
    rows = tuple(
        {name: value for name, value in each.items() if name not in common} for each in whole
    )
    made = PeerSet(portal, 0, common, rows)
    made.connections()
    return made


def digest_of(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a hash of connections' records by which two lists of them can be compared."""
    return sha256_hex(_canonical(sorted(records, key=lambda each: str(each.get("name")))))


def seal_peers(peers: PeerSet, seal: Seal) -> bytes:
    """Return the signed file of a set."""
    record = {
        "portal": peers.portal,
        "serial": peers.serial,
        "common": dict(peers.common),
        "rows": [dict(row) for row in peers.rows],
    }
    return seal_octets(_canonical(record), FORMAT, seal)


def open_peers(data: bytes, keys: Iterable[str], portal: str, where: str) -> PeerSet:
    """Return the set in data, the content of a signed file, once it has verified.

    keys are the operator's; portal is the identity of the box that it is to be for. Raises
    ConfigError, naming where, for anything else.
    """
    payload = open_octets(data, FORMAT, keys, where, MOST_OCTETS)
    record = object_from_json(payload, where)
    get = Record(where, record, ("portal", "serial", "common", "rows"))
    identity = get.text("portal", FQDN, "a domain name in lower case")
    if identity != portal:
        raise get.error("portal", f"is {identity}, and this is {portal}", "Bring each its own")
    serial, common, rows = (record.get(name) for name in ("serial", "common", "rows"))
    if type(serial) is not int or not 0 <= serial <= _MOST_SERIAL:
        raise get.error("serial", f"is {short(serial)}", _REMEDY)
    if not isinstance(common, dict):
        raise get.error("common", "is no record", _REMEDY)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise get.error("rows", "is no list of records", _REMEDY)
    return PeerSet(identity, serial, common, tuple(rows))


def read_peers(directory: Path, keys: Iterable[str], portal: str) -> PeerSet | None:
    """Return the set in force of a directory of connections; None where there is none yet.

    Raises ConfigError where it does not verify, or cannot be read.
    """
    path = directory / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", _REMEDY) from error
    return open_peers(data, keys, portal, str(path))


def besides(config: ConnectionConfig, signed: ConnectionConfig) -> ConnectionConfig:
    """Return the signed connection with the PPK that config has."""
    return replace(
        signed,
        ppk_id=config.ppk_id,
        ppk_file=config.ppk_file,
        ppk_required=config.ppk_required,
    )


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
