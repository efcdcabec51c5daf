"""The client, against daemons that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moatvpn.cli.client import DaemonNotRunningError, DaemonUnreachableError, ask
from moatvpn.errors import OperatorError


@contextmanager
def answering(path: Path, data: bytes) -> Iterator[None]:
    """Answer one request with data, and close."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]\n", b"{}\n", b'{"ok": true}\n', b'{"ok": false, "error": 1}\n', b"5\n"]
)
def test_no_whole_answer(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "s"
    with answering(path, data), pytest.raises(DaemonUnreachableError, match="no whole answer"):
        ask(path, {"command": "status"})


def test_a_refusal_keeps_its_words(tmp_path: Path) -> None:
    path = tmp_path / "s"
    line = b'{"ok": false, "error": {"what": "a", "why": "b", "remedy": "c"}}\n'
    with answering(path, line), pytest.raises(OperatorError, match=r"^a: b\. c$") as caught:
        ask(path, {})
    assert not isinstance(caught.value, DaemonUnreachableError)


def test_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(DaemonNotRunningError):
        ask(path, {})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with pytest.raises(DaemonNotRunningError):
        ask(path, {})


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DaemonUnreachableError, match="cannot be asked") as caught:
        ask(file / "s", {})
    assert not isinstance(caught.value, DaemonNotRunningError)
