"""A box as a network namespace, and all of its neighbours in one other. Needs root.

Neighbours are sockets of AF_PACKET at the far ends of the box's cables: they send what they like,
under any address, and see what comes out.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxes import run, wait_for
from inside import within
from zone_packets import MARKER

from moatvpn.drivers.conntrack import forget
from moatvpn.lockdown.ruleset import ruleset
from moatvpn.lockdown.zones import LOCAL, Box, Kind, Zone

_PROTOCOLS = {4: (1, 6, 17, 50), 6: (6, 17, 50, 58)}
_ALL = 3  # ETH_P_ALL
_ETHERNET = {4: 0x0800, 6: 0x86DD}
_IPV6_HDRINCL = 36


@dataclass(frozen=True)
class Place:
    """Where a zone is in the star: addresses of the box there, and of two neighbours."""

    ours: str
    ours6: str
    theirs: str
    theirs6: str
    other: str
    other6: str


def place(zone: Zone, tunnels: dict[str, Place] | None = None) -> Place:
    """Return a zone's place: its own subnets, or for the wild side and tunnels some of theirs."""
    if zone.kind is Kind.WILD:
        four, six = "198.51.100", "fd00:f"
    elif zone.subnet4 is not None:
        four = str(zone.subnet4).rpartition(".")[0]
        six = str(zone.subnet6).partition("::")[0] if zone.subnet6 is not None else "fd00:77"
    else:
        number = zone.interface.removeprefix("moat")
        four, six = f"10.5{number}.0", f"fd00:5{number}"
    ours = ("192.0.2.10", "fd00:f::1") if zone.kind is Kind.WILD else (f"{four}.1", f"{six}::1")
    return Place(*ours, f"{four}.10", f"{six}::10", f"{four}.11", f"{six}::11")


