"""A box and its neighbours as network namespaces, and questions of what gets through.

Sockets are opened inside a namespace and stay in it, so that a question costs no process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

from inside import within

_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_DO = 10, 0, 2
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24
# The most that a UDP datagram carries: IPv4 counts its own header in 16 bits, too, IPv6 does not.
_LARGEST = {socket.AF_INET: 65_535 - 20 - 8, socket.AF_INET6: 65_535 - 8}
_ECHO = {4: (socket.IPPROTO_ICMP, 8, 0), 6: (socket.IPPROTO_ICMPV6, 128, 129)}


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Wires:
    """Namespaces that are joined to one box by virtual wires, called as the box's interfaces.

    box, and whichever of the others there are, are the names of namespaces; patience is how many
    seconds a packet may take.
    """

    wild: str
    home: str
    corp: str
    tunnel: str
    other: str

    def __init__(self, name: str) -> None:
        self.box = f"{name}-box"
        self.patience = 2.0
        self._prefix = name
        self._made: list[str] = []
        self._make(self.box)
        for setting in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            self.run(self.box, "sysctl", "--quiet", "--write", f"net.{setting}=1")
        for each in ("all", "default"):
            self.run(self.box, "sysctl", "--quiet", "--write", f"net.ipv4.conf.{each}.rp_filter=0")

    def _make(self, namespace: str) -> None:
        _command("ip", "netns", "add", namespace)
        self._made.append(namespace)
        _command("ip", "-n", namespace, "link", "set", "lo", "up")
        # Addresses that can be used at once, without a search for others who have them.
        self.run(namespace, "sysctl", "--quiet", "--write", "net.ipv6.conf.default.accept_dad=0")

    def close(self) -> None:
        for namespace in self._made:
            _command("ip", "netns", "del", namespace)

    def run(self, namespace: str, *command: str) -> str:
        return _command("ip", "netns", "exec", namespace, *command)

    def load(self, ruleset: Path) -> None:
        self.run(self.box, "nft", "-f", str(ruleset))

    def neighbour(self, interface: str, ours: list[str], theirs: list[str]) -> str:
        """Make a neighbour at an interface of the box; return its namespace.

        Each side has addresses; the neighbour's way to everywhere else is the box.
        """
        namespace = f"{self._prefix}-{interface}"
        self._make(namespace)
        wire = ["type", "veth", "peer", "name", "eth0", "netns", namespace]
        _command("ip", "-n", self.box, "link", "add", interface, *wire)
        for where, device, addresses in (
            (self.box, interface, ours),
            (namespace, "eth0", theirs),
        ):
            for address in addresses:
                words = ["nodad"] if ":" in address else []
                _command("ip", "-n", where, "address", "add", address, "dev", device, *words)
            _command("ip", "-n", where, "link", "set", device, "up")
        for address in ours:
            family = "-6" if ":" in address else "-4"
            via = address.partition("/")[0]
            _command("ip", "-n", namespace, family, "route", "add", "default", "via", via)
        if interface == "moat0":  # as a TUN, which knows no neighbours, and asks for none
            self._introduce(self.box, interface, theirs, namespace, "eth0")
            self._introduce(namespace, "eth0", ours, self.box, interface)
        return namespace

    def _introduce(
        self, namespace: str, device: str, addresses: list[str], other: str, at: str
    ) -> None:
        """Tell a namespace who has addresses: the device "at" of the other one."""
        link = json.loads(_command("ip", "-n", other, "-json", "link", "show", at))
        words = ["lladdr", link[0]["address"], "nud", "permanent", "dev", device]
        for address in addresses:
            host = address.partition("/")[0]
            _command("ip", "-n", namespace, "neighbour", "replace", host, *words)

    def mtu(self, interface: str, octets: int) -> None:
        """Set the MTU of an interface of the box; its neighbour's is no smaller than Ethernet's."""
        _command("ip", "-n", self.box, "link", "set", interface, "mtu", str(octets))
        other = f"{self._prefix}-{interface}"
        _command("ip", "-n", other, "link", "set", "eth0", "mtu", str(max(octets, 1500)))

    def _socket(self, namespace: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with within(namespace):
            made = socket.socket(family, kind, protocol)
        made.settimeout(self.patience)
        return made

    def open(self, namespace: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a new socket in a namespace, for questions that are none of those below."""
        return self._socket(namespace, family, kind, protocol)

    def udp(
        self, whence: str, to: str, address: str, port: int, sport: int = 0, source: str = ""
    ) -> bool:
        """Tell whether a datagram from whence arrives at a port of the namespace to."""
        family = _family(address)
        with (
            closing(self._socket(to, family, socket.SOCK_DGRAM)) as receiver,
            closing(self._socket(whence, family, socket.SOCK_DGRAM)) as sender,
        ):
            receiver.bind(("", port))
            sender.bind((source, sport))
            try:
                sender.sendto(b"a question", (address, port))
                return receiver.recv(100) == b"a question"
            except OSError:
                return False

    def largest_udp(self, whence: str, to: str, address: str) -> bool:
        """Tell whether the largest datagram that there is, which may be fragmented, arrives."""
        family = _family(address)
        data = os.urandom(_LARGEST[family])
        with (
            closing(self._socket(to, family, socket.SOCK_DGRAM)) as receiver,
            closing(self._socket(whence, family, socket.SOCK_DGRAM)) as sender,
        ):
            receiver.bind(("", 7002))
            if family == socket.AF_INET6:  # only who sends makes fragments
                sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU, 1500)
            else:
                sender.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
            try:
                sender.sendto(data, (address, 7002))
                return receiver.recv(65_535) == data
            except OSError:
                return False

    def tcp(self, whence: str, to: str, address: str, port: int) -> bool:
        """Tell whether whence can open a connection to a port of the namespace to."""
        return bool(self._segments(whence, to, address, port))

    def segments(self, whence: str, to: str, address: str) -> set[int]:
        """Return how many octets the two ends of a TCP connection put into a segment at most.

        Both say in their SYN what they take: what came through of that decides.
        """
        return self._segments(whence, to, address, 7003)

    def _segments(self, whence: str, to: str, address: str, port: int) -> set[int]:
        family = _family(address)
        with (
            closing(self._socket(to, family, socket.SOCK_STREAM)) as listener,
            closing(self._socket(whence, family, socket.SOCK_STREAM)) as caller,
        ):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
            listener.listen()
            if caller.connect_ex((address, port)) != 0:
                return set()
            with closing(listener.accept()[0]) as called:
                return {
                    each.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
                    for each in (caller, called)
                }

    def esp(self, whence: str, to: str, address: str) -> bool:
        """Tell whether a packet of IP protocol 50 arrives."""
        with (
            closing(self._socket(to, socket.AF_INET, socket.SOCK_RAW, 50)) as receiver,
            closing(self._socket(whence, socket.AF_INET, socket.SOCK_RAW, 50)) as sender,
        ):
            try:
                sender.sendto(b"an envelope", (address, 0))
                return receiver.recv(100).endswith(b"an envelope")
            except OSError:
                return False

    def ping(self, whence: str, address: str) -> bool:
        """Tell whether an echo request is answered."""
        version = 6 if ":" in address else 4
        protocol, question, answer = _ECHO[version]
        with closing(self._socket(whence, _family(address), socket.SOCK_RAW, protocol)) as caller:
            # An identifier of our own; the kernel fills in the checksum of ICMPv6.
            echo = bytes((question, 0)) + (b"\xf7\xff" if version == 4 else bytes(2)) + bytes(4)
            try:
                caller.sendto(echo, (address, 0))
                while True:
                    packet = caller.recv(100)
                    if packet[20 if version == 4 else 0] == answer:
                        return True
            except OSError:
                return False

    def learns_the_mtu(self, whence: str, address: str) -> bool:
        """Tell whether whence, sending 1400 octets with DF, is told that they are too many."""
        six = ":" in address
        level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
        option = _IPV6_MTU_DISCOVER if six else _IP_MTU_DISCOVER
        with closing(self._socket(whence, _family(address), socket.SOCK_DGRAM)) as sender:
            sender.setsockopt(level, option, _IP_PMTUDISC_DO)
            sender.connect((address, 9))
            try:
                sender.send(bytes(1400))
                sender.recv(1)
            except TimeoutError:
                pass
            except OSError as error:
                return error.errno == 90  # EMSGSIZE
            try:
                sender.send(bytes(1400))
            except OSError as error:
                return error.errno == 90
            return False


def _command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout
