"""Five network namespaces in a row, with veth between them and routers where there are two.

    pc --- moat --- wild --- portal --- corp

The wild side knows the addresses of the moat and of the portal only, so that raw packets pass it
inside of a tunnel or not at all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from boxes import MOAT, PORTAL, Namespace, run

PREFIX = f"moat-bench-{os.getpid()}"
PC, CORP = "10.201.1.10", "10.50.0.10"
MOAT_WILD = "203.0.113.10"
_HOME, _OFFICE = "203.0.113.1", "192.0.2.254"  # the wild side's router, towards each box
_LAST_WORDS = 2.0  # seconds that programs have to end by themselves

End = Callable[[str, Path, str], Namespace]  # (its name, its directory, its identity)


class Street:
    """The five namespaces; `end` makes the two in which a tunnel begins and ends."""

    def __init__(self, directory: Path, end: End) -> None:
        def make(kind: End, letter: str, identity: str) -> Namespace:
            return kind(f"{PREFIX}-{letter}", directory / letter, identity)

        self.pc = make(Namespace, "pc", "pc")
        self.moat = make(end, "moat", MOAT.identity)
        self.wild = make(Namespace, "wild", "wild")
        self.portal = make(end, "portal", PORTAL.identity)
        self.corp = make(Namespace, "corp", "corp")
        self._link((self.pc, "lan", PC), (self.moat, "lan", MOAT.inside))
        self._link((self.moat, "wild0", MOAT_WILD), (self.wild, "home", _HOME))
        self._link((self.wild, "office", _OFFICE), (self.portal, "wild0", PORTAL.wild))
        self._link((self.portal, "corp", PORTAL.inside), (self.corp, "lan", CORP))
        for place, gateway in (
            (self.pc, MOAT.inside),
            (self.moat, _HOME),
            (self.portal, _OFFICE),
            (self.corp, PORTAL.inside),
        ):
            place.ip("route", "add", "default", "via", gateway)
        for router in (self.moat, self.wild, self.portal):
            router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        # A burst of datagrams is cut before it leaves the pc, as any real network card would do.
        self.pc.run("ethtool", "-K", "lan", "tx-udp-segmentation", "off")

    @property
    def ends(self) -> tuple[Namespace, Namespace]:
        """The moat and the portal, where a system's programs are."""
        return self.moat, self.portal

    @staticmethod
    def _link(*ends: tuple[Namespace, str, str]) -> None:
        (one, name, _), (other, other_name, _) = ends
        peer = ("type", "veth", "peer", "name", other_name, "netns", other.namespace)
        run("ip", "link", "add", name, "netns", one.namespace, *peer)
        for place, interface, address in ends:
            place.ip("address", "add", f"{address}/24", "dev", interface)
            place.ip("link", "set", interface, "up")

    def lead_into(self, moat_interface: str, portal_interface: str) -> None:
        """Route raw packets into the tunnel's interface on either side."""
        there, back = PORTAL.networks[0], MOAT.networks[0]
        self.moat.ip("route", "add", there, "dev", moat_interface, "src", MOAT.inside)
        self.portal.ip("route", "add", back, "dev", portal_interface, "src", PORTAL.inside)

    def logs(self) -> str:
        """Return the last lines of what the system's programs have logged."""
        found = []
        for place in self.ends:
            with suppress(OSError):
                lines = place.log.read_text(errors="replace").splitlines()[-4:]
                found += [f"{place.namespace}: {line}" for line in lines]
        return "\n".join(found)


@contextmanager
def street(directory: Path, end: End) -> Iterator[Street]:
    """The five namespaces for the length of the block; nothing that runs in them outlives it."""
    try:
        yield Street(directory, end)
    finally:
        sweep()


def launch(place: Namespace, *command: str) -> subprocess.Popen[bytes]:
    """Start a program that writes to the place's log, and that ends with the street."""
    with place.log.open("ab") as log:
        return place.popen(*command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def pids(place: Namespace) -> list[int]:
    """Return the ids of the processes in a namespace."""
    return _pids(place.namespace)


def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in run("ip", "netns", "pids", namespace).stdout.split()]


def sweep() -> None:
    """Remove every namespace that this process has made, even in part, with all that runs there."""
    names = [line.split()[0] for line in run("ip", "netns", "list").stdout.splitlines()]
    ours = [name for name in names if name.startswith(f"{PREFIX}-")]
    end = time.monotonic() + _LAST_WORDS
    _signal(ours, signal.SIGTERM)
    while any(map(_pids, ours)) and time.monotonic() < end:
        time.sleep(0.02)
    _signal(ours, signal.SIGKILL)
    for name in ours:
        run("ip", "netns", "delete", name)


def _signal(namespaces: list[str], number: signal.Signals) -> None:
    for namespace in namespaces:
        for pid in _pids(namespace):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
