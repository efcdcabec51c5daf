"""The control socket: answers, permissions, and clients that are slow or hostile."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.daemon.control import (
    LONGEST_REQUEST,
    MOST_CLIENTS,
    PATIENCE,
    ROWS,
    ControlServer,
    Peer,
    answer,
)
from moatvpn.drivers.loop import Loop
from moatvpn.errors import OperatorError

ME = Peer(os.getpid(), os.getuid(), os.getgid())


def handler(request: dict[str, Any], peer: Peer) -> Any:
    match request:
        case {"command": "who"}:
            return {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid}
        case {"command": "big"}:
            return "x" * 3_000_000
        case {"command": "rows", "number": number}:
            return {"before": 1, "rows": iter(range(number)), "more": iter("ab"), "after": {}}
        case {"command": "refuse"}:
            raise OperatorError("that", "is refused", "Ask for this")
    return request


class Served:
    """A server in a loop that runs only when it is asked to, with a clock that is set by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 100.0
        self.loop = Loop(lambda: self.now)
        self.server = ControlServer(path, self.loop, lambda: self.now, handler)
        self.clients: list[socket.socket] = []

    def run(self) -> None:
        """Run the loop until nothing is left to do at once."""
        idle = [False]

        def deadline() -> float:
            return self.now  # at once: on_deadline comes after every round

        rounds = [0]

        def on_deadline() -> None:
            rounds[0] += 1
            if rounds[0] > 40:
                idle[0] = True
                self.loop.stop()

        self.loop.run(deadline, on_deadline)
        assert idle[0]

    def client(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(5)
        sock.connect(str(self.path))
        self.clients.append(sock)
        return sock

    def ask(self, sock: socket.socket, request: bytes) -> Any:
        sock.sendall(request)
        self.run()
        return json.loads(sock.recv(1 << 16))

    def close(self) -> None:
        for sock in self.clients:
            sock.close()
        self.server.close()
        self.loop.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "control.sock")
    yield served
    served.close()


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


def test_a_request_has_an_answer_and_another_may_follow(served: Served) -> None:
    sock = served.client()
    me = {"pid": ME.pid, "uid": ME.uid, "gid": ME.gid}
    assert served.ask(sock, b'{"command": "who"}\n') == {"ok": True, "result": me}
    assert served.ask(sock, b'{"a": 1}\n') == {"ok": True, "result": {"a": 1}}


def test_requests_that_come_together_are_answered_in_turn(served: Served) -> None:
    sock = served.client()
    sock.sendall(b'{"a": 1}\n{"a": 2}\n{"a"')
    served.run()
    sock.sendall(b": 3}\n")
    served.run()
    lines = sock.recv(1 << 16).splitlines()
    assert [json.loads(line)["result"]["a"] for line in lines] == [1, 2, 3]


def test_a_refusal_says_what_why_and_what_to_do(served: Served) -> None:
    assert served.ask(served.client(), b'{"command": "refuse"}\n') == {
        "ok": False,
        "error": {"what": "that", "why": "is refused", "remedy": "Ask for this"},
    }


@pytest.mark.parametrize(
    "request_line", [b"nonsense", b"[]", b'"text"', b"\xff\xfe", b"", b"[" * 60000]
)
def test_what_is_no_object_is_refused(served: Served, request_line: bytes) -> None:
    answer = served.ask(served.client(), request_line + b"\n")
    assert answer["ok"] is False
    assert answer["error"]["what"] == "control request"


@given(st.binary(max_size=100).filter(lambda data: b"\n" not in data))
def test_any_line_has_one_line_for_an_answer(data: bytes) -> None:
    line = b"".join(answer(data, ME, handler))
    assert line.count(b"\n") == 1
    assert json.loads(line)["ok"] in (True, False)


@pytest.mark.parametrize("number", [0, 1, ROWS - 1, ROWS, ROWS + 1, 5 * ROWS + 7])
def test_a_long_answer_is_made_bit_by_bit(number: int) -> None:
    pieces = list(answer(b'{"command": "rows", "number": %d}' % number, ME, handler))
    assert len(pieces) == -(-number // ROWS) + 2
    line = b"".join(pieces)
    assert line.endswith(b"}\n")
    result = {"before": 1, "rows": list(range(number)), "more": ["a", "b"], "after": {}}
    assert json.loads(line) == {"ok": True, "result": result}


def test_between_the_bits_of_a_long_answer_others_have_their_turn(served: Served) -> None:
    slow, quick = served.client(), served.client()
    slow.sendall(b'{"command": "rows", "number": 300000}\n')
    assert served.ask(quick, b'{"command": "who"}\n')["ok"] is True
    taken = bytearray()
    while not taken.endswith(b"\n"):
        taken += slow.recv(1 << 20)
        served.run()
    assert len(json.loads(taken)["result"]["rows"]) == 300_000


def test_a_request_without_end_is_refused_and_the_client_closed(served: Served) -> None:
    sock = served.client()
    sock.setblocking(False)
    sent = 0
    while sent < LONGEST_REQUEST:
        sent += sock.send(b"x" * 4096)
        served.run()
    sock.settimeout(5)
    assert b"longer than" in sock.recv(4096)
    assert is_closed(sock)


def test_a_client_that_takes_no_answer_holds_nobody_up(served: Served) -> None:
    slow, quick = served.client(), served.client()
    slow.sendall(b'{"command": "big"}\n' * 10)
    served.run()
    assert served.ask(quick, b'{"a": 1}\n')["ok"]
    served.now += PATIENCE
    served.server.handle_timer(served.now)
    received = 0
    while data := slow.recv(1 << 20):
        received += len(data)
    assert received < 3_000_000  # what the kernel held; the rest went with the connection


def test_a_client_that_asks_drop_by_drop_is_closed(served: Served) -> None:
    sock = served.client()
    served.run()
    for _ in range(4):
        served.now += PATIENCE / 4
        sock.send(b"{")
        served.run()
    deadline = served.server.deadline()
    assert deadline is not None
    assert deadline <= served.now
    served.server.handle_timer(served.now)
    assert is_closed(sock)
    assert served.server.deadline() is None


def test_clients_are_bounded(served: Served) -> None:
    clients = [served.client() for _ in range(MOST_CLIENTS)]
    served.run()
    one_more = served.client()
    served.run()
    assert is_closed(one_more)
    clients[0].close()
    served.run()
    assert served.ask(served.client(), b'{"a": 1}\n')["ok"]


def test_a_client_that_leaves_before_its_answer_does_no_harm(served: Served) -> None:
    sock = served.client()
    sock.sendall(b'{"command": "big"}\n')
    sock.close()
    served.run()
    assert served.server.deadline() is None


def test_the_socket_is_for_owner_and_group_only(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o660


def test_a_live_daemon_is_not_pushed_aside(served: Served) -> None:
    with pytest.raises(OperatorError, match="another moatd answers there"):
        ControlServer(served.path, served.loop, lambda: 0.0, handler)
    assert served.path.is_socket()


def test_what_a_dead_daemon_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    served = Served(path)
    try:
        assert served.ask(served.client(), b'{"a": 1}\n')["ok"]
    finally:
        served.close()
    assert not path.exists()


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(OperatorError, match="cannot be made"):
        Served(path)
    assert path.read_text() == "precious"
