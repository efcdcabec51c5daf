"""The further VPNs of a home, as the roles set them up: checked, and each with what is its own.

The first VPN has the first tunnel and routing table, protocol 50 and the UDP ports 500 and 4500;
the n-th further one has what is numbered after n.
"""

from __future__ import annotations

import re
from typing import Any

from moatvpn.config import connection_from_dict, connection_to_dict
from moatvpn.config_fields import FQDN, Record, short
from moatvpn.errors import ConfigError
from moatvpn.lockdown.homes import FIRST_TUNNEL
from moatvpn.lockdown.matrix import DIRECT_MARK
from moatvpn.subnets import parse_interface, parse_network

MOST_VPNS = 8
FIRST_TABLE = 4500
FIRST_PORT = 4600  # below all ports that connections of the home are translated to

_FIELDS = (
    "name",
    "private_interface",
    "private_address",
    "private_subnet",
    "private_address6",
    "private_subnet6",
    "identity",
    "connections",
)
# Those that services of the zone read; what is in them is for these services to check.
_OF_SERVICES = ("domain", "hosts", "resolvers", "domains", "others")
# It is part of the names of a user, a unit and zones. Zones and instances of these names exist.
_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
_TAKEN = ("kid", "local", "private", "tunnel", "wild")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


def first_vpn(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a home's first VPN, completed by what is its own.

    Added are tunnel, table, and mark, which the ruleset gives to packets that a policy lets go
    straight to the wild side.
    """
    return record | {"tunnel": FIRST_TUNNEL, "table": FIRST_TABLE, "mark": DIRECT_MARK}


def further_vpns(records: Any, where: str = "moat_vpns") -> list[dict[str, Any]]:
    """Return the records of a box's further VPNs, each completed by what is its own.

    Of a record, name, private_interface, private_address, private_subnet and identity must be
    there; connections are as moatvpn.config.ConnectionConfig describes them. Added are tunnel (the
    device), table (of its routes), ports (UDP, in place of 500 and 4500) and user (of its moatd).
    Raises ConfigError, whose what begins with where.
    """
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise ConfigError(where, f"is {short(records)}", "Give a list of records")
    if len(records) > MOST_VPNS:
        why = f"has {len(records)} VPNs"
        raise ConfigError(where, why, f"Give {MOST_VPNS} at most")
    vpns = [_vpn(record, number, where) for number, record in enumerate(records, start=1)]
    for key in ("name", "private_interface", "identity"):
        values = [vpn[key] for vpn in vpns]
        if len(set(values)) < len(values):
            raise ConfigError(f"{where}: {key}", "is one twice", "Give each VPN its own")
    return vpns


def _vpn(record: dict[str, Any], number: int, where: str) -> dict[str, Any]:
    at = f"{where}[{number - 1}]"
    get = Record(at, record, (*_FIELDS, *_OF_SERVICES))
    name = get.text("name", _NAME, "up to 12 of a-z and 0-9, beginning with a letter")
    if name in _TAKEN:
        raise get.error("name", f"is {name!r}, which is a zone's", "Give another")
    given = record.get("connections", [])
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise get.error("connections", f"is {short(given)}", "Give a list of connections")
    connections = [connection_from_dict(each, f"{at}: connections") for each in given]
    return {
        **{key: record[key] for key in _OF_SERVICES if key in record},
        "name": name,
        "private_interface": get.text("private_interface", _INTERFACE, "an interface's name"),
        **_side(get, "", 4),
        **(_side(get, "6", 6) if record.get("private_subnet6") else _NO_SIDE6),
        "identity": get.text("identity", FQDN, "a domain name in lower case"),
        "connections": [connection_to_dict(each) for each in connections],
        "tunnel": f"moat{number}",
        "table": FIRST_TABLE + number,
        "ports": [FIRST_PORT + 2 * (number - 1), FIRST_PORT + 2 * (number - 1) + 1],
        "user": f"moatvpn-{name}",
    }


_NO_SIDE6 = {"private_address6": "", "private_subnet6": ""}


def _side(get: Record, end: str, version: int) -> dict[str, str]:
    """Take a private side's own address and subnet, of one family."""
    key, other = f"private_address{end}", f"private_subnet{end}"
    texts = [get.record.get(each) for each in (key, other)]
    for each, text in zip((key, other), texts, strict=True):
        if not isinstance(text, str):
            raise get.error(each, f"is {short(text)}", "Give a text such as 10.202.1.1/24")
    address, subnet = (str(text) for text in texts)
    try:
        own, network = parse_interface(address, version), parse_network(subnet, version)
    except ValueError as error:
        raise get.error(key, str(error), f"Give an address of {other}, with its length") from error
    if own.network != network:
        raise get.error(key, f"{own} is not of {network}", f"Give an address of {other}")
    return {key: str(own), other: str(network)}
