"""Boxes that the tests of the lockdown share, as the roles describe them."""

from __future__ import annotations

from typing import Any

from moatvpn.lockdown.homes import moat_box, portal_box
from moatvpn.lockdown.zones import Box

SSH = {"name": "ssh", "protocol": "tcp", "port": 22, "zones": ["private"], "process": "sshd"}
DNS = {"name": "dns", "protocol": "udp", "port": 53, "zones": ["private", "kid"]}
DHCP = {"name": "dhcp", "protocol": "udp", "port": 67, "zones": ["private", "kid"]}
DHCP_ANSWERS = {"name": "dhcp-answers", "protocol": "udp", "port": 68, "zones": ["private", "kid"]}

MOAT: dict[str, Any] = {
    "wild_interface": "wild0",
    "wild_dhcp": True,
    "private_interface": "home0",
    "private_subnet": "10.201.1.0/24",
    "private_subnet6": "fd00:201:1::/64",
    "services": [SSH],
}
KID: dict[str, Any] = {
    "kid": {"interface": "kid0", "subnet": "192.168.77.0/24", "rate": 8000},
    "services": [SSH, DNS, DHCP],
    "outgoing": [DHCP_ANSWERS],
}
PORTAL: dict[str, Any] = {
    "wild_interface": "wild0",
    "corporate_interface": "corp0",
    "pool": "10.201.0.0/16",
    "pool6": "fd00:201::/32",
    "services": [SSH],
}
# Of customers who have come from another portal, and who have gone to one.
MOVED: dict[str, Any] = {
    "moved_here": ["10.202.3.0/24", "10.202.4.0/24", "fd00:202:3::/64", "fd00:202:4::/64"],
    "handed_on": ["10.201.7.0/24", "fd00:201:7::/64"],
}


def further(number: int) -> dict[str, Any]:
    """Return the n-th further VPN of a moat."""
    return {
        "name": f"vpn{number}",
        "private_interface": f"home{number}",
        "private_subnet": f"10.21{number}.1.0/24",
        "private_subnet6": f"fd00:21{number}:1::/64",
        "ports": [600 + number, 4600 + number],
    }


def moat(**changes: Any) -> Box:
    return moat_box(MOAT | changes, "test")


def portal(**changes: Any) -> Box:
    return portal_box(PORTAL | changes, "test")


# The boxes whose rulesets are written out in golden/, to be read by people.
GOLDEN: dict[str, Box] = {
    "moat": moat(),
    "kid": moat(**KID),
    "three-vpns": moat(vpns=[further(1), further(2)]),
    "portal": portal(),
    "portal-moved": portal(**MOVED),
}
