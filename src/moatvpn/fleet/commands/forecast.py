"""moat-fleet forecast: what ends soon."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from moatvpn.fleet.base import moment_text
from moatvpn.fleet.commands.common import ALARM, Json, now, print_list
from moatvpn.fleet.forecast import forecast


def show_forecast(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="How far to look ahead.", min=0, max=3660)] = 30,
    as_json: Json = False,
) -> None:
    """List what ends within so many days; 4 where nothing takes the place of something."""
    with context.obj.read() as session:
        rows = [
            {
                "ends": moment_text(each.when),
                "what": each.what,
                "whose": each.whose,
                "lapses": each.lapses,
            }
            for each in forecast(session, now(), timedelta(days=days))
        ]
    print_list(rows, ("ends", "what", "whose", "lapses"), as_json)
    if any(row["lapses"] for row in rows):
        raise typer.Exit(ALARM)
