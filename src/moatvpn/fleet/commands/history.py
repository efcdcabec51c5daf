"""moat-fleet history: who changed what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from moatvpn.fleet.audit import history
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.commands.common import Json
from moatvpn.fleet.show import print_json, print_table


def show_history(
    context: typer.Context,
    subject: Annotated[
        str | None,
        typer.Argument(help="A customer's id, or a box's identity.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the changes of the database, or those of one subject, the oldest first."""
    with context.obj.read() as session:
        rows: list[dict[str, Any]] = [
            {
                "at": moment_text(each.at),
                "who": each.who,
                "what": each.what,
                "kind": each.kind,
                "subject": each.subject,
                "before": each.before,
                "after": each.after,
            }
            for each in history(session, subject)
        ]
    if as_json:
        print_json(rows)
        return
    columns = ("at", "who", "what", "kind", "subject")
    print_table(
        (*columns, "change"),
        [[*(row[name] for name in columns), _change(row["before"], row["after"])] for row in rows],
    )


def _change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """Return what became of each field, a line each; of a new record nothing, it is shown whole."""
    if before is None or after is None:
        return ""
    return "\n".join(f"{name}: {before[name]} -> {after.get(name)}" for name in before)
