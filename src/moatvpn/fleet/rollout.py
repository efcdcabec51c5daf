"""Work on many boxes in waves: stage after stage, canaries first, within a budget of failures.

Each box goes through the same stages in order; the ledger (moatvpn.fleet.operations) says which
one it waits for. A stage must be safe to repeat: whatever is killed, at any point, the next run
begins with the stage that the ledger names. A wave is through all its stages before the next one
begins, so that what is wrong with a change is seen on few boxes.

    wave 0 (canaries)   make -> ... -> finish    none may fail
    wave 1 ...          make -> ... -> finish    no more than the budget may fail, over all waves
    stragglers          those that are left, once more

A box that did not get through its first stage is as it was: it is a straggler, not a failure. But
a wave that none of its boxes gets through stops the roll-out, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.database import Database
from moatvpn.fleet.journal import Operation, OperationStep, State
from moatvpn.fleet.operations import end_operation, resume_operation, set_step

# What a box's step is called when there is nothing more to do.
DONE = "done"
# And when nothing is to be done any more: the box is no longer served, or was given up.
LEFT = "left"
CLOSED = frozenset({DONE, LEFT})


@dataclass(frozen=True, slots=True)
class Task:
    """A box that a stage is to work on, and what the stages before have noted about it."""

    box: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended for a box: error is None where it is through. data is noted for later."""

    error: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the work. run takes boxes and returns an outcome for each; it can be repeated.

    A box that run says nothing of has failed.
    """

    name: str
    run: Callable[[Sequence[Task]], Mapping[str, Outcome]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may go wrong. budget: boxes that may fail, over all waves but the canaries' one.

    tries is how often a box is tried in its wave.
    """

    budget: int = 0
    tries: int = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a roll-out is: in a wave, or at the stragglers of all (None)."""

    wave: int | None
    waves: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What a roll-out tells as it goes: how many boxes a stage took, how many of them failed."""

    place: Place
    stage: str
    boxes: int
    failed: int


def waves_of(boxes: Sequence[str], canaries: int, size: int) -> list[list[str]]:
    """Cut boxes into waves: the first one of that many canaries, the others of that size."""
    first = min(canaries, len(boxes))
    rest = range(first, len(boxes), size)
    return [list(each) for each in (boxes[:first], *(boxes[at : at + size] for at in rest)) if each]


