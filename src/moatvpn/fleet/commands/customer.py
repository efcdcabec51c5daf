"""moat-fleet customer: customers and their moats."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from moatvpn.errors import OperatorError
from moatvpn.fleet import fields, store
from moatvpn.fleet.commands.common import (
    Json,
    checked,
    dates,
    new_typer,
    now,
    print_added,
    print_list,
    print_with_keys,
)
from moatvpn.fleet.commands.revoke import revoke
from moatvpn.fleet.commands.status import resume, suspend
from moatvpn.fleet.csvfile import read_rows, write_rows
from moatvpn.fleet.find import get_portal
from moatvpn.fleet.models import Status
from moatvpn.fleet.options import field_options, given_texts
from moatvpn.fleet.records import CUSTOMER_FIELDS, CustomerRecord, as_texts
from moatvpn.fleet.show import print_json, print_line

customer_app = new_typer(help="Customers and their moats.")
for command in (suspend, resume, revoke):
    customer_app.command()(command)


@customer_app.command("add")
@field_options(CUSTOMER_FIELDS, "customer")
def customer_add(context: typer.Context, as_json: Json = False, **given: str | None) -> None:
    """Add a customer; private subnets come out of the portal's pool where none is given."""
    where = f"customer {given['customer']}"
    with context.obj.write() as session:
        rows = [(None, given_texts(given))]
        (record,) = store.add_customers(session, rows, where, now())
    print_added("customer", asdict(record), as_json)


@customer_app.command("show")
def customer_show(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="Customer id.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a customer with the moat and its keys."""
    with context.obj.read() as session:
        record, row = store.show_customer(session, customer)
        print_with_keys({**asdict(record), **dates(row)}, row.moat, as_json)


@customer_app.command("list")
def customer_list(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="Only those of this status.")] = None,
    portal: Annotated[str | None, typer.Option(help="Only those of this portal.")] = None,
    isp: Annotated[str | None, typer.Option(help="Only those of this provider.")] = None,
    as_json: Json = False,
) -> None:
    """List customers."""
    if status is not None:
        checked("status", status, fields.status)
    with context.obj.read() as session:
        if portal is not None:
            get_portal(session, portal)
        records = [
            asdict(record)
            for record in store.list_customers(session, status)
            if portal in (None, record.portal) and isp in (None, record.isp)
        ]
    columns = ("customer", "name", "status", "isp", "moat", "portal", "private_subnet")
    print_list(records, columns, as_json)


@customer_app.command("set")
@field_options(CUSTOMER_FIELDS, "customer", change=True)
def customer_set(context: typer.Context, as_json: Json = False, **given: str | None) -> None:
    """Change fields of a customer. An empty text clears a field, or gives it its default."""
    texts = given_texts(given)
    customer = texts.pop("customer")
    if texts.get("status") == Status.REVOKED:
        raise OperatorError(
            f"customer {customer}",
            "is not revoked by this: it ends the moat's keys for good",
            "Use `moat-fleet customer revoke`",
        )
    with context.obj.write() as session:
        record, changed = store.set_customer(session, customer, texts, now())
    if as_json:
        print_json({"changed": changed, "customer": asdict(record)})
    else:
        print_line(f"customer {customer}: {'changed' if changed else 'unchanged'}")


@customer_app.command("import")
def customer_import(
    context: typer.Context,
    csv: Annotated[Path, typer.Option("--csv", help="The file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Add all customers of a CSV file, or none and a line for each fault."""
    rows = read_rows(csv)
    with context.obj.write() as session:
        records: list[CustomerRecord] = store.add_customers(session, rows, str(csv), now())
    if as_json:
        print_json({"changed": bool(records), "customers": [asdict(record) for record in records]})
    else:
        count = len(records)
        print_line(f"{csv}: {count} {'customer' if count == 1 else 'customers'} imported")


@customer_app.command("export")
def customer_export(
    context: typer.Context,
    csv: Annotated[Path, typer.Option("--csv", help="The file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write all customers into a CSV file as `import` reads it; an older file is replaced."""
    with context.obj.read() as session:
        records = store.list_customers(session)
    write_rows(csv, [as_texts(record) for record in records])
    if as_json:
        print_json({"csv": str(csv), "customers": len(records)})
    else:
        count = len(records)
        print_line(f"{csv}: {count} {'customer' if count == 1 else 'customers'} exported")
