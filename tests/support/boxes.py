"""Boxes in network namespaces of this machine: real daemons, devices and sockets. Needs root."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moatvpn.cli import moatctl
from moatvpn.cli.client import ask
from moatvpn.config import ED25519_SPKI_PREFIX
from moatvpn.errors import OperatorError

T = TypeVar("T")

# How many times slower than a real machine this one is allowed to be: an emulated one says so.
PATIENCE = float(os.environ.get("MOAT_TEST_PATIENCE", "1"))


def wait_for(condition: Callable[[], T], what: str, deadline: float) -> T:
    """Return the first true value of condition; fail, saying what, after deadline seconds."""
    end = time.monotonic() + deadline * PATIENCE
    while not (result := condition()):
        assert time.monotonic() < end, f"{what}: not within {deadline:g} s"
        time.sleep(0.05)
    return result


def run(
    *command: str, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, and return it with its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


@dataclass(frozen=True)
class Side:
    """What one end of a tunnel is called, and where it is: its wild side, its private side."""

    identity: str
    wild: str
    inside: str
    inside6: str
    networks: tuple[str, str]


MOAT = Side(
    "m1.moats.example.net",
    "192.0.2.10",
    "10.201.1.1",
    "fd00:201:1::1",
    ("10.201.1.0/24", "fd00:201:1::/64"),
)
PORTAL = Side(
    "portal.example.net",
    "192.0.2.1",
    "10.50.0.1",
    "fd00:50::1",
    ("10.50.0.0/24", "fd00:50::/64"),
)


class Namespace:
    """A network namespace, which programs run in."""

    def __init__(self, namespace: str, directory: Path, identity: str) -> None:
        self.namespace = namespace
        self.directory = directory
        self.identity = identity
        self.log = directory / "log"
        directory.mkdir(parents=True)
        run("ip", "netns", "add", namespace)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> str:
        """Run ip within the namespace."""
        return run("ip", "-n", self.namespace, *words).stdout

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command within the namespace."""
        return run("ip", "netns", "exec", self.namespace, *command, check=check)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command within the namespace."""
        return subprocess.Popen(["ip", "netns", "exec", self.namespace, *command], **options)

    def pings(self, address: str) -> bool:
        """Whether address answers one ping within a second."""
        return self.run("ping", "-c1", "-W1", address, check=False).returncode == 0

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Let nothing in from the wild side for the length of the block."""
        rule = "chain input { type filter hook input priority 0; iifname wild0 drop; }"
        self.run("nft", f"table inet deaf {{ {rule}; }}")
        try:
            yield
        finally:
            self.run("nft", "delete table inet deaf")

    @contextmanager
    def narrow(self) -> Iterator[None]:
        """Let the wild side carry 576 octets at a time for the block's length, and no fragments.

        No fragment may have come in by the end.
        """
        head = "type filter hook prerouting priority -450;"
        rule = "ip frag-off & 0x3fff != 0 counter drop;"
        self.ip("link", "set", "wild0", "mtu", "576")
        self.run("nft", f"table ip narrow {{ chain seen {{ {head} {rule} }}; }}")
        try:
            yield
            assert "counter packets 0" in self.run("nft", "list", "table", "ip", "narrow").stdout
        finally:
            self.run("nft", "delete table ip narrow")
            self.ip("link", "set", "wild0", "mtu", "1500")

    def close(self) -> None:
        """Remove the namespace, with all that is in it."""
        # The kernel takes a namespace down some time after its name is gone. The far ends of its
        # cables would stand meanwhile, in the way of the next that have their names.
        for line in self.ip("-br", "link", "show", "type", "veth").splitlines():
            cable = line.split("@")[0].split()[0]
            run("ip", "-n", self.namespace, "link", "delete", cable, check=False)
        run("ip", "netns", "delete", self.namespace)