class Rollout:
    """Carries an operation of a kind through its stages, as far as its limits allow."""

    def __init__(
        self,
        database: Database,
        kind: str,
        stages: Sequence[Stage],
        limits: Limits,
        *,
        clock: Callable[[], datetime],
        check: Callable[[], None],
        tell: Callable[[Progress], None],
        leave: Callable[[Session, Sequence[str]], Mapping[str, str]],
    ) -> None:
        """Prepare the run of what is unfinished of that kind.

        check raises where the work is another's now (HeldLock.check). leave names boxes that are
        not to be worked on any more, and why: those of a customer revoked meanwhile.
        """
        self._database = database
        self._kind = kind
        self._stages = {stage.name: stage for stage in stages}
        self._limits = limits
        self._clock = clock
        self._check = check
        self._tell = tell
        self._leave = leave
        self._first = stages[0].name

    def run(self) -> State:
        """Go on with the unfinished operation until it is done, or must stop.

        What stands in the ledger then says all about it. Raises OperatorError where none is
        unfinished; what a stage raises stops the operation, which can be resumed.
        """
        number = self._resume()
        end = State.STOPPED
        try:
            if self._all_waves(number) and not self._rows(number):
                end = State.DONE
        finally:
            with self._database.write() as session:
                end_operation(session.get_one(Operation, number), end, self._clock())
        return end

    def _resume(self) -> int:
        with self._database.write() as session:
            operation = resume_operation(session, self._kind)
            if operation is None:
                why = "none is unfinished"
                raise OperatorError(self._kind, why, "Say for which boxes to begin one")
            return operation.id

    def _all_waves(self, number: int) -> bool:
        """Do wave after wave, and what is left at the end; tell whether no limit was passed."""
        waves = sorted({row.wave for row in self._rows(number)})
        for wave in waves:
            for _ in range(self._limits.tries):
                self._once(number, OperationStep.wave == wave, Place(wave, len(waves)))
            if not self._within_limits(number, wave):
                return False
        self._once(number, true(), Place(None, len(waves)))
        return True

    def _rows(self, number: int, *wanted: ColumnElement[bool]) -> list[OperationStep]:
        """Return the operation's steps that are not closed, in their order, to be read only."""
        query = (
            select(OperationStep)
            .where(OperationStep.operation_id == number, OperationStep.state.not_in(CLOSED))
            .where(*wanted)
            .order_by(OperationStep.wave, OperationStep.id)
        )
        with self._database.read() as session:
            rows = list(session.scalars(query))
            session.expunge_all()
        return rows

    def _within_limits(self, number: int, wave: int) -> bool:
        left = self._rows(number, OperationStep.wave <= wave)
        failed = [row for row in left if row.error is not None and row.state != self._first]
        if len(failed) > (self._limits.budget if wave else 0):
            return False
        of_wave = (OperationStep.operation_id == number, OperationStep.wave == wave)
        with self._database.read() as session:
            boxes = session.scalar(select(func.count()).where(*of_wave))
        return sum(row.wave == wave for row in left) != boxes

    def _once(self, number: int, where: ColumnElement[bool], place: Place) -> None:
        """Take the open boxes of a place from where each is as far as it comes."""
        self._leave_out(number, where)
        fallen: set[str] = set()
        for stage in self._stages.values():
            rows = self._rows(number, where, OperationStep.state == stage.name)
            tasks = [Task(row.box, row.data) for row in rows if row.box not in fallen]
            if not tasks:
                continue
            self._check()
            outcomes = stage.run(tasks)
            self._check()
            failed = self._enter(number, stage.name, tasks, outcomes)
            fallen |= failed
            self._tell(Progress(place, stage.name, len(tasks), len(failed)))

    def _leave_out(self, number: int, where: ColumnElement[bool]) -> None:
        """Close the steps of boxes that are to be left alone now."""
        open_boxes = [row.box for row in self._rows(number, where)]
        with self._database.write() as session:
            for box, reason in self._leave(session, open_boxes).items():
                _close(_step(session, number, box), reason, self._clock())

    def _enter(
        self,
        number: int,
        stage: str,
        tasks: Sequence[Task],
        outcomes: Mapping[str, Outcome],
    ) -> set[str]:
        """Write a stage's outcomes into the ledger; return the boxes that failed."""
        names = list(self._stages)
        following = [*names[1:], DONE][names.index(stage)]
        silent = Outcome("nothing was heard of it")
        failed, now = set(), self._clock()
        with self._database.write() as session:
            for task in tasks:
                outcome = outcomes.get(task.box, silent)
                if outcome.error is not None:
                    failed.add(task.box)
                set_step(
                    _step(session, number, task.box),
                    following if outcome.error is None else stage,
                    now,
                    error=outcome.error,
                    data=outcome.data,
                )
        return failed


def _step(session: Session, number: int, box: str) -> OperationStep:
    query = select(OperationStep).where(
        OperationStep.operation_id == number, OperationStep.box == box
    )
    return session.scalars(query).one()


def _close(step: OperationStep, reason: str, now: datetime) -> None:
    set_step(step, LEFT, now, data={"left_at": step.state, "left_because": reason})


def give_up(
    session: Session, operation: Operation, reason: str, now: datetime, boxes: Sequence[str] = ()
) -> list[str]:
    """Leave boxes that are not done as they are now: those named, or all; return them.

    With the last one the operation is done. Raises OperatorError for a box that is not open.
    """
    still = {step.box: step for step in operation.steps if step.state not in CLOSED}
    for box in boxes:
        if box not in still:
            why = "is not among the boxes that are left to do"
            raise OperatorError(f"{operation.kind} of {box}", why, "See the ledger for those")
    names = list(boxes or still)
    for box in names:
        _close(still[box], reason, now)
    if len(names) == len(still):
        end_operation(operation, State.DONE, now)
    return names
