"""Who is revoked, and which portals have not been told yet.

A revocation is for all portals: a moat may have been moved, or have a second portal. Its ledger is
one operation of the kind `revoke`, open until every portal has been told of every revocation; so a
portal that was out of reach is remembered, and whoever runs the command again goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.fleet.journal import Operation, OperationStep, State
from moatvpn.fleet.models import Customer, Moat, Portal, PublicKey, Status
from moatvpn.fleet.operations import begin_operation, end_operation, set_step, unfinished

KIND = "revoke"
_UNTOLD, _TOLD = "untold", "told"


@dataclass(frozen=True, slots=True)
class Untold:
    """A portal that does not know of these customers' end yet.

    revision: how often it was given something to be told. since: when it was last.
    """

    portal: str
    customers: tuple[str, ...]
    revision: int
    since: datetime
    error: str | None


def revoked(session: Session) -> dict[str, list[str]]:
    """Return whom portals are to believe no more, as `moatctl revoke` reads it.

    keys are all keys of customers who are revoked; identities are their moats'.
    """
    query = (
        select(Moat.identity, PublicKey.key)
        .join(Moat.customer)
        .outerjoin(PublicKey, PublicKey.box_id == Moat.id)
        .where(Customer.status == Status.REVOKED)
        .order_by(Moat.identity, PublicKey.id)
    )
    rows = session.execute(query).all()
    return {
        "keys": [key for _, key in rows if key is not None],
        "identities": list(dict.fromkeys(identity for identity, _ in rows)),
    }


def note_revoked(session: Session, customers: Iterable[str], now: datetime) -> None:
    """Enter that every portal is to be told of customers' end, in the transaction that ends them.

    The keys are kept, too: the customer may have another box before a portal is told.
    """
    names = list(customers)
    operation = unfinished(session, KIND)
    if operation is None:
        operation = begin_operation(session, KIND, {"keys": []}, [], _UNTOLD, now)
    query = select(PublicKey.key).join(Moat, Moat.id == PublicKey.box_id)
    keys = session.scalars(query.where(Moat.customer_id.in_(names)))
    known = operation.arguments["keys"]
    # A new dictionary: the session sees no change inside the old one.
    operation.arguments = {"keys": sorted({*known, *keys})}
    steps = {step.box: step for step in operation.steps}
    for portal in session.scalars(select(Portal.identity).order_by(Portal.identity)):
        step = steps.get(portal)
        if step is None:
            step = OperationStep(
                box=portal, wave=0, state=_UNTOLD, attempts=0, error=None, data={}, changed=now
            )
            operation.steps.append(step)
        before = step.data if step.state == _UNTOLD else {**step.data, "customers": []}
        data = {
            "customers": sorted({*before.get("customers", ()), *names}),
            "revision": before.get("revision", 0) + 1,
        }
        set_step(step, _UNTOLD, now, data=data)
    session.flush()


def untold(session: Session) -> list[Untold]:
    """Return the portals that are to be told, by their names."""
    operation = unfinished(session, KIND)
    if operation is None:
        return []
    # One that is no more has nobody to serve.
    portals = set(session.scalars(select(Portal.identity)))
    return [
        Untold(
            step.box,
            tuple(step.data["customers"]),
            step.data["revision"],
            step.changed,
            step.error,
        )
        for step in sorted(operation.steps, key=lambda each: each.box)
        if step.state == _UNTOLD and step.box in portals
    ]


def to_tell(session: Session) -> dict[str, list[str]]:
    """Return what untold portals are to be told: revoked(), and keys of who was ordered again."""
    found = revoked(session)
    operation = unfinished(session, KIND)
    kept = [] if operation is None else operation.arguments["keys"]
    return {**found, "keys": sorted({*found["keys"], *kept})}


def note_told(session: Session, told: Iterable[Untold], now: datetime) -> None:
    """Enter that portals know; not of what was revoked since they were asked of."""
    operation = unfinished(session, KIND)
    if operation is None:
        return
    steps = {step.box: step for step in operation.steps}
    for each in told:
        step = steps.get(each.portal)
        if step is not None and step.data["revision"] == each.revision:
            set_step(step, _TOLD, now)
    _end(session, operation, now)


def note_failed(session: Session, failed: Mapping[str, str], now: datetime) -> None:
    """Enter why portals could not be told, by their names. since stays as it was."""
    operation = unfinished(session, KIND)
    for step in [] if operation is None else operation.steps:
        if step.state == _UNTOLD and step.box in failed:
            set_step(step, _UNTOLD, step.changed, error=failed[step.box])


def _end(session: Session, operation: Operation, now: datetime) -> None:
    session.flush()
    if not untold(session):
        end_operation(operation, State.DONE, now)
