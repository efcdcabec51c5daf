"""What has to cross a tunnel whole: TCP, UDP, pings of many sizes, one raw packet.

Both ends are sockets of this program in the clients' namespaces, so that what arrives is compared
with what was sent, octet by octet.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from boxes import PATIENCE
from wild import socket_in

if TYPE_CHECKING:
    from boxes import Namespace

PATIENT = 10.0 * PATIENCE  # seconds that what comes next may keep us waiting
DONT, DO, PROBE = 0, 2, 3  # of IP_MTU_DISCOVER: no DF; DF; DF, and ICMP is not heeded
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_SO_RCVBUFFORCE = 33
_SO_MAX_PACING_RATE = 47
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_EXPERIMENT = 253  # IP protocol for experiments (RFC 3692)
_BUFFER = 4 << 20
_AT_ONCE = 48  # pings under way


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def discover(sock: socket.socket, way: int) -> None:
    """Say whether what sock sends has DF, and whether the kernel heeds ICMP for it."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, way)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, way)


# TCP


class Flow:
    """A transfer by TCP with DF, and what was seen of it.

    stall: the longest that the receiver was without anything, in seconds. segments: the longest
    segment that the sender would make, in octets, at the beginning and at the end.
    """

    def __init__(self, sender: socket.socket, receiver: socket.socket, octets: int | None) -> None:
        self.octets = 0
        self.stall = 0.0
        self.stop = threading.Event()
        self.segments = [_segment(sender)]
        self._sockets = sender, receiver
        self._hashes: dict[str, bytes] = {}
        self._left = octets
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        sock, hashed, left = self._sockets[0], hashlib.sha256(), self._left
        block = os.urandom(1 << 18)
        while not self.stop.is_set() and left != 0:
            piece = block if left is None else block[:left]
            sock.sendall(piece)
            hashed.update(piece)
            left = left and left - len(piece)
        self.segments.append(_segment(sock))
        sock.shutdown(socket.SHUT_WR)
        self._hashes["sent"] = hashed.digest()

    def _receive(self) -> None:
        sock, hashed = self._sockets[1], hashlib.sha256()
        last = time.monotonic()
        while data := sock.recv(1 << 16):
            now = time.monotonic()
            self.stall, last = max(self.stall, now - last), now
            self.octets += len(data)
            hashed.update(data)
        self._hashes["received"] = hashed.digest()

    def finish(self) -> None:
        """Wait for the end of the transfer; fail unless all of it came."""
        for thread in self._threads:
            thread.join(60 * PATIENCE)
        assert len(self._hashes) == 2, f"the transfer broke off after {self.octets} octets"
        assert self._hashes["sent"] == self._hashes["received"]


def _segment(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


@contextmanager
def tcp(
    sender: Namespace,
    receiver: Namespace,
    address: str,
    octets: int | None = None,
    *,
    pace: int = 0,
    way: int = DO,
) -> Iterator[Flow]:
    """Send by TCP from address, which is sender's, to receiver; all has come once the block ends.

    octets is how many, None for as many as there is time for in the block; pace how many of them a
    second, 0 for as many as TCP can.
    """
    with ExitStack() as stack:
        kind = (_family(address), socket.SOCK_STREAM)
        listener = stack.enter_context(socket_in(sender, *kind))
        client = stack.enter_context(socket_in(receiver, *kind))
        listener.bind((address, 0))
        listener.listen()
        for sock in (listener, client):
            sock.settimeout(PATIENT)
            discover(sock, way)
        client.connect(listener.getsockname()[:2])
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(PATIENT)
        discover(server, way)
        if pace:
            server.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, pace)
        flow = Flow(server, client, octets)
        try:
            yield flow
        finally:
            if octets is None:
                flow.stop.set()
        flow.finish()


# UDP


def udp(
    sender: Namespace, receiver: Namespace, address: str, size: int, *, way: int = DONT
) -> None:
    """Send one datagram of size octets to address, which is receiver's; fail unless it comes."""
    data = random.Random(size).randbytes(size)
    kind = (_family(address), socket.SOCK_DGRAM)
    with socket_in(sender, *kind) as source, socket_in(receiver, *kind) as sink:
        sink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        sink.bind((address, 0))
        sink.settimeout(PATIENT)
        discover(source, way)
        source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        source.sendto(data, sink.getsockname()[:2])
        assert sink.recv(1 << 16) == data


