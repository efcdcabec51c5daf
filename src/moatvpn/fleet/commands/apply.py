"""moat-fleet plan and apply: from a change of the database to the boxes that it concerns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moatvpn.fleet.base import moment_text
from moatvpn.fleet.commands.common import PARTLY, Json, confirm, holder, now, print_list
from moatvpn.fleet.database import Database
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.locks import lock
from moatvpn.fleet.plan import mark_applied, plan
from moatvpn.fleet.playbooks import check_playbook, run_playbook
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
    check_playbook(playbook)
    with lock(database, "apply", holder(database)):
        with database.read() as session:
            pending = plan(session, build_inventory(session, now()))
        boxes = [each.identity for each in pending]
        if not boxes:
            print_line("nothing to do")
            return
        question = f"Apply to {', '.join(boxes[:10])}, {len(boxes)} in all?"
        confirm(f"apply to {len(boxes)} boxes", question, yes)
        status = run_playbook(database, playbook, boxes)
        if status:
            print_line(f"the playbook ended with {status}; nothing counts as applied, run it again")
            raise typer.Exit(PARTLY)
        with database.write() as session:
            # A key that the run has recorded changes its portal again: that is for the next plan.
            mark_applied(session, pending, now())
    print_line(f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'} applied")
