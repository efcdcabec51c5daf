"""ESP as IP protocol 50, through a raw socket of IPv4 (raw(7))."""

from __future__ import annotations

import socket

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.interfaces import BATCH, EspArrival
from moatvpn.drivers.sockets import (
    LONGEST,
    Overflow,
    cannot_open,
    endpoint_of_octets,
    prepare,
    sent_with,
)
from moatvpn.errors import PeerError
from moatvpn.wire.endpoint import Endpoint

IP_PROTOCOL_ESP = 50
_SHORTEST_HEADER = 20


def strip_ip_header(packet: bytes | memoryview) -> EspArrival:
    """Return what an IPv4 packet of protocol 50 carries, its source (port 0) and its TOS octet.

    Octets beyond the header's total length are not the packet's. Raises PeerError where the
    lengths contradict each other (RFC 791, 3.1).
    """
    size = len(packet)
    if size < _SHORTEST_HEADER or packet[0] >> 4 != 4:
        raise PeerError(DropReason.WILD_MALFORMED, "no IPv4 header")
    header = (packet[0] & 0x0F) * 4
    total = packet[2] << 8 | packet[3]
    if not _SHORTEST_HEADER <= header <= total <= size:
        raise PeerError(DropReason.WILD_MALFORMED, "lengths of an IPv4 packet disagree")
    source = endpoint_of_octets(bytes(packet[12:16]))
    return bytes(packet[header:total]), source, packet[1]


class RawEspSocket:
    """A raw socket that gets every whole ESP packet for us; fragments are put together before.

    Needs CAP_NET_RAW. Raises OperatorError where it cannot be opened.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._buffer = bytearray(LONGEST)
        self._view = memoryview(self._buffer)
        try:
            self._socket = socket.socket(
                socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, IP_PROTOCOL_ESP
            )
        except OSError as error:
            raise cannot_open("raw socket of IP protocol 50", error) from error
        prepare(self._socket)
        self._overflow = Overflow(self._socket, counters)

    def fileno(self) -> int:
        """Return the descriptor to wait on for packets."""
        return self._socket.fileno()

    def receive(self, limit: int = BATCH) -> list[EspArrival]:
        """Return the ESP packets that wait now, at most limit of them."""
        arrivals: list[EspArrival] = []
        append, view = arrivals.append, self._view
        receive_into, strip = self._socket.recv_into, strip_ip_header
        for _ in range(limit):
            try:
                size = receive_into(view)
            except OSError:  # nothing is left, or an error of the network's that ESP outlives
                break
            try:
                append(strip(view[:size]))
            except PeerError as error:
                self._counters.drop(error.reason)
        else:
            self._overflow.look()
        return arrivals

    def send_esp(self, data: bytes, peer: Endpoint, tos: int, source: str = "") -> bool:
        """Send one ESP packet; what the kernel refuses is counted and lost, as IP may lose it."""
        try:
            if tos or source:
                self._socket.sendmsg((data,), sent_with(tos, source), 0, (peer.host, 0))
            else:
                self._socket.sendto(data, (peer.host, 0))
        except OSError:
            self._counters.drop(DropReason.OUT_SEND_FAILED)
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
