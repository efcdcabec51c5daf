"""The lab for tests and demo: its machines, what runs on them, what is on the wire."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pcap
import testinfra
from testinfra.host import Host

MACHINES = ("pc", "moat", "router", "portal", "corp", "web", "attacker")
BOXES = ("moat", "portal")

PC, PC6 = "10.201.1.10", "fd00:201:1::10"
MOAT, MOAT6 = "10.201.1.1", "fd00:201:1::1"
PORTAL_TUNNEL, PORTAL_TUNNEL6 = "10.201.0.1", "fd00:201::1"
PORTAL_WILD = "198.51.100.2"
CORP, CORP6 = "10.50.0.10", "fd00:50::10"
FIREWALL = "203.0.113.5"
WEB = "203.0.113.80"
ATTACKER = "192.0.2.66"

# The router's interfaces on the two networks that an envelope crosses between moat and portal.
WILD_INTERFACES = ("access0", "transit0")
WILD_CLASSES = {"ARP", "ESP", "IKE", "DHCP"}

T = TypeVar("T")


def container(name: str) -> str:
    """Return the name of a machine's container, in the lab that MOAT_LAB_PREFIX names."""
    return os.environ.get("MOAT_LAB_PREFIX", "moat-lab-") + name


def host(name: str) -> Host:
    """Return the machine of that name."""
    return testinfra.get_host(f"podman://{container(name)}")


def wait_for(condition: Callable[[], T], what: str, deadline: float, interval: float = 0.2) -> T:
    """Call condition until it returns something true, and return that.

    Raises AssertionError, which says what was waited for, once deadline seconds have gone by.
    """
    end = time.monotonic() + deadline
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= end:
            raise AssertionError(f"{what}: not within {deadline:g} s")
        time.sleep(interval)


@contextmanager
def service(machine: Host, unit: str, *command: str) -> Iterator[None]:
    """Run command on machine as a transient unit, and stop it at the end."""
    machine.run_expect(
        [0], "systemd-run --quiet --collect --unit=%s -- " + " ".join(["%s"] * len(command)),
        unit, *command,
    )  # fmt: skip
    try:
        yield
    finally:
        # A unit that has come to its end by itself is no longer there: 5 says so.
        machine.run_expect([0, 5], "systemctl stop %s", unit)


def send_python(name: str, source: str, *arguments: str, data: bytes = b"") -> str:
    """Run a Python program on a machine, with data as its standard input; return its output."""
    done = subprocess.run(
        ["podman", "exec", "-i", container(name), "/usr/bin/python3", "-c", source, *arguments],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def restart(*names: str) -> None:
    """Restart the containers of machines together, as a power cut restarts boxes."""
    command = ["podman", "restart", "--time", "0", *map(container, names)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@dataclass
class Capture:
    """What tcpdump saw at one interface. raw and frames are there once the capture has ended."""

    interface: str
    raw: bytes = b""
    frames: list[pcap.Frame] = field(default_factory=list)

    def summary(self) -> dict[str, int]:
        """Return how many frames of the lab's own there are of each kind."""
        return dict(pcap.summarise(self.frames))

    def strangers(self) -> set[str]:
        """Return the descriptions of frames that have no business on the wild side."""
        return set(self.summary()) - WILD_CLASSES

    def packets(self) -> Iterator[pcap.Packet]:
        """Yield every IP packet."""
        for frame in self.frames:
            packet = pcap.parse_packet(frame)
            if packet is not None:
                yield packet

    def fragments(self) -> list[pcap.Packet]:
        """Return the packets that are only a part of one."""
        return [packet for packet in self.packets() if packet.fragment]

    def addresses(self) -> set[str]:
        """Return every IP address that stands in the outermost header of a packet."""
        return {a for packet in self.packets() for a in (packet.source, packet.destination)}


@contextmanager
def capture(name: str, interface: str) -> Iterator[Capture]:
    """Capture whole frames at a machine's interface from before the block until after it.

    Frames of the bridge itself, which belongs to the machine under the lab, are left out: they
    come from no MAC address of the lab's, which all begin with 02:00:00:00, and are link-local.
    """
    machine = host(name)
    unit = f"capture-{interface}"
    path = f"/run/{unit}.pcap"
    result = Capture(interface)
    machine.run_expect([0], "rm -f %s", path)
    with service(
        machine, unit,
        "tcpdump", "--interface", interface, "--snapshot-length=65535", "--buffer-size=65536",
        "--packet-buffered", "--immediate-mode", "--relinquish-privileges=root", "-w", path,
    ):  # fmt: skip
        size = f"stat --format=%s {path}"
        wait_for(lambda: machine.run(size).stdout.strip() not in ("", "0"), "tcpdump", 10)
        yield result
    log = machine.check_output("journalctl --unit=%s --output=cat --lines=20", unit)
    assert "\n0 packets dropped by kernel" in log, f"the capture is not whole: {log}"
    read = ["podman", "exec", container(name), "cat", path]
    result.raw = subprocess.run(read, check=True, capture_output=True, timeout=60).stdout
    machine.run_expect([0], "rm %s", path)
    for frame in pcap.read_pcap(result.raw):
        bridge = not frame.source_mac.startswith("02:00:00:00:")
        if not (bridge and pcap.describe(frame) == "IPv6 link-local"):
            result.frames.append(frame)


@contextmanager
def wild_capture() -> Iterator[list[Capture]]:
    """Capture on both wild networks, as the router between moat and portal sees them."""
    with ExitStack() as stack:
        yield [stack.enter_context(capture("router", name)) for name in WILD_INTERFACES]


def moatctl(machine: Host, *arguments: str) -> str:
    """Return what moatctl says on a box."""
    command = "moatctl " + " ".join(["%s"] * len(arguments))
    return str(machine.check_output(command, *arguments))


def status(machine: Host) -> dict[str, Any]:
    """Return moatd's status on a box."""
    result: dict[str, Any] = json.loads(moatctl(machine, "status", "--json"))
    return result


def connection(machine: Host) -> dict[str, Any]:
    """Return the status of a box's one connection."""
    (only,) = status(machine)["connections"]
    return dict(only)


def drops(machine: Host) -> dict[str, int]:
    """Return moatd's counters of dropped packets by their reasons."""
    return dict(status(machine)["drops"])


def dropped(machine: Host) -> dict[str, int]:
    """Return what the ruleset of a box has counted of each reason of a drop."""
    listed = json.loads(machine.check_output("nft --json list counters table inet moat"))
    counters = [entry["counter"] for entry in listed["nftables"] if "counter" in entry]
    return {counter["name"]: int(counter["packets"]) for counter in counters}


def wild_address(machine: Host) -> str:
    """Return a box's IPv4 address on the wild side, or "" where it has none."""
    links = json.loads(machine.check_output("ip -json -4 address show dev wild0"))
    addresses = [a["local"] for link in links for a in link.get("addr_info", [])]
    return str(addresses[0]) if addresses else ""


def reaches(machine: Host, address: str) -> bool:
    """Whether one ping from machine to address is answered within a second."""
    return bool(machine.run("ping -n -c 1 -W 1 %s", address).rc == 0)


def wait_for_tunnel(deadline: float = 30.0) -> float:
    """Wait until pc reaches corp, for at most deadline seconds; return how long that took."""
    start = time.monotonic()
    pc = host("pc")
    wait_for(lambda: reaches(pc, CORP), "pc reaches corp", deadline)
    return time.monotonic() - start
