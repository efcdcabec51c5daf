"""In-memory twins of the TUN device and the wild-side sockets, for tests without root."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.interfaces import BATCH
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.wire.endpoint import IKE_PORT, KEEPALIVE, NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_header import NO_SPI
from moatvpn.wire.offload import Packet


class MemoryTun:
    """A TUN device whose kernel side is two queues.

    waiting holds the raw packets that the kernel has for us, all whole as they stand; delivered
    those that we gave it, and offloads what was said of each.
    """

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.delivered: list[bytes] = []
        self.offloads: list[bytes] = []
        self.takes_super_packets = self.takes_udp = False
        self.more = False

    def read_batch(self, limit: int = BATCH) -> list[tuple[memoryview, bytes]]:
        """Return the raw packets that wait now, at most limit of them."""
        number = min(limit, len(self.waiting))
        self.more = number == limit
        return [(memoryview(self.waiting.popleft()), b"") for _ in range(number)]

    def write(self, pieces: Sequence[Packet], offload: bytes = b"") -> bool:
        """Deliver one raw packet."""
        self.delivered.append(b"".join(pieces))
        self.offloads.append(offload)
        return True


@dataclass(frozen=True, slots=True)
class WildPacket:
    """One packet on the wild side. A port of 0 at both ends means IP protocol 50.

    ike says that it is an IKE message, which a socket would tell from its framing.
    """

    data: bytes
    source: Endpoint
    destination: Endpoint
    tos: int = 0
    ike: bool = False


# What becomes of a packet on its way: none of it, itself, two of it, another.
Path = Callable[[WildPacket], Iterable[WildPacket]]


class MemoryNetwork:
    """A wild side that carries packets between hosts at once. path may lose or change them.

    sent holds every packet in the order of sending, before path has seen it.
    """

    def __init__(self) -> None:
        self.path: Path = lambda packet: (packet,)
        self.sent: list[WildPacket] = []
        self._hosts: dict[str, MemoryHost] = {}

    def attach(self, address: str, counters: Counters) -> MemoryHost:
        """Return a new host of that address."""
        host = MemoryHost(self, address, counters)
        self._hosts[address] = host
        return host

    def move(self, host: MemoryHost, address: str) -> None:
        """Give host another address; what is sent to its former one is lost."""
        del self._hosts[host.address]
        host.address = address
        self._hosts[address] = host

    def also(self, host: MemoryHost, address: str) -> None:
        """Give host a further address, beside the one that it sends from by itself."""
        host.further.add(address)
        self._hosts[address] = host

    def send(self, packet: WildPacket) -> bool:
        """Carry one packet; return whether any host has that address."""
        self.sent.append(packet)
        for carried in self.path(packet):
            host = self._hosts.get(carried.destination.host)
            if host is not None:
                host.arrive(carried)
        return packet.destination.host in self._hosts


class MemoryHost:
    """One host's sockets: raw, and a UDP port each in ports."""

    def __init__(self, network: MemoryNetwork, address: str, counters: Counters) -> None:
        self.network = network
        self.address = address
        self.further: set[str] = set()
        self.counters = counters
        self.raw = MemoryRaw(self)
        self.ports = {port: MemoryUdp(self, port) for port in (IKE_PORT, NAT_PORT)}

    def local_address(self, host: str) -> str | None:
        """Return our address; there is always a way."""
        del host
        return self.address

    def arrive(self, packet: WildPacket) -> None:
        """Put a packet into the queue of the socket that it is for."""
        if not packet.destination.port:
            self.raw.waiting.append(_arrival(packet))
            return
        port = self.ports.get(packet.destination.port)
        if port is None or packet.data == KEEPALIVE:
            return
        if packet.ike:
            queue = port.strangers if packet.data[8:16] == NO_SPI else port.established
            queue.messages.append(Datagram(packet.data, packet.destination, packet.source))
        else:
            port.arrivals.append(_arrival(packet))

    def send(self, packet: WildPacket) -> bool:
        """Send a packet; one without a way is counted, as a kernel refuses it."""
        if self.network.send(packet):
            return True
        self.counters.drop(DropReason.OUT_SEND_FAILED)
        return False


def _arrival(packet: WildPacket) -> Arrival:
    return memoryview(packet.data), len(packet.data), packet.source, packet.tos


def _send_each(host: MemoryHost, burst: Burst, own: Endpoint, peer: Endpoint) -> bool:
    """Send the envelopes of a burst; return whether each of them had a way."""
    data = bytes(burst.data)
    starts = range(0, len(data), burst.size)
    envelopes = [data[start : start + burst.size] for start in starts]
    sent = [host.send(WildPacket(each, own, peer, burst.tos)) for each in envelopes]
    return all(sent)


class MemoryRaw:
    """The twin of RawEspSocket."""

    def __init__(self, host: MemoryHost) -> None:
        self._host = host
        self.waiting: deque[Arrival] = deque()
        self.more = False

    def receive(self, limit: int = BATCH) -> list[Arrival]:
        """Return the ESP packets that wait now, at most limit of them."""
        self.more = len(self.waiting) >= limit
        return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    def send_burst(self, burst: Burst) -> bool:
        """Send ESP packets as IP protocol 50."""
        own = Endpoint(burst.source or self._host.address, 0)
        return _send_each(self._host, burst, own, Endpoint(burst.peer.host, 0))


class MemoryQueue:
    """The twin of UdpQueue."""

    def __init__(self) -> None:
        self.arrivals: deque[Arrival] = deque()
        self.messages: deque[Datagram] = deque()
        self.more = False

    def receive(self, limit: int = BATCH) -> tuple[list[Arrival], list[Datagram]]:
        """Return the ESP packets and the IKE messages that wait now, limit of both at most."""
        messages = [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]
        rest = min(limit - len(messages), len(self.arrivals))
        self.more = len(messages) + rest == limit
        return [self.arrivals.popleft() for _ in range(rest)], messages


class MemoryUdp(MemoryQueue):
    """The twin of UdpPort."""

    def __init__(self, host: MemoryHost, port: int) -> None:
        super().__init__()
        self._host = host
        self.port = port
        self.strangers, self.established = MemoryQueue(), MemoryQueue()

    def send_ike(self, datagram: Datagram) -> bool:
        """Send one IKE message; a local address that is not ours any more has no way."""
        if datagram.local.host not in (self._host.address, *self._host.further):
            self._host.counters.drop(DropReason.OUT_SEND_FAILED)
            return False
        packet = WildPacket(datagram.data, datagram.local, datagram.remote, ike=True)
        return self._host.send(packet)

    def send_burst(self, burst: Burst) -> bool:
        """Send ESP packets in UDP."""
        own = Endpoint(burst.source or self._host.address, self.port)
        return _send_each(self._host, burst, own, burst.peer)


class MemoryAddresses:
    """The twin of InterfaceAddresses. of maps each connection to its addresses."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[str, ...]] = {}

    def set(self, connection: str, addresses: Iterable[str]) -> None:
        """Take a connection's addresses in."""
        self.of.pop(connection, None)
        if taken := tuple(addresses):
            self.of[connection] = taken
