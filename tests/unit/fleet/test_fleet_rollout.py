"""Work on many boxes in waves: what is repeated, what stops it, what a kill leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import pytest
from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.database import Database
from moatvpn.fleet.journal import Operation, State
from moatvpn.fleet.operations import begin_operation, unfinished
from moatvpn.fleet.rollout import (
    Limits,
    Outcome,
    Progress,
    Rollout,
    Stage,
    Task,
    give_up,
    waves_of,
)

STAGES = ("make", "switch", "finish")


class Fleet:
    """Boxes on which stages are run; those of `broken` fail, and what was done is in `done`."""

    def __init__(self, database: Database, now: datetime) -> None:
        self.database, self.now = database, now
        self.broken: set[tuple[str, str]] = set()
        self.killed_at: str | None = None
        self.done: list[tuple[str, tuple[str, ...]]] = []
        self.told: list[Progress] = []
        self.revoked: set[str] = set()
        self.lost = False

    def begin(self, waves: Sequence[Sequence[str]]) -> None:
        with self.database.write() as session:
            begin_operation(session, "rotate", {}, waves, STAGES[0], self.now)

    def rollout(self, budget: int = 0, tries: int = 1) -> Rollout:
        return Rollout(
            self.database,
            "rotate",
            [Stage(name, self._stage(name)) for name in STAGES],
            Limits(budget, tries),
            clock=lambda: self.now,
            check=self._check,
            tell=self.told.append,
            leave=self._leave,
        )

    def _stage(self, name: str) -> Callable[[Sequence[Task]], Mapping[str, Outcome]]:
        def run(tasks: Sequence[Task]) -> dict[str, Outcome]:
            self.done.append((name, tuple(task.box for task in tasks)))
            if name == self.killed_at:
                raise KeyboardInterrupt
            return {
                task.box: Outcome("broken")
                if (name, task.box) in self.broken
                else Outcome(data={name: len(task.data)})
                for task in tasks
            }

        return run

    def _check(self) -> None:
        if self.lost:
            raise OperatorError("lock", "lost", "Again")

    def _leave(self, _session: Session, boxes: Sequence[str]) -> dict[str, str]:
        return {box: "revoked" for box in boxes if box in self.revoked}

    def ledger(self) -> dict[str, tuple[str, int, str | None]]:
        with self.database.read() as session:
            (operation,) = session.query(Operation)
            return {step.box: (step.state, step.attempts, step.error) for step in operation.steps}


@pytest.fixture
def boxes(database: Database, now: datetime) -> Fleet:
    return Fleet(database, now)


def test_waves_begin_with_the_canaries() -> None:
    assert waves_of("abcdef", 1, 3) == [["a"], ["b", "c", "d"], ["e", "f"]]
    assert waves_of("ab", 5, 3) == [["a", "b"]]
    assert waves_of("abc", 0, 2) == [["a", "b"], ["c"]]
    assert waves_of("", 1, 1) == []


def test_a_wave_is_through_all_stages_before_the_next_begins(boxes: Fleet) -> None:
    boxes.begin([["a"], ["b", "c"]])
    assert boxes.rollout().run() is State.DONE
    assert boxes.done == [
        *((stage, ("a",)) for stage in STAGES),
        *((stage, ("b", "c")) for stage in STAGES),
    ]
    assert set(boxes.ledger().values()) == {("done", 0, None)}
    assert [(each.place.wave, each.stage, each.boxes) for each in boxes.told][:4] == [
        (0, "make", 1),
        (0, "switch", 1),
        (0, "finish", 1),
        (1, "make", 2),
    ]
    with pytest.raises(OperatorError, match="none is unfinished"):
        boxes.rollout().run()


def test_a_stage_sees_what_those_before_it_noted(boxes: Fleet) -> None:
    boxes.begin([["a"]])
    boxes.rollout().run()
    with boxes.database.read() as session:
        (operation,) = session.query(Operation)
        assert operation.steps[0].data == {"make": 0, "switch": 1, "finish": 2}


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_stage_is_resumed_where_the_ledger_says(boxes: Fleet, stage: str) -> None:
    boxes.begin([["a"], ["b"]])
    boxes.killed_at = stage
    with pytest.raises(KeyboardInterrupt):
        boxes.rollout().run()
    assert boxes.ledger()["a"] == (stage, 0, None)
    boxes.killed_at, boxes.done = None, []
    assert boxes.rollout().run() is State.DONE
    assert boxes.done[0] == (stage, ("a",))
    assert set(boxes.ledger().values()) == {("done", 0, None)}


def test_a_canary_that_fails_stops_it_whatever_the_budget(boxes: Fleet) -> None:
    boxes.begin([["a", "b"], ["c"]])
    boxes.broken = {("switch", "a")}
    assert boxes.rollout(budget=9, tries=3).run() is State.STOPPED
    assert boxes.ledger() == {
        "a": ("switch", 3, "broken"),
        "b": ("done", 0, None),
        "c": ("make", 0, None),
    }
    boxes.broken = set()
    assert boxes.rollout().run() is State.DONE


def test_the_budget_counts_over_all_waves(boxes: Fleet) -> None:
    boxes.begin([["a"], ["b", "c"], ["d", "e"], ["f"]])
    boxes.broken = {("switch", "b"), ("finish", "d")}
    assert boxes.rollout(budget=1).run() is State.STOPPED
    assert boxes.ledger()["f"] == ("make", 0, None)
    assert boxes.rollout(budget=2).run() is State.STOPPED  # two are not done, all others are
    assert {box: row[0] for box, row in boxes.ledger().items()} == {
        **dict.fromkeys("acef", "done"),
        "b": "switch",
        "d": "finish",
    }


def test_a_box_that_was_not_begun_is_a_straggler(boxes: Fleet) -> None:
    boxes.begin([["a", "b"], ["c"]])
    boxes.broken = {("make", "b")}
    assert boxes.rollout().run() is State.STOPPED
    assert {box: row[0] for box, row in boxes.ledger().items()} == {
        "a": "done",
        "b": "make",
        "c": "done",
    }
    assert boxes.done[-1] == ("make", ("b",))  # once more, at the end
    assert boxes.told[-1].place.wave is None


def test_a_wave_that_no_box_gets_through_stops_it(boxes: Fleet) -> None:
    boxes.begin([["a", "b"], ["c"]])
    boxes.broken = {("make", "a"), ("make", "b")}
    assert boxes.rollout(budget=9).run() is State.STOPPED
    assert boxes.ledger()["c"] == ("make", 0, None)


def test_a_box_that_a_stage_says_nothing_of_has_failed(boxes: Fleet) -> None:
    boxes.begin([["a"]])
    rollout = boxes.rollout()
    rollout._stages["make"] = Stage("make", lambda _: {})
    assert rollout.run() is State.STOPPED
    assert boxes.ledger()["a"] == ("make", 1, "nothing was heard of it")


def test_who_is_revoked_meanwhile_is_left(boxes: Fleet) -> None:
    boxes.begin([["a", "b"]])
    boxes.revoked = {"b"}
    assert boxes.rollout().run() is State.DONE
    assert boxes.ledger()["b"] == ("left", 0, None)
    assert ("make", ("a",)) in boxes.done


def test_nothing_is_begun_once_the_lock_is_lost(boxes: Fleet) -> None:
    boxes.begin([["a"]])
    boxes.lost = True
    with pytest.raises(OperatorError, match="lost"):
        boxes.rollout().run()
    assert boxes.done == []


def test_boxes_are_given_up_by_name_or_all(boxes: Fleet) -> None:
    boxes.begin([["a", "b", "c"]])
    boxes.broken = {("switch", "a"), ("make", "b"), ("make", "c")}
    boxes.rollout().run()
    with boxes.database.write() as session:
        operation = unfinished(session, "rotate")
        assert operation is not None
        with pytest.raises(OperatorError, match="rotate of x: is not among"):
            give_up(session, operation, "gone", boxes.now, ["x"])
        assert give_up(session, operation, "gone", boxes.now, ["b"]) == ["b"]
        assert operation.state == State.STOPPED
        assert give_up(session, operation, "gone", boxes.now) == ["a", "c"]
        assert operation.state == State.DONE
        assert operation.steps[0].data["left_at"] == "switch"
