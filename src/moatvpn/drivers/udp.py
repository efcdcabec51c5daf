"""IKE on UDP ports 500 and 4500, and ESP in UDP on 4500 (RFC 3948)."""

from __future__ import annotations

import socket

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.interfaces import BATCH, EspArrival
from moatvpn.drivers.sockets import (
    BUFFER,
    IP_PKTINFO,
    LONGEST,
    PKTINFO,
    STRANGERS_BUFFER,
    Ancillary,
    Overflow,
    cannot_open,
    endpoint,
    prepare,
    sent_with,
)
from moatvpn.drivers.steering import bind_both
from moatvpn.wire.endpoint import IKE_PORT, KEEPALIVE, Datagram, Endpoint

NON_ESP_MARKER = bytes(4)  # RFC 3948, 2.2: no SPI is zero
_UDP_ENCAP, _UDP_ENCAP_ESPINUDP = 100, 2  # linux/udp.h
_ANCILLARY_SPACE = socket.CMSG_SPACE(PKTINFO.size) + socket.CMSG_SPACE(4)


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


def _tos_and_local_host(ancillary: list[Ancillary]) -> tuple[int, str]:
    """Return the TOS octet and our own address from what the kernel tells about a datagram."""
    tos, local = 0, ""
    for level, kind, value in ancillary:
        if level != socket.IPPROTO_IP:
            continue
        if kind == socket.IP_TOS:
            tos = value[0]
        elif kind == IP_PKTINFO:
            local = socket.inet_ntoa(PKTINFO.unpack(value[: PKTINFO.size])[1])
    return tos, local


class UdpQueue:
    """One of the kernel's queues of a UDP port; port is filled in once it is bound."""

    def __init__(
        self, counters: Counters, *, framed: bool, buffer: int, kernel_esp: bool = False
    ) -> None:
        self.port = 0
        self._framed = framed
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        if kernel_esp:
            self.socket.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESPINUDP)
        prepare(self.socket, buffer)
        self._overflow = Overflow(self.socket, counters)

    def fileno(self) -> int:
        """Return the descriptor to wait on for datagrams."""
        return self.socket.fileno()

    def receive(self, limit: int = BATCH) -> tuple[list[EspArrival], list[Datagram]]:
        """Return the ESP packets and the IKE messages that wait now, limit of both at most."""
        arrivals: list[EspArrival] = []
        messages: list[Datagram] = []
        receive, framed = self.socket.recvmsg, self._framed
        for _ in range(limit):
            try:
                data, ancillary, _, (host, port) = receive(LONGEST, _ANCILLARY_SPACE)
            except OSError:  # nothing is left, or an error of the network's that we outlive
                break
            tos, local = _tos_and_local_host(ancillary)
            source = endpoint(host, port)
            if not framed:
                messages.append(Datagram(data, endpoint(local, self.port), source))
            elif data.startswith(NON_ESP_MARKER):
                message = data[len(NON_ESP_MARKER) :]
                messages.append(Datagram(message, endpoint(local, self.port), source))
            elif data != KEEPALIVE:
                arrivals.append((data, source, tos))
        else:
            self._overflow.look()
        return arrivals, messages


class UdpPort:
    """One UDP port of ours at all addresses; framed says that RFC 3948 rules it, as on 4500.

    Strangers' first messages wait in a queue of their own. kernel_esp: the kernel takes ESP out of
    UDP (UDP_ENCAP), and what arrives here is IKE. Raises OperatorError where the port cannot be
    opened.
    """

    def __init__(
        self, port: int, counters: Counters, *, framed: bool, kernel_esp: bool = False
    ) -> None:
        self._counters = counters
        self._framed = framed
        self.strangers, self.established = (
            UdpQueue(counters, framed=framed, buffer=buffer, kernel_esp=kernel_esp)
            for buffer in (STRANGERS_BUFFER, BUFFER)
        )
        self._socket = self.established.socket
        try:
            self.port = bind_both(self.strangers.socket, self._socket, port, framed)
        except OSError as error:
            self.close()
            raise cannot_open(f"UDP port {port}", error) from error
        self.strangers.port = self.established.port = self.port

    def receive(self, limit: int = BATCH) -> tuple[list[EspArrival], list[Datagram]]:
        """Return what waits now of all but strangers: limit of ESP and IKE at most."""
        return self.established.receive(limit)

    def send_ike(self, datagram: Datagram) -> bool:
        """Send one IKE message from datagram.local, with the marker where this port has one."""
        try:
            marked = self._framed and datagram.data != KEEPALIVE
            self._socket.sendmsg(
                (NON_ESP_MARKER if marked else b"", datagram.data),
                sent_with(0, datagram.local.host),
                0,
                (datagram.remote.host, datagram.remote.port),
            )
        except OSError:
            self._counters.drop(DropReason.OUT_SEND_FAILED)
            return False
        return True

    def send_esp(self, data: bytes, peer: Endpoint, tos: int, source: str = "") -> bool:
        """Send one ESP packet in UDP; what the kernel refuses is counted and lost."""
        try:
            if tos or source:
                address = (peer.host, peer.port)
                self._socket.sendmsg((data,), sent_with(tos, source), 0, address)
            else:
                self._socket.sendto(data, (peer.host, peer.port))
        except OSError:
            self._counters.drop(DropReason.OUT_SEND_FAILED)
            return False
        return True

    def close(self) -> None:
        """Close the port."""
        self.strangers.socket.close()
        self._socket.close()
