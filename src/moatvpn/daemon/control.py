"""The control socket: one JSON object a line, each answered by one (docs/design.md).

It lives in the loop that moves packets, so a client can take little of it: connections, the
length of a request and the time for it are bounded, nothing waits for a client, each client has
one request answered at a turn, and a long answer is made bit by bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from moatvpn.drivers.interfaces import Clock
from moatvpn.drivers.loop import Loop
from moatvpn.errors import OperatorError

LONGEST_REQUEST = 64 << 10  # octets, its newline included
MOST_CLIENTS = 16
PATIENCE = 10.0  # seconds that a client may take to ask, and as many to take its answer
ROWS = 100  # of a long answer, at a turn
_READ = 16 << 10
_UCRED = struct.Struct("=iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a control connection, as the kernel says."""

    pid: int
    uid: int
    gid: int


# Carries one request out: returns the result, or raises OperatorError. In a result that is a dict,
# an iterator stands for the list of what it yields, which is asked for while the answer is sent.
Handler = Callable[[dict[str, Any], Peer], Any]


@dataclass(slots=True, eq=False)
class _Client:
    sock: socket.socket
    peer: Peer
    turn: float  # when it last began to ask, or was asked to take an answer
    request: bytearray = field(default_factory=bytearray)
    answer: memoryview = field(default_factory=lambda: memoryview(b""))
    rest: Iterator[bytes] = field(default_factory=lambda: iter(()))  # what follows answer
    last: bool = False  # close it once the answer is sent


def answer(request: bytes, peer: Peer, handler: Handler) -> Iterator[bytes]:
    """Yield the line that answers one request, in pieces; there is at least one."""
    try:
        result = handler(_parse(request), peer)
    except OperatorError as error:
        yield _failure_line(error)
        return
    if isinstance(result, dict) and any(isinstance(v, Iterator) for v in result.values()):
        yield from _long_line(result)
    else:
        yield _line({"ok": True, "result": result})


def _long_line(result: dict[str, Any]) -> Iterator[bytes]:
    lead = b'{"ok": true, "result": {'
    for key, value in result.items():
        lead += json.dumps(key).encode() + b": "
        if isinstance(value, Iterator):
            lead += b"["
            while rows := list(islice(value, ROWS)):
                yield lead + json.dumps(rows).encode()[1:-1]
                lead = b", "
            lead = lead.removesuffix(b", ") + b"]"
        else:
            lead += json.dumps(value).encode()
        lead += b", "
    yield lead.removesuffix(b", ") + b"}}\n"


def _parse(request: bytes) -> dict[str, Any]:
    """Return the object that a request is; raise OperatorError where it is none."""
    try:
        message = json.loads(request)
    except (ValueError, RecursionError) as error:
        raise _refused("is not JSON") from error
    if not isinstance(message, dict):
        raise _refused("is not a JSON object")
    return message


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _refused(why: str) -> OperatorError:
    return OperatorError("control request", why, "Ask through moatctl")


def _failure_line(error: OperatorError) -> bytes:
    reasons = {"what": error.what, "why": error.why, "remedy": error.remedy}
    return _line({"ok": False, "error": reasons})


def _clear(path: Path, what: str) -> None:
    """Remove the socket that a dead daemon left at path; refuse to where a live one answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if path.is_socket():
                path.unlink()
            return
    raise OperatorError(what, "another moatd answers there", "Stop that one first")


def _listen(path: Path) -> socket.socket:
    """Return a socket that listens at path, with mode 0660 from its first moment."""
    what = f"control socket {path}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _clear(path, what)
        before = os.umask(0o117)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(MOST_CLIENTS)
        sock.setblocking(False)
    except OperatorError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        why = f"cannot be made ({error.strerror})"
        raise OperatorError(what, why, "Make its directory, writable for moatd's user") from error
    return sock


class ControlServer:
    """Serves the control protocol at path within loop; handler carries the requests out.

    Raises OperatorError where the socket cannot be made.
    """

    def __init__(self, path: Path, loop: Loop, clock: Clock, handler: Handler) -> None:
        self._path = path
        self._loop = loop
        self._clock = clock
        self._handler = handler
        self._clients: set[_Client] = set()
        self._listener = _listen(path)
        self._loop.watch(self._listener, self._accept)

    def deadline(self) -> float | None:
        """Return when the slowest client's patience ends, None where there is no client."""
        return min((client.turn + PATIENCE for client in self._clients), default=None)

    def handle_timer(self, now: float) -> None:
        """Close the clients that have been too slow."""
        for client in [c for c in self._clients if c.turn + PATIENCE <= now]:
            self._close(client)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= MOST_CLIENTS:
            sock.close()
            return
        sock.setblocking(False)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        client = _Client(sock, Peer(*_UCRED.unpack(credentials)), self._clock())
        self._clients.add(client)
        self._loop.watch(sock, lambda: self._read(client))

    def _read(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client)
            return
        client.request += data
        self._serve(client)

    def _serve(self, client: _Client) -> None:
        """Answer the next whole request of client, if there is one."""
        end = client.request.find(b"\n")
        if end < 0 and len(client.request) < LONGEST_REQUEST:
            return
        if 0 <= end < LONGEST_REQUEST:
            line = bytes(client.request[:end])
            del client.request[: end + 1]
            client.rest = answer(line, client.peer, self._handler)
            client.answer = memoryview(next(client.rest))
        else:
            too_long = _refused(f"is longer than {LONGEST_REQUEST} octets")
            client.answer = memoryview(_failure_line(too_long))
            client.last = True
        client.turn = self._clock()
        self._loop.watch(client.sock, None, lambda: self._write(client))

    def _write(self, client: _Client) -> None:
        try:
            sent = client.sock.send(client.answer)
        except BlockingIOError:
            return
        except OSError:
            self._close(client)
            return
        client.answer = client.answer[sent:]
        if client.answer:
            return
        client.turn = self._clock()
        client.answer = memoryview(next(client.rest, b""))
        if client.answer:
            return  # the rest at later turns, with packets between them
        if client.last:
            self._close(client)
            return
        self._loop.watch(client.sock, lambda: self._read(client))
        self._serve(client)

    def _close(self, client: _Client) -> None:
        self._clients.discard(client)
        self._loop.forget(client.sock)
        client.sock.close()

    def close(self) -> None:
        """Close every client and remove the socket."""
        for client in list(self._clients):
            self._close(client)
        self._loop.forget(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
