"""moat-fleet backup and restore: the whole database as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moatvpn.fleet import backup
from moatvpn.fleet.commands.common import Json, now
from moatvpn.fleet.show import print_json, print_line

File = Annotated[Path, typer.Argument(help="The file.", show_default=False)]


def back_up(context: typer.Context, file: File, as_json: Json = False) -> None:
    """Write the whole database, of one moment, to a file; an older one is replaced."""
    with context.obj.read() as session:
        rows = backup.back_up(session, file, now())
    if as_json:
        print_json({"file": str(file), "rows": rows})
    else:
        print_line(f"{file}: {rows} rows")


def restore(context: typer.Context, file: File, as_json: Json = False) -> None:
    """Take a backup into an empty database of either kind, whole or not at all."""
    with context.obj.write() as session:
        rows = backup.restore(session, file, now())
    if as_json:
        print_json({"changed": bool(rows), "file": str(file), "rows": rows})
    else:
        print_line(f"{file}: {rows} rows restored")
