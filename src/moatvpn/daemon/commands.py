"""The commands of the control socket (docs/design.md, "Control protocol")."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, Literal

from moatvpn.config import connection_from_dict
from moatvpn.config_fields import FQDN
from moatvpn.crypto.sign import Signer, fingerprint
from moatvpn.daemon.control import Handler, Peer
from moatvpn.daemon.engine import Engine
from moatvpn.daemon.log import Log
from moatvpn.drivers.interfaces import Clock
from moatvpn.errors import OperatorError


class Commands:
    """Carries out the requests of one daemon. Each change is logged with who asked for it.

    Call it as control.Handler says. signers reads our private keys, the one to prove first.
    """

    def __init__(
        self,
        engine: Engine,
        log: Log,
        clock: Clock,
        signers: Callable[[], tuple[Signer, ...]],
    ) -> None:
        self._signers = signers
        self._engine = engine
        self._log = log
        self._clock = clock
        self._commands: dict[str, Handler] = {
            "status": self._status,
            "show": self._show,
            "add": self._add,
            "replace": self._replace,
            "delete": self._delete,
            "rekey": self._rekey,
            "redirect": self._redirect,
            "reload-keys": self._reload_keys,
            "log-level": self._log_level,
        }

    def __call__(self, request: dict[str, Any], peer: Peer) -> Any:
        """Carry one request out; return its result, or raise OperatorError."""
        command = _text(request, "command")
        handler = self._commands.get(command)
        if handler is None:
            known = ", ".join(self._commands)
            raise OperatorError(f"command {command!r}", "is not known", f"Known: {known}")
        return handler(request, peer)

    def _status(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return self._engine.status(self._clock())

    def _show(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return self._engine.show(_text(request, "name"), self._clock())

    def _add(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        config = connection_from_dict(_record(request, "connection"))
        self._engine.add(config, self._clock())
        self._changed("added", config.name, peer)
        return {"changed": True}

    def _replace(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        config = connection_from_dict(_record(request, "connection"))
        changed = self._engine.replace(config, self._clock())
        if changed:
            self._changed("replaced", config.name, peer)
        return {"changed": changed}

    def _delete(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        name = _text(request, "name")
        changed = self._engine.delete(name, self._clock())
        if changed:
            self._changed("deleted", name, peer)
        return {"changed": changed}

    def _rekey(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        name, sa = _text(request, "name"), _sa(request)
        self._engine.rekey(name, sa, self._clock())
        self._changed(f"rekey of {sa} SA started", name, peer)
        return {"changed": True}

    def _redirect(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        name = None if request.get("all") is True else _text(request, "name")
        gateway = None if request.get("off") is True else _gateway(request)
        told = self._engine.redirect(name, gateway, self._clock())
        where = "ended" if gateway is None else f"to {gateway}, {told} told at once,"
        self._changed(f"redirect {where}", name, peer)
        return {"changed": True, "told": told}

    def _reload_keys(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        signers = self._signers()
        begun = self._engine.use_keys(signers, self._clock())
        self._changed(f"keys read, {begun} connections to be authenticated anew", None, peer)
        return {"begun": begun, "key": fingerprint(signers[0].public_key)}

    def _log_level(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        level = _text(request, "level")
        changed = level != self._log.level
        self._log.set_level(level)
        if changed:
            self._changed(f"log level set to {level}", None, peer)
        return {"changed": changed}

    def _changed(self, what: str, connection: str | None, peer: Peer) -> None:
        who = f"user {peer.uid}, group {peer.gid}, process {peer.pid}"
        self._log("info", f"{what} by {who}", connection)


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str):
        raise OperatorError("control request", f"lacks the text {key!r}", "Ask through moatctl")
    return value


def _gateway(request: dict[str, Any]) -> str:
    gateway = _text(request, "gateway")
    try:
        return str(IPv4Address(gateway))
    except ValueError:
        if FQDN.fullmatch(gateway) and not gateway.replace(".", "").isdigit():
            return gateway
    remedy = "Give its IPv4 address, or its identity"
    raise OperatorError(f"gateway {gateway!r}", "is neither address nor name", remedy)


def _record(request: dict[str, Any], key: str) -> dict[str, Any]:
    value = request.get(key)
    if not isinstance(value, dict):
        raise OperatorError("control request", f"lacks the object {key!r}", "Ask through moatctl")
    return value


def _sa(request: dict[str, Any]) -> Literal["child", "ike"]:
    match request.get("sa", "child"):
        case "child":
            return "child"
        case "ike":
            return "ike"
        case other:
            raise OperatorError(f"SA {other!r}", "cannot be rekeyed", "Give child or ike")
