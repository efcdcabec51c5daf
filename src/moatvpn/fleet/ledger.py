"""What is taken already: names, ports, addresses, subnets; and what is given out next.

A ledger is loaded with one set of queries and then kept in memory, so that admitting a customer
costs the same whether it is the first or the ten-thousandth.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.fleet.faults import Fault
from moatvpn.fleet.fields import slug
from moatvpn.fleet.models import Moat, Portal
from moatvpn.fleet.records import CustomerRecord
from moatvpn.subnets import (
    Network,
    OverlapError,
    SubnetPool,
    overlaps,
    parse_interface,
    parse_network,
)


class Ledger:
    """Everything that a new or changed customer record must not collide with.

    admit() enters a record with what it asks for, complete() allocates what it left open. For
    many records, admit all before completing any: what one record asks for by name is then not
    given to another that takes what comes.
    """

    def __init__(self, session: Session, except_customer: str | None = None) -> None:
        """Load the ledger, without the record of except_customer, which is about to change.

        What that has of private subnets it may keep at its portal, wherever they lie: a customer
        who moves between portals takes them along.
        """
        self.portals = {
            portal.identity: portal
            for portal in session.scalars(select(Portal).order_by(Portal.identity))
        }
        self._customers: set[str] = set()
        # Each of these tells whose the value is, for the sentence that refuses it.
        self._identities = dict.fromkeys(self.portals, "a portal")
        self._serials: dict[str, str] = {}
        self._macs: dict[str, str] = {}
        self._subnets: dict[Network, str] = {}
        self._kept: set[tuple[int, Network]] = set()  # by the portal's id
        rows = session.execute(
            select(
                Moat.customer_id,
                Moat.identity,
                Moat.serial,
                Moat.wild_mac,
                Moat.private_mac,
                Moat.private_subnet,
                Moat.private_subnet6,
                Moat.portal_id,
            ).order_by(Moat.customer_id)
        )
        for customer, identity, serial, wild_mac, private_mac, subnet, subnet6, portal_id in rows:
            if customer == except_customer:
                self._kept = {(portal_id, parse_network(text)) for text in (subnet, subnet6)}
                continue
            owner = f"customer {customer}"
            self._customers.add(customer)
            self._identities[identity] = owner
            self._serials.update({serial: owner} if serial else {})
            self._macs.update({mac: owner for mac in (wild_mac, private_mac) if mac})
            self._subnets.update({parse_network(text): owner for text in (subnet, subnet6)})
        for portal in self.portals.values():
            for text in (portal.tunnel_address, portal.tunnel_address6):
                self._subnets[parse_network(text)] = f"portal {portal.identity}"
        self._pools: dict[str, SubnetPool] = {}

    def admit(self, record: CustomerRecord) -> list[Fault]:
        """Enter the record with all it asks for, or return the faults and enter nothing of it."""
        owner = f"customer {record.customer}"
        if record.customer in self._customers:
            remedy = "Change it with `moat-fleet customer set`, or give another id"
            return [Fault("customer", f"{record.customer} is there already", remedy)]
        taken = (
            ("moat", record.moat, self._identities),
            ("serial", record.serial, self._serials),
            ("wild_mac", record.wild_mac, self._macs),
            ("private_mac", record.private_mac, self._macs),
        )
        faults = [
            Fault(name, f"{value} is already taken by {known[value]}", "Give another")
            for name, value, known in taken
            if value in known
        ]
        faults += self.at_portal(record)
        if not faults:
            faults = self._claim(record, owner)
        if not faults:
            self._customers.add(record.customer)
            for _, value, known in taken:
                if value is not None:
                    known[value] = owner
        return faults

    def complete(self, record: CustomerRecord) -> tuple[CustomerRecord, list[Fault]]:
        """Return an admitted record with the subnets allocated that it left open."""
        portal = self.portals[record.portal]
        faults: list[Fault] = []
        for name, pool, length in (
            ("private_subnet", portal.pool, portal.private_prefix),
            ("private_subnet6", portal.pool6, 64),
        ):
            if getattr(record, name) is not None:
                continue
            try:
                subnet = self._pool(pool).allocate(length)
            except ValueError as error:
                faults.append(Fault(name, str(error), f"Give {portal.identity} a larger pool"))
            else:
                self._subnets[subnet] = f"customer {record.customer}"
                given: dict[str, Any] = {name: str(subnet)}
                record = replace(record, **given)
        return record, faults

    def at_portal(self, record: CustomerRecord) -> list[Fault]:
        """Return how a record's networks are in the way of what its portal reaches."""
        faults = [
            Fault(name, f"there is no portal {identity}", "See `moat-fleet portal list`")
            for name, identity in (
                ("portal", record.portal),
                ("backup_portal", record.backup_portal),
            )
            if identity is not None and identity not in self.portals
        ]
        if faults:
            return faults
        portal = self.portals[record.portal]
        corporate = (
            parse_interface(portal.corporate_address).network,
            parse_interface(portal.corporate_address6).network,
        )
        for name, text, places in (
            ("private_subnet", record.private_subnet, corporate),
            ("private_subnet6", record.private_subnet6, corporate),
            # The kid-net goes straight to the internet: what is behind the tunnel stays there.
            ("kidnet_subnet", record.kidnet_subnet, (*corporate, parse_network(portal.pool))),
        ):
            faults += [
                Fault(
                    name,
                    f"{text} overlaps {place} of {portal.identity}",
                    "Give a network outside it",
                )
                for place in places
                if text is not None and overlaps(parse_network(text), place)
            ]
        return faults

    def _claim(self, record: CustomerRecord, owner: str) -> list[Fault]:
        portal = self.portals[record.portal]
        wanted = [
            (name, parse_network(text), self._pool(pool))
            for name, text, pool in (
                ("private_subnet", record.private_subnet, portal.pool),
                ("private_subnet6", record.private_subnet6, portal.pool6),
            )
            if text is not None and (portal.id, parse_network(text)) not in self._kept
        ]
        faults: list[Fault] = []
        for name, subnet, pool in wanted:
            try:
                pool.check(subnet)
            except OverlapError as error:
                whose = self._subnets[error.other]
                faults.append(
                    Fault(name, f"{error}, which is {whose}'s", "Give another, or none for any")
                )
            except ValueError as error:
                faults.append(Fault(name, str(error), "Give one inside it, or none for any"))
        if not faults:
            for _, subnet, pool in wanted:
                pool.claim(subnet)
                self._subnets[subnet] = owner
        return faults

    def _pool(self, text: str) -> SubnetPool:
        if text not in self._pools:
            self._pools[text] = SubnetPool(parse_network(text), self._subnets)
        return self._pools[text]


