"""What compiled rules say about one packet: the reading of them that nftables is held against."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from moatvpn.policy.rules import HAVE_PORTS, Compiled, Protocol, Rule, Verdict

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Packet:
    """A raw packet, put together again where it came in fragments.

    port is the destination's, None where the protocol has none; protocol is ANY for one that has
    no name in rules. from_private says that it came in from a private zone, to_box that it goes
    no further than the box itself (or to several: broadcast, multicast).
    """

    source: Address
    destination: Address
    protocol: Protocol
    port: int | None = None
    from_private: bool = True
    to_box: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and the name of the rule that gave it; None where no rule did."""

    verdict: Verdict
    rule: str | None = None


_UNMATCHED = Decision(Verdict.TUNNEL)


def evaluate(compiled: Compiled, packet: Packet) -> Decision:
    """Return what the first rule that matches packet says; without one, the tunnel is the way.

    The rules are for what the box forwards from the policy's own private subnets, and nothing
    else: for any other packet no rule is looked at.
    """
    if not packet.from_private or packet.to_box:
        return _UNMATCHED
    if not any(packet.source in network for network in compiled.sources):
        return _UNMATCHED
    for rule in compiled.rules:
        if _matches(rule, packet):
            return Decision(rule.verdict, rule.name)
    return _UNMATCHED


def _matches(rule: Rule, packet: Packet) -> bool:
    if not any(packet.destination in network for network in rule.networks):
        return False
    if rule.protocol not in (Protocol.ANY, packet.protocol):
        return False
    if rule.protocol not in HAVE_PORTS or not rule.ports:
        return True
    port = packet.port
    return port is not None and any(first <= port <= last for first, last in rule.ports)
