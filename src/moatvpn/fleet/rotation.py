"""Rotation of boxes' keys: what is done with each box, stage by stage.

    make      the box makes a key beside the one in use        (playbooks/keys.yml)
    record    the database has it, beside the other
    trust     the peers have both                              (playbooks/connections.yml)
    switch    the box proves itself by the new one             (playbooks/keys.yml)
    prove     packets go both ways under it                    (playbooks/keys.yml)
    finish    the box has no other any more                    (playbooks/keys.yml)
    replace   the database has it alone
    distrust  the peers have it alone                          (playbooks/connections.yml)

At each of them, and between any two, the box has a key that its peers trust. The peers of moats
are their portals; those of a portal are the moats that it serves, and a portal must not end a key
that some of them have no other than: how many may be left behind is the operator's to say.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from moatvpn.crypto.sign import fingerprint
from moatvpn.errors import OperatorError
from moatvpn.fleet import fields
from moatvpn.fleet.database import Database
from moatvpn.fleet.find import get_customer, get_portal
from moatvpn.fleet.inventory import SERVED
from moatvpn.fleet.keys import record_key
from moatvpn.fleet.models import Box, Customer, Moat, Portal
from moatvpn.fleet.moves import open_moves
from moatvpn.fleet.playbooks import Answers, answer_of
from moatvpn.fleet.rollout import Outcome, Stage, Task

KIND = "rotate"
KEYS = Path("keys.yml")
CONNECTIONS = Path("connections.yml")


class Kind(StrEnum):
    """Whose keys are rotated: one rotation is of one kind."""

    MOATS = "moats"
    PORTALS = "portals"


class Runner(Protocol):
    """Runs a playbook of ours on boxes, with variables, and returns what they answered."""

    def __call__(
        self, playbook: Path, boxes: Collection[str], variables: Mapping[str, Any], /
    ) -> Answers:
        """Run it; a box that failed has an answer with an error, or none."""


class Rotation:
    """The stages of a rotation, for the engine of roll-outs."""

    def __init__(
        self,
        database: Database,
        kind: Kind,
        run: Runner,
        *,
        clock: Callable[[], datetime],
        leave_behind: int = 0,
    ) -> None:
        """Prepare stages for boxes of a kind.

        leave_behind is how many of a portal's moats may be without its new key when the old one
        ends: switched off, say, and able to fetch it by enrolment.
        """
        self._database = database
        self._kind = kind
        self._run = run
        self._clock = clock
        self._leave_behind = leave_behind

    def stages(self) -> list[Stage]:
        """Return the stages, in order."""
        return [
            Stage("make", self._make),
            Stage("record", self._record),
            Stage("trust", self._tell_peers),
            Stage("switch", self._switch),
            Stage("prove", self._prove),
            Stage("finish", self._finish),
            Stage("replace", self._replace),
            Stage("distrust", self._tell_peers),
        ]

    def _make(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        answers = self._run(KEYS, _boxes(tasks), {"moat_stage": "make-next"})
        return {task.box: self._made(answers, task) for task in tasks}

    def _made(self, answers: Answers, task: Task) -> Outcome:
        answer, fault = answer_of(answers, task.box)
        if fault is not None:
            return Outcome(fault)
        try:
            key = fields.public_key(str(answer.get("next_public_key")))
        except ValueError as error:
            return Outcome(f"its new public key: {error}")
        return Outcome(data={"key": key})

    def _record(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        return self._in_database(tasks, beside=True)

    def _replace(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        return self._in_database(tasks, replace=True)

    def _in_database(
        self, tasks: Sequence[Task], *, beside: bool = False, replace: bool = False
    ) -> dict[str, Outcome]:
        outcomes = {}
        with self._database.write() as session:
            for task in tasks:
                try:
                    key, moment = task.data["key"], self._clock()
                    record_key(session, task.box, key, moment, beside=beside, replace=replace)
                    outcomes[task.box] = Outcome()
                except OperatorError as error:
                    outcomes[task.box] = Outcome(str(error))
        return outcomes

    def _tell_peers(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        with self._database.read() as session:
            peers = _peers(session, self._kind, _boxes(tasks))
        everybody = {peer for each in peers.values() for peer in each}
        variables = {"moat_boxes": "portals" if self._kind is Kind.MOATS else "moats"}
        answers = self._run(CONNECTIONS, everybody, variables) if everybody else Answers({}, {})
        deaf = {peer for peer in everybody if answer_of(answers, peer)[1] is not None}
        most = self._leave_behind if self._kind is Kind.PORTALS else 0
        outcomes = {}
        for task in tasks:
            without = sorted(deaf & peers[task.box])
            outcomes[task.box] = Outcome(_not_told(without) if len(without) > most else None)
        return outcomes

    def _switch(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        return self._step(tasks, "switch")

    def _finish(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        # A portal asks for all its moats; who may be left behind need not be here either.
        return self._step(tasks, "finish", {"moat_despite_absent": self._leave_behind > 0})

    def _step(
        self, tasks: Sequence[Task], stage: str, more: Mapping[str, Any] | None = None
    ) -> dict[str, Outcome]:
        answers = self._run(KEYS, _boxes(tasks), {"moat_stage": stage, **(more or {})})
        outcomes = {}
        for task in tasks:
            answer, fault = answer_of(answers, task.box)
            if fault is None and answer.get("public_key") != task.data["key"]:
                fault = "has another key in use than the one it made for this"
            outcomes[task.box] = Outcome(fault)
        return outcomes

    def _prove(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        """Have moats send packets: a moat under its own new key, or under its portal's."""
        marks = {task.box: fingerprint(base64.b64decode(task.data["key"])) for task in tasks}
        if self._kind is Kind.MOATS:
            provers = {box: {box} for box in marks}
            keys = {box: {"local": mark} for box, mark in marks.items()}
        else:
            with self._database.read() as session:
                provers = _peers(session, self._kind, marks)
            keys = {moat: {"remote": marks[box]} for box, each in provers.items() for moat in each}
        answers = self._run(KEYS, keys, {"moat_stage": "prove", "moat_keys": keys})
        outcomes = {}
        for task in tasks:
            faults = {box: answer_of(answers, box)[1] for box in sorted(provers[task.box])}
            wrong = {box: fault for box, fault in faults.items() if fault is not None}
            most = 0 if self._kind is Kind.MOATS else self._leave_behind
            text = "; ".join(f"{box}: {fault}" for box, fault in list(wrong.items())[:3])
            outcomes[task.box] = Outcome(text if len(wrong) > most else None)
        return outcomes