class Box(Namespace):
    """One namespace with a moatd in it, and with the interface that its data plane needs.

    program: what Python is told to run as moatd, without moatd's own arguments.
    """

    program: tuple[str, ...] = ("-m", "moatvpn.daemon.main")

    def __init__(
        self,
        namespace: str,
        directory: Path,
        identity: str,
        data_plane: str = "python",
        workers: str = "off",
    ) -> None:
        super().__init__(namespace, directory, identity)
        self._prepare("moat0", data_plane, workers=workers)

    def _prepare(self, interface: str, data_plane: str = "python", **more: Any) -> None:
        """Make a daemon's key, device and settings; more are settings that have no default here."""
        directory = self.directory
        self.data_plane = data_plane
        self.key = directory / "identity.key"
        self.connections = directory / "connections.d"
        self.socket = directory / "control.sock"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.connections.mkdir()
        self.public_key: str = self.ctl("identity", "create", "--private-key", str(self.key))[
            "public_key"
        ]
        if data_plane != "python":
            self.ip("link", "add", interface, "type", "xfrm", "if_id", "7")
        else:
            self.ip("tuntap", "add", interface, "mode", "tun")
        # Without a link-local address the kernel sends nothing of its own into the tunnel.
        self.ip("link", "set", interface, "addrgenmode", "none")
        mtu = "65535" if data_plane == "python" else "1400"
        self.ip("link", "set", interface, "up", "mtu", mtu)
        settings = {
            "identity": self.identity,
            "private_key": str(self.key),
            "tunnel_interface": interface,
            "connections": str(self.connections),
            "control_socket": str(self.socket),
            "state": str(directory),
            "log_level": "debug",
            "data_plane": data_plane,
            "workers": "off",
            **more,
        }
        (directory / "moatd.json").write_text(json.dumps(settings))

    def start(self) -> None:
        """Start moatd, and wait until it answers."""
        words = (*self.program, "--config", str(self.directory / "moatd.json"))
        with self.log.open("ab") as log:
            self.daemon = self.popen(sys.executable, *words, stderr=log)
        wait_for(self.answers, "moatd", 10)

    def answers(self) -> bool:
        """Whether moatd answers at its socket."""
        try:
            ask(self.socket, {"command": "status"})
        except OperatorError:
            return False
        return True

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End moatd with a signal; return its exit status."""
        assert self.daemon is not None
        daemon, self.daemon = self.daemon, None
        daemon.send_signal(number)
        return daemon.wait(10)

    def moatctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run moatctl, as a program, with this box's socket and directory."""
        whole = (*words, *self._places(words[0]))
        return run(sys.executable, "-m", "moatvpn.cli.moatctl", *whole, check=check)

    def ctl(self, *words: str) -> dict[str, Any]:
        """Return what moatctl answers as JSON; it runs within this program, which spares time."""
        told = io.StringIO()
        with redirect_stdout(told), redirect_stderr(told):
            status = moatctl.main([*words, *self._places(words[0]), "--json"])
        assert status == 0, f"{words}: {told.getvalue()}"
        answer: dict[str, Any] = json.loads(told.getvalue())
        return answer

    def _places(self, command: str) -> list[str]:
        places = ["--socket", str(self.socket)]
        if command in ("add", "replace", "delete"):
            places += ["--connections", str(self.connections)]
        return places

    def connection(self, name: str) -> dict[str, Any]:
        """Return the status of one connection."""
        return ask(self.socket, {"command": "show", "name": name})

    def drops(self) -> dict[str, int]:
        """Return the counters of drops."""
        return dict(ask(self.socket, {"command": "status"})["drops"])

    def apply(self, word: str, record: dict[str, Any]) -> dict[str, Any]:
        """Add or replace a connection."""
        path = self.directory / "new.json"
        path.write_text(json.dumps(record))
        return self.ctl(word, str(path))

    def close(self) -> None:
        """End moatd and remove the namespace."""
        if self.daemon is not None:
            self.kill()
        super().close()


class FurtherDaemon(Box):
    """Another moatd in the namespace of a box, with a device and UDP ports of its own."""

    def __init__(self, box: Box, interface: str, identity: str, ports: tuple[int, int]) -> None:
        self.namespace = box.namespace
        self.identity = identity
        self.directory = box.directory / interface
        self.log = self.directory / "log"
        self.directory.mkdir()
        self._prepare(interface, ports=ports)

    def close(self) -> None:
        """End this moatd, and tell its log; the namespace is the box's."""
        if self.daemon is not None:
            self.kill()
        if self.log.exists():
            print(f"--- log of {self.identity}\n{self.log.read_text()[-8000:]}")


def join(moat: Namespace, portal: Namespace) -> None:
    """Put a moat and a portal on one wild network, with their own addresses inside.

    A moatd's namespace also gets the routes into its tunnel.
    """
    ends = (moat.namespace, "type", "veth", "peer", "name", "wild0", "netns")
    run("ip", "link", "add", "wild0", "netns", *ends, portal.namespace)
    for box, own in ((moat, MOAT), (portal, PORTAL)):
        box.ip("address", "add", f"{own.wild}/24", "dev", "wild0")
        box.ip("link", "set", "wild0", "up")
        box.ip("address", "add", f"{own.inside}/32", "dev", "lo")
        box.ip("address", "add", f"{own.inside6}/128", "dev", "lo", "nodad")
    for box, own, networks in (
        (moat, MOAT, PORTAL.networks),
        (portal, PORTAL, ("10.201.0.0/16", "fd00:201::/32")),
    ):
        if isinstance(box, Box):
            for network, source in zip(networks, (own.inside, own.inside6), strict=True):
                box.ip("route", "add", network, "dev", "moat0", "src", source)


def other_public_key() -> str:
    """Return the public key of nobody, as text."""
    return base64.b64encode(ED25519_SPKI_PREFIX + os.urandom(32)).decode()


@contextmanager
def new_box(
    directory: Path, letter: str, identity: str, data_plane: str = "python", workers: str = "off"
) -> Iterator[Box]:
    """A box for the length of the block; its log is told at the end."""
    namespace = f"moat-test-{os.getpid()}-{letter}"
    made = Box(namespace, directory / letter, identity, data_plane, workers)
    try:
        yield made
    finally:
        if made.log.exists():
            print(f"--- log of {identity}\n{made.log.read_text()[-8000:]}")
        made.close()
