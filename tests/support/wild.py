"""A tunnel over a wild side that carries little at a time, between two private networks.

    pc      lan0 10.201.1.2   --- lan0 10.201.1.1     moat
    moat    wild0 203.0.113.10 -- home0 203.0.113.1   router
    router  wild0 192.0.2.254 --- wild0 192.0.2.1     portal
    portal  lan0 10.50.0.1    --- lan0 10.50.0.2      corp

The wild path is narrow within the router, by its routes' MTU, so that each direction has its own:
what is too long is answered by "fragmentation needed" or cut up, as its DF bit says, while every
link takes 1500 octets. The router sees all that is on both wild links, as a wire would carry it:
one IP packet at a time. Needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from boxes import MOAT, PORTAL, Box, Namespace, new_box, run, wait_for
from pair import Pair

MOAT_WILD, HOME = "203.0.113.10", "203.0.113.1"
OUTSIDE = "192.0.2.254"
PC, PC6 = "10.201.1.2", "fd00:201:1::2"
CORP, CORP6 = "10.50.0.2", "fd00:50::2"

# All that passes the router, before any fragment could be put together. What the router itself
# sends is seen as it leaves, which is after it has cut up what it may.
_WIRE = """
table netdev wire {
    counter fragments {}
    counter large {}
    chain arriving {
        type filter hook ingress devices = { home0, wild0 } priority -500
        ip frag-off & 0x3fff != 0 counter name fragments
    }
    chain leaving {
        type filter hook egress devices = { home0, wild0 } priority -500
        ip frag-off & 0x3fff != 0 counter name fragments
    }
    chain to_portal { type filter hook egress device wild0 priority -400; }
    chain to_moat { type filter hook egress device home0 priority -400; }
}
"""

# What no client may ever be told: ICMP's "fragmentation needed", ICMPv6's "packet too big".
_TOLD = """
table inet told {
    counter told {}
    chain arriving {
        type filter hook prerouting priority -500
        icmp type destination-unreachable icmp code 4 counter name told
        icmpv6 type packet-too-big counter name told
    }
}
"""

_SILENCE = """
table inet silence {
    chain forward { type filter hook forward priority 0; meta l4proto icmp drop; }
    chain own { type filter hook output priority 0; meta l4proto icmp drop; }
}
"""

_DISCARD = 9  # the port of a service that nobody offers
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL, _ETHTOOL_SGRO = 0x8946, 0x2C  # <linux/sockios.h>, <linux/ethtool.h>


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Have this thread in namespace for the block: a socket stays where it was made."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{namespace.namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc().setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace.namespace}")
        try:
            yield
        finally:
            assert _libc().setns(before, _CLONE_NEWNET) == 0
    finally:
        os.close(there)
        os.close(before)


def socket_in(namespace: Namespace, *words: int) -> socket.socket:
    """Return a socket of a namespace; words are those of socket.socket."""
    with inside(namespace):
        return socket.socket(*words)


def counters(namespace: Namespace, family: str, table: str) -> dict[str, int]:
    """Return how many packets each counter of a table of nftables has seen."""
    listed = namespace.run("nft", "-j", "list", "counters", "table", family, table).stdout
    found = (row["counter"] for row in json.loads(listed)["nftables"] if "counter" in row)
    return {row["name"]: row["packets"] for row in found}


def _veth(one: Namespace, name: str, other: Namespace, other_name: str) -> None:
    ends = (one.namespace, "type", "veth", "peer", "name", other_name, "netns")
    run("ip", "link", "add", name, "netns", *ends, other.namespace)
    one.ip("link", "set", name, "up")
    other.ip("link", "set", other_name, "up")


def _as_real_ports(box: Namespace) -> None:
    """Have box's wild side send one IP packet at a time, and join what it receives (GRO)."""
    box.ip("link", "set", "wild0", "gso_max_segs", "1")
    value = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_SGRO, 1))
    with socket_in(box, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP", b"wild0", ctypes.addressof(value)))


def _forward(box: Namespace) -> None:
    with inside(box):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


class Wild(Pair):
    """The five namespaces, with a tunnel between moat and portal."""

    def __init__(
        self,
        boxes: tuple[Box, Box],
        others: tuple[Namespace, Namespace, Namespace],
        encapsulation: str,
    ) -> None:
        self.router, self.pc, self.corp = others
        super().__init__(*boxes, encapsulation)
        for namespace in (self.pc, self.corp):
            namespace.run("nft", _TOLD)

    def link(self) -> None:
        """Lay the network, which takes 1500 octets everywhere to begin with."""
        moat, portal, router = self.moat, self.portal, self.router
        _veth(self.pc, "lan0", moat, "lan0")
        _veth(moat, "wild0", router, "home0")
        _veth(portal, "wild0", router, "wild0")
        _veth(self.corp, "lan0", portal, "lan0")
        for box in (moat, portal, router):
            _forward(box)
        for box, side, client, client6, into in (
            (moat, MOAT, (self.pc, PC), PC6, PORTAL.networks),
            (portal, PORTAL, (self.corp, CORP), CORP6, ("10.201.0.0/16", "fd00:201::/32")),
        ):
            for namespace, host, host6 in (
                (box, side.inside, side.inside6),
                (client[0], client[1], client6),
            ):
                namespace.ip("address", "add", f"{host}/24", "dev", "lan0")
                namespace.ip("address", "add", f"{host6}/64", "dev", "lan0", "nodad")
            client[0].ip("route", "add", "default", "via", side.inside)
            client[0].ip("route", "add", "default", "via", side.inside6)
            for network, source in zip(into, (side.inside, side.inside6), strict=True):
                box.ip("route", "add", network, "dev", "moat0", "src", source)
        for box, address, via in ((moat, MOAT_WILD, HOME), (portal, PORTAL.wild, OUTSIDE)):
            _as_real_ports(box)
            box.ip("address", "add", f"{address}/24", "dev", "wild0")
            box.ip("route", "add", "default", "via", via)
        router.ip("address", "add", f"{HOME}/32", "dev", "home0")
        router.ip("address", "add", f"{OUTSIDE}/32", "dev", "wild0")
        router.run("nft", _WIRE)
        self.narrow(1500)

    # The wild side

    def narrow(self, to_portal: int, to_moat: int | None = None) -> None:
        """Let the wild side carry so many octets at a time from now on."""
        self._narrow = to_portal, to_portal if to_moat is None else to_moat
        ways = (
            ("192.0.2.0/24", "wild0", OUTSIDE, "to_portal"),
            ("203.0.113.0/24", "home0", HOME, "to_moat"),
        )
        self.router.run("nft", ";".join(f"flush chain netdev wire {way[3]}" for way in ways))
        rules = []
        for (network, device, own, chain), mtu in zip(ways, self._narrow, strict=True):
            words = ("dev", device, "scope", "link", "src", own, "mtu", str(mtu))
            self.router.ip("route", "replace", network, *words)
            rules.append(f"add rule netdev wire {chain} ip length > {mtu} counter name large")
        self.router.run("nft", ";".join(rules))

    def silence(self) -> None:
        """Let no ICMP of IPv4 pass the router, nor come from it, from now on."""
        self.router.run("nft", _SILENCE)

    def seen(self) -> dict[str, int]:
        """Return how many packets there have been of those that there should be none of.

        fragments: of IPv4, on the two wild links. large: longer than the path carries, beyond its
        narrowest place. told: to a client, that a packet of its was too long.
        """
        result = counters(self.router, "netdev", "wire")
        result["told"] = sum(counters(box, "inet", "told")["told"] for box in (self.pc, self.corp))
        return result

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Fail where one of those is seen in the block."""
        before = self.seen()
        yield
        after = self.seen()
        more = {kind: after[kind] - before[kind] for kind in after if after[kind] != before[kind]}
        assert not more, f"seen on the way: {more}"

    # The private sides

    def lan(self, mtu: int) -> None:
        """Let both private networks carry so many octets at a time."""
        for namespace in (self.pc, self.moat, self.portal, self.corp):
            namespace.ip("link", "set", "lan0", "mtu", str(mtu))

    # What moatd measures

    def path_mtu(self) -> tuple[int, int]:
        """Return what the moat and the portal know the wild path to carry, in octets."""
        rows = (self.moat.connection("portal1"), self.portal.connection("m0001"))
        return rows[0]["path_mtu"], rows[1]["path_mtu"]

    def measured(self) -> bool:
        """Whether both ends have measured the wild path as it is; sends a little both ways.

        Only where there is traffic is a path measured anew.
        """
        for sender, address in ((self.pc, CORP), (self.corp, PC)):
            with socket_in(sender, socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(bytes(4000), (address, _DISCARD))
        return self.path_mtu() == self._narrow

    def settle(self, deadline: float) -> None:
        """Wait until both ends have measured the wild path as it is now."""
        wait_for(self.measured, f"a path MTU of {self._narrow}", deadline)


@contextmanager
def _namespace(directory: Path, letter: str) -> Iterator[Namespace]:
    made = Namespace(f"moat-test-{os.getpid()}-{letter}", directory / letter, "")
    try:
        yield made
    finally:
        made.close()


@contextmanager
def wild(
    directory: Path,
    encapsulation: str,
    change: Callable[[Wild], None] = lambda _: None,
    letters: str = "mprcs",
) -> Iterator[Wild]:
    """A tunnel over a wild side for the length of the block; change is done before it starts.

    letters tell its five namespaces from those of other tunnels: moat, portal, router, pc, corp.
    """
    with ExitStack() as stack:
        boxes = (
            stack.enter_context(new_box(directory, letters[0], MOAT.identity)),
            stack.enter_context(new_box(directory, letters[1], PORTAL.identity)),
        )
        router, pc, corp = (
            stack.enter_context(_namespace(directory, letter)) for letter in letters[2:]
        )
        made = Wild(boxes, (router, pc, corp), encapsulation)
        change(made)
        made.start()
        yield made
