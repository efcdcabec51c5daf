"""moat-fleet: the operators' commands on the customer database, a module a group."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moatvpn.errors import OperatorError
from moatvpn.fleet.commands.common import Json, new_typer
from moatvpn.fleet.commands.customer import customer_app
from moatvpn.fleet.commands.key import key_app
from moatvpn.fleet.commands.portal import portal_app
from moatvpn.fleet.database import DEFAULT, ENVIRONMENT, Database, database_url
from moatvpn.fleet.faults import FaultsError
from moatvpn.fleet.show import print_json, print_line


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


app = new_typer(cls=_Group, help="The customer database of a fleet of moats.")
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


@app.command()
def init(context: typer.Context, as_json: Json = False) -> None:
    """Make the database's tables, where they are not there yet."""
    database: Database = context.obj
    made = database.create()
    if as_json:
        print_json({"changed": made, "database": database.name})
    else:
        print_line(f"{database.name}: {'made' if made else 'is there already'}")
