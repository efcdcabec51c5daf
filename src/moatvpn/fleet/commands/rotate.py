"""moat-fleet rotate: new keys for moats and portals, in waves, while traffic flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated

import typer
from sqlalchemy.orm import Session

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
from moatvpn.fleet.operations import begin_operation, expect_none
from moatvpn.fleet.rollout import Limits, waves_of
from moatvpn.fleet.rotation import CONNECTIONS, KEYS, KIND, Kind, Rotation, chosen
from moatvpn.fleet.show import print_line

rotate_app = new_typer(help="New keys for moats and portals, while traffic flows.")

Older = Annotated[
    int, typer.Option("--older-than", min=0, metavar="DAYS", help="Leave younger keys alone.")
]


@rotate_app.command("moats")
def rotate_moats(
    context: typer.Context,
    customers: Annotated[list[str] | None, typer.Argument(help="Customer ids (all).")] = None,
    portal: Annotated[str | None, typer.Option(help="Only those of this portal.")] = None,
    older_than: Older = 1,
    canaries: Canaries = 1,
    wave: Wave = 100,
    budget: Budget = 0,
    tries: Tries = 2,
    playbooks: Playbooks = PLAYBOOKS,
    yes: Yes = False,
) -> None:
    """Give moats new keys, or go on with that; 3 where some are left to do."""
    database: Database = context.obj

    def choose(session: Session) -> list[str]:
        older = timedelta(days=older_than)
        return chosen(session, Kind.MOATS, customers or [], portal, now(), older)

    def cut(boxes: Sequence[str]) -> list[list[str]]:
        return waves_of(boxes, canaries, wave)

    runner = PlaybookRunner(database, playbooks)
    _rotate(database, Kind.MOATS, choose, cut, runner, Limits(budget, tries), 0, yes)


@rotate_app.command("portals")
def rotate_portals(
    context: typer.Context,
    portals: Annotated[list[str] | None, typer.Argument(help="Identities (all).")] = None,
    older_than: Older = 1,
    leave_behind: Annotated[
        int, typer.Option(min=0, help="How many of its moats may not be told of a portal's key.")
    ] = 0,
    tries: Tries = 2,
    playbooks: Playbooks = PLAYBOOKS,
    yes: Yes = False,
) -> None:
    """Give portals new keys, one after the other, or go on with that; 3 where some are left."""
    database: Database = context.obj

    def choose(session: Session) -> list[str]:
        older = timedelta(days=older_than)
        return chosen(session, Kind.PORTALS, portals or [], None, now(), older)

    def cut(boxes: Sequence[str]) -> list[list[str]]:
        return waves_of(boxes, 1, 1)

    runner = PlaybookRunner(database, playbooks)
    _rotate(database, Kind.PORTALS, choose, cut, runner, Limits(0, tries), leave_behind, yes)


@rotate_app.command("show")
def rotate_show(context: typer.Context, as_json: Json = False) -> None:
    """Show where each box of the newest rotation is."""
    show_ledger(context.obj, KIND, as_json)


@rotate_app.command("leave")
def rotate_leave(
    context: typer.Context,
    boxes: Annotated[list[str] | None, typer.Argument(help="Identities (all left).")] = None,
) -> None:
    """Close the unfinished rotation for boxes; the keys that each has stay trusted."""
    leave_boxes(context.obj, KIND, boxes or [])


def _rotate(
    database: Database,
    kind: Kind,
    choose: Callable[[Session], list[str]],
    cut: Callable[[Sequence[str]], list[list[str]]],
    runner: PlaybookRunner,
    limits: Limits,
    leave_behind: int,
    yes: bool,
) -> None:
    runner.check(KEYS, CONNECTIONS)
    with lock(database, KIND, holder(database)) as held:
        if not _begun(database, kind, choose, cut, yes):
            print_line("nothing to do")
            return
        rotation = Rotation(database, kind, runner, clock=now, leave_behind=leave_behind)
        state = carry_out(database, KIND, rotation.stages(), limits, held)
    end(database, KIND, state)


def _begun(
    database: Database,
    kind: Kind,
    choose: Callable[[Session], list[str]],
    cut: Callable[[Sequence[str]], list[list[str]]],
    yes: bool,
) -> bool:
    """Find the rotation that is unfinished, or begin one; tell whether there is anything to do."""
    with database.read() as session:
        operation = unfinished_of(session, KIND)
        if operation is not None:
            if operation.arguments["of"] != kind:
                other = operation.arguments["of"]
                raise OperatorError(
                    f"rotation of {kind}",
                    f"one of {other} is unfinished",
                    f"Run `moat-fleet rotate {other}` first, or `moat-fleet rotate leave`",
                )
            return True
        boxes = choose(session)
    if not boxes:
        return False
    ask("rotate the keys of", boxes, yes)
    with database.write() as session:
        expect_none(session, "move", KIND)  # which changes who a moat's peers are
        begin_operation(session, KIND, {"of": kind}, cut(boxes), "make", now())
    return True
