"""moatctl set --signed: have exactly the connections of a peer set that the operator has signed.

The file is a peer set (moatvpn.peers), or {"signed": peer set, "digest": …, "besides": [record, …],
"reread": [name, …]}. digest is of the records that are wanted, where somebody knows them; besides
has what the signature does not cover, the PPK of connections. The set is verified before anything
of it is believed, and none is taken that is older than the one in force. moatd holds its
connections against it at every start.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from moatvpn.cli.connection_set import apply_set
from moatvpn.cli.store import Store
from moatvpn.config import ConnectionConfig, connection_from_dict, daemon_from_dict, load_json
from moatvpn.errors import ConfigError
from moatvpn.peers import BESIDES, PeerSet, digest_of, open_peers, read_peers
from moatvpn.signed import read_public_keys

_KNOWN = {"signed", "digest", "besides", "reread"}


def set_signed(arguments: argparse.Namespace, record: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Carry `moatctl set --signed` out; return the result, and a text of it."""
    where = str(arguments.file)
    given = {"signed": record} if "format" in record else record
    if given.keys() - _KNOWN or not isinstance(given.get("signed"), dict):
        raise ConfigError(where, "is no signed set of connections", "Give signed, and the rest")
    daemon = daemon_from_dict(load_json(arguments.config), str(arguments.config))
    if daemon.operator_keys is None:
        why = "names no operator_keys, so that nobody can tell who signed"
        raise ConfigError(str(arguments.config), why, "Set moatvpn_operator_keys (role moatvpn)")
    keys = read_public_keys(daemon.operator_keys)
    data = json.dumps(given["signed"], indent=1).encode() + b"\n"
    peers = open_peers(data, keys, daemon.identity, where)
    _check_digest(peers, given.get("digest"), where)
    configs = _with_ppks(peers.connections(), given.get("besides", []), where)
    reread: Any = given.get("reread", [])
    if not isinstance(reread, list) or not all(isinstance(each, str) for each in reread):
        raise ConfigError(f"{where}: reread", "is no list of names", "Give one")
    store = Store(arguments.connections)
    with nullcontext() if arguments.dry_run else store.locked():
        newer, fresh = _news(arguments, keys, peers)
        if newer and not arguments.dry_run:
            # First of all: what is not in it is then let in by no start, whatever comes next.
            store.sign(data.decode("ascii"))
        result, text = apply_set(store, configs, fresh.union(reread), arguments)
    result |= {"changed": result["changed"] or newer, "serial": peers.serial}
    return result, f"{text}; serial {peers.serial}"


def _news(
    arguments: argparse.Namespace, keys: tuple[str, ...], peers: PeerSet
) -> tuple[bool, frozenset[str]]:
    """Return whether peers are not those in force, and the names of those that are signed anew.

    moatd has left these out at its start, where their files were there already: it is given them
    as if they were new. Raises ConfigError where peers are older than those in force.
    """
    try:
        present = read_peers(arguments.connections, keys, peers.portal)
    except ConfigError:
        present = None  # signed by a key of before, or damaged: moatd does not believe it either
    if present is None:
        return True, frozenset(str(record["name"]) for record in peers.records())
    if peers.serial < present.serial:
        why = f"has the serial {peers.serial}, and {present.serial} is in force"
        raise ConfigError(str(arguments.file), why, "Bring the newest one")
    if peers.serial == present.serial and peers.content != present.content:
        why = f"is another one of the serial {peers.serial}, which is in force"
        raise ConfigError(str(arguments.file), why, "Sign it anew (`moat-fleet peers sign`)")
    before = {record.get("name"): record for record in present.records()}
    fresh = (each for each in peers.records() if before.get(each["name"]) != each)
    return peers.serial > present.serial, frozenset(str(each["name"]) for each in fresh)


def _check_digest(peers: PeerSet, digest: object, where: str) -> None:
    if digest is not None and digest_of(peers.records()) != digest:
        why = "is not what the customer database says now"
        remedy = "Sign it anew (`moat-fleet peers sign`), with the settings that Ansible has"
        raise ConfigError(where, why, remedy)


def _with_ppks(
    signed: dict[str, ConnectionConfig], besides: object, where: str
) -> list[ConnectionConfig]:
    """Return the connections with the PPKs of besides; raise ConfigError for anything else."""
    if not isinstance(besides, list) or not all(isinstance(each, dict) for each in besides):
        raise ConfigError(f"{where}: besides", "is no list of records", "Give one")
    found = dict(signed)
    for record in besides:
        name = str(record.get("name"))
        if name not in found:
            continue
        if record.get("authentication", "raw-public-key") != "raw-public-key":
            why = f"{name} would do without the public key that is signed"
            raise ConfigError(f"{where}: besides", why, "Use no signature, or no such credentials")
        probe: dict[str, Any] = {"name": name, "remote_identity": found[name].remote_identity}
        probe |= {"remote_public_keys": list(found[name].remote_public_keys)}
        probe |= {side: list(getattr(found[name], side)) for side in _SIDES}
        probe |= {key: record[key] for key in BESIDES if key in record}
        config = connection_from_dict(probe, f"{where}: besides")
        found[name] = replace(found[name], **{key: getattr(config, key) for key in BESIDES})
    return list(found.values())


_SIDES = ("local_selectors", "remote_selectors")
