"""The Configuration payload (RFC 7296, 3.15; RFC 8598 for domains)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

_HEAD_LENGTH = 4
_ATTRIBUTE = struct.Struct("!HH")
_TYPE_MASK = 0x7FFF  # the highest bit is reserved, and ignored
MOST_VALUES = 64  # of one payload: nobody has so many addresses, servers and networks
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class ConfigType(IntEnum):
    """What a Configuration payload is for."""

    REQUEST = 1
    REPLY = 2


class Attribute(IntEnum):
    """Configuration attributes (3.15.1; RFC 8598, 3.1)."""

    IP4_ADDRESS = 1
    IP4_DNS = 3
    IP6_ADDRESS = 8
    IP6_DNS = 10
    IP4_SUBNET = 13
    IP6_SUBNET = 15
    DNS_DOMAIN = 25


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a peer assigns: host addresses, resolvers, networks behind it, names to resolve there.

    All are text; networks is empty where everything is behind the peer.
    """

    addresses: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


def encode_request() -> bytes:
    """Return the body of a CP(CFG_REQUEST) for one of everything, whatever it is."""
    return _encode(ConfigType.REQUEST, [(kind, b"") for kind in Attribute])


def encode_reply(assigned: Assigned, wanted: Iterable[int]) -> bytes:
    """Return the body of a CP(CFG_REPLY) with what of assigned is of the wanted attributes."""
    values: list[tuple[int, bytes]] = []
    for address in map(ip_address, assigned.addresses):
        if isinstance(address, IPv4Address):
            values.append((Attribute.IP4_ADDRESS, address.packed))
        else:
            values.append((Attribute.IP6_ADDRESS, address.packed + b"\x80"))
    for server in map(ip_address, assigned.dns):
        kind = Attribute.IP4_DNS if server.version == 4 else Attribute.IP6_DNS
        values.append((kind, server.packed))
    for network in map(ip_network, assigned.networks):
        if isinstance(network, IPv4Network):
            octets = network.network_address.packed + network.netmask.packed
            values.append((Attribute.IP4_SUBNET, octets))
        else:
            octets = network.network_address.packed + bytes((network.prefixlen,))
            values.append((Attribute.IP6_SUBNET, octets))
    values += [(Attribute.DNS_DOMAIN, name.encode("ascii")) for name in assigned.domains]
    asked = set(wanted)
    return _encode(ConfigType.REPLY, [value for value in values if value[0] in asked])


def _encode(kind: ConfigType, values: Sequence[tuple[int, bytes]]) -> bytes:
    parts = [bytes((kind, 0, 0, 0))]
    parts += [_ATTRIBUTE.pack(number, len(value)) + value for number, value in values]
    return b"".join(parts)


def parse_attributes(body: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """Return the type of a Configuration payload and its attributes, each number and value.

    Raises PeerError where it is malformed, or holds more than MOST_VALUES.
    """
    if len(body) < _HEAD_LENGTH:
        raise PeerError(DropReason.IKE_MALFORMED, "configuration too short")
    attributes: list[tuple[int, bytes]] = []
    offset = _HEAD_LENGTH
    while offset < len(body):
        if offset + _ATTRIBUTE.size > len(body) or len(attributes) == MOST_VALUES:
            raise PeerError(DropReason.IKE_MALFORMED, "configuration attribute beyond its payload")
        number, length = _ATTRIBUTE.unpack_from(body, offset)
        start = offset + _ATTRIBUTE.size
        offset = start + length  # past the head at least: the loop moves on
        if offset > len(body):
            raise PeerError(DropReason.IKE_MALFORMED, f"configuration attribute length {length}")
        attributes.append((number & _TYPE_MASK, body[start:offset]))
    return body[0], attributes


def assigned_of(attributes: Iterable[tuple[int, bytes]]) -> Assigned:
    """Return what the attributes of a reply assign; those we don't know are left out (3.15.1).

    Raises PeerError for a value of the wrong shape.
    """
    assigned = Assigned()
    for number, value in attributes:
        if not value:
            continue
        try:
            assigned = _with(assigned, number, value)
        except ValueError as error:
            raise PeerError(DropReason.IKE_MALFORMED, f"attribute {number}: {error}") from error
    return assigned


def _with(assigned: Assigned, number: int, value: bytes) -> Assigned:
    match number:
        case Attribute.IP4_ADDRESS:
            return replace(assigned, addresses=(*assigned.addresses, str(IPv4Address(value))))
        case Attribute.IP6_ADDRESS:
            address = str(IPv6Address(value[:16])) if len(value) == 17 else str(IPv6Address(value))
            return replace(assigned, addresses=(*assigned.addresses, address))
        case Attribute.IP4_DNS:
            return replace(assigned, dns=(*assigned.dns, str(IPv4Address(value))))
        case Attribute.IP6_DNS:
            return replace(assigned, dns=(*assigned.dns, str(IPv6Address(value))))
        case Attribute.IP4_SUBNET:
            mask = str(IPv4Address(value[4:]))
            network = str(IPv4Network((value[:4], mask), strict=False))
            return replace(assigned, networks=(*assigned.networks, network))
        case Attribute.IP6_SUBNET:
            if len(value) != 17:
                raise ValueError(f"{len(value)} octets")
            network = str(IPv6Network((value[:16], value[16]), strict=False))
            return replace(assigned, networks=(*assigned.networks, network))
        case Attribute.DNS_DOMAIN:
            # Only what is surely a name goes on to logs and resolvers.
            name = value.decode("ascii").lower().rstrip(".")
            if not _DOMAIN.fullmatch(name):
                raise ValueError("no domain name")
            return replace(assigned, domains=(*assigned.domains, name))
    return assigned
