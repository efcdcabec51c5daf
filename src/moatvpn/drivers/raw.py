"""ESP as IP protocol 50, through a raw socket of IPv4 (raw(7))."""

from __future__ import annotations

import socket
import struct

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.interfaces import BATCH
from moatvpn.drivers.mmsg import ManyReceiver, ManySender
from moatvpn.drivers.sockets import LONGEST, Overflow, cannot_open, endpoint_of_octets, prepare
from moatvpn.errors import PeerError
from moatvpn.esp.burst import Arrival, Burst

IP_PROTOCOL_ESP = 50
_SHORTEST_HEADER = 20
_read = struct.Struct("!BBH8x4s").unpack_from  # version and length, TOS, total length, source


def strip_ip_header(packet: memoryview, size: int) -> Arrival:
    """Return what an IPv4 packet of protocol 50 carries, its source (port 0) and its TOS octet.

    The packet is the first size octets. Those beyond the header's total length are not its own.
    Raises PeerError where the lengths contradict each other (RFC 791, 3.1), and where there is
    nothing within.
    """
    if size < _SHORTEST_HEADER:
        raise PeerError(DropReason.WILD_MALFORMED, "no IPv4 header")
    first, tos, total, source = _read(packet)
    header = (first & 0x0F) * 4
    if first >> 4 != 4 or not _SHORTEST_HEADER <= header <= total <= size:
        raise PeerError(DropReason.WILD_MALFORMED, "lengths of an IPv4 packet disagree")
    if header == total:
        raise PeerError(DropReason.ESP_TOO_SHORT, "an empty IPv4 packet")
    return packet[header:total], total - header, endpoint_of_octets(source), tos


class RawEspSocket:
    """A raw socket that gets every whole ESP packet for us; fragments are put together before.

    Needs CAP_NET_RAW. Raises OperatorError where it cannot be opened.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.more = False  # something may have waited after the last call
        try:
            self._socket = socket.socket(
                socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, IP_PROTOCOL_ESP
            )
        except OSError as error:
            raise cannot_open("raw socket of IP protocol 50", error) from error
        prepare(self._socket)
        self._sender = ManySender(self._socket, counters)
        self._receiver = ManyReceiver(self._socket, BATCH, LONGEST)
        self._overflow = Overflow(self._socket, counters)

    def fileno(self) -> int:
        """Return the descriptor to wait on for packets."""
        return self._socket.fileno()

    def receive(self, limit: int = BATCH) -> list[Arrival]:
        """Return the envelopes that wait now, at most limit and BATCH of them.

        Their octets are valid until the next call.
        """
        arrivals: list[Arrival] = []
        append, strip, receiver = arrivals.append, strip_ip_header, self._receiver
        sizes = receiver.receive(limit)
        for place, size in zip(receiver.places, sizes, strict=False):
            try:
                append(strip(place, size))
            except PeerError as error:
                self._counters.drop(error.reason)
        self.more = len(sizes) == min(limit, BATCH)
        if self.more:
            self._overflow.look()
        return arrivals

    def send_burst(self, burst: Burst) -> bool:
        """Send a burst; return False where not all of it went (the rest is counted)."""
        send = self._sender.send_one if len(burst.data) <= burst.size else self._sender.send
        return send(burst, 0)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class NoRawSocket:
    """Stands for a raw socket where there is none: nothing comes, and what is to go is dropped."""

    more = False

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def receive(self, limit: int = BATCH) -> list[Arrival]:
        """Return nothing."""
        return []

    def send_burst(self, burst: Burst) -> bool:
        """Count the envelopes of a burst as not sent."""
        self._counters.drop(DropReason.OUT_SEND_FAILED, -(-len(burst.data) // burst.size))
        return False
