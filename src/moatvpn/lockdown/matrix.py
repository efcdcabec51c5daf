"""The zone matrix: for every ordered pair of zones, what passes. Whatever is not listed is dropped.

It is the one place that decides; ruleset.py writes down what stands here, and readback.py checks
that the kernel has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from moatvpn.lockdown.zones import LOCAL, USUAL_PORTS, Box, Kind, Zone
from moatvpn.subnets import Network

# What a policy marks packets with that may go straight to the wild side.
DIRECT_MARK = 0x4D


class State(StrEnum):
    """Which packets an allowance is for, in the words of connection tracking."""

    EACH = "each packet"
    NEW = "the first of a connection"
    KNOWN = "those of connections that were begun rightly, and errors about them"


@dataclass(frozen=True)
class Allowance:
    """One kind of packet that passes between two zones.

    families: 4, 6 or both. protocol: tcp, udp, icmp, icmpv6, esp, or "" for every one.
    sports, dports: the ports, where there are any; types: of ICMP; an empty tuple is every one.
    sources, destinations: the addresses, all of one family; an empty tuple is every one.
    state: which packets of a connection. direct: only what a policy has marked, and its answers.
    """

    families: tuple[int, ...]
    protocol: str = ""
    sports: tuple[int, ...] = ()
    dports: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    sources: tuple[Network, ...] = ()
    destinations: tuple[Network, ...] = ()
    state: State = State.EACH
    direct: bool = False


Verdict = tuple[Allowance, ...]
Pair = tuple[Zone, Zone]
Matrix = Mapping[Pair, Verdict]

_KNOWN = Allowance((4, 6), state=State.KNOWN)
_KNOWN4 = Allowance((4,), state=State.KNOWN)
_PING = Allowance((4,), "icmp", types=("echo-request",))
_PING6 = Allowance((6,), "icmpv6", types=("echo-request",))
# What a router tells those whose packets it cannot forward, and its own pings.
_TELL = Allowance((4,), "icmp", types=("destination-unreachable", "echo-request", "time-exceeded"))
_TELL6 = Allowance(
    (6,),
    "icmpv6",
    types=("destination-unreachable", "echo-request", "packet-too-big", "time-exceeded"),
)
_NEIGHBOURS = ("nd-neighbor-advert", "nd-neighbor-solicit")
# Ports that have a meaning in one family alone: DHCP, and DHCP for IPv6.
_FAMILY_OF = {67: 4, 68: 4, 546: 6, 547: 6}


def matrix(box: Box) -> Matrix:
    """Return the verdict for every ordered pair of the box's zones, the box itself among them.

    An empty verdict is "drop": no pair is left out, so that nothing is decided by accident.
    """
    zones = box.everywhere
    return MappingProxyType({(a, b): _verdict(box, a, b) for a in zones for b in zones})


def _verdict(box: Box, a: Zone, b: Zone) -> Verdict:
    if a is b:
        return (Allowance((4, 6)),) if a is LOCAL else _back(box, a)
    if a is LOCAL:
        return _from_the_box(box, b)
    if b is LOCAL:
        return _to_the_box(box, a)
    match a.kind, b.kind:
        case (Kind.PRIVATE, Kind.TUNNEL) if a.tunnel == b.name:
            return _through(a, b)
        case (Kind.TUNNEL, Kind.PRIVATE) if b.tunnel == a.name:
            return _through(a, b)
        case (Kind.PRIVATE, Kind.WILD) if box.direct and a.subnet4 is not None:
            begun = Allowance((4,), sources=(a.subnet4,), state=State.NEW, direct=True)
            known = Allowance((4,), sources=(a.subnet4,), state=State.KNOWN, direct=True)
            return (begun, known)
        case (Kind.WILD, Kind.PRIVATE) if box.direct and b.subnet4 is not None:
            return (Allowance((4,), destinations=(b.subnet4,), state=State.KNOWN, direct=True),)
        case (Kind.KID, Kind.WILD):
            return _kid_to_wild(a)
        case (Kind.WILD, Kind.KID) if b.subnet4 is not None:
            return (Allowance((4,), destinations=(b.subnet4,), state=State.KNOWN),)
    return ()


def _through(a: Zone, b: Zone) -> Verdict:
    """Between a private zone and its tunnel: everything, as far as addresses belong there."""
    verdict = []
    for family in (4, 6):
        if sources := a.of_family(family):
            verdict.append(Allowance((family,), sources=sources))
        elif destinations := b.of_family(family):
            verdict.append(Allowance((family,), destinations=destinations))
    return tuple(verdict)


def _back(box: Box, a: Zone) -> Verdict:
    """From a portal's corporate side back to it: for whom another portal there has now."""
    verdict = []
    for family in (4, 6) if a.kind is Kind.PRIVATE else ():
        if gone := tuple(each for each in box.handed_on if each.version == family):
            verdict.append(Allowance((family,), destinations=gone))
    return tuple(verdict)


