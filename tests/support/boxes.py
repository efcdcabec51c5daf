"""Boxes in network namespaces of this machine: real daemons, devices and sockets. Needs root."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from moatvpn.config import ED25519_SPKI_PREFIX

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, deadline: float) -> T:
    """Return the first true value of condition; fail, saying what, after deadline seconds."""
    end = time.monotonic() + deadline
    while not (result := condition()):
        assert time.monotonic() < end, f"{what}: not within {deadline:g} s"
        time.sleep(0.05)
    return result


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command, and return it with its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


class Box:
    """One namespace with a moatd in it."""

    def __init__(self, namespace: str, directory: Path, identity: str) -> None:
        self.namespace = namespace
        self.directory = directory
        self.identity = identity
        self.key = directory / "identity.key"
        self.connections = directory / "connections.d"
        self.socket = directory / "control.sock"
        self.log = directory / "log"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.connections.mkdir(parents=True)
        self.public_key: str = self.ctl("identity", "create", "--private-key", str(self.key))[
            "public_key"
        ]
        run("ip", "netns", "add", namespace)
        self.ip("link", "set", "lo", "up")
        self.ip("tuntap", "add", "moat0", "mode", "tun")
        # Without a link-local address the kernel sends nothing of its own into the tunnel.
        self.ip("link", "set", "moat0", "addrgenmode", "none")
        self.ip("link", "set", "moat0", "up", "mtu", "1500")
        settings = {
            "identity": identity,
            "private_key": str(self.key),
            "connections": str(self.connections),
            "control_socket": str(self.socket),
            "log_level": "debug",
        }
        (directory / "moatd.json").write_text(json.dumps(settings))

    def ip(self, *words: str) -> str:
        """Run ip within the namespace."""
        return run("ip", "-n", self.namespace, *words).stdout

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command within the namespace."""
        return run("ip", "netns", "exec", self.namespace, *command, check=check)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command within the namespace."""
        return subprocess.Popen(["ip", "netns", "exec", self.namespace, *command], **options)

    def start(self) -> None:
        """Start moatd, and wait until it answers."""
        words = ("-m", "moatvpn.daemon.main", "--config", str(self.directory / "moatd.json"))
        with self.log.open("ab") as log:
            self.daemon = self.popen(sys.executable, *words, stderr=log)
        wait_for(lambda: self.moatctl("status", check=False).returncode == 0, "moatd", 10)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End moatd with a signal; return its exit status."""
        assert self.daemon is not None
        daemon, self.daemon = self.daemon, None
        daemon.send_signal(number)
        return daemon.wait(10)

    def moatctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run moatctl with this box's socket and directory."""
        places = ["--socket", str(self.socket)]
        if words[0] in ("add", "replace", "delete"):
            places += ["--connections", str(self.connections)]
        return run(sys.executable, "-m", "moatvpn.cli.moatctl", *words, *places, check=check)

    def ctl(self, *words: str) -> dict[str, Any]:
        """Return what moatctl answers as JSON."""
        answer: dict[str, Any] = json.loads(self.moatctl(*words, "--json").stdout)
        return answer

    def connection(self, name: str) -> dict[str, Any]:
        """Return the status of one connection."""
        return dict(self.ctl("status", name)["connections"][0])

    def drops(self) -> dict[str, int]:
        """Return the counters of drops."""
        return dict(self.ctl("status")["drops"])

    def apply(self, word: str, record: dict[str, Any]) -> dict[str, Any]:
        """Add or replace a connection."""
        path = self.directory / "new.json"
        path.write_text(json.dumps(record))
        return self.ctl(word, str(path))

    def close(self) -> None:
        """End moatd and remove the namespace, with all that is in it."""
        if self.daemon is not None:
            self.kill()
        run("ip", "netns", "delete", self.namespace)


def other_public_key() -> str:
    """Return the public key of nobody, as text."""
    return base64.b64encode(ED25519_SPKI_PREFIX + os.urandom(32)).decode()


@contextmanager
def new_box(directory: Path, letter: str, identity: str) -> Iterator[Box]:
    """A box for the length of the block; its log is told at the end."""
    made = Box(f"moat-test-{os.getpid()}-{letter}", directory / letter, identity)
    try:
        yield made
    finally:
        if made.log.exists():
            print(f"--- log of {identity}\n{made.log.read_text()[-8000:]}")
        made.close()
