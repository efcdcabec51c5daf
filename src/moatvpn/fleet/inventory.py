"""The database as an Ansible inventory: hosts, groups and host variables.

Five queries, however many customers there are, and one more where only some are wanted. Whatever
the roles are told stands here once; the inventory plugin only carries it over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from moatvpn.fleet.fields import slug
from moatvpn.fleet.models import Box, Customer, Moat, Portal, PublicKey, Status
from moatvpn.fleet.moves import Attachment, MovedRoutes, attachment, open_moves
from moatvpn.fleet.revocation import revoked
from moatvpn.subnets import Network, parse_interface, parse_network, router_address

# Whose traffic a portal lets through.
SERVED = frozenset({Status.SHIPPED, Status.ACTIVE})
# Whose moat is to seek its portal: an ordered one is set up before it is shipped.
SEEKING = SERVED | {Status.ORDERED}
# The variable by which portals are told who is revoked.
REVOKED = "moatvpn_revoked"
EVERYWHERE = ("0.0.0.0/0", "::/0")
# A play that leaves some status out is to find its group, even where nobody is in it.
_ALWAYS = ("moats", "portals", *(f"status_{status}" for status in Status))
# What all customers of a portal go into.
_OF_CUSTOMERS = frozenset({"moatvpn_connections", "portal_moved_here", "portal_moved_away"})
# Hosts that are looked up by their names, rather than found among all.
_FEW = 1000


@dataclass(frozen=True, slots=True)
class Inventory:
    """hosts: each host's variables by its name. groups: the hosts of each group, in order."""

    hosts: dict[str, dict[str, Any]]
    groups: dict[str, list[str]]


def build_inventory(session: Session, now: datetime) -> Inventory:
    """Return the inventory with the keys that are valid at now.

    Every moat and portal is a host, in the groups moats or portals. A moat is in portal_P,
    status_S and isp_I too, P being its portal's identity made a slug. A customer who is not
    served, or whose moat has no valid key, has no connection on the portal; a moat has none while
    its portal has no key, nor once its customer is suspended or revoked. One that moves between
    portals has connections with both for a while (moatvpn.fleet.moves).
    """
    return _build(session, now, select(Customer), select(PublicKey))


def build_limited(session: Session, now: datetime, names: Collection[str]) -> Inventory | None:
    """Return the hosts called names, as build_inventory has them, at little cost for few.

    All portals are there, too: those that are not named are without moatvpn_connections, and what
    else all customers go into, for a variable that is missing ends a run, and one that is
    incomplete ends tunnels. None where a name is no host's, or there are so many that nothing would
    be saved.
    """
    if len(names) > _FEW:
        return None
    query = select(Box.identity, Box.kind).where(Box.identity.in_(names))
    kinds = [(identity, kind) for identity, kind in session.execute(query)]
    if len(kinds) < len(set(names)):
        return None
    if any(kind == "portal" for _, kind in kinds):
        # Any customer may have a connection there.
        found = build_inventory(session, now)
    else:
        found = _build(
            session,
            now,
            select(Customer).join(Customer.moat).where(Moat.identity.in_(names)),
            select(PublicKey)
            .join(PublicKey.box)
            .where(or_(Box.kind == "portal", Box.identity.in_(names))),
        )
    return _only(found, set(names))


def _only(found: Inventory, names: set[str]) -> Inventory:
    """Return the inventory of those hosts, and of portals without what customers went into."""
    hosts = {name: found.hosts[name] for name in found.hosts if name in names}
    for portal in found.groups["portals"]:
        if portal not in names:
            all_of_it = found.hosts[portal].items()
            hosts[portal] = {name: value for name, value in all_of_it if name not in _OF_CUSTOMERS}
    groups = {
        group: kept
        for group, members in found.groups.items()
        if (kept := [host for host in members if host in hosts]) or group in _ALWAYS
    }
    return Inventory(hosts=dict(sorted(hosts.items())), groups=groups)


def _build(
    session: Session,
    now: datetime,
    customers_query: Select[Customer],
    keys_query: Select[PublicKey],
) -> Inventory:
    portals = {each.id: each for each in session.scalars(select(Portal).order_by(Portal.identity))}
    customers = session.scalars(customers_query.order_by(Customer.id)).all()
    keys: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for key in session.scalars(keys_query.order_by(PublicKey.id)):
        if key.valid(now):
            keys[key.box_id] += (key.key,)
    hosts: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {name: [] for name in _ALWAYS}
    connections: dict[int, list[dict[str, Any]]] = {number: [] for number in portals}
    for portal in portals.values():
        groups["portals"].append(portal.identity)
        hosts[portal.identity] = _portal_variables(portal, connections[portal.id])
    moves, routes = open_moves(session), MovedRoutes()
    for customer in customers:
        moat = customer.moat
        portal = portals[moat.portal_id]
        attached = attachment(moat, moves.get(moat.identity), portals)
        subnets = parse_network(moat.private_subnet), parse_network(moat.private_subnet6)
        routes.add(subnets, attached, portals.values())
        hosts[moat.identity] = _moat_variables(customer, subnets, portal, attached, keys)
        if customer.status in SERVED and keys[moat.id]:
            for accepting in attached.accepting:
                record = _portal_connection(customer, keys[moat.id])
                connections[accepting.id].append(record)
        for group in (
            "moats",
            f"portal_{slug(portal.identity)}",
            f"status_{customer.status}",
            f"isp_{slug(customer.isp)}",
        ):
            groups.setdefault(group, []).append(moat.identity)
    for portal in portals.values():
        hosts[portal.identity] |= routes.variables(portal)
    gone = revoked(session)
    if gone["identities"]:
        for identity in groups["portals"]:
            hosts[identity][REVOKED] = gone
    return Inventory(hosts=dict(sorted(hosts.items())), groups=dict(sorted(groups.items())))