def _boxes(tasks: Sequence[Task]) -> list[str]:
    return [task.box for task in tasks]


def _not_told(peers: Sequence[str]) -> str:
    more = f" and {len(peers) - 3} others" if len(peers) > 3 else ""
    return f"{', '.join(peers[:3])}{more} could not be told of its key"


def _peers(session: Session, kind: Kind, boxes: Collection[str]) -> dict[str, set[str]]:
    """Return the identities of each box's peers: those that are to trust its keys.

    A moat that moves between portals has both.
    """
    found: dict[str, set[str]] = {box: set() for box in boxes}
    query = select(Customer).where(Customer.status.in_(SERVED))
    names = dict(session.execute(select(Portal.id, Box.identity)).all())
    moves = open_moves(session)
    for customer in session.scalars(query):
        moat = customer.moat.identity
        move = moves.get(moat)
        portals = {names[customer.moat.portal_id], *((move.old, move.new) if move else ())}
        for portal in portals:
            box, peer = (moat, portal) if kind is Kind.MOATS else (portal, moat)
            if box in found:
                found[box].add(peer)
    return found


def chosen(
    session: Session,
    kind: Kind,
    names: Sequence[str],
    portal: str | None,
    now: datetime,
    older: timedelta,
) -> list[str]:
    """Return the boxes of a rotation, in order of their names.

    names are of customers or of portals, none: all; portal narrows moats to one portal's. Boxes of
    customers who are not served, and boxes whose newest key is younger than older, are left out.
    Raises OperatorError for a name that is nobody's.
    """
    if kind is Kind.PORTALS:
        boxes: list[Box] = [get_portal(session, name) for name in names]
        boxes = boxes or list(
            session.scalars(select(Portal).options(joinedload(Box.public_keys))).unique()
        )
    else:
        wanted = [get_customer(session, name) for name in names]
        keys = joinedload(Customer.moat).selectinload(Moat.public_keys)
        customers = wanted or list(session.scalars(select(Customer).options(keys)))
        home = None if portal is None else get_portal(session, portal).id
        boxes = [
            each.moat
            for each in customers
            if each.status in SERVED and home in (None, each.moat.portal_id)
        ]
    due = [box.identity for box in boxes if _is_due(box, now, older)]
    return sorted(set(due))


def _is_due(box: Box, now: datetime, older: timedelta) -> bool:
    """Tell whether the newest valid key is as old as that; a box without one has none to rotate."""
    begins = [key.not_before for key in box.public_keys if key.valid(now)]
    return bool(begins) and max(begins) <= now - older


def not_served(session: Session, boxes: Sequence[str]) -> dict[str, str]:
    """Return those of boxes that are not to be rotated any more, and why."""
    found: dict[str, str | None] = dict.fromkeys(boxes, "is not in the database any more")
    wanted = set(boxes)
    for identity in session.scalars(select(Portal.identity)):
        found[identity] = None
    for customer in session.scalars(select(Customer)):
        if customer.moat.identity in wanted:
            served = customer.status in SERVED
            found[customer.moat.identity] = None if served else f"its customer is {customer.status}"
    return {box: found[box] for box in boxes if found[box] is not None}  # type: ignore[misc]
