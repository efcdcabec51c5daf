"""The ledger of work on many boxes: what was begun, how far each box is, what is left to do.

An operation that was killed stays open; whoever comes next finds it with unfinished() and goes on
with the steps that are not done. Each change is the caller's own transaction, so that what the
ledger says has happened. Hold the lock of the operation's kind meanwhile (moatvpn.fleet.locks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.audit import operator
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.journal import Operation, OperationStep, State


def begin_operation(
    session: Session,
    kind: str,
    arguments: Mapping[str, Any],
    waves: Sequence[Sequence[str]],
    state: str,
    now: datetime,
) -> Operation:
    """Begin work on the boxes of the waves, each box in this first state; return the operation.

    Raises OperatorError while another operation of its kind is unfinished.
    """
    open_one = unfinished(session, kind)
    if open_one is not None:
        raise OperatorError(
            f"{kind} {open_one.id}",
            f"begun by {open_one.who} at {moment_text(open_one.began)}, is unfinished",
            "Resume it first",
        )
    operation = Operation(
        kind=kind,
        state=State.RUNNING,
        arguments=dict(arguments),
        who=operator(session),
        began=now,
        ended=None,
        steps=[
            OperationStep(
                box=box, wave=wave, state=state, attempts=0, error=None, data={}, changed=now
            )
            for wave, boxes in enumerate(waves)
            for box in boxes
        ],
    )
    session.add(operation)
    session.flush()
    return operation


def expect_none(session: Session, kind: str, instead: str) -> None:
    """Raise OperatorError while an operation of that kind is unfinished, which instead would upset.

    Ask in the transaction that begins the other one: writers take turns.
    """
    found = unfinished(session, kind)
    if found is not None:
        why = f"{kind} {found.id}, begun by {found.who}, is unfinished"
        raise OperatorError(instead, why, f"Finish it first, or leave it (`moat-fleet {kind}`)")


def unfinished(session: Session, kind: str) -> Operation | None:
    """Return the operation of that kind that is not done, None where there is none."""
    return session.scalar(
        select(Operation)
        .where(Operation.kind == kind, Operation.state != State.DONE)
        .order_by(Operation.id)
        .limit(1)
    )


def newest(session: Session, kind: str) -> Operation:
    """Return the operation of that kind that was begun last; OperatorError where none was."""
    found = session.scalar(
        select(Operation).where(Operation.kind == kind).order_by(Operation.id.desc()).limit(1)
    )
    if found is None:
        raise OperatorError(kind, "there has been none yet", "Begin one")
    return found


def resume_operation(session: Session, kind: str) -> Operation | None:
    """Make the unfinished operation of that kind run again and return it, None where none is."""
    operation = unfinished(session, kind)
    if operation is not None:
        operation.state, operation.ended = State.RUNNING, None
        session.flush()
    return operation


def set_step(
    step: OperationStep,
    state: str,
    now: datetime,
    *,
    error: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Enter where a box is now; with an error, that an attempt failed. data adds to the step's."""
    step.state, step.error, step.changed = state, error, now
    if error is not None:
        step.attempts += 1
    if data:
        # A new dictionary: the session sees no change inside the old one.
        step.data = {**step.data, **data}


def end_operation(operation: Operation, state: State, now: datetime) -> None:
    """Enter that an operation is done, or stopped so that it can be resumed."""
    operation.state, operation.ended = state, now
