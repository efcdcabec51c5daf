"""One real moatd in a network namespace, and the questions that a benchmark asks of it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moatvpn.cli.client import DaemonUnreachableError, ask
from moatvpn.config import ConnectionConfig, connection_to_dict
from moatvpn.daemon.keyfile import create_key_file, read_signer

IDENTITY = "portal.example.net"
ADDRESS, GATEWAY = "192.0.2.1", "192.0.2.10"
MOATS_NETWORK = "100.64.0.0/16"  # the wild-side addresses of all moats
PRIVATE_NETWORKS = ("10.128.0.0/9", "fd00:128::/32")  # their private sides
_START_PATIENCE = 120.0
_SOURCE = Path(__file__).resolve().parent.parent / "src"


def run(*command: str) -> None:
    """Run a command, and end with its output where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise SystemExit(f"scale: {' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def within(namespace: str) -> Iterator[None]:
    """Have this thread in a namespace for a while: sockets that are opened now stay in it."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _check(setns(there, 0))
        yield
    finally:
        _check(setns(home, 0))
        os.close(there)
        os.close(home)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def wild_side(portal: str, moats: str) -> Iterator[None]:
    """Make the two namespaces with a wire between them, for the length of the block.

    The moats' one has every address of MOATS_NETWORK at once.
    """
    made: list[str] = []
    try:
        for namespace in (portal, moats):
            run("ip", "netns", "add", namespace)
            made.append(namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        ends = ("wild0", "netns", portal, "type", "veth", "peer", "name", "wild0", "netns", moats)
        run("ip", "link", "add", *ends)
        for namespace, address in ((portal, ADDRESS), (moats, GATEWAY)):
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "wild0")
            run("ip", "-n", namespace, "link", "set", "wild0", "up")
        run("ip", "-n", moats, "route", "add", "local", MOATS_NETWORK, "dev", "lo")
        run("ip", "-n", portal, "route", "add", MOATS_NETWORK, "via", GATEWAY)
        run("ip", "-n", portal, "tuntap", "add", "moat0", "mode", "tun")
        run("ip", "-n", portal, "link", "set", "moat0", "addrgenmode", "none", "txqueuelen", "5000")
        run("ip", "-n", portal, "link", "set", "moat0", "up", "mtu", "1500")
        for network in PRIVATE_NETWORKS:
            run("ip", "-n", portal, "route", "add", network, "dev", "moat0")
        yield
    finally:
        for namespace in made:
            run("ip", "netns", "delete", namespace)


class Portal:
    """A moatd whose files are in directory."""

    def __init__(self, namespace: str, directory: Path) -> None:
        self.namespace = namespace
        self._directory = directory
        self._connections = directory / "connections.d"
        self._connections.mkdir()
        self._socket = directory / "control.sock"
        self._config = directory / "moatd.json"
        self._daemon: subprocess.Popen[bytes] | None = None
        key = directory / "identity.key"
        create_key_file(key)
        self.public_text = read_signer(key).public_text
        settings = {
            "identity": IDENTITY,
            "private_key": str(key),
            "connections": str(self._connections),
            "control_socket": str(self._socket),
        }
        self._config.write_text(json.dumps(settings))

    def write(self, config: ConnectionConfig) -> None:
        """Put a connection where moatd finds it at its next start."""
        path = self._connections / f"{config.name}.json"
        path.write_text(json.dumps(self.record(config), indent=2))

    @property
    def places(self) -> tuple[str, ...]:
        """Return where moatctl finds moatd and its connections, as its options."""
        return ("--connections", str(self._connections), "--socket", str(self._socket))

    @staticmethod
    def record(config: ConnectionConfig) -> dict[str, Any]:
        """Return a connection as moatd reads it."""
        return connection_to_dict(config)

    def start(self) -> float:
        """Start moatd; return how many seconds it took until it answered."""
        words = [sys.executable, "-m", "moatvpn.daemon.main", "--config", str(self._config)]
        command = ["ip", "netns", "exec", self.namespace, *words]
        environment = {**os.environ, "PYTHONPATH": str(_SOURCE)}
        environment.pop("JOURNAL_STREAM", None)
        began = time.monotonic()
        with (self._directory / "log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stderr=log, env=environment)
        # A connection that no directory holds: any answer at all will do.
        while not self.answers():
            if self._daemon.poll() is not None or time.monotonic() - began > _START_PATIENCE:
                raise SystemExit(f"scale: moatd does not start; see {self._directory}/log")
            time.sleep(0.01)
        return time.monotonic() - began

    def answers(self) -> bool:
        """Return whether moatd tells its status."""
        try:
            self.ask("status")
        except DaemonUnreachableError:
            return False
        return True

    def kill(self) -> None:
        """End moatd at once, as a power cut would."""
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGKILL)
            self._daemon.wait()
            self._daemon = None

    def ask(self, command: str, **more: Any) -> dict[str, Any]:
        """Return what moatd answers to one request, as moatctl asks it."""
        return ask(self._socket, {"command": command, **more})

    def status(self) -> tuple[float, float]:
        """Have a moatctl ask for the status of everything.

        Returns the seconds that it took, and the most that another request waited meanwhile.
        """
        words = ("-m", "moatvpn.cli.moatctl", "status", "--json", "--socket", str(self._socket))
        environment = {**os.environ, "PYTHONPATH": str(_SOURCE)}
        began = asked = time.monotonic()
        longest = 0.0
        asking = subprocess.Popen(
            (sys.executable, *words), stdout=subprocess.DEVNULL, env=environment
        )
        while asking.poll() is None:
            asked = time.monotonic()
            self.ask("log-level", level="info")
            longest = max(longest, time.monotonic() - asked)
        if asking.returncode:
            raise SystemExit("scale: moatctl status failed")
        return time.monotonic() - began, longest

    @property
    def pid(self) -> int:
        """Return moatd's process: `ip netns exec` has become the program that it started."""
        if self._daemon is None:
            raise SystemExit("scale: moatd does not run")
        return self._daemon.pid

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text()

    def resident(self) -> int:
        """Return how many octets of memory moatd has resident."""
        line = next(x for x in self._proc("status").splitlines() if x.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def settle(self) -> None:
        """Return once moatd waits for something to do, or after a tenth of a second."""
        until = time.monotonic() + 0.1
        # The state stands behind the program's name, which is in parentheses (proc(5)).
        while self._proc("stat").rpartition(")")[2].split()[0] != "S":
            if time.monotonic() > until:
                return

    def busy(self) -> float:
        """Return how many seconds of a core moatd has used."""
        return int(self._proc("schedstat").split()[0]) / 1e9
