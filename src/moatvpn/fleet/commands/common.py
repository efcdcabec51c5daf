"""What the commands of moat-fleet share: their options, and how they tell what they did."""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from moatvpn.errors import OperatorError
from moatvpn.fleet import fields
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.database import Database
from moatvpn.fleet.faults import Fault, FaultsError
from moatvpn.fleet.models import Customer, Portal
from moatvpn.fleet.show import (
    key_dict,
    key_text,
    print_json,
    print_line,
    print_record,
    print_table,
)

# Exit code: some of it is done, and the same command again goes on.
PARTLY = 3
# Exit code: all is done, and somebody should look at what was found.
ALARM = 4

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Identity = Annotated[str, typer.Argument(help="FQDN of a moat or portal.", show_default=False)]


def new_typer(**options: Any) -> typer.Typer:
    """Return a group of commands, set up as all of moat-fleet is."""
    return typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, **options
    )


def now() -> datetime:
    """Return the moment that a change is dated with, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def holder(database: Database) -> str:
    """Return what a lock says of who holds it."""
    return f"{database.who} on {socket.gethostname()} ({os.getpid()})"


def confirm(what: str, question: str, yes: bool) -> None:
    """Have the operator say yes, unless that is given; raise OperatorError without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperatorError(what, "there is no terminal to ask at", "Give --yes")
    typer.confirm(question, abort=True)


def checked(name: str, text: str, parse: Any) -> Any:
    """Return what parse makes of the option called name; raise FaultsError for its ValueError."""
    try:
        return parse(text)
    except ValueError as error:
        remedy = "Give one such as 2026-01-31" if parse is fields.moment else "See --help"
        raise FaultsError("command line", [Fault(name, str(error), remedy)]) from error


def dates(row: Customer | Portal) -> dict[str, Any]:
    """Return when a row was made and last changed, as texts."""
    return {"created": moment_text(row.created), "changed": moment_text(row.changed)}


def print_added(kind: str, values: dict[str, Any], as_json: bool) -> None:
    """Tell of a new record, whose name stands in values under kind."""
    if as_json:
        print_json({"changed": True, kind: values})
    else:
        print_line(f"{kind} {values[kind]}: added")


def print_with_keys(values: dict[str, Any], box: Any, as_json: bool) -> None:
    """Show a record and the public keys of its box."""
    if as_json:
        moment = now()
        print_json({**values, "public_keys": [key_dict(key, moment) for key in box.public_keys]})
    else:
        lines = [key_text(key) for key in box.public_keys]
        print_record({**values, "public_keys": "\n".join(lines)})


def print_list(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Show records: all fields as JSON, or the columns named as a table."""
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[row[column] for column in columns] for row in rows])
