"""moat-fleet observe: ask boxes how they are, and keep what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moatvpn.errors import OperatorError
from moatvpn.fleet.commands.common import ALARM, Json, now
from moatvpn.fleet.database import Database
from moatvpn.fleet.observations import reachable, record_observations
from moatvpn.fleet.playbooks import (
    ANSWERS,
    answers_directory,
    check_playbook,
    read_answers,
    run_playbook,
)
from moatvpn.fleet.show import print_json, print_line


def observe(
    context: typer.Context,
    playbook: Annotated[Path, typer.Option(help="The playbook.")] = Path("playbooks/observe.yml"),
    portals: Annotated[
        bool, typer.Option("--portals", help="Ask portals alone, which tell of their moats.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask boxes how they are, and keep it; 4 where an answer is refused.

    A box that does not answer is no error: homes are switched off.
    """
    database: Database = context.obj
    check_playbook(playbook)
    asked = now()
    with database.read() as session:
        boxes = reachable(session, portals_only=portals)
    if not boxes:
        print_line("nothing to do")
        return
    with answers_directory() as directory:
        status = run_playbook(database, playbook, boxes, {ANSWERS: str(directory)})
        answers = read_answers(directory, boxes)
    if not answers.found and not answers.refused:
        why = f"no box answered, and the playbook ended with {status}"
        raise OperatorError("observe", why, "See what Ansible has said above")
    with database.write() as session:
        kept = record_observations(session, answers, asked)
    figures = {"asked": len(boxes), "answered": kept.answered, "heard_of": kept.heard_of}
    if as_json:
        print_json({**figures, "refused": dict(kept.refused)})
    else:
        for box, why in kept.refused.items():
            print_line(f"{box}: {why}; its answer is refused")
        words = "{answered} of {asked} boxes answered; {heard_of} are heard of"
        print_line(words.format(**figures))
    if kept.refused:
        raise typer.Exit(ALARM)
