"""The packets that ask a box about its zones, and what the matrix says about each."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from offload_packets import words_sum

from moatvpn.lockdown.matrix import State, Verdict

# What stands at a packet's end, before its number: whatever goes on with it is the packet.
MARKER = b"zonepkt"
_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "esp": 50, "icmpv6": 58}


@dataclass(frozen=True)
class Probe:
    """A kind of packet that begins something: family 4 or 6, protocol, and the port it is for."""

    family: int
    protocol: str
    port: int = 0

    def __str__(self) -> str:
        name = {"icmp": "ping", "icmpv6": "ping"}.get(self.protocol, self.protocol.upper())
        port = f" {self.port}" if self.port else ""
        return f"{name}{port}{' IPv6' if self.family == 6 else ''}"


PROBES = (
    Probe(4, "tcp", 443),
    Probe(4, "tcp", 22),
    Probe(4, "udp", 7001),
    Probe(4, "udp", 53),
    Probe(4, "udp", 4500),
    Probe(4, "icmp"),
    Probe(4, "esp"),
    Probe(6, "tcp", 22),
    Probe(6, "udp", 7001),
    Probe(6, "icmpv6"),
)


def passes(verdict: Verdict, probe: Probe, sport: int) -> bool:
    """Tell whether a verdict lets a first packet of a connection pass that no policy has marked.

    It is told from the matrix alone, and not by the rules that are made of it.
    """
    for each in verdict:
        if each.state is State.KNOWN or each.direct or probe.family not in each.families:
            continue
        if each.protocol not in ("", probe.protocol):
            continue
        if each.types and "echo-request" not in each.types:
            continue
        if each.dports and probe.port not in each.dports:
            continue
        if each.sports and sport not in each.sports:
            continue
        return True
    return False


def source_port(probe: Probe, number: int) -> int:
    """Return a probe's source port: its own where that is one of IKE's, else one of its own."""
    return probe.port if probe.port in (500, 4500) else 20_000 + number % 30_000


def packet(
    probe: Probe, source: str, destination: str, number: int, sport: int | None = None
) -> bytes:
    """Return a whole IP packet, with right checksums, that ends in MARKER and its number."""
    data = MARKER + struct.pack("!I", number)
    addresses = ip_address(source).packed + ip_address(destination).packed
    sport = source_port(probe, number) if sport is None else sport
    match probe.protocol:
        case "tcp":  # SYN
            body = struct.pack("!HHIIBBHHH", sport, probe.port, 1, 0, 0x50, 2, 1000, 0, 0) + data
            at = 16
        case "udp":
            body = struct.pack("!HHHH", sport, probe.port, 8 + len(data), 0) + data
            at = 6
        case "icmp" | "icmpv6":
            kind = 8 if probe.protocol == "icmp" else 128
            body, at = struct.pack("!BBHHH", kind, 0, 0, number & 0xFFFF, 1) + data, 2
        case _:
            body, at = struct.pack("!II", 0x1000 + number, 1) + data, 0
    protocol = _NUMBERS[probe.protocol]
    if at:
        pseudo = b"" if probe.protocol == "icmp" else addresses
        pseudo += b"" if probe.protocol == "icmp" else struct.pack("!II", len(body), protocol)
        body = body[:at] + struct.pack("!H", 0xFFFF - words_sum(pseudo + body)) + body[at + 2 :]
    return header(probe.family, protocol, addresses, len(body)) + body


def header(
    family: int,
    protocol: int,
    addresses: bytes,
    length: int,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """Return the IP header before length octets; options and fragment are IPv4's."""
    if family == 6:
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + addresses
    words = 5 + len(options) // 4
    total = words * 4 + length
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, total, 77, fragment, 64, protocol, 0)
    whole = head + addresses + options
    return whole[:10] + struct.pack("!H", 0xFFFF - words_sum(whole)) + whole[12:]


def whole(
    source: str,
    destination: str,
    protocol: int,
    body: bytes,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """Return an IP packet around any body."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    family = 6 if ":" in source else 4
    return header(family, protocol, addresses, len(body), fragment, options) + body


def reply(to: bytes) -> bytes:
    """Return the answer to a UDP packet of IPv4 as it was seen."""
    source, destination = (str(ip_address(part)) for part in (to[12:16], to[16:20]))
    sport, dport = to[20:22], to[22:24]
    body = dport + sport + struct.pack("!HH", 8 + len(MARKER) + 4, 0) + MARKER + bytes(4)
    return whole(destination, source, 17, body)
