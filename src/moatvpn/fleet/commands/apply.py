"""moat-fleet plan and apply: from a change of the database to the boxes that it concerns."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from moatvpn.errors import OperatorError
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.commands.common import PARTLY, Json, now, print_list
from moatvpn.fleet.database import ENVIRONMENT, Database
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.locks import lock
from moatvpn.fleet.plan import mark_applied, plan
from moatvpn.fleet.show import print_line


def show_plan(context: typer.Context, as_json: Json = False) -> None:
    """List the boxes that the database says otherwise than when they were last applied."""
    with context.obj.read() as session:
        rows = [
            {"box": each.identity, "kind": each.kind, "applied": moment_text(each.applied)}
            for each in plan(session, build_inventory(session, now()))
        ]
    print_list(rows, ("box", "kind", "applied"), as_json)


def apply(
    context: typer.Context,
    playbook: Annotated[Path, typer.Option(help="The playbook.")] = Path("site.yml"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Run the playbook on the boxes of the plan, and no others; 3 where it did not end well."""
    database: Database = context.obj
    program = _ansible_playbook()
    if not playbook.is_file():
        raise OperatorError(str(playbook), "is not there", "Run this where site.yml is")
    holder = f"{database.who} on {socket.gethostname()} ({os.getpid()})"
    with lock(database, "apply", holder):
        with database.read() as session:
            pending = plan(session, build_inventory(session, now()))
        boxes = [each.identity for each in pending]
        if not boxes:
            print_line("nothing to do")
            return
        if not yes:
            if not sys.stdin.isatty():
                why = "there is no terminal to ask at"
                raise OperatorError(f"apply to {len(boxes)} boxes", why, "Give --yes")
            typer.confirm(f"Apply to {', '.join(boxes[:10])}, {len(boxes)} in all?", abort=True)
        status = _run(database, program, playbook, boxes)
        if status:
            print_line(f"the playbook ended with {status}; nothing counts as applied, run it again")
            raise typer.Exit(PARTLY)
        with database.write() as session:
            # A key that the run has recorded changes its portal again: that is for the next plan.
            mark_applied(session, pending, now())
    print_line(f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'} applied")


def _ansible_playbook() -> str:
    beside = Path(sys.executable).with_name("ansible-playbook")
    program = str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if program is None:
        raise OperatorError("ansible-playbook", "is not installed", "Run `make setup`")
    return program


def _run(database: Database, program: str, playbook: Path, boxes: list[str]) -> int:
    """Run the playbook on boxes, its output to the terminal; return its exit status."""
    with tempfile.NamedTemporaryFile("w", prefix="moat-apply-", suffix=".limit") as limit:
        limit.write("\n".join(boxes) + "\n")
        limit.flush()
        command = [program, str(playbook), "--limit", f"@{limit.name}"]
        environment = {**os.environ, ENVIRONMENT: database.url_text}
        return subprocess.run(command, env=environment, check=False).returncode
