"""moat-fleet customer suspend, resume: where customers stand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from moatvpn.errors import OperatorError
from moatvpn.fleet import store
from moatvpn.fleet.commands.common import Json, now
from moatvpn.fleet.find import get_customer
from moatvpn.fleet.models import Status
from moatvpn.fleet.show import print_json, print_line

Customers = Annotated[list[str], typer.Argument(help="Customer ids.", show_default=False)]


def suspend(context: typer.Context, customers: Customers, as_json: Json = False) -> None:
    """Suspend customers, all that are named or none: at the next apply their portals drop them."""
    _become(context, customers, Status.SUSPENDED, as_json)


def resume(context: typer.Context, customers: Customers, as_json: Json = False) -> None:
    """Make suspended customers active again, all that are named or none."""
    with context.obj.read() as session:
        for customer in customers:
            status = get_customer(session, customer).status
            if status not in (Status.SUSPENDED, Status.ACTIVE):
                raise OperatorError(
                    f"customer {customer}",
                    f"is {status}, not suspended",
                    "Use `moat-fleet customer set` for another change",
                )
    _become(context, customers, Status.ACTIVE, as_json)


def _become(context: typer.Context, customers: list[str], status: Status, as_json: bool) -> None:
    with context.obj.write() as session:
        found = [
            store.set_customer(session, customer, {"status": status}, now())
            for customer in dict.fromkeys(customers)
        ]
    if as_json:
        changed = [record.customer for record, differs in found if differs]
        records = [asdict(record) for record, _ in found]
        print_json({"changed": changed, "customers": records})
    else:
        for record, differs in found:
            was = "" if differs else " already"
            print_line(f"customer {record.customer}: {record.status}{was}")
