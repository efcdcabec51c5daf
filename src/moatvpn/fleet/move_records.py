"""Moves between portals in the database: who can move, how a move begins, and whose they are then.

Every function leaves committing to its caller, as moatvpn.fleet.store does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.audit import record_audit
from moatvpn.fleet.faults import Fault, FaultsError
from moatvpn.fleet.find import get_customer, get_portal
from moatvpn.fleet.inventory import SERVED, connection_name
from moatvpn.fleet.journal import Operation
from moatvpn.fleet.ledger import Ledger
from moatvpn.fleet.models import Customer, Moat, Portal
from moatvpn.fleet.moves import ACCEPT, KIND, owner_of
from moatvpn.fleet.operations import begin_operation, expect_none, set_step
from moatvpn.fleet.store import customer_record
from moatvpn.subnets import parse_interface, parse_network

Waves = Callable[[Sequence[str]], list[list[str]]]


def to_be_moved(
    session: Session, names: Collection[str], origin: str | None, to: str
) -> list[Customer]:
    """Return the customers named, or all of the portal origin, who are not at the portal to yet.

    In order of their ids. Raises OperatorError for a name that is nobody's.
    """
    new = get_portal(session, to)
    if origin is not None:
        home = get_portal(session, origin)
        query = select(Customer).join(Customer.moat).where(Moat.portal_id == home.id)
        found = list(session.scalars(query))
    else:
        found = [get_customer(session, name) for name in dict.fromkeys(names)]
    found = [each for each in found if each.moat.portal_id != new.id]
    return sorted(found, key=lambda each: each.id)


def begin_move(
    session: Session, customers: Sequence[Customer], to: str, waves: Waves, now: datetime
) -> Operation | None:
    """Begin to move customers to a portal, all or none; return the operation, None for none.

    Those who are served move stage by stage. The others, and those whose moat has no key yet, have
    no tunnel that could be lost: they are the new portal's at once. Raises FaultsError where
    somebody cannot move, OperatorError while keys are rotated, whose peers a move changes.
    """
    expect_none(session, "rotate", KIND)
    new = get_portal(session, to)
    where = f"move to {to}"
    if not any(key.valid(now) for key in new.public_keys):
        remedy = "Run site.yml against it first, which records its key"
        raise OperatorError(where, f"{to} has no valid public key", remedy)
    faults = _faults(session, customers, new)
    if faults:
        raise FaultsError(where, faults)
    names = {portal.id: portal.identity for portal in session.scalars(select(Portal))}
    moving: dict[str, str] = {}
    for customer in customers:
        moat = customer.moat
        if customer.status in SERVED and any(key.valid(now) for key in moat.public_keys):
            moving[moat.identity] = names[moat.portal_id]
        else:
            give_to(session, moat.identity, to, now)
    if not moving:
        return None
    operation = begin_operation(session, KIND, {"to": to}, waves(list(moving)), ACCEPT, now)
    for step in operation.steps:
        set_step(step, ACCEPT, now, data={"from": moving[step.box], "to": to})
    session.flush()
    return operation


def give_to(session: Session, identity: str, to: str, now: datetime) -> None:
    """Make the customer of a moat a portal's, with the private subnets that there are."""
    moat = session.scalars(select(Moat).where(Moat.identity == identity)).one()
    new = get_portal(session, to)
    if moat.portal_id == new.id:
        return
    before = {"portal": session.get_one(Portal, moat.portal_id).identity}
    after: dict[str, str | None] = {"portal": to}
    if moat.backup_portal_id == new.id:  # which was to help out where the first one fails
        before["backup_portal"], after["backup_portal"] = to, None
        moat.backup_portal_id = None
    moat.portal_id, moat.customer.changed = new.id, now
    record_audit(session, now, KIND, "customer", moat.customer_id, before=before, after=after)
    session.flush()


def _faults(session: Session, customers: Sequence[Customer], new: Portal) -> list[Fault]:
    """Return why customers cannot move to a portal: one fault for each who cannot."""
    ledger = Ledger(session)
    portals = {portal.id: portal for portal in ledger.portals.values()}
    names = {number: portal.identity for number, portal in portals.items()}
    faults = []
    for customer in customers:
        moat, old = customer.moat, portals[customer.moat.portal_id]
        if connection_name(old.identity) == connection_name(new.identity):
            why = f"{customer.id}: {old.identity} and {new.identity} have one host name"
            faults.append(Fault("portal", why, "Give one of them another"))
            continue
        for subnet in (moat.private_subnet, moat.private_subnet6):
            network = parse_network(subnet)
            owner = owner_of(network, portals.values())
            if owner is not None and not _neighbours(owner, new, network.version):
                why = (
                    f"{customer.id}: {new.identity} is not on {owner.identity}'s corporate network"
                )
                faults.append(Fault("portal", why, "Give the customer a subnet of the new pool"))
                break
        else:
            record = customer_record(customer, {**names, moat.portal_id: new.identity})
            faults += ledger.at_portal(record)[:1]
    return faults


def _neighbours(one: Portal, two: Portal, version: int) -> bool:
    """Tell whether two portals reach each other on the corporate side without a router."""
    sides = [
        parse_interface(each.corporate_address if version == 4 else each.corporate_address6)
        for each in (one, two)
    ]
    return sides[0].network == sides[1].network
