"""Compiled rules: all that a moat is told, and the only thing that becomes nftables on it.

A compiled policy is for one box. It is read as strictly as it was made: whatever is not in the one
way to write it is refused, signed or not, so that nothing but names, networks and numbers of ours
ever gets near nft.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from moatvpn.config_fields import FQDN, Record, object_from_json, short
from moatvpn.errors import ConfigError
from moatvpn.subnets import Network, overlaps, parse_network

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
NAME_SHAPE = "a word of a-z, 0-9, '.', '_' and '-', of at most 63"
MOST_VERSION = 2**31 - 1
MOST_RULES = 4096
MOST_NETWORKS = 65536  # in all rules together
MOST_PORT = 65535

# What no packet in clear may be sent to on the wild side: corporate and home networks live there,
# and nobody on the internet does (RFC 6890). Documentation's networks are left to laboratories.
NEVER_DIRECT = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip

Ports = tuple[tuple[int, int], ...]


class Verdict(StrEnum):
    """What becomes of a packet: to the internet from here, through the tunnel, or nowhere."""

    DIRECT = "direct"
    TUNNEL = "tunnel"
    DENY = "deny"


class Protocol(StrEnum):
    """What a packet carries. ICMP is ICMPv6 where the packet is IPv6."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ANY = "any"


HAVE_PORTS = frozenset({Protocol.TCP, Protocol.UDP})


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a compiled policy; the first that matches a packet decides.

    networks are the destinations, all of one family, none of which overlaps or touches another.
    ports, (first, last) and ascending, are the destination's; none stands for all of them.
    """

    name: str
    verdict: Verdict
    networks: tuple[Network, ...]
    protocol: Protocol
    ports: Ports = ()

    @property
    def family(self) -> int:
        """Return the version of IP that the rule is for."""
        return self.networks[0].version


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy for one box.

    identity is the box's FQDN. sources are its private subnets: the rules are for packets from
    there alone. version is the source's, and only ever grows.
    """

    name: str
    version: int
    customer: str
    identity: str
    sources: tuple[Network, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Customer:
    """Whose policy it becomes: id, profile, the moat's identity, and its private subnets."""

    id: str
    profile: str
    identity: str
    subnets: tuple[Network, ...]


def merged_networks(networks: Iterable[Network], version: int) -> tuple[Network, ...]:
    """Return those of one family in the one way to write them: collapsed and ascending."""
    family = [network for network in networks if network.version == version]
    return tuple(ipaddress.collapse_addresses(family))  # type: ignore[type-var]


def merged_ports(ports: Iterable[tuple[int, int]]) -> Ports:
    """Return ranges of ports in the one way to write them: ascending, none touching another."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ports):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def never_direct(networks: Iterable[Network]) -> Network | None:
    """Return one of networks that no packet in clear may go to, None where all may be."""
    for network in networks:
        if network.version != 4 or any(overlaps(network, other) for other in NEVER_DIRECT):
            return network
    return None


def compiled_to_bytes(compiled: Compiled) -> bytes:
    """Return the policy as JSON: the octets that are hashed and signed."""
    rules = [
        {
            "name": rule.name,
            "verdict": rule.verdict.value,
            "networks": [str(network) for network in rule.networks],
            "protocol": rule.protocol.value,
            "ports": [list(ports) for ports in rule.ports],
        }
        for rule in compiled.rules
    ]
    record = {
        "name": compiled.name,
        "version": compiled.version,
        "customer": compiled.customer,
        "identity": compiled.identity,
        "sources": [str(network) for network in compiled.sources],
        "rules": rules,
    }
    return json.dumps(record, indent=1).encode("ascii") + b"\n"


def compiled_from_bytes(data: bytes, where: str) -> Compiled:
    """Return the policy that data holds; raise ConfigError where it is not written as by us."""
    fields = ("name", "version", "customer", "identity", "sources", "rules")
    record = Record(where, object_from_json(data, where), fields)
    compiled = Compiled(
        name=record.text("name", NAME, NAME_SHAPE),
        version=_version(record),
        customer=record.text("customer", NAME, NAME_SHAPE),
        identity=record.text("identity", FQDN, "a name such as moat1.example.net"),
        sources=_sources(record),
        rules=_rules(record),
    )
    if compiled_to_bytes(compiled) != data:
        raise ConfigError(where, "is not in the form that `moat-policy compile` writes", _AGAIN)
    return compiled


_AGAIN = "Compile and sign the policy again"


def _version(record: Record) -> int:
    value = record.record.get("version")
    if type(value) is not int or not 1 <= value <= MOST_VERSION:
        raise record.error("version", f"is {short(value)}", f"Give 1 to {MOST_VERSION}")
    return value


def _networks(record: Record, key: str) -> tuple[Network, ...]:
    try:
        return tuple(parse_network(text) for text in record.texts(key))
    except ValueError as error:
        raise record.error(key, str(error), _AGAIN) from error


def _sources(record: Record) -> tuple[Network, ...]:
    networks = _networks(record, "sources")
    if networks != (*merged_networks(networks, 4), *merged_networks(networks, 6)):
        raise record.error("sources", "overlap or are in disorder", _AGAIN)
    if any(network.prefixlen == 0 for network in networks):
        raise record.error("sources", "hold everything", "Name private subnets only")
    return networks


def _rules(record: Record) -> tuple[Rule, ...]:
    values = record.record.get("rules")
    if not isinstance(values, list) or len(values) > MOST_RULES:
        raise record.error("rules", "is no list of rules, or too long a one", _AGAIN)
    rules = tuple(_rule(value, f"{record.where}: rule {i}") for i, value in enumerate(values, 1))
    if sum(len(rule.networks) for rule in rules) > MOST_NETWORKS:
        raise record.error("rules", f"have more than {MOST_NETWORKS} networks", "Name fewer")
    return rules


def _rule(value: Any, where: str) -> Rule:
    if not isinstance(value, dict):
        raise ConfigError(where, "is no JSON object", _AGAIN)
    record = Record(where, value, ("name", "verdict", "networks", "protocol", "ports"))
    networks = _networks(record, "networks")
    if networks != merged_networks(networks, networks[0].version):
        raise record.error("networks", "overlap, touch, or are of two families", _AGAIN)
    verdict = Verdict(record.choice("verdict", tuple(Verdict), ""))
    bad = never_direct(networks) if verdict is Verdict.DIRECT else None
    if bad is not None:
        raise record.error("networks", f"has {bad}, which nothing goes to directly", _AGAIN)
    protocol = Protocol(record.choice("protocol", tuple(Protocol), ""))
    name = record.text("name", NAME, NAME_SHAPE)
    return Rule(name, verdict, networks, protocol, _ports(record, protocol))


def _ports(record: Record, protocol: Protocol) -> Ports:
    values = record.record.get("ports")
    if not isinstance(values, list) or not all(_is_range(value) for value in values):
        raise record.error("ports", f"is {short(values)}", _AGAIN)
    ports = tuple((first, last) for first, last in values)
    if ports != merged_ports(ports) or (ports and protocol not in HAVE_PORTS):
        raise record.error("ports", "overlap, touch, or stand where there are none", _AGAIN)
    return ports


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(port) is int for port in value)
        and 0 <= value[0] <= value[1] <= MOST_PORT
    )
