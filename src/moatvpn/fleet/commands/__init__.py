"""moat-fleet: the operators' commands on the customer database, a module a group."""

from __future__ import annotations

import getpass
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moatvpn.errors import OperatorError
from moatvpn.fleet.commands.apply import apply, show_plan
from moatvpn.fleet.commands.backup import back_up, restore
from moatvpn.fleet.commands.claim import claim_app
from moatvpn.fleet.commands.common import Json, new_typer
from moatvpn.fleet.commands.customer import customer_app
from moatvpn.fleet.commands.enrol import enrol_app
from moatvpn.fleet.commands.forecast import show_forecast
from moatvpn.fleet.commands.history import show_history
from moatvpn.fleet.commands.key import key_app
from moatvpn.fleet.commands.move import GROUP, move, moves_app
from moatvpn.fleet.commands.observe import observe
from moatvpn.fleet.commands.peers import peers_app
from moatvpn.fleet.commands.portal import portal_app
from moatvpn.fleet.commands.report import report
from moatvpn.fleet.commands.revoke import revoke
from moatvpn.fleet.commands.rotate import rotate_app
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
app.add_typer(claim_app, name="claim")
app.add_typer(enrol_app, name="enrol")
app.add_typer(rotate_app, name="rotate")
app.add_typer(moves_app, name=GROUP)
app.command("move")(move)
app.add_typer(peers_app, name="peers")
app.command("history")(show_history)
app.command("forecast")(show_forecast)
app.command("revoke")(revoke)
app.command("plan")(show_plan)
app.command("apply")(apply)
app.command("observe")(observe)
app.command("report")(report)
app.command("backup")(back_up)
app.command("restore")(restore)


@app.callback()
def moat_fleet(
    context: typer.Context,
    database: Annotated[
        str, typer.Option(envvar=ENVIRONMENT, help="URL of SQLAlchemy's, or an SQLite file.")
    ] = DEFAULT,
    who: Annotated[
        str | None,
        typer.Option(envvar="MOAT_OPERATOR", help="Who the audit says it was (the login name)."),
    ] = None,
) -> None:
    """Find the database for the commands."""
    context.obj = Database(database_url(database), who or _login())
    context.call_on_close(context.obj.close)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@app.command()
def init(context: typer.Context, as_json: Json = False) -> None:
    """Make the database's tables, where they are not there yet."""
    database: Database = context.obj
    made = database.create()
    if as_json:
        print_json({"changed": made, "database": database.name})
    else:
        print_line(f"{database.name}: {'made' if made else 'is there already'}")


@app.command()
def upgrade(context: typer.Context, as_json: Json = False) -> None:
    """Bring the tables of an older moat-fleet to today's layout."""
    database: Database = context.obj
    changed = database.upgrade()
    if as_json:
        print_json({"changed": changed, "database": database.name})
    else:
        print_line(f"{database.name}: {'upgraded' if changed else 'is of this layout already'}")