class Star:
    """A box with an interface for each zone of the widest box that it is to be."""

    def __init__(self, widest: Box, name: str) -> None:
        self.box, self.outside = f"{name}-zb", f"{name}-zo"
        self.places = {zone.interface: place(zone) for zone in widest.zones}
        # A moat has no address at a tunnel: what comes out of one speaks to the private side's.
        for zone in widest.of(Kind.PRIVATE):
            private, tunnel = self.places[zone.interface], widest.tunnel_of(zone).interface
            there = self.places[tunnel]
            self.places[tunnel] = Place(
                private.ours, private.ours6, there.theirs, there.theirs6, there.other, there.other6
            )
        self._widest = widest
        self._sockets: dict[str, socket.socket] = {}
        self._inner: dict[int, list[socket.socket]] = {4: [], 6: []}

    def start(self) -> None:
        """Make the namespaces, the cables, and the sockets at their ends."""
        for namespace in (self.box, self.outside):
            run("ip", "netns", "add", namespace)
        settings = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
        settings += [f"net.ipv4.conf.{each}.rp_filter=0" for each in ("all", "default")]
        settings += [f"net.ipv4.conf.{each}.send_redirects=0" for each in ("all", "default")]
        settings += [f"net.ipv6.conf.{each}.accept_dad=0" for each in ("all", "default")]
        run("ip", "netns", "exec", self.box, "sysctl", "-qw", *settings)
        quiet = [f"net.ipv6.conf.{each}.disable_ipv6=1" for each in ("all", "default")]
        run("ip", "netns", "exec", self.outside, "sysctl", "-qw", *quiet)
        cables = [
            f"link add {interface} type veth peer name {interface} netns {self.outside}"
            for interface in self.places
        ]
        self._batch(self.box, ["link set lo up", *cables])
        self._batch(self.outside, [f"link set {each} up arp off" for each in self.places])
        self._batch(self.box, [line for each in self._widest.zones for line in self._lines(each)])
        links = json.loads(run("ip", "-n", self.box, "-json", "link", "show").stdout)
        self._macs = {
            link["ifname"]: bytes.fromhex(link["address"].replace(":", "")) for link in links
        }
        with within(self.outside):
            for interface in self.places:
                made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
                made.bind((interface, _ALL))
                made.setblocking(False)
                self._sockets[interface] = made
        with within(self.box):
            for family, af in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                for protocol in _PROTOCOLS[family]:
                    made = socket.socket(af, socket.SOCK_RAW, protocol)
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
                    made.setblocking(False)
                    self._inner[family].append(made)
            self._own4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._own6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._own6.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)

    def _lines(self, zone: Zone) -> list[str]:
        """Return what ip has to do for a zone, addresses, routes and neighbours."""
        here, dev = self.places[zone.interface], f"dev {zone.interface}"
        lines = [f"link set {zone.interface} up"]
        if zone.kind is not Kind.TUNNEL:
            lines += [
                f"address add {here.ours}/32 {dev}",
                f"address add {here.ours6}/128 {dev} nodad",
            ]
        for address in (here.theirs, here.theirs6, here.other, here.other6):
            lines.append(f"route replace {address} {dev}")
            lines.append(
                f"neighbour replace {address} lladdr 02:00:00:00:00:01 nud permanent {dev}"
            )
        return lines

    def _batch(self, namespace: str, lines: list[str]) -> None:
        done = subprocess.run(
            ["ip", "-n", namespace, "-batch", "-"],
            input="\n".join(lines), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        """Remove all of it, the cables before the namespaces."""
        for each in [*self._sockets.values(), *self._inner[4], *self._inner[6]]:
            each.close()
        for each in (getattr(self, name, None) for name in ("_own4", "_own6")):
            if each is not None:
                each.close()
        for interface in self.places:
            run("ip", "-n", self.box, "link", "delete", interface, check=False)
        for namespace in (self.box, self.outside):
            run("ip", "netns", "delete", namespace, check=False)

    def nft(self, *words: str, text: str = "") -> str:
        """Run nft in the box, with text as its input; return what it says."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.box, "nft", *words],
            input=text, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def load(self, box: Box) -> None:
        """Give the box its ruleset."""
        self.nft("-f", "-", text=ruleset(box))

    def listing(self) -> Any:
        """Return what the kernel says of the table."""
        return json.loads(self.nft("-j", "list", "table", "inet", "moat"))

    def dropped(self) -> dict[str, int]:
        """Return the counters of dropped packets by their names, those that have counted."""
        listed = json.loads(self.nft("-j", "list", "counters", "table", "inet", "moat"))["nftables"]
        rows = [each["counter"] for each in listed if "counter" in each]
        return {row["name"]: row["packets"] for row in rows if row["packets"]}

    def connections(self) -> int:
        """Return how many connections the box's kernel keeps track of."""
        with within(self.box):
            return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())

    def forget(self) -> None:
        """Have the box's kernel forget all connections."""
        with within(self.box):
            forget(None)

    def send(self, zone: Zone, packet: bytes) -> None:
        """Let a neighbour of a zone, or the box itself, send a packet."""
        family = packet[0] >> 4
        if zone is LOCAL:
            own = self._own4 if family == 4 else self._own6
            address = packet[16:20] if family == 4 else packet[24:40]
            text = socket.inet_ntop(own.family, address)
            try:
                own.sendto(packet, (text, 0))
            except PermissionError:  # the ruleset's answer
                return
        else:
            source = b"\x02\x00\x00\x00\x00\x01"
            head = self._macs[zone.interface] + source + _ETHERNET[family].to_bytes(2, "big")
            self._sockets[zone.interface].send(head + packet)

    def through(self, zone: Zone, packet: bytes, at: Zone) -> bytes:
        """Send a packet; return it as it comes out at a zone, which it does within 2 s."""
        self.send(zone, packet)
        found: list[bytes] = []

        def came() -> bool:
            found.extend(self.arrived(0.02).get(at.interface, []))
            return bool(found)

        wait_for(came, f"a packet from {zone.name} at {at.name}", 2)
        return found[0]

    def stopped(self, zone: Zone, packet: bytes) -> bool:
        """Send a packet; tell whether it comes out nowhere."""
        self.send(zone, packet)
        return self.arrived(0.15) == {}

    def arrived(self, patience: float = 0.3) -> dict[str, list[bytes]]:
        """Return the packets with a marker that have come out, by interface; lo is the box itself.

        It waits until nothing more comes for as long as patience says.
        """
        seen: dict[str, list[bytes]] = {}
        last = time.monotonic()
        while time.monotonic() - last < patience:
            new = [(name, each) for name, sock in self._sockets.items() for each in _outer(sock)]
            new += [
                ("lo", each) for family in (4, 6) for s in self._inner[family] for each in _all(s)
            ]
            for name, data in new:
                if MARKER in data:
                    seen.setdefault(name, []).append(data)
            if new:
                last = time.monotonic()
            else:
                time.sleep(0.02)
        return seen


def _outer(sock: socket.socket) -> Iterator[bytes]:
    """Yield the IP packets that have come to a neighbour, not those that it has sent."""
    while True:
        try:
            frame, address = sock.recvfrom(70_000)
        except BlockingIOError:
            return
        if address[2] != socket.PACKET_OUTGOING:
            yield frame[14:]


def _all(sock: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield sock.recv(70_000)
        except BlockingIOError:
            return
