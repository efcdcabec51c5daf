"""What the service manager is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from moatvpn.daemon.notify import Notifier


def test_ready_arrives(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": str(path)}).send("READY=1", "STATUS=up")
        assert manager.recv(100) == b"READY=1\nSTATUS=up"


def test_an_abstract_socket() -> None:
    name = f"moat-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).send("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"


def test_no_manager_is_no_error(tmp_path: Path) -> None:
    silent = Notifier({})
    silent.send("READY=1")
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    gone.send("READY=1")
    assert silent.interval is gone.interval is None


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_patience(
    environment: dict[str, str], interval: float | None
) -> None:
    assert Notifier(environment).interval == interval
