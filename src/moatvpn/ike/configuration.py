"""Configuration payloads in IKE_AUTH (RFC 7296, 2.19 and 3.15), both roles.

    HDR, SK{IDi, …, CP(CFG_REQUEST), SA, TSi, TSr} ---->
                         <----  HDR, SK{IDr, …, CP(CFG_REPLY), SA, TSi, TSr}

For a moat that is a single machine: the portal tells its address, its resolvers, and which networks
are behind the portal. What the portal tells is the connection's own; nothing is leased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

from moatvpn.config import ConnectionConfig
from moatvpn.ike.task import body_of
from moatvpn.wire.ike_config import (
    Assigned,
    ConfigType,
    assigned_of,
    encode_reply,
    encode_request,
    parse_attributes,
)
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.selectors import TrafficSelector

_EVERYTHING = ("0.0.0.0/0", "::/0")


def request(config: ConnectionConfig) -> list[tuple[int, bytes]]:
    """Return the initiator's CP payload, where its connection asks for addresses."""
    return [(PayloadType.CP, encode_request())] if config.request_addresses else []


def reply(config: ConnectionConfig, payloads: Sequence[RawPayload]) -> list[tuple[int, bytes]]:
    """Return the responder's CP payload, where it was asked and has something to tell."""
    body = body_of(payloads, PayloadType.CP)
    if body is None:
        return []
    kind, wanted = parse_attributes(body)
    if kind != ConfigType.REQUEST or not config.assigned_addresses:
        return []
    behind = tuple(n for n in config.local_selectors if n not in _EVERYTHING)
    told = Assigned(config.assigned_addresses, config.assigned_dns, behind, config.assigned_domains)
    return [(PayloadType.CP, encode_reply(told, (number for number, _ in wanted)))]


def taken(
    config: ConnectionConfig, payloads: Sequence[RawPayload], ours: Sequence[TrafficSelector]
) -> Assigned | None:
    """Return what the responder has assigned, None where nothing was asked for or told.

    ours are the selectors of our side that were agreed on: an address outside of them, which the
    tunnel could not carry, or which no host has, is left out.
    """
    body = body_of(payloads, PayloadType.CP)
    if body is None or not config.request_addresses:
        return None
    kind, attributes = parse_attributes(body)
    if kind != ConfigType.REPLY:
        return None
    told = assigned_of(attributes)
    return replace(told, addresses=tuple(a for a in told.addresses if _usable(a, ours)))


def _usable(text: str, ours: Sequence[TrafficSelector]) -> bool:
    address = ip_address(text)
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        return False
    host = TrafficSelector(address, address)
    return any(ts.covers(host) for ts in ours)
