"""moatctl: asks and changes a box's moatd, and keeps its connections across restarts."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from moatvpn.cli.client import DaemonUnreachableError, ask, change
from moatvpn.cli.connection_set import set_connections
from moatvpn.cli.keys import ACTIONS, key
from moatvpn.cli.metrics import metrics_text
from moatvpn.cli.prove import prove
from moatvpn.cli.revoke import revoke
from moatvpn.cli.signed_set import set_signed
from moatvpn.cli.store import Store
from moatvpn.cli.table import detail_text, status_text
from moatvpn.config import (
    LOG_LEVELS,
    ConnectionConfig,
    DaemonConfig,
    connection_from_dict,
    connection_to_dict,
    daemon_from_dict,
    load_json,
    object_from_json,
)
from moatvpn.daemon.credentials import check_connection_files, check_daemon_files
from moatvpn.daemon.keyfile import create_key_file, read_signer
from moatvpn.errors import ConfigError, OperatorError

REFUSED = 1
USAGE = 2  # argparse's own
UNREACHABLE = 3

_CONFIG = Path("/etc/moatvpn/moatd.json")
_KEY_FILE = Path("/etc/moatvpn/identity.key")
_DEFAULTS = {field.name: field.default for field in fields(DaemonConfig)}


def _load(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at path, or on standard input where path is "-"."""
    if path != Path("-"):
        return load_json(path)
    return object_from_json(sys.stdin.buffer.read(), "standard input")


def _connection(path: Path) -> ConnectionConfig:
    return connection_from_dict(_load(path), str(path))


