"""What moat-fleet does to the database. Every function leaves committing to its caller.

now, an argument everywhere, is the moment that changes are dated with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.fleet.audit import record_audit
from moatvpn.fleet.claims import cancel_claims
from moatvpn.fleet.faults import Fault, FaultsError
from moatvpn.fleet.find import get_customer
from moatvpn.fleet.keys import end_keys
from moatvpn.fleet.ledger import Ledger, portal_faults
from moatvpn.fleet.models import TRANSITIONS, Customer, Moat, Portal, Status
from moatvpn.fleet.moves import open_moves
from moatvpn.fleet.records import (
    CustomerRecord,
    PortalRecord,
    as_texts,
    parse_customer,
    parse_portal,
)

_CUSTOMER_COLUMNS = ("name", "contact", "site_address", "isp", "status")
_MOAT_COLUMNS = (
    "serial",
    "wild_mac",
    "private_mac",
    "wild_interface",
    "private_interface",
    "wild_mode",
    "wild_address",
    "wild_gateway",
    "private_subnet",
    "private_subnet6",
    "kidnet",
    "kidnet_subnet",
    "policy",
)


def add_portal(session: Session, given: Mapping[str, str], now: datetime) -> Portal:
    """Add the portal that the texts in given describe; raise FaultsError."""
    record, faults = parse_portal(given)
    where = f"portal {given.get('portal', '')}".rstrip()
    if record is None:
        raise FaultsError(where, faults)
    values = asdict(record)
    portal = Portal(identity=values.pop("portal"), created=now, changed=now, **values)
    others = list(session.scalars(select(Portal).order_by(Portal.identity)))
    faults = _identity_faults(session, portal.identity) or portal_faults(portal, others)
    if faults:
        raise FaultsError(where, faults)
    session.add(portal)
    record_audit(session, now, "add", "portal", portal.identity, after=asdict(record))
    session.flush()
    return portal


def _identity_faults(session: Session, identity: str) -> list[Fault]:
    boxes: tuple[type[Portal] | type[Moat], ...] = (Portal, Moat)
    return [
        Fault("portal", f"there is a {kind.__name__.lower()} {identity} already", "Give another")
        for kind in boxes
        if session.scalar(select(kind.id).where(kind.identity == identity)) is not None
    ]


def add_customers(
    session: Session,
    rows: Iterable[tuple[int | None, Mapping[str, str]]],
    where: str,
    now: datetime,
) -> list[CustomerRecord]:
    """Add the customers that the rows describe, all or none, and return their full records.

    A row is its number in the file (None on the command line) and its texts; where names the
    file. Private subnets left open are allocated in the order of the rows. Raises FaultsError
    with the faults of every row.
    """
    ledger = Ledger(session)
    faults: list[Fault] = []
    admitted: list[tuple[int | None, CustomerRecord]] = []
    for row, given in rows:
        record, found = parse_customer(given)
        if record is not None:
            found = ledger.admit(record)
            admitted.append((row, record))
        faults += _at(row, found)
    if faults:
        raise FaultsError(where, faults)
    records = []
    for row, record in admitted:
        full, found = ledger.complete(record)
        faults += _at(row, found)
        records.append(full)
    if faults:
        raise FaultsError(where, faults)
    for record in records:
        customer = Customer(id=record.customer, created=now, moat=Moat())
        _apply(customer, record, ledger, now)
        session.add(customer)
        record_audit(session, now, "add", "customer", record.customer, after=asdict(record))
    session.flush()
    return records


def _at(row: int | None, faults: list[Fault]) -> list[Fault]:
    return faults if row is None else [fault.at_row(row) for fault in faults]


def set_customer(
    session: Session, customer_id: str, given: Mapping[str, str], now: datetime
) -> tuple[CustomerRecord, bool]:
    """Change a customer by the texts in given; return the record, and whether it changed.

    An empty text stands for the field's default; an empty private subnet is allocated anew. A
    customer who is revoked loses the moat's keys and unused claims too. Raises FaultsError.
    """
    customer = get_customer(session, customer_id)
    before = customer_record(customer, _portal_names(session))
    where = f"customer {customer_id}"
    record, faults = parse_customer({**as_texts(before), **given, "customer": customer_id})
    if record is None:
        raise FaultsError(where, faults)
    if record == before:
        return before, False
    ledger = Ledger(session, except_customer=customer_id)
    faults = _transition_faults(before.status, record.status)
    faults = faults or _move_faults(session, before, record) or ledger.admit(record)
    if not faults:
        record, faults = ledger.complete(record)
    if faults:
        raise FaultsError(where, faults)
    _apply(customer, record, ledger, now)
    record_audit(
        session, now, "set", "customer", customer_id, before=asdict(before), after=asdict(record)
    )
    if record.status == Status.REVOKED:
        end_keys(session, customer.moat, now)
        cancel_claims(session, customer, now)
    session.flush()
    return record, True


def _transition_faults(before: str, after: str) -> list[Fault]:
    allowed = TRANSITIONS[Status(before)]
    if after == before or after in allowed:
        return []
    why = f"a customer who is {before} cannot become {after}"
    return [Fault("status", why, f"Give one of {', '.join(allowed)}")]


def _move_faults(session: Session, before: CustomerRecord, record: CustomerRecord) -> list[Fault]:
    """Return what must stay as it is while a customer is between two portals."""
    names = ("moat", "portal", "private_subnet", "private_subnet6")
    changed = [name for name in names if getattr(before, name) != getattr(record, name)]
    if not changed or before.moat not in open_moves(session):
        return []
    why = f"customer {before.customer} is on the way to another portal"
    return [Fault(name, why, "Finish `moat-fleet move` first") for name in changed]


def _apply(customer: Customer, record: CustomerRecord, ledger: Ledger, now: datetime) -> None:
    for name in _CUSTOMER_COLUMNS:
        setattr(customer, name, getattr(record, name))
    for name in _MOAT_COLUMNS:
        setattr(customer.moat, name, getattr(record, name))
    customer.moat.identity = record.moat
    customer.moat.portal_id = ledger.portals[record.portal].id
    backup = record.backup_portal
    customer.moat.backup_portal_id = None if backup is None else ledger.portals[backup].id
    customer.changed = now


def list_customers(session: Session, status: str | None = None) -> list[CustomerRecord]:
    """Return the records of all customers, or of those with a status, in order of their ids."""
    query = select(Customer).order_by(Customer.id)
    if status is not None:
        query = query.where(Customer.status == status)
    portals = _portal_names(session)
    return [customer_record(customer, portals) for customer in session.scalars(query)]


def list_portals(session: Session) -> list[Portal]:
    """Return all portals in order of their identities."""
    return list(session.scalars(select(Portal).order_by(Portal.identity)))


def show_customer(session: Session, customer_id: str) -> tuple[CustomerRecord, Customer]:
    """Return the record of a customer and the row behind it, for its dates and keys."""
    customer = get_customer(session, customer_id)
    return customer_record(customer, _portal_names(session)), customer


def portal_record(portal: Portal) -> PortalRecord:
    """Return a portal's row as a record."""
    names = [name for name in PortalRecord.__dataclass_fields__ if name != "portal"]
    return PortalRecord(portal=portal.identity, **{name: getattr(portal, name) for name in names})


def customer_record(customer: Customer, portals: Mapping[int, str]) -> CustomerRecord:
    """Return a customer's row as a record. portals gives the identity of each portal's id."""
    moat = customer.moat
    backup = moat.backup_portal_id
    return CustomerRecord(
        customer=customer.id,
        moat=moat.identity,
        portal=portals[moat.portal_id],
        backup_portal=None if backup is None else portals[backup],
        **{name: getattr(customer, name) for name in _CUSTOMER_COLUMNS},
        **{name: getattr(moat, name) for name in _MOAT_COLUMNS},
    )


def _portal_names(session: Session) -> dict[int, str]:
    return {portal.id: portal.identity for portal in session.scalars(select(Portal))}
