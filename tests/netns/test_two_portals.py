"""A moat goes over from one portal to another with both tunnels up: no packet is lost.

    moat  wild0 192.0.2.10 --+-- wild0 192.0.2.1  old  corp0 10.50.0.1 --+-- corp0 10.50.0.10  corp
                             +-- wild0 192.0.2.2  new  corp0 10.50.0.2 --+

The corporate network knows the old portal as the way to the pool of private subnets, and goes on
doing so: the old portal has a route of its own for the moat that has gone. Both portals have their
lockdown rulesets. Needs root.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from boxes import MOAT, PATIENCE, Box, Namespace, new_box, run, wait_for
from lockdown_boxes import portal as portal_box

from moatvpn.lockdown.ruleset import ruleset

OLD, NEW = "portal1.example.net", "portal2.example.net"
WILD = {OLD: "192.0.2.1", NEW: "192.0.2.2"}
CORPORATE = {OLD: ("10.50.0.1", "fd00:50::1"), NEW: ("10.50.0.2", "fd00:50::2")}
CORP, CORP6 = "10.50.0.10", "fd00:50::10"
POOLS = {OLD: ("10.201.0.0/16", "fd00:201::/32"), NEW: ("10.202.0.0/16", "fd00:202::/32")}
EVERY = 0.01  # seconds between pings

# A connection that asks and is answered, ten milliseconds apart, and says when all is well.
_ANSWER = """
import socket, sys
server = socket.create_server((sys.argv[1], 7009))
print("ready", flush=True)
peer, _ = server.accept()
while data := peer.recv(1 << 16):
    peer.sendall(data)
"""
_ASK = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 7009), timeout=10)
longest, number = 0.0, 0
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while (began := time.monotonic()) < end:
    data = number.to_bytes(4, "big") * 300
    peer.sendall(data)
    got = b""
    while len(got) < len(data):
        part = peer.recv(1 << 16)
        assert part, "closed"
        got += part
    assert got == data
    longest, number = max(longest, time.monotonic() - began), number + 1
    time.sleep(0.01)
print(number, longest)
"""


class Corporation:
    """Two portals on one corporate network, with a machine there, and a moat."""

    def __init__(self, moat: Box, portals: dict[str, Box], corp: Namespace, wild: Namespace):
        self.moat, self.portals, self.corp = moat, portals, corp
        for bridge in ("wild", "corp"):
            wild.ip("link", "add", bridge, "type", "bridge")
            wild.ip("link", "set", bridge, "up")
        self._cable(wild, "wild", moat, "wild0", f"{MOAT.wild}/24")
        for name, portal in portals.items():
            self._cable(wild, "wild", portal, "wild0", f"{WILD[name]}/24")
            corporate, corporate6 = CORPORATE[name]
            self._cable(wild, "corp", portal, "corp0", f"{corporate}/24", f"{corporate6}/64")
            for setting in ("ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1"):
                portal.run("sysctl", "-qw", f"net.{setting}")
            for interface in ("all", "corp0"):
                portal.run("sysctl", "-qw", f"net.ipv4.conf.{interface}.send_redirects=0")
            for pool in POOLS[name]:
                portal.ip("route", "add", pool, "dev", "moat0")
            self.lock(name)
        self._cable(wild, "corp", corp, "corp0", f"{CORP}/24", f"{CORP6}/64")
        for pool, router in zip(POOLS[OLD], CORPORATE[OLD], strict=True):
            corp.ip("route", "add", pool, "via", router)
        for own, bits, far in (
            (MOAT.inside, 32, "10.50.0.0/24"),
            (MOAT.inside6, 128, "fd00:50::/64"),
        ):
            moat.ip("address", "add", f"{own}/{bits}", "dev", "lo")
            moat.ip("route", "add", far, "dev", "moat0", "src", own)

    def lock(self, name: str, **changes: Any) -> None:
        """Load the ruleset that a portal has, in one transaction."""
        pool, pool6 = POOLS[name]
        path = self.portals[name].directory / "lockdown.nft"
        path.write_text(ruleset(portal_box(pool=pool, pool6=pool6, **changes)))
        self.portals[name].run("nft", "-f", str(path))

    def accept(self) -> None:
        """Have the new portal take the moat in."""
        for network in MOAT.networks:
            self.portals[NEW].ip("route", "add", network, "dev", "moat0")
        self.lock(NEW, moved_here=list(MOAT.networks))
        self.have(self.portals[NEW], self.to_moat())

    def hand_on(self) -> None:
        """Have the old portal send what comes for the moat to the new one."""
        self.lock(OLD, handed_on=list(MOAT.networks))
        for network, router in zip(MOAT.networks, CORPORATE[NEW], strict=True):
            self.portals[OLD].ip("route", "add", network, "via", router, "dev", "corp0")

    @staticmethod
    def _cable(hub: Namespace, bridge: str, box: Namespace, name: str, *addresses: str) -> None:
        end = f"{bridge[0]}{box.namespace[-4:]}"
        ends = (box.namespace, "type", "veth", "peer", "name", end, "netns", hub.namespace)
        run("ip", "link", "add", name, "netns", *ends)
        hub.ip("link", "set", end, "master", bridge, "up")
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            box.ip("address", "add", address, "dev", name, *nodad)
        box.ip("link", "set", name, "up")

    def to_portal(self, name: str, metric: int = 0) -> dict[str, Any]:
        return {
            "name": name.partition(".")[0],
            "remote_identity": name,
            "remote_public_keys": [self.portals[name].public_key],
            "local_selectors": list(MOAT.networks),
            "remote_selectors": ["0.0.0.0/0", "::/0"],
            "remote_address": WILD[name],
            "initiate": True,
            "metric": metric,
        }

    def to_moat(self) -> dict[str, Any]:
        return {
            "name": "c0001",
            "remote_identity": MOAT.identity,
            "remote_public_keys": [self.moat.public_key],
            "local_selectors": ["0.0.0.0/0", "::/0"],
            "remote_selectors": list(MOAT.networks),
        }

    def have(self, box: Box, *records: dict[str, Any]) -> None:
        """Give a box these connections and no others, as the module moat_connections does."""
        path = box.directory / "set.json"
        path.write_text(json.dumps({"connections": list(records)}))
        box.ctl("set", str(path), "--connections", str(box.connections))

    def packets(self, name: str, way: str) -> int:
        return int(self.moat.connection(name.partition(".")[0])[way])