# Pings


def pings(sender: Namespace, address: str, sizes: range, whole: int) -> None:
    """Ping address with each of sizes, in octets of data; fail unless each answer is right.

    whole is the private network's MTU: what fits has DF, what does not goes in fragments.
    """
    six = _family(address) == socket.AF_INET6
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    echoes = random.Random(address).randbytes(2 * sizes.stop)
    left, waiting = list(reversed(sizes)), set[int]()
    identifier = os.getpid() & 0xFFFF
    with socket_in(sender, _family(address), socket.SOCK_RAW, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        sock.settimeout(PATIENT)
        way = None
        while left or waiting:
            while left and len(waiting) < _AT_ONCE:
                size = left.pop()
                wanted = DO if size + 8 + (40 if six else 20) <= whole else DONT
                if wanted != way:
                    discover(sock, way := wanted)
                message = _echo(six, identifier, size, echoes[size : 2 * size])
                sock.sendto(message, (address, 0))
                waiting.add(size)
            try:
                answer = sock.recv(1 << 16)
            except TimeoutError:
                raise AssertionError(f"no answer to pings of {sorted(waiting)}") from None
            message = answer if six else answer[(answer[0] & 15) * 4 :]
            kind, _, _, who, number = struct.unpack_from("!BBHHH", message)
            if kind == (129 if six else 0) and who == identifier:
                assert message[8:] == echoes[number : 2 * number], f"ping of {number} octets"
                waiting.remove(number)  # a second answer is an error, too


def _echo(six: bool, identifier: int, number: int, data: bytes) -> bytes:
    """Return an echo request; of ICMPv6 the kernel fills in the checksum."""
    if six:
        return struct.pack("!BBHHH", 128, 0, 0, identifier, number) + data
    rest = struct.pack("!HH", identifier, number) + data
    whole = b"\x08\x00\x00\x00" + rest + bytes(len(rest) & 1)
    checksum = 0xFFFF - int.from_bytes(whole, "big") % 0xFFFF
    return struct.pack("!BBH", 8, 0, checksum) + rest


# One raw packet


def raw_packet(
    sender: Namespace, receiver: Namespace, addresses: tuple[str, str], size: int
) -> tuple[bytes, list[bytes]]:
    """Send one raw packet with DF of size octets in all; return it, and all that arrives of it.

    addresses are the sender's and the receiver's. The hop limit is left out of both (0), and so is
    the checksum of IPv4's header, which covers it.
    """
    source, destination = addresses
    identifier = random.Random(size).randrange(1, 1 << 16)
    six = _family(source) == socket.AF_INET6
    ends = b"".join(socket.inet_pton(_family(source), address) for address in addresses)
    if six:
        head = struct.pack("!IHBB", 6 << 28, size - 40, _EXPERIMENT, 64) + ends
    else:
        words = (0x45, 0, size, identifier, 0x4000, 64, _EXPERIMENT, 0)
        head = struct.pack("!BBHHHBBH", *words) + ends
    packet = head + random.Random(size).randbytes(size - len(head))
    kind = _ETH_P_IPV6 if six else _ETH_P_IP
    with (
        socket_in(sender, _family(source), socket.SOCK_RAW, socket.IPPROTO_RAW) as out,
        socket_in(receiver, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind)) as tap,
    ):
        tap.settimeout(PATIENT)
        out.sendto(packet, (destination, 0))
        seen = [_seen(tap, ends, six)]
        tap.settimeout(0.1)  # is there more of it?
        try:
            while True:
                seen.append(_seen(tap, ends, six))
        except TimeoutError:
            pass
    return _timeless(packet, six), [_timeless(one, six) for one in seen]


def _seen(tap: socket.socket, ends: bytes, six: bool) -> bytes:
    """Return the next packet between two ends."""
    start = 8 if six else 12
    while (packet := tap.recv(1 << 16))[start : start + len(ends)] != ends:
        pass
    return packet


def _timeless(packet: bytes, six: bool) -> bytes:
    """Return a packet without what each hop changes."""
    if six:
        return packet[:7] + b"\0" + packet[8:]
    return packet[:8] + b"\0" + packet[9:10] + b"\0\0" + packet[12:]