def portal_faults(portal: Portal, others: list[Portal]) -> list[Fault]:
    """Return how a new portal's addresses collide with those of the other portals.

    Portals may share a corporate network, but no pool, and no pool may overlap what any portal
    reaches on its corporate side: the way to such an address would be a matter of luck.
    """
    faults: list[Fault] = []
    for other in others:
        if slug(portal.identity) == slug(other.identity):
            why = f"{portal.identity} makes the same Ansible group as {other.identity}"
            faults.append(Fault("portal", why, "Give another"))
        for name in ("pool", "pool6"):
            pool = parse_network(getattr(portal, name))
            theirs = parse_network(getattr(other, name))
            if overlaps(pool, theirs):
                faults.append(
                    Fault(name, f"{pool} overlaps {theirs} of {other.identity}", "Give another")
                )
        for one, two in ((portal, other), (other, portal)):
            for pool_name, side in (
                ("pool", "corporate_address"),
                ("pool6", "corporate_address6"),
            ):
                pool = parse_network(getattr(one, pool_name))
                network = parse_interface(getattr(two, side)).network
                if overlaps(pool, network):
                    faults.append(
                        Fault(
                            pool_name if one is portal else side,
                            f"{one.identity}'s pool {pool} overlaps {two.identity}'s {network}",
                            "Give another",
                        )
                    )
    return faults