def build_portals(session: Session) -> Inventory:
    """Return an inventory of portals alone, at no cost of their moats; for what concerns no moat.

    Their connections are None, which no role takes for a portal without any.
    """
    portals = session.scalars(select(Portal).order_by(Portal.identity)).all()
    hosts = {each.identity: _portal_variables(each, None) for each in portals}
    return Inventory(hosts, {"portals": list(hosts)})


def _portal_variables(portal: Portal, connections: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {
        "moatvpn_identity": portal.identity,
        "moatvpn_connections": connections,
        "moatvpn_journal": "persistent",
        "portal_wild_interface": portal.wild_interface,
        "portal_wild_address": portal.wild_address,
        "portal_wild_gateway": portal.wild_gateway,
        "portal_corporate_interface": portal.corporate_interface,
        "portal_corporate_address": portal.corporate_address,
        "portal_corporate_address6": portal.corporate_address6,
        "portal_corporate_gateway": portal.corporate_gateway,
        "portal_corporate_gateway6": portal.corporate_gateway6,
        "portal_pool": portal.pool,
        "portal_pool6": portal.pool6,
        "portal_tunnel_address": portal.tunnel_address,
        "portal_tunnel_address6": portal.tunnel_address6,
    }


def _moat_variables(
    customer: Customer,
    subnets: tuple[Network, Network],
    portal: Portal,
    attached: Attachment,
    keys: Mapping[int, tuple[str, ...]],
) -> dict[str, Any]:
    moat = customer.moat
    own, own6 = (router_address(subnet) for subnet in subnets)
    variables: dict[str, Any] = {
        "ansible_host": str(own.ip),
        "moatvpn_identity": moat.identity,
        "moatvpn_connections": [],
        "moat_wild_interface": moat.wild_interface,
        "moat_private_interface": moat.private_interface,
        "moat_wild_mode": moat.wild_mode,
        "moat_private_address": str(own),
        "moat_private_subnet": moat.private_subnet,
        "moat_private_address6": str(own6),
        "moat_private_subnet6": moat.private_subnet6,
        "moatvpn_portal_address": _host_of(portal.tunnel_address),
        "moat_kidnet_enabled": moat.kidnet,
    }
    if moat.kidnet and moat.kidnet_subnet is not None:
        variables["moat_kidnet_address"] = str(router_address(parse_network(moat.kidnet_subnet)))
        variables["moat_kidnet_subnet"] = moat.kidnet_subnet
    if moat.wild_address is not None:
        variables["moat_wild_address"] = moat.wild_address
        variables["moat_wild_gateway"] = moat.wild_gateway
    if customer.status in SEEKING:
        variables["moatvpn_connections"] = [
            _moat_connection(customer, called, keys[called.id], metric)
            for called, metric in attached.calling
            if keys[called.id]
        ]
    return variables


@lru_cache(maxsize=256)
def _host_of(interface: str) -> str:
    """Return the address of a portal's interface, which thousands of moats have in common."""
    return str(parse_interface(interface).ip)


# Of a connection's record (moatvpn.config.ConnectionConfig) what differs from the defaults: Ansible
# looks at every value of every host, and a portal has thousands of these.


def connection_name(portal: str) -> str:
    """Return what a moat calls its connection with a portal of that identity: its host name.

    The whole identity may be too long for a connection's name.
    """
    return portal.partition(".")[0]


def _moat_connection(
    customer: Customer, portal: Portal, keys: tuple[str, ...], metric: int
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": connection_name(portal.identity),
        "remote_identity": portal.identity,
        "remote_public_keys": list(keys),
        "local_selectors": [customer.moat.private_subnet, customer.moat.private_subnet6],
        "remote_selectors": list(EVERYWHERE),
        "remote_address": _host_of(portal.wild_address),
        "initiate": True,
    }
    return record | ({"metric": metric} if metric else {})


def _portal_connection(customer: Customer, keys: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": customer.id,
        "remote_identity": customer.moat.identity,
        "remote_public_keys": list(keys),
        "local_selectors": list(EVERYWHERE),
        "remote_selectors": [customer.moat.private_subnet, customer.moat.private_subnet6],
    }
