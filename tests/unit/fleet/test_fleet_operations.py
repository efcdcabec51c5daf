"""The ledger of work on many boxes: begun once, resumed after a kill, closed."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from moatvpn.errors import OperatorError
from moatvpn.fleet.database import Database
from moatvpn.fleet.journal import Operation, OperationStep, State
from moatvpn.fleet.operations import (
    begin_operation,
    end_operation,
    resume_operation,
    set_step,
    unfinished,
)

WAVES = [["m2.example.net"], ["m1.example.net", "m3.example.net"]]


def begin(database: Database, now: datetime) -> int:
    with database.write() as session:
        return begin_operation(session, "rotate", {"wave": 1}, WAVES, "waiting", now).id


def test_a_killed_operation_is_found_with_its_steps(database: Database, now: datetime) -> None:
    number = begin(database, now)
    later = now + timedelta(minutes=1)
    with database.write() as session:
        operation = session.get_one(Operation, number)
        first = operation.steps[0]
        set_step(first, "made", later, data={"key": "K"})
        set_step(first, "made", later, error="no answer", data={"port": 1})
    with database.write() as session:
        found = resume_operation(session, "rotate")
        assert found is not None
        assert (found.id, found.who, found.arguments) == (number, "ada", {"wave": 1})
        assert [(step.box, step.wave, step.state) for step in found.steps] == [
            ("m2.example.net", 0, "made"),
            ("m1.example.net", 1, "waiting"),
            ("m3.example.net", 1, "waiting"),
        ]
        step = found.steps[0]
        assert (step.attempts, step.error, step.changed) == (1, "no answer", later)
        assert step.data == {"key": "K", "port": 1}


def test_a_stopped_one_runs_again_and_a_done_one_does_not(
    database: Database, now: datetime
) -> None:
    number = begin(database, now)
    with database.write() as session:
        end_operation(session.get_one(Operation, number), State.STOPPED, now)
    with database.write() as session:
        found = resume_operation(session, "rotate")
        assert found is not None
        assert (found.state, found.ended) == ("running", None)
        end_operation(found, State.DONE, now)
    with database.write() as session:
        assert resume_operation(session, "rotate") is None
    assert begin(database, now) != number


def test_one_of_a_kind_at_a_time(database: Database, now: datetime) -> None:
    number = begin(database, now)
    with pytest.raises(OperatorError, match=f"rotate {number}: begun by ada .* Resume it first"):
        begin(database, now)
    with database.write() as session:
        begin_operation(session, "move", {}, WAVES, "waiting", now)
        assert unfinished(session, "revoke") is None


def test_a_box_stands_in_an_operation_once(database: Database, now: datetime) -> None:
    number = begin(database, now)
    with database.write() as session:
        again = OperationStep(
            operation_id=number,
            box="m1.example.net",
            wave=3,
            state="waiting",
            attempts=0,
            data={},
            changed=now,
        )
        session.add(again)
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
