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
        if action == "make-next":
            changed = _make_next(path)
        elif action == "switch":
            changed = _switch(path)
        elif action == "finish":
            changed = _finish(path, arguments.socket)
        elif action == "back":
            changed = _back(path)
        else:
            changed = False
    except OSError as error:
        why = f"cannot be changed ({error.strerror})"
        raise OperatorError(f"private key {path}", why, "Run as root") from error
    running = _reload(arguments.socket) if action in ("switch", "finish", "back") else None
    result = {"changed": changed, "running": running, **_keys(path)}
    lines = [f"{name}: {value}" for name, value in result.items() if value is not None]
    return result, "\n".join(lines)


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


def _finish(path: Path, socket: Path) -> bool:
    old = old_key(path)
    if not old.exists():
        return False
    if next_key(path).exists():
        why = "has a next key that it has not switched to"
        raise OperatorError(f"private key {path}", why, "Run `moatctl key switch` first")
    signer = read_signer(old)
    mark = fingerprint(signer.public_key)
    try:
        rows = ask(socket, {"command": "status"})["connections"]
    except DaemonNotRunningError as error:
        why = "is not proved: moatd does not run"
        raise OperatorError(f"private key {path}", why, "Start it, and try again") from error
    held = [row["name"] for row in rows if row["local_key"] == mark or row["key_refused"]]
    if held:
        why = f"is not proved to {', '.join(held[:5])}{' and others' if len(held) > 5 else ''}"
        remedy = "Have those peers trust it, run `moatctl key switch` again, and then this"
        raise OperatorError(f"private key {path}", why, remedy)
    old.unlink()
    sync_directory(path.parent)
    return True


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
