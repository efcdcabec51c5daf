"""The Linux kernel's own ESP in a virtual machine, keyed by hand, and our engine on its wire."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from single import SingleProcessor
from virtual_machine import VirtualMachine

from moatvpn.counters import Counters
from moatvpn.esp.child import ChildSa
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import NAT_PORT, Endpoint
from moatvpn.wire.selectors import TrafficSelector

OURS, THEIRS = "192.0.2.10", "192.0.2.1"
HOME, HOME6 = "10.201.1.0/24", "fd00:201:1::/64"
CORPORATE, CORPORATE6 = "10.50.0.0/24", "fd00:50::/64"
PC, PC6, CORP, CORP6 = "10.201.1.10", "fd00:201:1::10", "10.50.0.1", "fd00:50::1"

ICMP, UDP, ESP, ICMP6 = 1, 17, 50, 58
_OUR_MAC, _THEIR_MAC = bytes.fromhex("020000000010"), bytes.fromhex("020000000001")
_IPV4_FRAME = _THEIR_MAC + _OUR_MAC + b"\x08\x00"
_ETHERNET = 14

MODULES = (
    "esp4", "esp6", "xfrm_user", "seqiv", "gcm", "ctr", "ghash_generic", "chacha20poly1305",
    "chacha_generic", "poly1305_generic", "authenc", "authencesn", "echainiv", "sha512_generic",
    "drbg", "jitterentropy_rng",
)  # fmt: skip

# The kernel takes ESP out of UDP where a socket asks for it: IPPROTO_UDP, UDP_ENCAP,
# UDP_ENCAP_ESPINUDP. A program of Debian's base can ask.
_ENCAPSULATING_SOCKET = (
    '/bin/perl -e \'socket(S, 2, 2, 17) && setsockopt(S, 17, 100, pack("i", 2))'
    ' && bind(S, pack("Sna4x8", 2, 4500, "\\0" x 4)) && sleep\' &'
)

# How iproute2 writes an algorithm, with its keying material in hexadecimal digits.
_COMBINED = {
    CipherSuite.AES_256_GCM: "aead 'rfc4106(gcm(aes))' 0x{} 128",
    CipherSuite.AES_128_GCM: "aead 'rfc4106(gcm(aes))' 0x{} 128",
    CipherSuite.CHACHA20_POLY1305: "aead 'rfc7539esp(chacha20,poly1305)' 0x{} 128",
}
_CBC = "enc 'cbc(aes)' 0x{} auth-trunc 'hmac(sha{})' 0x{} {}"


def _algorithm(suite: CipherSuite, material: bytes) -> str:
    if suite.combined:
        return _COMBINED[suite].format(material.hex())
    key, mac = material[: suite.key_length].hex(), material[suite.key_length :].hex()
    bits = 8 * suite.integrity_key_length
    return _CBC.format(key, bits, mac, bits // 2)


def checksum(data: bytes) -> int:
    """Return the Internet checksum of data (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(payload: bytes, source: str, target: str, protocol: int, tos: int = 0) -> bytes:
    """Return an IPv4 packet."""
    head = struct.pack("!BBHHHBB", 0x45, tos, 20 + len(payload), 0, 0, 64, protocol)
    addresses = ip_address(source).packed + ip_address(target).packed
    whole = checksum(head + bytes(2) + addresses)
    return head + whole.to_bytes(2, "big") + addresses + payload


def echo(
    source: str, target: str, number: int, data: bytes, *, reply: bool = False, whose: int = 77
) -> bytes:
    """Return an echo request or reply of ICMP, in IPv4 or IPv6 as the addresses are.

    number is its sequence number, whose its identifier.
    """
    body = struct.pack("!HH", whose, number) + data
    ends = ip_address(source).packed + ip_address(target).packed
    if len(ends) == 8:
        kind = bytes((0 if reply else 8, 0))
        icmp = kind + checksum(kind + bytes(2) + body).to_bytes(2, "big") + body
        return ipv4(icmp, source, target, ICMP)
    kind, length = bytes((129 if reply else 128, 0)), 4 + len(body)
    pseudo = ends + struct.pack("!IxxxB", length, ICMP6)
    icmp = kind + checksum(pseudo + kind + bytes(2) + body).to_bytes(2, "big") + body
    return struct.pack("!IHBB", 6 << 28, length, ICMP6, 64) + ends + icmp


def answer_to(request: bytes) -> bytes:
    """Return the echo reply to an echo request."""
    first, last, at = (8, 40, 40) if request[0] >> 4 == 6 else (12, 20, 20)
    middle = (first + last) // 2
    source, target = (str(ip_address(end)) for end in (request[first:middle], request[middle:last]))
    whose, number = struct.unpack_from("!HH", request, at + 4)
    return echo(target, source, number, request[at + 8 :], reply=True, whose=whose)


@dataclass(frozen=True)
class Arrival:
    """An ESP packet off the wire: from its SPI on, its source (port 0: protocol 50), its TOS."""

    data: bytes
    source: Endpoint
    tos: int


@dataclass
class Ours:
    """Our end of a pair of SAs with the kernel: the engine as moatd has it."""

    child: ChildSa
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self.esp = SingleProcessor(self.counters)
        self.esp.install(self.child, Endpoint(THEIRS, NAT_PORT), activate_outbound=True)


class KernelPeer(VirtualMachine):
    """The machine and the wire to it."""

    def __init__(self, directory: Path) -> None:
        theirs, ours = str(directory / "theirs"), str(directory / "ours")
        self._wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._wire.bind(ours)
        self._wire.setblocking(False)
        self._their_end = theirs
        self._serial = 0
        ends = f"local.type=unix,local.path={theirs},remote.type=unix,remote.path={ours}"
        options = (
            "-m", "256", "-netdev", f"dgram,id=wire,{ends}",
            "-device", f"virtio-net-pci,netdev=wire,mac={_THEIR_MAC.hex(':')}",
        )  # fmt: skip
        super().__init__(directory, options, MODULES, ("ip", "perl"))
        self.wait_until_ready()
        for line in (
            "/bin/ip link set lo up",
            "/bin/ip link set eth0 up",
            f"/bin/ip address add {THEIRS}/24 dev eth0",
            f"/bin/ip address add {CORP}/32 dev lo",
            f"/bin/ip address add {CORP6}/128 dev lo nodad",
            f"/bin/ip neighbour add {OURS} lladdr {_OUR_MAC.hex(':')} dev eth0",
            f"/bin/ip route add {HOME} via {OURS} src {CORP}",
            # The policy takes the packet before the link would need a neighbour.
            f"/bin/ip route add {HOME6} dev eth0 src {CORP6}",
        ):
            self.run(line)
        self.run(_ENCAPSULATING_SOCKET)
        # The shell's answer may overtake the program's.
        self.run("while ! netstat -lun | grep -q :4500; do sleep 0.1; done")

    def close(self) -> None:
        """End the machine and the wire."""
        super().close()
        self._wire.close()

    # SAs

    def pair(self, suite: CipherSuite, *, esn: bool, udp: bool) -> Ours:
        """Give the kernel a fresh pair of SAs in place of those it has; return our end of it."""
        self._serial += 1
        number = self._serial
        ours = tuple(TrafficSelector.from_network(net) for net in (HOME, HOME6))
        theirs = tuple(TrafficSelector.from_network(net) for net in (CORPORATE, CORPORATE6))
        length = suite.material_length
        keys = [bytes((number + step + at) % 256 for at in range(length)) for step in (0, 128)]
        spis = 0x1000 + number, 0x2000 + number
        child = ChildSa("kernel", *spis, suite, esn, keys[0], keys[1], ours, theirs, udp)
        self.run("/bin/ip xfrm state flush; /bin/ip xfrm policy flush")
        # Where the kernel sends, our inbound SPI and key rule, and the other way round.
        self.run(self.state(THEIRS, OURS, child.spi_in, child.key_in, child))
        self.run(self.state(OURS, THEIRS, child.spi_out, child.key_out, child))
        for near, far in ((CORPORATE, HOME), (CORPORATE6, HOME6)):
            self.run(_policy("out", near, far, THEIRS, OURS))
            self.run(_policy("in", far, near, OURS, THEIRS))
        return Ours(child)

    def state(
        self, source: str, target: str, spi: int, key: bytes, child: ChildSa, more: str = ""
    ) -> str:
        """Return the line that gives the kernel one SA."""
        algorithm = _algorithm(child.suite, key)
        # Without af-unspec a state is for raw packets of the envelope's own family only.
        flag = "flag af-unspec" + " flag esn" * child.esn
        encap = f"encap espinudp {NAT_PORT} {NAT_PORT} 0.0.0.0" if child.udp else ""
        return (
            f"/bin/ip xfrm state add src {source} dst {target} proto esp spi {spi:#x} mode tunnel"
            f" reqid 1 replay-window 2048 {flag} {more} {algorithm} {encap}"
        )

    # The wire

    def send(self, data: bytes, *, udp: bool, tos: int = 0, source: str = OURS) -> None:
        """Put one ESP packet on the wire."""
        if udp:
            # A checksum of zero is none (RFC 3948, 2.1).
            head = struct.pack("!HHHH", NAT_PORT, NAT_PORT, 8 + len(data), 0)
            packet = ipv4(head + data, source, THEIRS, UDP, tos)
        else:
            packet = ipv4(data, source, THEIRS, ESP, tos)
        self._wire.sendto(_IPV4_FRAME + packet, self._their_end)

    def arrivals(self) -> list[Arrival]:
        """Return the ESP packets that the kernel has put on the wire by now."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self._wire.recv(1 << 16)
                arrival = _esp_of(frame[_ETHERNET:]) if frame[12:14] == b"\x08\x00" else None
                if arrival is not None:
                    found.append(arrival)
        return found

    def counts(self, spi: int) -> dict[str, int]:
        """Return what the kernel counts of the SA with that SPI."""
        words = self.run(f"/bin/ip -s xfrm state list spi {spi:#x}").split()
        return {
            name: int(words[words.index(name) + 1])
            for name in ("replay-window", "replay", "failed")
        }


def _policy(direction: str, near: str, far: str, source: str, target: str) -> str:
    return (
        f"/bin/ip xfrm policy add dir {direction} src {near} dst {far}"
        f" tmpl src {source} dst {target} proto esp mode tunnel reqid 1"
    )


def _esp_of(packet: bytes) -> Arrival | None:
    """Return the ESP packet in an IPv4 packet, None where it holds none."""
    length = int.from_bytes(packet[2:4], "big")
    source, body = str(ip_address(packet[12:16])), packet[20:length]
    if packet[9] == ESP:
        return Arrival(body, Endpoint(source, 0), packet[1])
    if packet[9] == UDP and body[2:4] == NAT_PORT.to_bytes(2, "big") and body[8:12] != bytes(4):
        return Arrival(body[8:], Endpoint(source, int.from_bytes(body[:2], "big")), packet[1])
    return None
