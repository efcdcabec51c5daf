"""moatctl key: another key for a box, made beside the one that it has, and no connection broken.

    identity.key.next --- switch ---> identity.key --- switch ---> identity.key.old --- finish

Each step is one rename or link at a time, so that whatever ends it leaves moatd a key that its
peers trust; the same step again goes on. moatd reads identity.key and identity.key.old: it proves
the first, and the other one to a peer that refuses that.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from moatvpn.cli.client import DaemonNotRunningError, ask
from moatvpn.crypto.sign import fingerprint
from moatvpn.daemon.keyfile import (
    create_key_file,
    locked,
    next_key,
    old_key,
    read_signer,
    sync_directory,
)
from moatvpn.errors import OperatorError

ACTIONS = ("status", "make-next", "switch", "finish", "back")


def key(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Carry `moatctl key ACTION` out; return the result, and a text of it."""
    path: Path = arguments.private_key
    action = arguments.action
    try:
        changed = _take(action, arguments)
    except OSError as error:
        why = f"cannot be changed ({error.strerror})"
        raise OperatorError(f"private key {path}", why, "Run as root") from error
    running = _reload(arguments.socket) if action in ("switch", "finish", "back") else None
    result = {"changed": changed, "running": running, **_keys(path)}
    lines = [f"{name}: {value}" for name, value in result.items() if value is not None]
    return result, "\n".join(lines)


def _take(action: str, arguments: argparse.Namespace) -> bool:
    """Take one step; return whether it changed anything."""
    path: Path = arguments.private_key
    if action == "make-next":
        return _make_next(path)
    if action == "status":
        return False
    with locked(path.parent):
        if action == "switch":
            return _switch(path)
        if action == "back":
            return _back(path)
        return _finish(path, arguments.socket, arguments.despite_absent)


def _keys(path: Path) -> dict[str, Any]:
    """Return the public keys of a box, and their fingerprints as `moatctl status` has them."""
    result: dict[str, Any] = {}
    for name, place in (("", path), ("next_", next_key(path)), ("old_", old_key(path))):
        signer = read_signer(place) if place.exists() else None
        result[f"{name}public_key"] = None if signer is None else signer.public_text
        result[f"{name}fingerprint"] = None if signer is None else fingerprint(signer.public_key)
    return result


def _make_next(path: Path) -> bool:
    owner = path.stat()
    place = next_key(path)
    changed = create_key_file(place)
    if (place.stat().st_uid, place.stat().st_gid) != (owner.st_uid, owner.st_gid):
        os.chown(place, owner.st_uid, owner.st_gid)  # where a call before was killed, too
        changed = True
    return changed


def _switch(path: Path) -> bool:
    new, old = next_key(path), old_key(path)
    if not new.exists():
        if old.exists():
            return False  # done before
        why = "has no next key"
        raise OperatorError(f"private key {path}", why, "Run `moatctl key make-next` first")
    if old.exists() and not old.samefile(path):
        why = "has replaced another one, which is there yet"
        raise OperatorError(f"private key {path}", why, "Run `moatctl key finish` or `back` first")
    read_signer(new)  # a key that moatd could not read would be its end
    if not old.exists():
        os.link(path, old)
    new.rename(path)
    sync_directory(path.parent)
    return True


def _finish(path: Path, socket: Path, despite_absent: bool) -> bool:
    old = old_key(path)
    if not old.exists():
        return False
    if next_key(path).exists():
        why = "has a next key that it has not switched to"
        raise OperatorError(f"private key {path}", why, "Run `moatctl key switch` first")
    read_signer(old)
    try:
        rows = ask(socket, {"command": "status"})["connections"]
    except DaemonNotRunningError as error:
        why = "is not proved: moatd does not run"
        raise OperatorError(f"private key {path}", why, "Start it, and try again") from error
    held, absent = _unproved(rows, fingerprint(read_signer(path).public_key))
    if held:
        remedy = "Have those peers trust it, run `moatctl key switch` again, and then this"
        raise OperatorError(f"private key {path}", f"is not proved to {_few(held)}", remedy)
    if absent and not despite_absent:
        remedy = "Wait for them; or, if they trust it, leave them out with --despite-absent"
        why = f"is not proved to {_few(absent)}, who did not call yet"
        raise OperatorError(f"private key {path}", why, remedy)
    old.unlink()
    sync_directory(path.parent)
    return True


def _unproved(rows: list[dict[str, Any]], mark: str) -> tuple[list[str], list[str]]:
    """Return the connections that do not show that the peer trusts our key, by names.

    First those that show that it does not, or that it is ours to call; then those whose peer is
    not here. After a restart of moatd nobody is, for a while. mark is the key's fingerprint.
    """
    held: list[str] = []
    absent: list[str] = []
    for row in rows:
        if row["authentication"] != "raw-public-key":
            continue
        up = row["state"] == "established"
        if row["key_refused"] or (up and row["local_key"] != mark):
            held.append(row["name"])
        elif not up:
            (held if row["role"] == "initiator" else absent).append(row["name"])
    return held, absent


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} others' if len(names) > 5 else ''}"


def _back(path: Path) -> bool:
    new, old = next_key(path), old_key(path)
    changed = old.exists() or new.exists()
    if old.exists():
        old.rename(path)
        # Where both were links to one file, that renames nothing.
        old.unlink(missing_ok=True)
    new.unlink(missing_ok=True)
    sync_directory(path.parent)
    return changed


def _reload(socket: Path) -> bool:
    """Have moatd read its keys; return whether it runs. One that starts reads them then."""
    try:
        ask(socket, {"command": "reload-keys"})
    except DaemonNotRunningError:
        return False
    return True
