"""moat-fleet move: all customers end at the new portal, whatever is killed or fails on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from moatvpn.errors import OperatorError
from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.faults import FaultsError
from moatvpn.fleet.find import get_customer
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.journal import Audit, OperationStep, State
from moatvpn.fleet.move import MOATS, PORTALS, Mover
from moatvpn.fleet.move_records import begin_move, to_be_moved
from moatvpn.fleet.operations import begin_operation
from moatvpn.fleet.playbooks import Answers
from moatvpn.fleet.rollout import Limits, Rollout, waves_of
from moatvpn.fleet.rotation import not_served

Texts = dict[str, str]
Make = Callable[..., Texts]
Key = Callable[[int], str]
OLD, NEW = "portal1.example.net", "portal2.example.net"
HOW_MANY = 5


def moat(number: int) -> str:
    return f"m{number:04}.moats.example.net"


class Killed(BaseException):
    """The controller has been killed."""


class Boxes:
    """Boxes that take what the inventory says when a playbook reaches them, and tell of gaps.

    broken are boxes that fail; kill is the run, counted from 0, at which the controller dies, half
    of the boxes having been reached.
    """

    def __init__(self, database: Database, now: datetime) -> None:
        self.database, self.now = database, now
        self.state: dict[str, dict[str, Any]] = self._inventory()
        self.broken: set[str] = set()
        self.without: set[int] = set()  # customers without a tunnel
        self.kill: int | None = None
        self.runs: list[tuple[str, int]] = []

    def _inventory(self) -> dict[str, dict[str, Any]]:
        with self.database.read() as session:
            return build_inventory(session, self.now).hosts

    def __call__(
        self, playbook: Path, boxes: Collection[str], variables: Mapping[str, Any], /
    ) -> Answers:
        wanted = self._inventory()
        reached = sorted(boxes)
        dies = self.kill is not None and len(self.runs) == self.kill
        self.runs.append((playbook.name, len(reached)))
        found: dict[str, dict[str, Any]] = {}
        for box in reached[: len(reached) // 2] if dies else reached:
            if box in self.broken:
                found[box] = {"error": "is broken"}
                continue
            self.state[box] = wanted[box]
            found[box] = {}
            self.check()
        if dies:
            self.kill = None
            raise Killed
        return Answers(found, {})

    def check(self) -> None:
        """Every moat that is to have a tunnel sends by a portal that takes it, and is found."""
        for number in range(1, HOW_MANY + 1):
            box = self.state[moat(number)]
            called = sorted((each.get("metric", 0), each["remote_identity"])
                            for each in box["moatvpn_connections"])  # fmt: skip
            if number in self.without:
                continue
            up = [portal for _, portal in called if self.takes(portal, number)]
            assert up, number
            assert up[0] == called[0][1], (number, "sends by a portal that does not take it")
            # The corporate side's routers know the pool's portal.
            assert self.way_to(number, box["moat_private_subnet"]) in up, number

    def takes(self, portal: str, number: int) -> bool:
        names = [each["name"] for each in self.state[portal]["moatvpn_connections"]]
        return f"c{number:04}" in names

    def way_to(self, number: int, subnet: str) -> str:
        for route in self.state[OLD].get("portal_moved_away", ()):
            if route["destination"] == subnet:
                assert route["via"] == "10.50.0.2"
                here = self.state[NEW].get("portal_moved_here", ())
                assert {"destination": subnet} in here
                return NEW
        return OLD

    def end(self) -> None:
        """All boxes are as the inventory has them, as a whole run of site.yml would say."""
        wanted = self._inventory()
        for number in range(1, HOW_MANY + 1):
            found = self.state[moat(number)]["moatvpn_connections"]
            assert found == wanted[moat(number)]["moatvpn_connections"]
        assert {box: self.state[box] for box in (OLD, NEW)} == {
            box: wanted[box] for box in (OLD, NEW)
        }


@pytest.fixture
def fleet(two_portals: Callable[[int], Database]) -> Database:
    return two_portals(HOW_MANY)


def begin(database: Database, now: datetime, *names: str, size: int = 3) -> None:
    with database.write() as session:
        found = to_be_moved(session, names, None if names else OLD, NEW)
        begin_move(session, found, NEW, lambda boxes: waves_of(boxes, 1, size), now)


def go_on(database: Database, boxes: Boxes, now: datetime, budget: int = 0) -> State:
    stages = Mover(database, boxes, clock=lambda: now).stages()
    return Rollout(
        database,
        "move",
        stages,
        Limits(budget),
        clock=lambda: now,
        check=lambda: None,
        tell=lambda progress: None,
        leave=not_served,
    ).run()


@contextmanager
def refused(words: str) -> Iterator[None]:
    with pytest.raises(FaultsError) as raised:
        yield
    assert words in raised.value.lines()[0]


def of_portal(database: Database, portal: str) -> list[str]:
    with database.read() as session:
        return [each.customer for each in store.list_customers(session) if each.portal == portal]


def test_all_of_a_portal_move_in_waves(fleet: Database, now: datetime) -> None:
    boxes = Boxes(fleet, now)
    begin(fleet, now)
    assert go_on(fleet, boxes, now) is State.DONE
    assert of_portal(fleet, OLD) == []
    assert len(of_portal(fleet, NEW)) == HOW_MANY
    boxes.end()
    wave = [(PORTALS.name, 1), (MOATS.name, 3), (MOATS.name, 3), (PORTALS.name, 1), (MOATS.name, 3)]
    assert boxes.runs[6:11] == wave
    with fleet.read() as session:
        audited = session.scalars(select(Audit).where(Audit.what == "move")).all()
        assert [each.after for each in audited] == [{"portal": NEW}] * HOW_MANY
    begin(fleet, now)  # nobody is left, so that nothing is begun
    with pytest.raises(OperatorError, match="none is unfinished"):
        go_on(fleet, boxes, now)


def test_a_kill_at_any_point_leaves_all_connected_and_the_next_run_finishes(
    fleet: Database, now: datetime
) -> None:
    boxes = Boxes(fleet, now)
    begin(fleet, now)
    for kill in itertools.count():
        boxes.kill, boxes.runs = kill, []
        try:
            assert go_on(fleet, boxes, now) is State.DONE
        except Killed:
            boxes.check()
            # On from there, to be killed one run later each time.
            continue
        break
    assert kill > 0
    boxes.end()
    assert len(of_portal(fleet, NEW)) == HOW_MANY


@pytest.mark.parametrize("kill", range(12))
def test_one_kill_at_each_run_of_a_playbook(fleet: Database, now: datetime, kill: int) -> None:
    boxes = Boxes(fleet, now)
    begin(fleet, now, size=HOW_MANY)
    boxes.kill = kill
    with pytest.raises(Killed):
        go_on(fleet, boxes, now)
    boxes.check()
    assert go_on(fleet, boxes, now) is State.DONE
    boxes.end()


@pytest.mark.parametrize("box", [moat(2), OLD, NEW])
def test_a_box_that_fails_stops_it_and_is_gone_on_with(
    fleet: Database, now: datetime, box: str
) -> None:
    boxes = Boxes(fleet, now)
    begin(fleet, now)
    boxes.broken = {box}
    assert go_on(fleet, boxes, now) is State.STOPPED
    boxes.check()
    with fleet.read() as session:
        assert "is broken" in {
            (step.error or "").rpartition(": ")[2]
            for step in session.scalars(select(OperationStep))
        }
    boxes.broken = set()
    assert go_on(fleet, boxes, now) is State.DONE
    boxes.end()


def test_who_is_revoked_meanwhile_is_left_alone(fleet: Database, now: datetime) -> None:
    begin(fleet, now)
    with fleet.write() as session:
        store.set_customer(session, "c0002", {"status": "revoked"}, now)
    boxes = Boxes(fleet, now)
    boxes.without = {2}
    assert go_on(fleet, boxes, now) is State.DONE
    assert of_portal(fleet, OLD) == ["c0002"]
    assert [boxes.takes(portal, 2) for portal in (OLD, NEW)] == [False, False]


def test_customers_without_a_tunnel_move_at_once(fleet: Database, now: datetime) -> None:
    with fleet.write() as session:
        store.set_customer(session, "c0001", {"status": "suspended"}, now)
        keys.end_keys(session, get_customer(session, "c0002").moat, now)
    begin(fleet, now, "c0001", "c0002", "c0003")
    assert of_portal(fleet, NEW) == ["c0001", "c0002"]
    boxes = Boxes(fleet, now)
    boxes.without = {1, 2}
    assert go_on(fleet, boxes, now) is State.DONE
    assert of_portal(fleet, NEW) == ["c0001", "c0002", "c0003"]


def test_one_who_has_moved_keeps_the_subnets_whatever_else_is_set(
    fleet: Database, now: datetime
) -> None:
    begin(fleet, now, "c0001")
    go_on(fleet, Boxes(fleet, now), now)
    with fleet.write() as session:
        record, changed = store.set_customer(session, "c0001", {"name": "Another"}, now)
        assert changed
        assert (record.portal, record.private_subnet) == (NEW, "10.201.1.0/24")
        with refused("does not lie in the pool"):
            store.set_customer(session, "c0001", {"private_subnet": "10.201.77.0/24"}, now)
        with refused("does not lie in the pool"):
            store.set_customer(session, "c0002", {"portal": NEW}, now)


@pytest.mark.parametrize(
    "change", [{"moat": "other.moats.example.net"}, {"private_subnet": "10.201.99.0/24"}]
)
def test_what_a_move_goes_by_stays_until_it_is_done(
    fleet: Database, now: datetime, change: Texts
) -> None:
    begin(fleet, now, "c0001")
    with fleet.write() as session:
        with refused("is on the way to another portal"):
            store.set_customer(session, "c0001", change, now)
        store.set_customer(session, "c0001", {"name": "Another"}, now)
        store.set_customer(session, "c0002", change, now)


def test_what_cannot_move_moves_nobody(
    fleet: Database, customer: Make, key: Key, portal2_texts: Texts, now: datetime
) -> None:
    with fleet.write() as session:
        third = {name: value.replace("202", "203") for name, value in portal2_texts.items()}
        third |= {"portal": "portal1.example.com", "wild_address": "198.51.100.9/24"}
        third |= {"corporate_address": "10.60.0.2/24", "corporate_gateway": "10.60.0.10"}
        store.add_portal(session, third, now)
        with pytest.raises(OperatorError, match="has no valid public key"):
            begin_move(session, [], "portal1.example.com", lambda boxes: [list(boxes)], now)
        keys.record_key(session, "portal1.example.com", key(103), now)
        found = to_be_moved(session, [], OLD, "portal1.example.com")
        with refused("have one host name"):
            begin_move(session, found, "portal1.example.com", lambda boxes: [list(boxes)], now)
        fourth = {name: value.replace("203", "204") for name, value in third.items()}
        fourth |= {"portal": "portal4.example.net", "wild_address": "198.51.100.10/24"}
        store.add_portal(session, fourth, now)
        keys.record_key(session, "portal4.example.net", key(104), now)
        with refused("is not on portal1.example.net's corporate"):
            begin_move(session, found, "portal4.example.net", lambda boxes: [list(boxes)], now)
        changes = {"kidnet_subnet": "10.202.9.0/24"}
        store.set_customer(session, "c0003", changes, now)
        with refused("overlaps"):
            begin_move(session, found, NEW, lambda boxes: [list(boxes)], now)
    assert len(of_portal(fleet, OLD)) == HOW_MANY


def test_keys_are_not_rotated_meanwhile(fleet: Database, now: datetime) -> None:
    with fleet.write() as session:
        begin_operation(session, "rotate", {}, [[moat(1)]], "make", now)
    with pytest.raises(OperatorError, match="rotate 1, begun by"):
        begin(fleet, now)
