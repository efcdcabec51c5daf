"""Records by their names; whoever is not there is an error for people."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.models import Customer, Portal


def get_customer(session: Session, customer_id: str) -> Customer:
    """Return the customer of that id; raise OperatorError where there is none."""
    customer = session.get(Customer, customer_id)
    if customer is None:
        raise OperatorError(
            f"customer {customer_id}", "is not in the database", "See `moat-fleet customer list`"
        )
    return customer


def get_portal(session: Session, identity: str) -> Portal:
    """Return the portal of that identity; raise OperatorError where there is none."""
    portal = session.scalar(select(Portal).where(Portal.identity == identity))
    if portal is None:
        raise OperatorError(
            f"portal {identity}", "is not in the database", "See `moat-fleet portal list`"
        )
    return portal