def _kid_to_wild(kid: Zone) -> Verdict:
    sources = () if kid.subnet4 is None else (kid.subnet4,)
    return (
        Allowance((4,), sources=sources, state=State.KNOWN),
        Allowance((4,), "tcp", sources=sources, state=State.NEW),
        Allowance((4,), "udp", sources=sources, state=State.NEW),
        Allowance((4,), "icmp", types=("echo-request",), sources=sources, state=State.NEW),
    )


def _to_the_box(box: Box, a: Zone) -> Verdict:
    match a.kind:
        case Kind.WILD:
            verdict = [Allowance((4,), "esp"), Allowance((4,), "udp", dports=box.ike_ports)]
            if box.wild_dhcp:
                verdict.append(Allowance((4,), "udp", sports=(67,), dports=(68,)))
            if box.enrolment:
                verdict.append(Allowance((4,), "tcp", dports=(box.enrolment,)))
            if any(Kind.WILD in each.zones for each in box.outgoing):
                verdict.append(_KNOWN4)
            return tuple(verdict)
        case Kind.PRIVATE:
            types = _NEIGHBOURS if a.subnet6 is None else (*_NEIGHBOURS, "nd-router-solicit")
            asks = Allowance((6,), "icmpv6", types=("echo-request", *types))
            return (_KNOWN, _PING, asks, *_services(box, a, (4, 6)))
        case Kind.TUNNEL:
            asks = Allowance((4, 6), "tcp", dports=(box.enrolment,))
            enrolment = (asks,) if box.enrolment else ()
            return (_KNOWN, _PING, _PING6, *enrolment, *_services(box, a, (4, 6)))
        case Kind.KID:
            return (_KNOWN4, _PING, *_services(box, a, (4,)))
    return ()


def _services(box: Box, a: Zone, families: tuple[int, ...]) -> Verdict:
    """Return what may reach the services for a zone."""
    verdict = []
    for service in box.services:
        if a.kind not in service.zones:
            continue
        only = _FAMILY_OF.get(service.port)
        for_whom = tuple(f for f in families if only is None or f == only)
        ports = (service.port,)
        if service.sources is None:
            if for_whom:
                verdict.append(Allowance(for_whom, service.protocol, dports=ports))
            continue
        for family in for_whom:
            sources = tuple(each for each in service.sources if each.version == family)
            if sources:
                only_from = Allowance((family,), service.protocol, dports=ports, sources=sources)
                verdict.append(only_from)
    return tuple(dict.fromkeys(verdict))


def _from_the_box(box: Box, b: Zone) -> Verdict:
    match b.kind:
        case Kind.WILD:
            peers = () if box.any_peer_port else USUAL_PORTS
            verdict = [
                Allowance((4,), "esp"),
                Allowance((4,), "udp", sports=box.ike_ports, dports=peers),
            ]
            if box.wild_dhcp:
                verdict.append(Allowance((4,), "udp", sports=(68,), dports=(67,)))
            if box.enrolment:
                verdict.append(Allowance((4,), "tcp", sports=(box.enrolment,)))
            return (*verdict, *_outgoing(box, b, (4,)))
        case Kind.PRIVATE:
            types = _NEIGHBOURS if b.subnet6 is None else (*_NEIGHBOURS, "nd-router-advert")
            tells = Allowance((6,), "icmpv6", types=(*_TELL6.types, *types))
            return (_KNOWN, _TELL, tells, *_outgoing(box, b, (4, 6)))
        case Kind.TUNNEL:
            return (_KNOWN, _TELL, _TELL6, *_outgoing(box, b, (4, 6)))
        case Kind.KID:
            return (_KNOWN4, _TELL, *_outgoing(box, b, (4,)))
    return ()


def _outgoing(box: Box, b: Zone, families: tuple[int, ...]) -> Verdict:
    """Return what the box itself may start towards a zone."""
    verdict = []
    for each in box.outgoing:
        only = _FAMILY_OF.get(each.port)
        for_whom = tuple(f for f in families if only is None or f == only)
        if b.kind not in each.zones or not for_whom:
            continue
        ports = (each.port,)
        if each.destinations is None:
            verdict.append(Allowance(for_whom, each.protocol, dports=ports))
            continue
        for family in for_whom:
            targets = tuple(one for one in each.destinations if one.version == family)
            if targets:
                only_to = Allowance((family,), each.protocol, dports=ports, destinations=targets)
                verdict.append(only_to)
    return tuple(dict.fromkeys(verdict))
