"""What a box is to the packet filter: zones, what listens on it, and what it may start itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from moatvpn.config_fields import Record, short
from moatvpn.errors import ConfigError
from moatvpn.subnets import Network, contains, first_overlap, parse_network
from moatvpn.wire.endpoint import IKE_PORT, NAT_PORT

USUAL_PORTS = (IKE_PORT, NAT_PORT)
# Source ports that a connection of the home's gets when its address is translated: above all that
# the box itself listens on, so that no answer to it is taken for an envelope.
TRANSLATED_PORTS = (10_000, 65_535)

_ENROLMENT = (0, TRANSLATED_PORTS[0] - 1)
_RATES = (64, 100_000_000)  # kbit/s

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")


class Kind(StrEnum):
    """What a zone is; the verdicts follow from it."""

    WILD = "wild"
    PRIVATE = "private"
    KID = "kid"
    TUNNEL = "tunnel"
    LOCAL = "local"


@dataclass(frozen=True)
class Zone:
    """One side of a box.

    name: how messages and chains call it.
    kind: what it is.
    interface: the interface that is the zone, and all of it.
    subnet4, subnet6: the addresses that belong to the zone and to no other. A zone without any is
        where everything else is: the tunnel of a moat, the corporate side of a portal.
    tunnel: of a private zone, the name of the tunnel zone that it belongs to.
    rate: of a kid-net, how many kbit/s it may send, and how many get; 0 is as many as it can.
    further: more such addresses: of a portal's tunnel, the private subnets of customers who have
        come here from another portal.
    """

    name: str
    kind: Kind
    interface: str
    subnet4: Network | None = None
    subnet6: Network | None = None
    tunnel: str | None = None
    rate: int = 0
    further: tuple[Network, ...] = ()

    @property
    def subnets(self) -> tuple[Network, ...]:
        """The addresses that belong to the zone."""
        own = tuple(each for each in (self.subnet4, self.subnet6) if each is not None)
        return own + self.further

    def of_family(self, version: int) -> tuple[Network, ...]:
        """Return those of IPv4 or of IPv6."""
        return tuple(each for each in self.subnets if each.version == version)


LOCAL = Zone("local", Kind.LOCAL, "lo")


@dataclass(frozen=True)
class Service:
    """What listens on the box.

    protocol: tcp or udp; port: 1 to 65535; zones: the kinds of zones that may reach it.
    sources: where they may come from; None is everywhere in the zone, an empty tuple nowhere.
    """

    name: str
    protocol: str
    port: int
    zones: tuple[Kind, ...]
    sources: tuple[Network, ...] | None = None


@dataclass(frozen=True)
class Outgoing:
    """What the box itself may start: protocol and port of whom it speaks to, in which zones.

    destinations: whom it may speak to there; None is everybody, an empty tuple nobody.
    """

    name: str
    protocol: str
    port: int
    zones: tuple[Kind, ...]
    destinations: tuple[Network, ...] | None = None


@dataclass(frozen=True)
class Box:
    """All that the ruleset of a box follows from.

    zones: its sides; the box itself, LOCAL, is none of them.
    ike_ports: its UDP ports on the wild side, which IKE and ESP in UDP come to.
    any_peer_port: whether peers may have any UDP port (a NAT before a moat chooses it), or only
        the usual ones.
    wild_dhcp: whether the wild side's address is a lease.
    direct: whether a policy may let traffic of private zones go straight to the wild side.
    mss: where the kernel carries the packets, the largest segments of TCP over IPv4 and IPv6.
    enrolment: a portal's TCP port where moats enrol, from the wild side and the tunnel; 0: none.
    handed_on: the private subnets, of a portal's pool, of customers who have gone to another
        portal: what comes for them from the corporate side goes back there, to that portal.
    """

    zones: tuple[Zone, ...]
    services: tuple[Service, ...] = ()
    outgoing: tuple[Outgoing, ...] = ()
    ike_ports: tuple[int, ...] = USUAL_PORTS
    any_peer_port: bool = False
    wild_dhcp: bool = False
    direct: bool = False
    mss: tuple[int, int] | None = None
    enrolment: int = 0
    handed_on: tuple[Network, ...] = ()

    def of(self, *kinds: Kind) -> tuple[Zone, ...]:
        """Return the zones of these kinds."""
        return tuple(zone for zone in self.zones if zone.kind in kinds)

    @property
    def everywhere(self) -> tuple[Zone, ...]:
        """All zones, and the box itself."""
        return (*self.zones, LOCAL)

    @property
    def is_home(self) -> bool:
        """Whether the box stands in a home: its private zones are subnets of their own."""
        return any(zone.subnets for zone in self.of(Kind.PRIVATE))

    def tunnel_of(self, zone: Zone) -> Zone:
        """Return the tunnel zone that a private zone belongs to."""
        return next(each for each in self.zones if each.name == zone.tunnel)


def box_from_dict(record: dict[str, Any], where: str) -> Box:
    """Return the box that record describes, field by field as Box has them.

    zones, services and outgoing are lists of records; a service's or outgoing's further words
    process and user are for people. Raises ConfigError, whose what begins with where.
    """
    known = ("zones", "services", "outgoing", "ike_ports", "any_peer_port", "wild_dhcp", "direct")
    get = Record(where, record, (*known, "mss", "enrolment", "handed_on"))
    zones = tuple(_zone(each, f"{where}: zones") for each in _records(get, "zones"))
    services = tuple(_service(each, f"{where}: services") for each in _records(get, "services"))
    outgoing = tuple(_outgoing(each, f"{where}: outgoing") for each in _records(get, "outgoing"))
    mss = _numbers(get, "mss", (536, 65_495)) if record.get("mss") else None
    if mss is not None and len(mss) != 2:
        raise get.error("mss", f"is {short(record['mss'])}", "Give one for IPv4 and one for IPv6")
    box = Box(
        zones=zones,
        services=services,
        outgoing=outgoing,
        ike_ports=_numbers(get, "ike_ports", (1, 65_535), USUAL_PORTS),
        any_peer_port=_flag(get, "any_peer_port"),
        wild_dhcp=_flag(get, "wild_dhcp"),
        direct=_flag(get, "direct"),
        mss=(mss[0], mss[1]) if mss is not None else None,
        enrolment=_in_bounds(get, "enrolment", record.get("enrolment", 0), _ENROLMENT),
        handed_on=_listed(get, "handed_on") or (),
    )
    _check_zones(box, where)
    _check_handed_on(box, where)
    _check_services(box, where)
    return box


def _records(get: Record, key: str) -> list[dict[str, Any]]:
    values = get.record.get(key, [])
    if not isinstance(values, list) or not all(isinstance(each, dict) for each in values):
        raise get.error(key, f"is {short(values)}", "Give a list of records")
    return values


def _flag(get: Record, key: str) -> bool:
    value = get.record.get(key, False)
    if not isinstance(value, bool):
        raise get.error(key, f"is {short(value)}", "Give true or false")
    return value


def _numbers(
    get: Record, key: str, bounds: tuple[int, int], default: tuple[int, ...] = ()
) -> tuple[int, ...]:
    values = get.record.get(key, list(default))
    if not isinstance(values, list | tuple) or not values:
        raise get.error(key, f"is {short(values)}", "Give a list of numbers")
    return tuple(dict.fromkeys(_in_bounds(get, key, value, bounds) for value in values))


def _in_bounds(get: Record, key: str, value: Any, bounds: tuple[int, int]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not bounds[0] <= value <= bounds[1]:
        raise get.error(
            key, f"has {short(value)}", f"Give a number from {bounds[0]} to {bounds[1]}"
        )
    return value


def _kinds(get: Record, allowed: tuple[Kind, ...]) -> tuple[Kind, ...]:
    values = get.record.get("zones")
    if not isinstance(values, list) or not all(value in allowed for value in values):
        remedy = f"Give a list of kinds of zones: {', '.join(allowed)}"
        raise get.error("zones", f"is {short(values)}", remedy)
    return tuple(dict.fromkeys(Kind(value) for value in values))


def _network(get: Record, key: str, version: int) -> Network | None:
    value = get.record.get(key)
    if not value:
        return None
    try:
        if not isinstance(value, str):
            raise ValueError(f"{short(value)} is no string")  # noqa: TRY004, TRY301
        return parse_network(value, version)
    except ValueError as error:
        raise get.error(key, str(error), "Give a network such as 10.1.2.0/24") from error


def _zone(record: dict[str, Any], where: str) -> Zone:
    known = ("name", "kind", "interface", "subnet4", "subnet6", "tunnel", "rate", "further")
    get = Record(where, record, known)
    kinds = tuple(kind for kind in Kind if kind is not Kind.LOCAL)
    kind = record.get("kind")
    if kind not in kinds:
        raise get.error("kind", f"is {short(kind)}", f"Give one of {', '.join(kinds)}")
    name = get.text("name", _NAME, "a short name in lower case")
    return Zone(
        name=name,
        kind=Kind(kind),
        interface=get.text("interface", _INTERFACE, "the name of an interface"),
        subnet4=_network(get, "subnet4", 4),
        subnet6=_network(get, "subnet6", 6),
        tunnel=get.text("tunnel", _NAME, "a tunnel zone's name") if "tunnel" in record else None,
        rate=get.amount("rate", _RATES, "kbit/s"),
        further=_listed(get, "further") or (),
    )


def _of_the_box(get: Record, kinds: tuple[Kind, ...]) -> tuple[str, str, int, tuple[Kind, ...]]:
    """Take what services and outgoing have in common: name, protocol, port, zones."""
    protocol = get.record.get("protocol")
    if protocol not in ("tcp", "udp"):
        raise get.error("protocol", f"is {short(protocol)}", "Give tcp or udp")
    port = _in_bounds(get, "port", get.record.get("port"), (1, 65_535))
    return get.text("name", _WORD, "a word"), protocol, port, _kinds(get, kinds)


def _service(record: dict[str, Any], where: str) -> Service:
    get = Record(where, record, ("name", "protocol", "port", "zones", "sources", "process"))
    shared = _of_the_box(get, (Kind.WILD, Kind.PRIVATE, Kind.KID, Kind.TUNNEL))
    return Service(*shared, sources=_listed(get, "sources"))


def _outgoing(record: dict[str, Any], where: str) -> Outgoing:
    known = ("name", "protocol", "port", "zones", "destinations", "user", "process")
    get = Record(where, record, known)
    shared = _of_the_box(get, (Kind.WILD, Kind.PRIVATE, Kind.KID, Kind.TUNNEL))
    return Outgoing(*shared, destinations=_listed(get, "destinations"))


def _listed(get: Record, key: str) -> tuple[Network, ...] | None:
    """Take a list of networks, which may be empty; None where it is left out."""
    if key not in get.record:
        return None
    values = get.record[key]
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise get.error(key, f"is {short(values)}", "Give a list of networks")
    try:
        return tuple(parse_network(each) for each in values)
    except ValueError as error:
        raise get.error(key, str(error), "Give networks such as 10.1.2.0/24") from error


def _check_zones(box: Box, where: str) -> None:
    """Refuse zones between which no ruleset could tell."""
    if len(box.of(Kind.WILD)) != 1:
        why = f"name {len(box.of(Kind.WILD))} wild sides"
        raise ConfigError(f"{where}: zones", why, "Give one of the kind wild")
    for what in ("name", "interface"):
        values = [getattr(zone, what) for zone in box.everywhere]
        for value in values:
            if values.count(value) > 1:
                why = f"have {what} {short(value)} twice"
                raise ConfigError(f"{where}: zones", why, "Give each zone its own")
    pair = first_overlap(subnet for zone in box.zones for subnet in zone.subnets)
    if pair is not None:
        why = f"share addresses: {pair[0]} and {pair[1]}"
        raise ConfigError(f"{where}: zones", why, "Give each zone a subnet of its own")
    for zone in box.zones:
        _check_zone(box, zone, where)
    taken = [zone.tunnel for zone in box.of(Kind.PRIVATE)]
    for tunnel in box.of(Kind.TUNNEL):
        if taken.count(tunnel.name) != 1:
            why = f"belongs to {taken.count(tunnel.name)} private zones"
            raise ConfigError(f"{where}: zone {tunnel.name}", why, "Give it to one of them")


def _check_zone(box: Box, zone: Zone, where: str) -> None:
    """Refuse a zone that its kind does not allow."""
    at = f"{where}: zone {zone.name}"
    if zone.kind is Kind.WILD and zone.subnets:
        raise ConfigError(at, "is wild, and has a subnet", "Leave its subnets out")
    if zone.kind is Kind.KID and (zone.subnet4 is None or zone.subnet6 is not None):
        raise ConfigError(at, "is IPv4 only", "Give it subnet4, and no subnet6")
    if zone.further and (zone.kind is not Kind.TUNNEL or zone.subnet4 is None):
        remedy = "Give some to the tunnel of a portal only"
        raise ConfigError(at, "has further subnets", remedy)
    if zone.kind is not Kind.KID and zone.rate:
        raise ConfigError(at, "has a rate", "Give one to a kid-net only")
    if (zone.kind is Kind.PRIVATE) != (zone.tunnel is not None):
        remedy = "Give a private zone the name of its tunnel zone, and no other"
        raise ConfigError(at, f"has the tunnel {short(zone.tunnel)}", remedy)
    if zone.kind is Kind.PRIVATE:
        if zone.tunnel not in {each.name for each in box.of(Kind.TUNNEL)}:
            why = f"belongs to the tunnel {short(zone.tunnel)}, which is no tunnel zone"
            raise ConfigError(at, why, "Name one of the kind tunnel")
        tunnel = box.tunnel_of(zone)
        if (zone.subnet4 is None) == (tunnel.subnet4 is None):
            remedy = "Give subnet4 to the one whose addresses are listed, the other is the rest"
            raise ConfigError(at, f"and {tunnel.name} cannot be told apart", remedy)


def _check_handed_on(box: Box, where: str) -> None:
    """Refuse what a portal has not to hand on: it is nobody's of its pool."""
    pools = [zone.of_family(4)[:1] + zone.of_family(6)[:1] for zone in box.of(Kind.TUNNEL)]
    for subnet in box.handed_on:
        if not any(contains(pool, subnet) for each in pools for pool in each):
            remedy = "Give private subnets of a portal's own pool"
            raise ConfigError(f"{where}: handed_on", f"{subnet} lies in no pool here", remedy)


def _check_services(box: Box, where: str) -> None:
    """Refuse what would listen on the wild side: nothing does but IKE and ESP in UDP."""
    for service in box.services:
        if Kind.WILD in service.zones and (
            service.protocol != "udp" or service.port not in box.ike_ports
        ):
            why = f"would let the wild side in to {service.protocol} port {service.port}"
            remedy = "Take wild out of its zones: only IKE and ESP in UDP are open there"
            raise ConfigError(f"{where}: service {service.name}", why, remedy)
    if box.enrolment and box.is_home:
        why = "is for portals: a home has nothing that listens on the wild side but IKE"
        raise ConfigError(f"{where}: enrolment", why, "Leave it out")
    for port in box.ike_ports:
        if port >= TRANSLATED_PORTS[0]:
            why = f"has {port}, where translated connections have their ports"
            raise ConfigError(f"{where}: ike_ports", why, f"Stay below {TRANSLATED_PORTS[0]}")