def _status(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if arguments.name is None:
        status = ask(arguments.socket, {"command": "status"})
    else:
        row = ask(arguments.socket, {"command": "show", "name": arguments.name})
        status = {"connections": [row]}
    return status, status_text(status)


def _metrics(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    status = ask(arguments.socket, {"command": "status"})
    return status, metrics_text(status)


def _show(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    row = ask(arguments.socket, {"command": "show", "name": arguments.name})
    return row, detail_text(row)


def _add(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    config = _connection(arguments.file)
    store = Store(arguments.connections)
    request = {"command": "add", "connection": connection_to_dict(config)}
    with store.locked():
        store.admit(config)
        if store.has(config.name):
            why, remedy = "is there already", "Use `moatctl replace`"
            raise ConfigError(f"connection {config.name}", why, remedy)
        with store.writing(config):
            running, _ = change(arguments.socket, request)
    return _change(config.name, "added", True, running)


def _replace(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    config = _connection(arguments.file)
    store = Store(arguments.connections)
    request = {"command": "replace", "connection": connection_to_dict(config)}
    with store.locked():
        store.admit(config)
        if store.holds(config):
            running, changed = change(arguments.socket, request)
        else:
            with store.writing(config):
                running, _ = change(arguments.socket, request)
            changed = True
    return _change(config.name, "replaced" if changed else "unchanged", changed, running)


def _delete(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    name = arguments.name
    store = Store(arguments.connections)
    request = {"command": "delete", "name": name}
    with store.locked():
        if store.has(name):
            with store.removing(name):
                running, _ = change(arguments.socket, request)
            changed = True
        else:
            running, changed = change(arguments.socket, request)
    return _change(name, "deleted" if changed else "not there", changed, running)


def _set(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    carry_out = set_signed if arguments.signed else set_connections
    return carry_out(arguments, _load(arguments.file))


def _revoke(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    return revoke(arguments, _load(arguments.file))


def _change(name: str, what: str, changed: bool, running: bool) -> tuple[dict[str, Any], str]:
    text = f"connection {name}: {what}"
    if not running:
        text += " (moatd does not run; it reads this when it starts)"
    return {"changed": changed, "running": running}, text


def _rekey(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    request = {"command": "rekey", "name": arguments.name, "sa": arguments.sa}
    result = ask(arguments.socket, request)
    return result, f"connection {arguments.name}: rekey of its {arguments.sa} SA started"


def _redirect(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    words = list(arguments.words)
    if len(words) != 2 - arguments.all - arguments.off:
        remedy = "Give NAME GATEWAY, --all GATEWAY, NAME --off, or --all --off"
        raise OperatorError("redirect", "has too few words or too many", remedy)
    request: dict[str, Any] = {"command": "redirect", "all": arguments.all, "off": arguments.off}
    if not arguments.all:
        request["name"] = words.pop(0)
    if not arguments.off:
        request["gateway"] = words[0]
    result = ask(arguments.socket, request)
    who = "all connections" if arguments.all else f"connection {request['name']}"
    where = "ended" if arguments.off else f"to {words[0]}, {result['told']} told at once"
    return result, f"{who}: redirect {where}"


def _log_level(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    result = ask(arguments.socket, {"command": "log-level", "level": arguments.level})
    return result, f"log level: {arguments.level}"


def _identity(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    path = arguments.private_key
    changed = arguments.action == "create" and create_key_file(path)
    public_key = read_signer(path).public_text
    return {"changed": changed, "public_key": public_key}, public_key


def _check(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    record, where = _load(arguments.file), str(arguments.file)
    result: dict[str, Any] = {"valid": True}
    if "private_key" in record:
        daemon = daemon_from_dict(record, where)
        if arguments.files:
            check_daemon_files(daemon)
    else:
        connection = connection_from_dict(record, where)
        if arguments.files:
            check_connection_files(connection)
        # With every default in it: what `replace` would store.
        result["connection"] = connection_to_dict(connection)
    return result, f"{where}: valid"


def parser() -> argparse.ArgumentParser:
    """Return the parser of moatctl's command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="answer with one JSON object")
    common.add_argument("--socket", type=Path, default=_DEFAULTS["control_socket"])
    stored = argparse.ArgumentParser(add_help=False)
    stored.add_argument("--connections", type=Path, default=_DEFAULTS["connections"])
    file = argparse.ArgumentParser(add_help=False)
    file.add_argument("file", type=Path, help='a JSON file, or "-" for standard input')
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("name", help="a connection's name")

    top = argparse.ArgumentParser(prog="moatctl", description="Asks and changes a box's moatd.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(word: str, run: object, about: str, *parents: argparse.ArgumentParser) -> Any:
        made = commands.add_parser(word, help=about, description=about, parents=[*parents, common])
        made.set_defaults(run=run)
        return made

    status = command("status", _status, "show connections and what was dropped")
    status.add_argument("name", nargs="?", help="show this connection only")
    command("metrics", _metrics, "show figures as OpenMetrics text, for Prometheus")
    command("show", _show, "show all about one connection", name)
    command("add", _add, "add a connection", file, stored)
    command("replace", _replace, "add a connection, or put it in place of another", file, stored)
    command("delete", _delete, "delete a connection", name, stored)
    exactly = command("set", _set, "have exactly the connections of a file", file, stored)
    exactly.add_argument("--signed", action="store_true", help="FILE is signed by the operator")
    exactly.add_argument("--config", type=Path, default=_CONFIG, help="moatd.json, for --signed")
    revoked = command("revoke", _revoke, "believe keys of a file no more, for good", file, stored)
    for each in (exactly, revoked):
        each.add_argument("--dry-run", action="store_true", help="say what would be done")
    rekey = command("rekey", _rekey, "renew a connection's keys now", name)
    rekey.add_argument("sa", nargs="?", choices=("child", "ike"), default="child")
    rekey.add_argument("--ike", dest="sa", action="store_const", const="ike", help="same as: ike")
    redirect = command("redirect", _redirect, "send moats to another portal, until moatd ends")
    redirect.add_argument("words", nargs="*", metavar="NAME GATEWAY", help="who is sent where")
    redirect.add_argument("--all", action="store_true", help="every connection that is called")
    redirect.add_argument("--off", action="store_true", help="send nobody away any more")
    level = command("log-level", _log_level, "log more or less from now on")
    level.add_argument("level", choices=LOG_LEVELS)
    identity = command("identity", _identity, "make a private key, or show its public key")
    identity.add_argument("action", choices=("create", "show"))
    identity.add_argument("--private-key", type=Path, default=_KEY_FILE)
    keys = command("key", key, "replace the private key by another, and break no connection")
    keys.add_argument("action", choices=ACTIONS)
    keys.add_argument("--private-key", type=Path, default=_KEY_FILE)
    absent = "finish though peers that call us are not here to prove the new key to"
    keys.add_argument("--despite-absent", action="store_true", help=absent)
    proof = command("prove", prove, "prove by traffic which key the connections stand on")
    key_of = proof.add_mutually_exclusive_group(required=True)
    key_of.add_argument("--local-key", metavar="FINGERPRINT", help="the box's own, as in status")
    key_of.add_argument("--remote-key", metavar="FINGERPRINT", help="the peer's")
    proof.add_argument("--ping", metavar="ADDRESS", required=True, help="behind the tunnel")
    proof.add_argument("--wait", type=float, default=30.0, metavar="SECONDS", help="at most")
    check = command("check", _check, "say whether a connection or moatd.json is valid", file)
    check.add_argument("--files", action="store_true", help="read the files that it names, too")
    return top


def main(words: list[str] | None = None) -> int:
    """Run moatctl; return its exit status: 0, 1 refused, 2 usage, 3 moatd unreachable."""
    arguments = parser().parse_args(words)
    try:
        result, text = arguments.run(arguments)
    except DaemonUnreachableError as error:
        print(f"moatctl: {error}", file=sys.stderr)
        return UNREACHABLE
    except OperatorError as error:
        print(f"moatctl: {error}", file=sys.stderr)
        return REFUSED
    print(json.dumps(result) if arguments.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
