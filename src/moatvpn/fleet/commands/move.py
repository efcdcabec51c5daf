"""moat-fleet move: customers from one portal to another, in waves, while traffic flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from moatvpn.errors import OperatorError
from moatvpn.fleet.commands.common import Json, holder, new_typer, now
from moatvpn.fleet.commands.rollout import (
    PLAYBOOKS,
    Budget,
    Canaries,
    PlaybookRunner,
    Playbooks,
    Tries,
    Wave,
    Yes,
    ask,
    carry_out,
    end,
    leave_boxes,
    show_ledger,
    unfinished_of,
)
from moatvpn.fleet.database import Database
from moatvpn.fleet.locks import lock
from moatvpn.fleet.move import MOATS, PORTALS, Mover
from moatvpn.fleet.move_records import Waves, begin_move, to_be_moved
from moatvpn.fleet.moves import KIND
from moatvpn.fleet.rollout import Limits, waves_of
from moatvpn.fleet.show import print_line

# What the ledger of moves is looked at by.
GROUP = "moves"
moves_app = new_typer(help="The ledger of moves between portals.")


def move(
    context: typer.Context,
    customers: Annotated[list[str] | None, typer.Argument(help="Customer ids.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The portal that they go to.")] = None,
    origin: Annotated[
        str | None, typer.Option("--from", help="The portal that they leave, with --all.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All customers of --from.")] = False,
    canaries: Canaries = 1,
    wave: Wave = 100,
    budget: Budget = 0,
    tries: Tries = 2,
    playbooks: Playbooks = PLAYBOOKS,
    yes: Yes = False,
) -> None:
    """Move customers to another portal; 3 where some are left: the same, or no words, goes on."""
    database: Database = context.obj
    names = customers or []
    if (origin is not None) != everybody or (everybody and names):
        raise OperatorError("move", "is of whom?", "Give customers, or --from PORTAL and --all")
    runner = PlaybookRunner(database, playbooks)
    runner.check(PORTALS, MOATS)

    def cut(boxes: Sequence[str]) -> list[list[str]]:
        return waves_of(boxes, canaries, wave)

    with lock(database, KIND, holder(database)) as held:
        going_on = _goes_on(database, names, origin, to)
        if not going_on and not _begun(database, names, origin, to, cut, yes=yes):
            return
        stages = Mover(database, runner, clock=now).stages()
        state = carry_out(database, KIND, stages, Limits(budget, tries), held)
    end(database, KIND, state, GROUP)


@moves_app.command("show")
def moves_show(context: typer.Context, as_json: Json = False) -> None:
    """Show where each moat of the newest move is."""
    show_ledger(context.obj, KIND, as_json)


@moves_app.command("leave")
def moves_leave(
    context: typer.Context,
    boxes: Annotated[list[str] | None, typer.Argument(help="Identities (all left).")] = None,
) -> None:
    """Close the unfinished move for moats; `apply` makes boxes what the records say."""
    leave_boxes(context.obj, KIND, boxes or [])


def _goes_on(database: Database, names: Sequence[str], origin: str | None, to: str | None) -> bool:
    """Tell whether a move is unfinished; raise OperatorError where something else is asked for."""
    with database.read() as session:
        operation = unfinished_of(session, KIND)
        if operation is None:
            return False
        where, remedy = f"move to {to}", "Run `moat-fleet move` without words, which finishes it"
        if to is not None and to != operation.arguments["to"]:
            why = f"one to {operation.arguments['to']} is unfinished"
            raise OperatorError(where, why, remedy)
        boxes = {step.box for step in operation.steps}
        asked = to_be_moved(session, names, origin, to) if to is not None else []
        others = [each.id for each in asked if each.moat.identity not in boxes]
        if others:
            more = f" and {len(others) - 3} others" if len(others) > 3 else ""
            why = f"{', '.join(others[:3])}{more} are not of the unfinished one"
            raise OperatorError(where, why, remedy)
    return True


def _begun(
    database: Database,
    names: Sequence[str],
    origin: str | None,
    to: str | None,
    cut: Waves,
    *,
    yes: bool,
) -> bool:
    """Begin a move; tell whether there are moats to take through stages."""
    if to is None or not (names or origin):
        raise OperatorError("move", "none is unfinished", "Give customers, and the portal --to")
    with database.read() as session:
        found = [each.id for each in to_be_moved(session, names, origin, to)]
    if not found:
        print_line("nothing to do")
        return False
    ask(f"move to {to}:", found, yes)
    with database.write() as session:
        customers = to_be_moved(session, found, None, to)
        operation = begin_move(session, customers, to, cut, now())
        boxes = 0 if operation is None else len(operation.steps)
    if boxes < len(found):
        print_line(f"{len(found) - boxes} customers without a tunnel are of {to} now")
    return boxes > 0
