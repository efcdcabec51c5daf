"""A customer's and a portal's record: its fields, and the rules that hold within one record."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from moatvpn.fleet import fields
from moatvpn.fleet.faults import Fault
from moatvpn.fleet.fields import Field
from moatvpn.fleet.models import Status, WildMode
from moatvpn.subnets import contains, overlaps, parse_interface, parse_network

_SUBNET = "Give a free subnet of the portal's pool, or none to have one allocated"
_MAC = "Write it as on the label, such as 02:00:5e:10:00:01"
_INTERFACE = "Give a name of at most 15 characters, such as eth0"

CUSTOMER_FIELDS = (
    Field("customer", fields.word, "Give an id such as c0001", "Customer id", required=True),
    Field("name", fields.text, "Give a name", "Customer's name", required=True),
    Field("contact", fields.text, "Give a shorter text", "How to reach the customer", ""),
    Field("site_address", fields.text, "Give a shorter text", "Where the moat stands", ""),
    Field("isp", fields.text, "Give the provider's name", "Internet provider", required=True),
    Field(
        "status",
        fields.status,
        f"Give one of {', '.join(Status)}",
        "Where the customer stands",
        Status.ORDERED,
    ),
    Field("portal", fields.identity, "Give a portal's identity", "Primary portal", required=True),
    Field("backup_portal", fields.identity, "Give a portal's identity", "Backup portal"),
    Field(
        "moat",
        fields.identity,
        "Give a name such as m0001.moats.example.net",
        "The moat's FQDN: host name and identity",
        required=True,
    ),
    Field("serial", fields.serial, "Copy it from the machine", "The machine's serial number"),
    Field("wild_mac", fields.mac, _MAC, "MAC address of the wild side's port"),
    Field("private_mac", fields.mac, _MAC, "MAC address of the private side's port"),
    Field("wild_interface", fields.interface, _INTERFACE, "Interface on the wild side", "wild0"),
    Field(
        "private_interface",
        fields.interface,
        _INTERFACE,
        "Interface on the private side",
        "private0",
    ),
    Field(
        "wild_mode",
        fields.wild_mode,
        f"Give one of {', '.join(WildMode)}",
        "How the wild side gets its address",
        WildMode.DHCP,
    ),
    Field(
        "wild_address",
        fields.host(4),
        "Give the address that the provider assigned, such as 192.0.2.9/24",
        "Static wild-side address with its prefix length",
    ),
    Field(
        "wild_gateway",
        fields.address(4),
        "Give the provider's router, such as 192.0.2.1",
        "Next hop of a static wild side",
    ),
    Field("private_subnet", fields.private_subnet(4), _SUBNET, "Private subnet, IPv4"),
    Field("private_subnet6", fields.private_subnet(6), _SUBNET, "Private subnet, IPv6"),
    Field("kidnet", fields.switch, "Give yes or no", "Whether there is a kid-net", "no"),
    Field(
        "kidnet_subnet",
        fields.private_subnet(4),
        "Give a network that is no other's here, such as 192.168.77.0/24",
        "The kid-net's subnet",
    ),
    Field("policy", fields.word, "Give a profile's name", "Policy profile", "default"),
)

_HOST = "Give the portal's own address with its prefix length"
_ROUTER = "Give the address of a router"
_POOL = "Give a network that holds all private subnets and nothing else"
_TUNNEL = "Give one address out of the pool"

PORTAL_FIELDS = (
    Field(
        "portal",
        fields.identity,
        "Give a name such as portal1.example.net",
        "The portal's FQDN: host name and identity",
        required=True,
    ),
    Field("wild_interface", fields.interface, _INTERFACE, "Interface on the wild side", "wild0"),
    Field("wild_address", fields.host(4), _HOST, "Wild-side address (CIDR)", required=True),
    Field("wild_gateway", fields.address(4), _ROUTER, "Next hop on the wild side", required=True),
    Field(
        "corporate_interface",
        fields.interface,
        _INTERFACE,
        "Interface on the corporate network",
        "corp0",
    ),
    Field("corporate_address", fields.host(4), _HOST, "Address there, IPv4 (CIDR)", required=True),
    Field("corporate_address6", fields.host(6), _HOST, "Address there, IPv6 (CIDR)", required=True),
    Field(
        "corporate_gateway",
        fields.address(4),
        _ROUTER,
        "The corporate firewall, IPv4: clients' way to everywhere else",
        required=True,
    ),
    Field(
        "corporate_gateway6",
        fields.address(6),
        _ROUTER,
        "The corporate firewall, IPv6",
        required=True,
    ),
    Field("pool", fields.network(4), _POOL, "Aggregate of private subnets, IPv4", required=True),
    Field("pool6", fields.network(6), _POOL, "Aggregate of private subnets, IPv6", required=True),
    Field(
        "tunnel_address",
        fields.single(4),
        _TUNNEL,
        "The portal's hop in a traceroute, IPv4 (/32 in the pool)",
        required=True,
    ),
    Field(
        "tunnel_address6",
        fields.single(6),
        _TUNNEL,
        "The portal's hop in a traceroute, IPv6 (/128 in the pool)",
        required=True,
    ),
    Field(
        "private_prefix",
        fields.prefix_length,
        "Give a number from 16 to 30",
        "Prefix length of the IPv4 private subnets given out",
        "24",
    ),
)


@dataclass(frozen=True, slots=True)
class CustomerRecord:
    """One customer with the moat: the fields of CUSTOMER_FIELDS, in canonical form.

    portal and backup_portal are identities. A private subnet that is None is to be allocated.
    """

    customer: str
    name: str
    contact: str
    site_address: str
    isp: str
    status: str
    portal: str
    backup_portal: str | None
    moat: str
    serial: str | None
    wild_mac: str | None
    private_mac: str | None
    wild_interface: str
    private_interface: str
    wild_mode: str
    wild_address: str | None
    wild_gateway: str | None
    private_subnet: str | None
    private_subnet6: str | None
    kidnet: bool
    kidnet_subnet: str | None
    policy: str


@dataclass(frozen=True, slots=True)
class PortalRecord:
    """One portal: the fields of PORTAL_FIELDS, in canonical form."""

    portal: str
    wild_interface: str
    wild_address: str
    wild_gateway: str
    corporate_interface: str
    corporate_address: str
    corporate_address6: str
    corporate_gateway: str
    corporate_gateway6: str
    pool: str
    pool6: str
    tunnel_address: str
    tunnel_address6: str
    private_prefix: int


def parse_customer(given: Mapping[str, str]) -> tuple[CustomerRecord | None, list[Fault]]:
    """Return the record that the texts in given describe, or None and what is wrong with them."""
    values, faults = fields.parse_fields(CUSTOMER_FIELDS, given)
    if faults:
        return None, faults
    record = CustomerRecord(**_typed(values))
    faults = _customer_faults(record)
    return (None, faults) if faults else (record, [])


def parse_portal(given: Mapping[str, str]) -> tuple[PortalRecord | None, list[Fault]]:
    """Return the record that the texts in given describe, or None and what is wrong with them."""
    values, faults = fields.parse_fields(PORTAL_FIELDS, given)
    if faults:
        return None, faults
    record = PortalRecord(**_typed(values))
    faults = _portal_faults(record)
    return (None, faults) if faults else (record, [])


def as_texts(record: CustomerRecord) -> dict[str, str]:
    """Return the record as the texts that parse_customer reads back as its equal."""
    texts = {}
    for name, value in asdict(record).items():
        if isinstance(value, bool):
            texts[name] = "yes" if value else "no"
        else:
            texts[name] = "" if value is None else str(value)
    return texts


def _typed(values: Mapping[str, fields.Value]) -> dict[str, Any]:
    # Which field holds what is in the tables above, out of the type checker's sight.
    return dict(values)


def _customer_faults(record: CustomerRecord) -> list[Fault]:
    faults = _static_faults(record)
    if record.wild_interface == record.private_interface:
        faults.append(
            Fault(
                "private_interface",
                f"is {record.private_interface}, as the wild side's is",
                "Give two ports",
            )
        )
    if record.wild_mac is not None and record.wild_mac == record.private_mac:
        faults.append(Fault("private_mac", f"is {record.private_mac}, as the wild side's is", _MAC))
    if record.backup_portal == record.portal:
        faults.append(
            Fault("backup_portal", f"is {record.portal}, the primary", "Give another, or none")
        )
    if record.kidnet and record.kidnet_subnet is None:
        faults.append(
            Fault("kidnet_subnet", "is missing", "A kid-net needs one, such as 192.168.77.0/24")
        )
    return faults + _home_overlaps(record)


def _static_faults(record: CustomerRecord) -> list[Fault]:
    """Hold the rules between the wild side's mode, its address and its next hop."""
    given = {"wild_address": record.wild_address, "wild_gateway": record.wild_gateway}
    if record.wild_mode == WildMode.DHCP:
        return [
            Fault(name, f"is {value}, but the wild mode is dhcp", "Give wild_mode static, or none")
            for name, value in given.items()
            if value is not None
        ]
    missing = [
        Fault(name, "is missing", "A static wild side needs it")
        for name, value in given.items()
        if value is None
    ]
    if missing or record.wild_address is None or record.wild_gateway is None:
        return missing
    return _gateway_faults("wild_gateway", record.wild_address, record.wild_gateway)


