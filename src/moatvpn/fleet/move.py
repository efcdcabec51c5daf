"""The stages of a move between portals, by playbooks: see moatvpn.fleet.moves for what they are.

    accept, hand-on, drop      playbooks/move_portals.yml on the portals that a stage concerns
    attach, switch, release    playbooks/move_moats.yml on the moats

A stage applies what the inventory says of the boxes at that stage, and nothing else, so that it
can be repeated, and a run of site.yml meanwhile does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.fleet.database import Database
from moatvpn.fleet.find import get_portal
from moatvpn.fleet.inventory import connection_name
from moatvpn.fleet.models import Moat, Portal
from moatvpn.fleet.move_records import give_to
from moatvpn.fleet.moves import ACCEPT, ATTACH, DROP, HAND_ON, RELEASE, SWITCH, owner_of
from moatvpn.fleet.playbooks import answer_of
from moatvpn.fleet.rollout import Outcome, Stage, Task
from moatvpn.fleet.rotation import Runner
from moatvpn.subnets import parse_interface, parse_network

PORTALS = Path("move_portals.yml")
MOATS = Path("move_moats.yml")


class Mover:
    """The stages of a move, for the engine of roll-outs. All boxes move to one portal."""

    def __init__(self, database: Database, run: Runner, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._run = run
        self._clock = clock

    def stages(self) -> list[Stage]:
        """Return the stages, in order."""
        return [
            Stage(ACCEPT, lambda tasks: self._at_portals(tasks, _new)),
            Stage(ATTACH, lambda tasks: self._at_moats(tasks, ATTACH)),
            Stage(SWITCH, lambda tasks: self._at_moats(tasks, SWITCH)),
            Stage(HAND_ON, lambda tasks: self._at_portals(tasks, owners)),
            Stage(RELEASE, self._release),
            Stage(DROP, lambda tasks: self._at_portals(tasks, _old)),
        ]

    def _at_portals(
        self,
        tasks: Sequence[Task],
        concerned: Callable[[Session, Sequence[Task]], Mapping[str, Collection[str]]],
    ) -> dict[str, Outcome]:
        with self._database.read() as session:
            portals = concerned(session, tasks)
        everybody = {portal for each in portals.values() for portal in each}
        faults: dict[str, str] = {}
        if everybody:
            answers = self._run(PORTALS, everybody, {})
            found = ((portal, answer_of(answers, portal)[1]) for portal in sorted(everybody))
            faults = {portal: fault for portal, fault in found if fault is not None}
        return {task.box: Outcome(_joined(faults, portals.get(task.box, ()))) for task in tasks}

    def _at_moats(self, tasks: Sequence[Task], stage: str) -> dict[str, Outcome]:
        (to,) = {task.data["to"] for task in tasks}
        with self._database.read() as session:
            ping = parse_interface(get_portal(session, to).tunnel_address).ip
        given = {"moat_stage": stage, "moat_new": connection_name(to), "moat_ping": str(ping)}
        answers = self._run(MOATS, [task.box for task in tasks], given)
        return {task.box: Outcome(answer_of(answers, task.box)[1]) for task in tasks}

    def _release(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        """From here on the customer is the new portal's."""
        with self._database.write() as session:
            for task in tasks:
                give_to(session, task.box, task.data["to"], self._clock())
        return self._at_moats(tasks, RELEASE)


def _joined(faults: Mapping[str, str], portals: Iterable[str]) -> str | None:
    return "; ".join(f"{each}: {faults[each]}" for each in portals if each in faults) or None


def _new(session: Session, tasks: Sequence[Task]) -> dict[str, list[str]]:
    return {task.box: [task.data["to"]] for task in tasks}


def _old(session: Session, tasks: Sequence[Task]) -> dict[str, list[str]]:
    return {task.box: [task.data["from"]] for task in tasks}


def owners(session: Session, tasks: Sequence[Task]) -> dict[str, list[str]]:
    """Return, for each box, the portals in whose pools its private subnets lie: one, mostly."""
    boxes = [task.box for task in tasks]
    portals = list(session.scalars(select(Portal).order_by(Portal.identity)))
    query = select(Moat.identity, Moat.private_subnet, Moat.private_subnet6)
    found: dict[str, list[str]] = {}
    for box, *subnets in session.execute(query.where(Moat.identity.in_(boxes))):
        both = (owner_of(parse_network(subnet), portals) for subnet in subnets)
        found[box] = sorted({owner.identity for owner in both if owner is not None})
    return found
