"""What the daemon asks of its devices and sockets. Real ones and in-memory twins provide it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from moatvpn.esp.burst import Arrival, Burst
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.offload import Packet

# How much one readable source may take before the others have their turn.
BATCH = 64
# The same of IKE messages, each of which may cost a key exchange.
MESSAGES_BATCH = 16


class Clock(Protocol):
    """Tells the time in seconds; it never goes back, and its zero means nothing."""

    def __call__(self) -> float:
        """Return the time now."""
        ...


class Tun(Protocol):
    """A TUN device. It may give and take TCP segments of one flow as one packet, a super-packet.

    An offload is Linux's virtio_net_hdr of 10 octets, which says how a packet is to be finished:
    its segments cut, its checksum filled in. It is empty for a packet that is whole as it stands.
    more: something may still have waited after the last batch.
    takes_super_packets, takes_udp: the kernel finishes those of TCP, and of UDP, that we write.
    """

    more: bool
    takes_super_packets: bool
    takes_udp: bool

    def read_batch(self, limit: int = BATCH) -> list[tuple[memoryview, bytes]]:
        """Return the raw packets that wait now, limit of them at most, and their offloads.

        Never blocks. The octets are valid until the next call.
        """
        ...

    def write(self, pieces: Sequence[Packet], offload: bytes = b"") -> bool:
        """Hand one raw packet to the kernel; return False where it was dropped (and counted)."""
        ...


class EspSocket(Protocol):
    """Something that sends ESP packets."""

    def send_burst(self, burst: Burst) -> bool:
        """Send envelopes; return False where some were dropped (and counted)."""
        ...


class RawSocket(EspSocket, Protocol):
    """ESP as IP protocol 50 (RFC 4303, 2). more: something may have waited after the last call."""

    more: bool

    def receive(self, limit: int = BATCH) -> list[Arrival]:
        """Return the ESP packets that wait now, at most limit of them; never block."""
        ...


class UdpQueue(Protocol):
    """Datagrams that wait at a UDP port of ours: 500, or 4500 with the framing of RFC 3948.

    more: something may still have waited after the last call.
    """

    @property
    def more(self) -> bool:
        """Return whether there may be more than what came last."""
        ...

    def receive(self, limit: int = BATCH) -> tuple[list[Arrival], list[Datagram]]:
        """Return the ESP packets and the IKE messages that wait now; never block.

        Both together are at most limit. Keepalives are left out, non-ESP markers taken off.
        """
        ...


class UdpSocket(EspSocket, UdpQueue, Protocol):
    """One UDP port of ours, whose own queue is that of envelopes.

    What the kernel has joined with envelopes, or with a message, lies in the queue of the first.
    """

    port: int

    @property
    def established(self) -> UdpQueue:
        """Return the queue of messages about an IKE SA."""
        ...

    @property
    def strangers(self) -> UdpQueue:
        """Return the queue of first requests, and of what is too short for anything."""
        ...

    def send_ike(self, datagram: Datagram) -> bool:
        """Send one IKE message from datagram.local; return False where it was dropped (counted)."""
        ...


class Addresses(Protocol):
    """The addresses of the tunnel's interface that peers have assigned."""

    def set(self, connection: str, addresses: Iterable[str]) -> None:
        """Give the interface these addresses in place of the connection's former ones.

        Raises OperatorError where that cannot be.
        """
        ...