def _gateway_faults(name: str, own: str, gateway: str) -> list[Fault]:
    interface = parse_interface(own)
    router = ipaddress.ip_address(gateway)
    if router == interface.ip:
        return [Fault(name, f"{gateway} is the box's own address", _ROUTER)]
    if router not in interface.network:
        return [Fault(name, f"{gateway} is not in {interface.network}", _ROUTER)]
    return []


def _home_overlaps(record: CustomerRecord) -> list[Fault]:
    """Find the first of a home's networks that overlaps one before it."""
    wild = str(parse_interface(record.wild_address).network) if record.wild_address else None
    networks = [
        ("wild_address", wild),
        ("private_subnet", record.private_subnet),
        ("kidnet_subnet", record.kidnet_subnet),
    ]
    seen: list[tuple[str, str]] = []
    for name, network in networks:
        if network is None:
            continue
        for other_name, other in seen:
            if overlaps(parse_network(network), parse_network(other)):
                return [Fault(name, f"{network} overlaps {other_name} {other}", "Give another")]
        seen.append((name, network))
    return []


def _portal_faults(record: PortalRecord) -> list[Fault]:
    faults = _gateway_faults("wild_gateway", record.wild_address, record.wild_gateway)
    corporate = parse_interface(record.corporate_address).network
    corporate6 = parse_interface(record.corporate_address6).network
    faults += _gateway_faults(
        "corporate_gateway", record.corporate_address, record.corporate_gateway
    )
    faults += _gateway_faults(
        "corporate_gateway6", record.corporate_address6, record.corporate_gateway6
    )
    if record.wild_interface == record.corporate_interface:
        faults.append(Fault("corporate_interface", "is the wild side's too", "Give two ports"))
    wild = parse_interface(record.wild_address).network
    if overlaps(wild, corporate):
        faults.append(Fault("corporate_address", f"{corporate} overlaps {wild}", _HOST))
    for name, text, other in (
        ("pool", record.pool, wild),
        ("pool", record.pool, corporate),
        ("pool6", record.pool6, corporate6),
    ):
        if overlaps(parse_network(text), other):
            faults.append(Fault(name, f"{text} overlaps {other}, which is not of homes", _POOL))
    for name, text, pool in (
        ("tunnel_address", record.tunnel_address, record.pool),
        ("tunnel_address6", record.tunnel_address6, record.pool6),
    ):
        if not contains(parse_network(pool), parse_network(text)):
            faults.append(Fault(name, f"{text} does not lie in {pool}", _TUNNEL))
    pool_length = parse_network(record.pool).prefixlen
    if pool_length > record.private_prefix:
        faults.append(Fault("private_prefix", f"{record.pool} is smaller", "Give a greater number"))
    if parse_network(record.pool6).prefixlen > 64:
        faults.append(Fault("pool6", f"{record.pool6} holds no /64", _POOL))
    return faults
