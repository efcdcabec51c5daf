"""Which zones a moat and a portal have, by the roles' own variables."""

from __future__ import annotations

from typing import Any

from moatvpn.config_fields import short
from moatvpn.errors import ConfigError
from moatvpn.lockdown.zones import USUAL_PORTS, Box, box_from_dict

FIRST_TUNNEL = "moat0"


def moat_box(settings: dict[str, Any], where: str) -> Box:
    """Return the box that a moat is.

    settings: wild_interface; wild_dhcp; private_interface, private_subnet, private_subnet6; kid,
    None or a record of interface, subnet and rate; vpns, further VPNs, each with name,
    private_interface, private_subnet, private_subnet6 and ports; services, outgoing, mss.
    Raises ConfigError, whose what begins with where.
    """
    zones: list[dict[str, Any]] = [
        {"name": "wild", "kind": "wild", "interface": settings.get("wild_interface")}
    ]
    ports = list(USUAL_PORTS)
    vpns, kid = settings.get("vpns", []), settings.get("kid")
    if not isinstance(vpns, list) or not all(isinstance(each, dict) for each in vpns):
        raise ConfigError(f"{where}: vpns", f"is {short(vpns)}", "Give a list of records")
    if kid and not isinstance(kid, dict):
        raise ConfigError(f"{where}: kid", f"is {short(kid)}", "Give a record, or nothing")
    for number, vpn in enumerate([settings, *vpns]):
        end = f"-{vpn.get('name')}" if number else ""
        zones += [
            {
                "name": f"private{end}",
                "kind": "private",
                "interface": vpn.get("private_interface"),
                "subnet4": vpn.get("private_subnet"),
                "subnet6": vpn.get("private_subnet6"),
                "tunnel": f"tunnel{end}",
            },
            {"name": f"tunnel{end}", "kind": "tunnel", "interface": f"moat{number}"},
        ]
        own = vpn.get("ports", []) if number else []
        if not isinstance(own, list | tuple):
            raise ConfigError(f"{where}: ports", f"is {short(own)}", "Give a list of numbers")
        ports += own
    if kid:
        own = {"interface": kid.get("interface"), "subnet4": kid.get("subnet")}
        zones.append({"name": "kid", "kind": "kid", **own, "rate": kid.get("rate", 0)})
    dhcp = settings.get("wild_dhcp", False)
    record = {"zones": zones, "ike_ports": ports, "wild_dhcp": dhcp, "direct": True}
    return box_from_dict(record | _shared(settings), where)


def portal_box(settings: dict[str, Any], where: str) -> Box:
    """Return the box that a portal is.

    settings: wild_interface, corporate_interface, pool, pool6, services, outgoing, mss, enrolment;
    moved_here, the private subnets of customers who have come from another portal, and handed_on,
    those, of the pool, of customers who have gone to another one.
    Raises ConfigError, whose what begins with where.
    """
    corporate = settings.get("corporate_interface")
    zones = [
        {"name": "wild", "kind": "wild", "interface": settings.get("wild_interface")},
        {"name": "corporate", "kind": "private", "interface": corporate, "tunnel": "tunnel"},
        {
            "name": "tunnel",
            "kind": "tunnel",
            "interface": FIRST_TUNNEL,
            "subnet4": settings.get("pool"),
            "subnet6": settings.get("pool6"),
            "further": settings.get("moved_here", []),
        },
    ]
    enrolment = settings.get("enrolment", 0)
    record = {"zones": zones, "any_peer_port": True, "enrolment": enrolment}
    record["handed_on"] = settings.get("handed_on", [])
    return box_from_dict(record | _shared(settings), where)


def _shared(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("services", "outgoing", "mss") if key in settings}
