"""What the raw and the UDP sockets have in common."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache

from moatvpn.counters import Counters, DropReason
from moatvpn.errors import OperatorError
from moatvpn.wire.endpoint import Endpoint

# Numbers of <linux/in.h> and <asm-generic/socket.h> that the socket module does not name.
IP_PKTINFO = 8
PKTINFO = struct.Struct("=i4s4s")  # interface, our address, the header's destination address
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_PROBE, _IP_PMTUDISC_OMIT = 3, 5
UDP_SEGMENT = 103  # <linux/udp.h>
_SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")  # <linux/sock_diag.h>; the last counts drops

BUFFER = 7 << 20  # octets that the kernel may hold for us while we are busy elsewhere
STRANGERS_BUFFER = 1 << 20  # the same, of messages that belong to no SA
LONGEST = 65535

Ancillary = tuple[int, int, bytes]


class Overflow:
    """Counts what the kernel drops because a socket's queue is full."""

    def __init__(self, sock: socket.socket, counters: Counters) -> None:
        self._socket = sock
        self._counters = counters
        self._seen = 0

    def look(self) -> None:
        """Count what has been dropped since the last look.

        Ask after a full batch: a queue that was full takes several to empty.
        """
        sizes = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        drops = _MEMINFO.unpack(sizes)[-1]
        if drops != self._seen:
            self._counters.drop(DropReason.WILD_OVERFLOW, (drops - self._seen) & 0xFFFFFFFF)
            self._seen = drops


class Fragmentation:
    """Says for one socket whether what it sends next may be fragmented; at first it may.

    What may not be has DF set, and is as long as the interface's MTU at most; what may be, this
    kernel cuts to no less than that. Path MTUs that it has learned do not count: anybody can forge
    the ICMP messages that teach them.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.allowed = False
        self.allow(True)

    def allow(self, allowed: bool) -> None:
        """Let, or do not let, anybody fragment what is sent from now on."""
        if allowed != self.allowed:
            how = _IP_PMTUDISC_OMIT if allowed else _IP_PMTUDISC_PROBE
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)
            self.allowed = allowed


def prepare(sock: socket.socket, buffer: int = BUFFER) -> None:
    """Make sock non-blocking, with large buffers; buffer is how much may wait to be received."""
    sock.setblocking(False)
    for force, plain, size in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, BUFFER),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)  # up to net.core.[rw]mem_max


def cannot_open(what: str, error: OSError) -> OperatorError:
    """Return the error that tells a person that a socket could not be opened."""
    if isinstance(error, PermissionError):
        remedy = "Run moatd with CAP_NET_ADMIN and CAP_NET_RAW, as its unit does"
    else:
        remedy = "Stop whatever else uses it (see ss -lunp)"
    return OperatorError(what, f"cannot be opened ({error.strerror})", remedy)


@lru_cache(maxsize=1024)
def sent_with(tos: int, source: str, segment: int = 0) -> tuple[Ancillary, ...]:
    """Return the control messages that set a packet's TOS octet and source address.

    A TOS of 0 and an empty source leave them to the kernel, which cuts what is sent into datagrams
    of segment octets, unless that is 0. Raises OSError for what is no address.
    """
    ancillary: list[Ancillary] = []
    if tos:
        ancillary.append((socket.IPPROTO_IP, socket.IP_TOS, struct.pack("=i", tos)))
    if source:
        info = PKTINFO.pack(0, socket.inet_aton(source), bytes(4))
        ancillary.append((socket.IPPROTO_IP, IP_PKTINFO, info))
    if segment:
        ancillary.append((socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", segment)))
    return tuple(ancillary)


# Forged sources may be many: the caches are bounded, and what falls out is only made again.
@lru_cache(maxsize=4096)
def endpoint(host: str, port: int) -> Endpoint:
    """Return the endpoint of a source, the same object for the same source."""
    return Endpoint(host, port)


@lru_cache(maxsize=4096)
def endpoint_of_octets(host: bytes) -> Endpoint:
    """Return the endpoint of an IPv4 source address of four octets, with port 0."""
    return Endpoint(socket.inet_ntoa(host), 0)
