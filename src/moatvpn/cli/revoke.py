"""moatctl revoke: keys that are never to be believed again, and the end of who has them.

The file is {"keys": [key, …], "identities": [name, …]}. The keys are written down first
(moatvpn.revoked), so that nothing that comes later lets them in. Then each connection loses them,
and ends where none is left. identities are of peers who are known by something else than a key, a
secret or a certificate: their connections end.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from moatvpn.cli.client import change
from moatvpn.cli.store import Store
from moatvpn.config import (
    ConnectionConfig,
    connection_from_dict,
    connection_to_dict,
    public_key_from_text,
)
from moatvpn.config_fields import FQDN
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.revoked import without_revoked


def revoke(arguments: argparse.Namespace, record: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Carry `moatctl revoke` out; return the result, and a text of it."""
    keys, identities = _revoked_in(record, str(arguments.file))
    store = Store(arguments.connections)
    with nullcontext() if arguments.dry_run else store.locked():
        known = store.revoked()
        if not arguments.dry_run and not keys <= known:
            store.revoke(known | keys)
        touched = dict(_touched(store, known | keys, identities))
        running = None if arguments.dry_run else _carry_out(store, touched, arguments)
    ended = sorted(name for name, left in touched.items() if left is None)
    result = {
        "changed": bool(touched) or not keys <= known,
        "running": running,
        "revoked": len(keys - known),
        "ended": ended,
        "replaced": sorted(touched.keys() - set(ended)),
    }
    return result, f"{len(keys - known)} keys revoked, {len(ended)} connections ended"


def _revoked_in(record: dict[str, Any], where: str) -> tuple[frozenset[str], frozenset[str]]:
    if record.keys() - {"keys", "identities"} or not record:
        raise ConfigError(where, "is no list of who is revoked", "Give keys, and identities")
    keys, identities = (record.get(field, []) for field in ("keys", "identities"))
    for field, values in (("keys", keys), ("identities", identities)):
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise ConfigError(f"{where}: {field}", "is no list of texts", "Give one")
    for key in keys:
        try:
            public_key_from_text(key)
        except ValueError as error:
            remedy = "Copy it from moat_identity"
            raise ConfigError(f"{where}: keys", str(error), remedy) from error
    for identity in identities:
        if not FQDN.fullmatch(identity):
            why = f"{identity[:63]!r} is no domain name in lower case"
            raise ConfigError(f"{where}: identities", why, "Give the moats' identities")
    return frozenset(keys), frozenset(identities)


def _touched(
    store: Store, revoked: frozenset[str], identities: frozenset[str]
) -> Iterator[tuple[str, ConnectionConfig | None]]:
    """Yield the connections that lose keys, by name, each as it is to be; None: it ends."""
    for name in store.names():
        record = store.record(name)
        if record is None:
            continue  # moatd leaves such a file out, too
        keys = record.get("remote_public_keys") or []
        # The record as it is, without a look at all of it: there are thousands.
        if isinstance(keys, list) and any(key in revoked for key in map(str, keys)):
            yield name, without_revoked(connection_from_dict(record, name), revoked)
        elif not keys and record.get("remote_identity") in identities:
            yield name, None


def _carry_out(
    store: Store, touched: dict[str, ConnectionConfig | None], arguments: argparse.Namespace
) -> bool | None:
    """Have moatd do it, too; return whether it runs (None: it was not asked)."""
    running: bool | None = None
    failed: OperatorError | None = None
    for name, left in touched.items():
        try:
            if left is None:
                store.remove(name)
                running, _ = change(arguments.socket, {"command": "delete", "name": name})
                continue
            with store.writing(left):
                request = {"command": "replace", "connection": connection_to_dict(left)}
                running, _ = change(arguments.socket, request)
        except OperatorError as error:
            failed = failed or error  # one that goes wrong is no reason to let the others in
    if failed is not None:
        raise failed
    return running
