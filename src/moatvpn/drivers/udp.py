"""IKE on UDP ports 500 and 4500, and ESP in UDP on 4500 (RFC 3948)."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.gro import NON_ESP_MARKER, is_plain, split
from moatvpn.drivers.interfaces import BATCH
from moatvpn.drivers.mmsg import ManySender
from moatvpn.drivers.sockets import (
    BUFFER,
    IP_PKTINFO,
    LONGEST,
    PKTINFO,
    STRANGERS_BUFFER,
    UDP_SEGMENT,
    Ancillary,
    Fragmentation,
    Overflow,
    cannot_open,
    endpoint,
    prepare,
    sent_with,
)
from moatvpn.drivers.steering import bind_all
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.wire.endpoint import IKE_PORT, KEEPALIVE, Datagram

_UDP_ENCAP, _UDP_ENCAP_ESPINUDP = 100, 2  # linux/udp.h
_UDP_GRO = 104
_ANCILLARY_SPACE = socket.CMSG_SPACE(PKTINFO.size) + 2 * socket.CMSG_SPACE(4)
_BURST = 1 << 18  # octets of one batch, more or less: what waits behind it waits less than 1 ms
_UNTOLD = (0, 0, bytes(4))  # where the kernel tells nothing: see _read
# What is not to be fragmented goes in one call up to here; longer envelopes may need fragments,
# which the kernel does not make of what it cuts itself.
_NEVER_FRAGMENTED = 1472
# Why the kernel does not cut a burst: envelopes longer than the way's MTU (which of the two says
# so depends on the kernel), or a device that leaves checksums to others, as it always will.
_NOT_CUT = frozenset((errno.EINVAL, errno.EMSGSIZE, errno.EIO))


def local_address_towards(host: str) -> str | None:
    """Return the IPv4 address that we would send to host from, None where there is no way now.

    Asks the kernel's routing only: nothing is sent.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((host, IKE_PORT))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _read(ancillary: list[Ancillary]) -> tuple[int, int, bytes]:
    """Return TOS octet, length of each datagram, and our address from what the kernel tells.

    The length is 0 where nothing has been put together.
    """
    tos, segment, local = _UNTOLD
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            segment = int.from_bytes(value, sys.byteorder)
        elif level != socket.IPPROTO_IP:
            continue
        elif kind == socket.IP_TOS:
            tos = value[0]
        elif kind == IP_PKTINFO:
            local = value[4:8]
    return tos, segment, local


