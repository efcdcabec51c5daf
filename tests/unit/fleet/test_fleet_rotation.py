"""Rotation of keys: whatever is killed, a box has a key that its peers trust."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moatvpn.crypto.sign import fingerprint
from moatvpn.errors import OperatorError
from moatvpn.fleet import store
from moatvpn.fleet.database import Database
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.journal import Operation, State
from moatvpn.fleet.keys import list_keys, record_key
from moatvpn.fleet.operations import begin_operation, set_step
from moatvpn.fleet.playbooks import Answers
from moatvpn.fleet.rollout import Limits, Rollout
from moatvpn.fleet.rotation import KEYS, KIND, Kind, Rotation, chosen, not_served

P1, P2 = "portal1.example.net", "portal2.example.net"
MOATS = [f"m000{number}.moats.example.net" for number in (1, 2, 3)]
HOME = {MOATS[0]: P1, MOATS[1]: P1, MOATS[2]: P2}
STAGES = ("make", "record", "trust", "switch", "prove", "finish", "replace", "distrust")


class World:
    """Boxes with keys, each of which trusts what it was told last; a Runner of playbooks."""

    def __init__(self, database: Database, now: datetime, key: Callable[[int], str]) -> None:
        self.database, self.now = database, now
        self.numbers = itertools.count(100)
        self.key = key
        self.used = {box: [key(number)] for number, box in enumerate([P1, P2, *MOATS])}
        self.next: dict[str, str] = {}
        self.away: set[str] = set()
        self.dies_at: int | None = None
        self.runs = 0
        self.trusted: dict[str, dict[str, list[str]]] = {}
        self._tell([*MOATS, P1, P2])

    def __call__(
        self, playbook: Path, boxes: Collection[str], variables: Mapping[str, Any], /
    ) -> Answers:
        assert boxes
        self.runs += 1
        # A kill may come when half of the boxes have done their part.
        killed = self.dies_at == self.runs
        there = [box for box in sorted(boxes) if box not in self.away]
        if killed:
            there = there[: len(there) // 2]
        if playbook == KEYS:
            found = {box: self._step(box, variables) for box in there}
        else:
            self._tell(there)
            found = {box: {} for box in there}
        self.hold()
        if killed:
            raise KeyboardInterrupt
        return Answers(found, {})

    def _step(self, box: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        stage = variables["moat_stage"]
        if stage == "make-next":
            self.next.setdefault(box, self.key(next(self.numbers)))
        elif stage == "switch" and box in self.next:
            self.used[box].insert(0, self.next.pop(box))
        elif stage == "finish":
            del self.used[box][1:]
        elif stage == "prove":
            ((side, mark),) = variables["moat_keys"][box].items()
            of = box if side == "local" else HOME[box]
            found = fingerprint(base64.b64decode(self.used[of][0]))
            return {"proved": ["portal"]} if found == mark else {"error": "another key"}
        return {"public_key": self.used[box][0], "next_public_key": self.next.get(box)}

    def _tell(self, boxes: Collection[str]) -> None:
        with self.database.read() as session:
            hosts = build_inventory(session, self.now).hosts
        for box in boxes:
            self.trusted[box] = {
                each["remote_identity"]: each["remote_public_keys"]
                for each in hosts[box]["moatvpn_connections"]
            }

    def hold(self) -> None:
        """Assert that each box can still prove itself to its peer, both ways."""
        for moat, portal in HOME.items():
            for one, other in ((moat, portal), (portal, moat)):
                assert set(self.used[one]) & set(self.trusted[other][one]), (one, other)

    def rotate(self, kind: Kind, boxes: Collection[str] = (), leave_behind: int = 0) -> State:
        if boxes:
            with self.database.write() as session:
                begin_operation(session, KIND, {}, [[box] for box in boxes], "make", self.now)
        clock: Callable[[], datetime] = lambda: self.now  # noqa: E731
        rotation = Rotation(self.database, kind, self, clock=clock, leave_behind=leave_behind)
        return Rollout(
            self.database,
            KIND,
            rotation.stages(),
            Limits(),
            clock=clock,
            check=lambda: None,
            tell=lambda _: None,
            leave=not_served,
        ).run()

    def valid_keys(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with self.database.read() as session:
            for each in list_keys(session):
                if each.valid(self.now):
                    found.setdefault(each.box.identity, []).append(each.key)
        return found


@pytest.fixture
def world(
    database: Database,
    now: datetime,
    key: Callable[[int], str],
    portal_texts: dict[str, str],
    portal2_texts: dict[str, str],
    customer: Callable[..., dict[str, str]],
) -> World:
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_portal(session, portal2_texts, now)
        rows = [
            (None, customer(number, status="active", portal=HOME[moat]))
            for number, moat in enumerate(MOATS, start=1)
        ]
        store.add_customers(session, rows, "test", now)
        for number, box in enumerate([P1, P2, *MOATS]):
            record_key(session, box, key(number), now)
    return World(database, now, key)


def rotated(world: World, boxes: Collection[str]) -> None:
    """Assert that these boxes have one new key each, which all know alone, and no others have."""
    valid = world.valid_keys()
    for number, box in enumerate([P1, P2, *MOATS]):
        assert world.used[box] == valid[box]
        assert (valid[box] != [world.key(number)]) is (box in boxes), box
    for moat, portal in HOME.items():
        assert world.trusted[portal][moat] == valid[moat]
        assert world.trusted[moat][portal] == valid[portal]


@pytest.mark.parametrize(("kind", "boxes"), [(Kind.MOATS, MOATS[1:]), (Kind.PORTALS, [P1])])
def test_keys_are_rotated_and_no_box_is_ever_without(
    world: World, kind: Kind, boxes: list[str]
) -> None:
    assert world.rotate(kind, boxes) is State.DONE
    rotated(world, boxes)


@pytest.mark.parametrize(("kind", "boxes"), [(Kind.MOATS, MOATS), (Kind.PORTALS, [P1, P2])])
def test_a_kill_in_any_run_is_made_good_by_the_next(
    world: World, kind: Kind, boxes: list[str]
) -> None:
    with world.database.write() as session:
        begin_operation(session, KIND, {}, [boxes], "make", world.now)
    kills = 0
    while True:
        world.dies_at = world.runs + 2  # the next run of a playbook ends well, the one after not
        try:
            state = world.rotate(kind)
        except KeyboardInterrupt:
            kills += 1
            assert kills < 20
            continue
        break
    assert state is State.DONE
    assert kills >= 5
    rotated(world, boxes)


def test_both_portals_of_a_moat_that_moves_are_told(world: World) -> None:
    with world.database.write() as session:
        move = begin_operation(session, "move", {}, [[MOATS[0]]], "attach", world.now)
        set_step(move.steps[0], "attach", world.now, data={"from": P1, "to": P2})
    world._tell([P1, P2])
    assert world.rotate(Kind.MOATS, [MOATS[0]]) is State.DONE
    for portal in (P1, P2):
        assert world.trusted[portal][MOATS[0]] == world.used[MOATS[0]] != [world.key(2)]


def test_a_moat_that_is_away_keeps_its_key_until_it_is_back(world: World) -> None:
    world.away = {MOATS[1]}
    assert world.rotate(Kind.MOATS, [MOATS[0], MOATS[1]]) is State.STOPPED
    assert world.used[MOATS[1]] == [world.key(3)]
    world.away = set()
    assert world.rotate(Kind.MOATS) is State.DONE
    rotated(world, MOATS[:2])


@pytest.mark.parametrize("away", STAGES[3:6])
def test_a_moat_that_goes_away_in_the_middle_is_gone_on_with(world: World, away: str) -> None:
    playbooks = {"switch": 3, "prove": 4, "finish": 5}
    world.dies_at = playbooks[away]
    with pytest.raises(KeyboardInterrupt):
        world.rotate(Kind.MOATS, [MOATS[0]])
    world.dies_at, world.away = None, {MOATS[0]}
    assert world.rotate(Kind.MOATS) is State.STOPPED
    with world.database.read() as session:
        (operation,) = session.query(Operation)
        assert operation.steps[0].state == away
        assert "not reached" in str(operation.steps[0].error)
    world.away = set()
    assert world.rotate(Kind.MOATS) is State.DONE
    rotated(world, MOATS[:1])


def test_a_portal_waits_for_the_last_of_its_moats(world: World) -> None:
    world.away = {MOATS[1]}
    assert world.rotate(Kind.PORTALS, [P1]) is State.STOPPED
    with world.database.read() as session:
        (operation,) = session.query(Operation)
        assert operation.steps[0].state == "trust"
        assert operation.steps[0].error == f"{MOATS[1]} could not be told of its key"
    assert world.used[P1] == [world.key(0)]
    world.away = set()
    assert world.rotate(Kind.PORTALS) is State.DONE
    rotated(world, [P1])


def test_a_portal_leaves_as_many_behind_as_was_said(world: World) -> None:
    world.away = {MOATS[1]}
    world.hold = lambda: None  # type: ignore[method-assign] - one of them is left without
    assert world.rotate(Kind.PORTALS, [P1], leave_behind=1) is State.DONE
    valid = world.valid_keys()[P1]
    assert world.used[P1] == valid == world.trusted[MOATS[0]][P1]
    assert world.trusted[MOATS[1]][P1] == [world.key(0)]


def test_a_box_that_lies_about_its_key_is_not_believed(world: World) -> None:
    real = world._step

    def lie(box: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        return {**real(box, variables), "next_public_key": world.key(4)}  # another moat's

    world._step = lie  # type: ignore[method-assign]
    assert world.rotate(Kind.MOATS, [MOATS[0]]) is State.STOPPED
    with world.database.read() as session:
        (operation,) = session.query(Operation)
        assert operation.steps[0].state == "record"
        assert f"already {MOATS[2]}'s" in str(operation.steps[0].error)


def test_who_is_revoked_in_the_middle_gets_no_new_key(world: World) -> None:
    world.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        world.rotate(Kind.MOATS, [MOATS[0]])
    with world.database.write() as session:
        store.set_customer(session, "c0001", {"status": "revoked"}, world.now)
    world.dies_at = None
    assert world.rotate(Kind.MOATS) is State.DONE
    with world.database.read() as session:
        (operation,) = session.query(Operation)
        assert operation.steps[0].state == "left"
        assert operation.steps[0].data["left_because"] == "its customer is revoked"
    assert MOATS[0] not in world.valid_keys()


def test_whose_keys_are_due(world: World, now: datetime) -> None:
    later, day = now + timedelta(days=1), timedelta(days=1)
    with world.database.write() as session:
        record_key(session, MOATS[0], world.key(50), later, replace=True)
        store.set_customer(session, "c0003", {"status": "suspended"}, now)

        def due(kind: Kind, *names: str, portal: str | None = None) -> list[str]:
            return chosen(session, kind, names, portal, later, day)

        assert due(Kind.MOATS) == [MOATS[1]]
        assert due(Kind.MOATS, "c0001") == []
        assert due(Kind.MOATS, portal=P2) == []
        assert due(Kind.PORTALS) == [P1, P2]
        assert due(Kind.PORTALS, P2) == [P2]
        assert chosen(session, Kind.MOATS, [], None, later, timedelta()) == MOATS[:2]
        for kind, who in ((Kind.MOATS, "customer c9"), (Kind.PORTALS, "portal c9")):
            with pytest.raises(OperatorError, match=who):
                due(kind, "c9")
