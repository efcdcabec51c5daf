"""What commands that take boxes through stages share: how they begin, what they tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.commands.common import PARTLY, confirm, holder, now, print_list
from moatvpn.fleet.database import Database
from moatvpn.fleet.journal import Operation, State
from moatvpn.fleet.locks import HeldLock, lock
from moatvpn.fleet.operations import newest, unfinished
from moatvpn.fleet.playbooks import (
    ANSWERS,
    Answers,
    answers_directory,
    check_playbook,
    read_answers,
    run_playbook,
)
from moatvpn.fleet.rollout import CLOSED, Limits, Progress, Rollout, Stage, give_up
from moatvpn.fleet.rotation import not_served
from moatvpn.fleet.show import print_json, print_line

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Canaries = Annotated[int, typer.Option(min=0, help="Boxes of the first wave: none may fail.")]
Wave = Annotated[int, typer.Option(min=1, help="Boxes of each other wave.")]
Budget = Annotated[int, typer.Option(min=0, help="Boxes that may fail before it stops.")]
Tries = Annotated[int, typer.Option(min=1, help="How often a box is tried in its wave.")]
Playbooks = Annotated[Path, typer.Option(help="The directory of the playbooks.")]
PLAYBOOKS = Path("playbooks")


@dataclass(frozen=True, slots=True)
class PlaybookRunner:
    """Runs playbooks of a directory, for the stages of a roll-out."""

    database: Database
    directory: Path

    def check(self, *playbooks: Path) -> None:
        """Raise OperatorError where one is missing: before anything is begun."""
        for playbook in playbooks:
            check_playbook(self.directory / playbook)

    def __call__(
        self, playbook: Path, boxes: Collection[str], variables: Mapping[str, Any], /
    ) -> Answers:
        """Run a playbook on boxes; return what they answered."""
        with answers_directory() as answers:
            given = {**variables, ANSWERS: str(answers)}
            run_playbook(self.database, self.directory / playbook, sorted(boxes), given)
            return read_answers(answers, boxes)


def ask(what: str, boxes: Sequence[str], yes: bool) -> None:
    """Have the operator confirm what is begun on boxes; raise OperatorError without a terminal."""
    question = f"{what} {', '.join(boxes[:10])}, {len(boxes)} in all?"
    confirm(f"{what} {len(boxes)} boxes", question, yes)


def carry_out(
    database: Database, kind: str, stages: Sequence[Stage], limits: Limits, held: HeldLock
) -> State:
    """Take the boxes of the unfinished operation of a kind through its stages; return its end."""
    return Rollout(
        database,
        kind,
        stages,
        limits,
        clock=now,
        check=held.check,
        tell=tell,
        leave=not_served,
    ).run()


def tell(progress: Progress) -> None:
    """Print a line about how far a roll-out is, beside what playbooks print."""
    place = progress.place
    where = "stragglers" if place.wave is None else f"wave {place.wave + 1} of {place.waves}"
    through = progress.boxes - progress.failed
    typer.echo(f"{where}: {progress.stage}: {through} of {progress.boxes} boxes", err=True)


def end(database: Database, kind: str, state: State, group: str | None = None) -> None:
    """Print how a roll-out ended; exit with PARTLY where some boxes are left to do.

    group is that of the command that shows its ledger, where it is not called as the kind.
    """
    with database.read() as session:
        operation = newest(session, kind)
        open_ones = [step for step in operation.steps if step.state not in CLOSED]
        done = len(operation.steps) - len(open_ones)
        print_line(f"{kind} {operation.id}: {state}, {done} of {len(operation.steps)} boxes")
        for step in open_ones[:20]:
            print_line(f"  {step.box}: waits for {step.state}: {step.error or 'not begun'}")
        if len(open_ones) > 20:
            print_line(f"  and {len(open_ones) - 20} others: `moat-fleet {group or kind} show`")
    if state is not State.DONE:
        print_line("the same command goes on with these")
        raise typer.Exit(PARTLY)


def show_ledger(database: Database, kind: str, as_json: bool) -> None:
    """Print every box of the newest operation of a kind, and where it is."""
    with database.read() as session:
        operation = newest(session, kind)
        rows = [
            {
                "box": step.box,
                "wave": step.wave + 1,
                "state": step.state,
                "attempts": step.attempts,
                "changed": moment_text(step.changed),
                "error": step.error or step.data.get("left_because"),
            }
            for step in operation.steps
        ]
        if as_json:
            about = {
                "id": operation.id,
                "state": operation.state,
                "arguments": operation.arguments,
                "who": operation.who,
                "began": moment_text(operation.began),
                "ended": moment_text(operation.ended),
            }
            print_json({**about, "boxes": rows})
            return
        ended = moment_text(operation.ended) or "now"
        began = moment_text(operation.began)
        print_line(f"{kind} {operation.id}, {operation.state}: {began} to {ended}, {operation.who}")
        print_list(rows, ("box", "wave", "state", "attempts", "changed", "error"), as_json=False)


def leave_boxes(database: Database, kind: str, boxes: Sequence[str]) -> None:
    """Close what is unfinished of a kind for boxes, or for all that are left."""
    with lock(database, kind, holder(database)), database.write() as session:
        operation = unfinished(session, kind)
        if operation is None:
            raise OperatorError(kind, "none is unfinished", "There is nothing to leave")
        reason = f"given up by {database.who}"
        left = give_up(session, operation, reason, now(), boxes)
    for box in left:
        print_line(f"{box}: left as it is")


def unfinished_of(session: Session, kind: str) -> Operation | None:
    """Return the unfinished operation of a kind, and say that it is gone on with."""
    operation = unfinished(session, kind)
    if operation is not None:
        began = moment_text(operation.began)
        print_line(f"{kind} {operation.id}, begun by {operation.who} at {began}, goes on")
    return operation
