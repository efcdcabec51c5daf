"""moat-fleet: the operators' commands on the customer database."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moatvpn.errors import OperatorError
from moatvpn.fleet import fields, keys, store
from moatvpn.fleet.csvfile import read_rows
from moatvpn.fleet.database import DEFAULT, ENVIRONMENT, Database, database_url
from moatvpn.fleet.faults import Fault, FaultsError
from moatvpn.fleet.models import Customer, Portal
from moatvpn.fleet.options import field_options, given_texts
from moatvpn.fleet.records import CUSTOMER_FIELDS, PORTAL_FIELDS, CustomerRecord
from moatvpn.fleet.show import (
    key_dict,
    key_text,
    moment_text,
    print_json,
    print_line,
    print_record,
    print_table,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Identity = Annotated[str, typer.Argument(help="FQDN of a moat or portal.", show_default=False)]


class _Group(TyperGroup):
    """A group of commands whose errors are lines for a person, with exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OperatorError as error:
            lines = error.lines() if isinstance(error, FaultsError) else [str(error)]
            for line in lines:
                typer.echo(f"moat-fleet: {line}", err=True)
            raise typer.Exit(1) from error


def _typer(**options: Any) -> typer.Typer:
    return typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, **options
    )


app = _typer(cls=_Group, help="The customer database of a fleet of moats.")
portal_app = _typer(help="Security portals.")
customer_app = _typer(help="Customers and their moats.")
key_app = _typer(help="Public keys of moats and portals.")
app.add_typer(portal_app, name="portal")
app.add_typer(customer_app, name="customer")
app.add_typer(key_app, name="key")


@app.callback()
def moat_fleet(
    context: typer.Context,
    database: Annotated[
        str, typer.Option(envvar=ENVIRONMENT, help="URL of SQLAlchemy's, or an SQLite file.")
    ] = DEFAULT,
) -> None:
    """Find the database for the commands."""
    context.obj = Database(database_url(database))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@app.command()
def init(context: typer.Context, as_json: Json = False) -> None:
    """Make the database's tables, where they are not there yet."""
    database: Database = context.obj
    made = database.create()
    if as_json:
        print_json({"changed": made, "database": database.name})
    else:
        print_line(f"{database.name}: {'made' if made else 'is there already'}")


@portal_app.command("add")
@field_options(PORTAL_FIELDS, "portal")
def portal_add(context: typer.Context, as_json: Json = False, **given: str | None) -> None:
    """Add a portal."""
    with context.obj.write() as session:
        portal = _portal_dict(store.add_portal(session, given_texts(given), _now()))
    _print_added("portal", portal, as_json)


@portal_app.command("show")
def portal_show(context: typer.Context, identity: Identity, as_json: Json = False) -> None:
    """Show a portal with its keys."""
    with context.obj.read() as session:
        portal = store.get_portal(session, identity)
        values = _portal_dict(portal)
        _print_with_keys(values, portal, as_json)


@portal_app.command("list")
def portal_list(context: typer.Context, as_json: Json = False) -> None:
    """List all portals."""
    with context.obj.read() as session:
        portals = [_portal_dict(portal) for portal in store.list_portals(session)]
    columns = ("portal", "wild_address", "corporate_address", "pool", "pool6")
    _print_list(portals, columns, as_json)


@customer_app.command("add")
@field_options(CUSTOMER_FIELDS, "customer")
def customer_add(context: typer.Context, as_json: Json = False, **given: str | None) -> None:
    """Add a customer; private subnets come out of the portal's pool where none is given."""
    where = f"customer {given['customer']}"
    with context.obj.write() as session:
        rows = [(None, given_texts(given))]
        (record,) = store.add_customers(session, rows, where, _now())
    _print_added("customer", asdict(record), as_json)


@customer_app.command("show")
def customer_show(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="Customer id.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a customer with the moat and its keys."""
    with context.obj.read() as session:
        record, row = store.show_customer(session, customer)
        _print_with_keys({**asdict(record), **_dates(row)}, row.moat, as_json)


@customer_app.command("list")
def customer_list(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="Only those of this status.")] = None,
    as_json: Json = False,
) -> None:
    """List customers."""
    if status is not None:
        _checked("status", status, fields.status)
    with context.obj.read() as session:
        records = [asdict(record) for record in store.list_customers(session, status)]
    columns = ("customer", "name", "status", "isp", "moat", "portal", "private_subnet")
    _print_list(records, columns, as_json)


@customer_app.command("set")
@field_options(CUSTOMER_FIELDS, "customer", change=True)
def customer_set(context: typer.Context, as_json: Json = False, **given: str | None) -> None:
    """Change fields of a customer. An empty text clears a field, or gives it its default."""
    texts = given_texts(given)
    customer = texts.pop("customer")
    with context.obj.write() as session:
        record, changed = store.set_customer(session, customer, texts, _now())
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
        records: list[CustomerRecord] = store.add_customers(session, rows, str(csv), _now())
    if as_json:
        print_json({"changed": bool(records), "customers": [asdict(record) for record in records]})
    else:
        count = len(records)
        print_line(f"{csv}: {count} {'customer' if count == 1 else 'customers'} imported")


@key_app.command("record")
def key_record(
    context: typer.Context,
    identity: Identity,
    public_key: Annotated[
        str, typer.Argument(help="Base64 of SubjectPublicKeyInfo.", show_default=False)
    ],
    replace: Annotated[bool, typer.Option("--replace", help="End the box's other keys.")] = False,
    not_before: Annotated[
        str | None, typer.Option(help="Date, or time with zone (now).", show_default=False)
    ] = None,
    not_after: Annotated[
        str | None, typer.Option(help="Date, or time with zone (no end).", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Record a box's public key; recording it again changes nothing."""
    start = None if not_before is None else _checked("not_before", not_before, fields.moment)
    end = None if not_after is None else _checked("not_after", not_after, fields.moment)
    with context.obj.write() as session:
        changed = keys.record_key(
            session, identity, public_key, _now(), replace=replace, not_before=start, not_after=end
        )
    if as_json:
        print_json({"changed": changed, "identity": identity, "public_key": public_key})
    else:
        print_line(f"{identity}: public key {'recorded' if changed else 'unchanged'}")


@key_app.command("list")
def key_list(context: typer.Context, as_json: Json = False) -> None:
    """List the keys of all boxes, those that have ended too."""
    now = _now()
    with context.obj.read() as session:
        rows = [
            {"identity": key.box.identity, **key_dict(key, now)} for key in keys.list_keys(session)
        ]
    _print_list(rows, ("identity", "public_key", "not_before", "not_after", "valid"), as_json)


def _checked(name: str, text: str, parse: Any) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        remedy = "Give one such as 2026-01-31" if parse is fields.moment else "See --help"
        raise FaultsError("command line", [Fault(name, str(error), remedy)]) from error


def _dates(row: Customer | Portal) -> dict[str, Any]:
    return {"created": moment_text(row.created), "changed": moment_text(row.changed)}


def _portal_dict(portal: Portal) -> dict[str, Any]:
    return {**asdict(store.portal_record(portal)), **_dates(portal)}


def _print_added(kind: str, values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"changed": True, kind: values})
    else:
        print_line(f"{kind} {values[kind]}: added")


def _print_with_keys(values: dict[str, Any], box: Any, as_json: bool) -> None:
    if as_json:
        now = _now()
        print_json({**values, "public_keys": [key_dict(key, now) for key in box.public_keys]})
    else:
        lines = [key_text(key) for key in box.public_keys]
        print_record({**values, "public_keys": "\n".join(lines)})


def _print_list(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[row[column] for column in columns] for row in rows])