@pytest.fixture
def corporation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corporation]:
    directory = tmp_path_factory.mktemp("corporation")
    with ExitStack() as stack:
        moat = stack.enter_context(new_box(directory, "vm", MOAT.identity))
        portals = {
            name: stack.enter_context(new_box(directory, letter, name))
            for name, letter in ((OLD, "vo"), (NEW, "vn"))
        }
        others = []
        for letter in ("vc", "vw"):
            namespace = moat.namespace.removesuffix("vm") + letter
            others.append(Namespace(namespace, directory / letter, "none"))
            stack.callback(others[-1].close)
        made = Corporation(moat, portals, *others)
        for box in (*portals.values(), moat):
            box.start()
        made.have(portals[OLD], made.to_moat())
        made.have(moat, made.to_portal(OLD))
        wait_for(lambda: made.corp.pings(MOAT.inside), "a ping through the old portal", 15)
        yield made


def lost(out: bytes) -> int:
    found = re.search(rb"(\d+) packets transmitted, (\d+) received", out)
    assert found is not None, out[-500:]
    return int(found[1]) - int(found[2])


def test_a_moat_goes_over_and_neither_side_loses_a_packet(corporation: Corporation) -> None:
    made, moat, corp = corporation, corporation.moat, corporation.corp
    old = corporation.portals[OLD]
    pipe = subprocess.PIPE
    server = moat.popen(sys.executable, "-uc", _ANSWER, MOAT.inside, stdout=pipe)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    length = 6.0 * PATIENCE
    asking = corp.popen(
        sys.executable, "-uc", _ASK, MOAT.inside, str(length), stdout=pipe, stderr=pipe
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == b"ready\n"
    count = str(int(length / EVERY))
    ping = ("ping", "-q", f"-i{EVERY}", f"-c{count}", "-W2")
    ways = ((corp, MOAT.inside), (corp, MOAT.inside6), (moat, CORP), (moat, CORP6))
    pings = [box.popen(*ping, address, stdout=pipe) for box, address in ways]

    made.accept()
    made.have(moat, made.to_portal(OLD), made.to_portal(NEW, metric=1))
    wait_for(lambda: moat.connection("portal2")["state"] == "established", "the new tunnel", 10)
    assert made.packets(NEW, "packets_out") == 0
    # From here to corp by the new portal, and from there by the old one.
    made.have(moat, made.to_portal(OLD, metric=2), made.to_portal(NEW, metric=1))
    wait_for(lambda: made.packets(NEW, "packets_out") > 10, "packets by the new portal", 5)
    assert made.packets(NEW, "packets_in") == 0
    made.hand_on()
    wait_for(lambda: made.packets(NEW, "packets_in") > 10, "packets from the new portal", 5)
    before = made.packets(OLD, "packets_in")
    wait_for(lambda: made.packets(NEW, "packets_in") > 50, "more of them", 5)
    assert made.packets(OLD, "packets_in") == before
    spi = moat.connection("portal2")["ike_spi_i"]
    made.have(moat, made.to_portal(NEW))
    made.have(old)
    assert moat.connection("portal2")["ike_spi_i"] == spi  # the same tunnel as before

    told, errors = asking.communicate(timeout=length + 20)
    assert asking.returncode == 0, errors
    exchanges, longest = told.split()
    gone = [lost(each.communicate(timeout=length + 20)[0]) for each in pings]
    server.wait(10)
    print(
        f"pings lost {gone} of {count}, {int(exchanges)} exchanges, longest {float(longest):.3f} s"
    )
    assert gone == [0, 0, 0, 0]
    assert float(longest) < PATIENCE


def test_a_tunnel_that_ends_gives_its_packets_to_the_other(corporation: Corporation) -> None:
    made, moat = corporation, corporation.moat
    made.accept()
    made.have(moat, made.to_portal(OLD), made.to_portal(NEW, metric=1))
    wait_for(lambda: moat.connection("portal2")["state"] == "established", "the new tunnel", 10)
    corporation.corp.ip("route", "add", MOAT.networks[0], "via", CORPORATE[NEW][0])
    made.have(corporation.portals[OLD])  # which says so to the moat
    wait_for(lambda: moat.pings(CORP), "a ping by the new portal", 5)
    made.have(corporation.portals[OLD], made.to_moat())
    wait_for(lambda: moat.connection("portal1")["state"] == "established", "the old tunnel", 60)
    assert moat.pings(CORP)
    assert made.packets(OLD, "packets_out") > 0