class UdpQueue:
    """One of the kernel's queues of a UDP port; port is filled in once it is bound.

    joined: the kernel may put a peer's datagrams together (UDP_GRO), where it can.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        framed: bool,
        buffer: int,
        kernel_esp: bool = False,
        joined: bool = True,
    ) -> None:
        self.port = 0
        self.more = False  # something may have waited after the last call
        self._framed = framed
        self._counters = counters
        self._view = memoryview(bytearray(_BURST + LONGEST))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        if kernel_esp:
            self.socket.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESPINUDP)
        elif joined and framed:
            with contextlib.suppress(OSError):  # before Linux 5.0
                self.socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        prepare(self.socket, buffer)
        self._overflow = Overflow(self.socket, counters)
        self._told: list[Ancillary] = []  # with the last datagram
        self._meaning = _UNTOLD

    def fileno(self) -> int:
        """Return the descriptor to wait on for datagrams."""
        return self.socket.fileno()

    def receive(self, limit: int = BATCH) -> tuple[list[Arrival], list[Datagram]]:
        """Return the envelopes and the IKE messages that wait now.

        They are what limit calls of the kernel's give, and about 256 KiB, at most. Octets of
        envelopes are valid until the next call. Empty datagrams are counted and left out.
        """
        arrivals: list[Arrival] = []
        messages: list[Datagram] = []
        view, used, framed = self._view, 0, self._framed
        receive_into = self.socket.recvmsg_into
        told = self._told
        tos, segment, local = self._meaning
        self.more = False
        for _ in range(limit):
            if used > _BURST:
                break
            try:
                size, ancillary, _, (host, port) = receive_into((view[used:],), _ANCILLARY_SPACE)
            except OSError:  # nothing is left, or an error of the network's that we outlive
                return arrivals, messages
            if ancillary != told:  # mostly it is that of the datagram before
                tos, segment, local = self._meaning = _read(ancillary)
                told = self._told = ancillary
            data = view[used : used + size]
            used += size
            source, length = endpoint(host, port), segment or size
            if not framed:
                marked = [bytes(data)]
            elif not size:
                self._counters.drop(DropReason.ESP_TOO_SHORT)
                continue
            elif is_plain(data, length):
                arrivals.append((data, length, source, tos))
                continue
            else:
                envelopes, marked = split(data, length)
                arrivals += [(part, length, source, tos) for part in envelopes]
            own = endpoint(socket.inet_ntoa(local), self.port)
            messages += [Datagram(message, own, source) for message in marked]
        self.more = True
        if limit > 1:
            self._overflow.look()
        return arrivals, messages


class UdpPort:
    """One UDP port of ours at all addresses; framed says that RFC 3948 rules it, as on 4500.

    known_as: the number that it goes by in endpoints, where it stands in for another port.

    Three queues of the kernel's, so that nothing has to wait behind another's flood: envelopes,
    messages about an IKE SA (established), and strangers' first messages. On a port without framing
    envelopes and established are the same. What the kernel has joined lies where the first of it
    belongs, so that any of them may have messages. kernel_esp: the kernel takes ESP out of UDP
    (UDP_ENCAP), and what arrives here is IKE. offloads: the kernel cuts bursts into datagrams, and
    joins those that come, where it can. Raises OperatorError where the port cannot be opened.
    """

    def __init__(
        self,
        port: int,
        counters: Counters,
        *,
        framed: bool,
        kernel_esp: bool = False,
        offloads: bool = True,
        known_as: int | None = None,
    ) -> None:
        self._counters = counters
        self._framed = framed
        self._queues = [
            UdpQueue(counters, framed=framed, buffer=buffer, kernel_esp=kernel_esp, joined=offloads)
            for buffer in (STRANGERS_BUFFER, BUFFER, BUFFER)[: 3 if framed else 2]
        ]
        self.strangers, self.established, self.envelopes = (*self._queues, self._queues[-1])[:3]
        self._socket = self.envelopes.socket
        self._sender = ManySender(self._socket, counters)
        Fragmentation(self.strangers.socket)  # IKE messages may be fragmented
        self._cuts = offloads and _kernel_cuts(self._socket)
        try:
            self.port = bind_all([queue.socket for queue in self._queues], port, framed)
        except OSError as error:
            self.close()
            raise cannot_open(f"UDP port {port}", error) from error
        for queue in self._queues:
            queue.port = known_as or self.port

    @property
    def queues_of_messages(self) -> list[UdpQueue]:
        """Return the queues of IKE's messages."""
        return self._queues[:2]

    @property
    def more(self) -> bool:
        """Return whether envelopes may have waited after the last call of receive."""
        return self.envelopes.more

    def receive(self, limit: int = BATCH) -> tuple[list[Arrival], list[Datagram]]:
        """Return what waits now among the envelopes, as UdpQueue.receive does."""
        return self.envelopes.receive(limit)

    def send_ike(self, datagram: Datagram) -> bool:
        """Send one IKE message from datagram.local, with the marker where this port has one."""
        try:
            marked = self._framed and datagram.data != KEEPALIVE
            # Not through the socket of bursts: another process may have that one set as it needs.
            self.strangers.socket.sendmsg(
                (NON_ESP_MARKER if marked else b"", datagram.data),
                sent_with(0, datagram.local.host),
                0,
                (datagram.remote.host, datagram.remote.port),
            )
        except OSError:
            self._counters.drop(DropReason.OUT_SEND_FAILED)
            return False
        return True

    def send_burst(self, burst: Burst) -> bool:
        """Send a burst in UDP; return False where not all of it went (the rest is counted)."""
        data, size = burst.data, burst.size
        if len(data) <= size:
            return self._sender.send_one(burst, burst.peer.port)
        if self._cuts and (burst.whole or size <= _NEVER_FRAGMENTED):
            peer = burst.peer
            self._sender.allow_fragmentation(not burst.whole)
            try:
                with_what = sent_with(burst.tos, burst.source, size)
                self._socket.sendmsg((data,), with_what, 0, (peer.host, peer.port))
            except OSError as error:
                why = error.errno or errno.EIO
                if why not in _NOT_CUT:
                    self._sender.count(why, -(-len(data) // size))
                    return False
                self._cuts = why != errno.EIO
            else:
                return True
        return self._sender.send(burst, burst.peer.port)

    def close(self) -> None:
        """Close the port."""
        for queue in self._queues:
            queue.socket.close()


def _kernel_cuts(sock: socket.socket) -> bool:
    """Return whether the kernel cuts what is sent into datagrams (UDP_SEGMENT, Linux 4.18)."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True
