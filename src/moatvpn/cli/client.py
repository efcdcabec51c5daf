"""The client of moatd's control socket (docs/design.md, "Control protocol")."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from moatvpn.errors import OperatorError

_PATIENCE = 10.0  # seconds for each step of an exchange
_CHUNK = 64 << 10


class DaemonUnreachableError(OperatorError):
    """moatd did not answer; whether it runs is not known."""


class DaemonNotRunningError(DaemonUnreachableError):
    """Nobody listens at the control socket: moatd does not run."""


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Return moatd's result for one request.

    Raises DaemonUnreachableError where there is no answer, and OperatorError, in moatd's own
    words, where the answer is a refusal.
    """
    what = f"moatd at {path}"
    try:
        line = _exchange(path, json.dumps(request).encode() + b"\n")
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise DaemonNotRunningError(
            what, "does not run", "Start it: systemctl start moatd"
        ) from error
    except OSError as error:
        remedy = "Run as root or as a member of the group moatvpn, and see journalctl -u moatd"
        why = f"cannot be asked ({error.strerror or 'no answer in time'})"
        raise DaemonUnreachableError(what, why, remedy) from error
    return _result(what, line)


def change(path: Path, request: dict[str, Any]) -> tuple[bool, bool]:
    """Ask for a change; return whether moatd runs, and whether it changed.

    One that does not run reads what is stored when it starts. Raises as ask does else.
    """
    try:
        return True, bool(ask(path, request)["changed"])
    except DaemonNotRunningError:
        return False, False


def _exchange(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(str(path))
        # A daemon that refuses a request early has answered before it took it all.
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(request)
        answer = bytearray()
        while not answer.endswith(b"\n"):
            chunk = sock.recv(_CHUNK)
            if not chunk:
                break
            answer += chunk
        return bytes(answer)


def _result(what: str, line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return dict(answer["result"])
        error = answer["error"]
        refusal = OperatorError(str(error["what"]), str(error["why"]), str(error["remedy"]))
    except (ValueError, KeyError, TypeError) as error:
        remedy = "See journalctl -u moatd, and try again"
        raise DaemonUnreachableError(what, "gave no whole answer", remedy) from error
    raise refusal
