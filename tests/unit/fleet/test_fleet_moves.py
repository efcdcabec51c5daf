"""A customer between two portals: what each box has at each stage of the move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.find import get_customer, get_portal
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.journal import Operation, OperationStep
from moatvpn.fleet.moves import ACCEPT, ATTACH, DROP, HAND_ON, RELEASE, STAGES, SWITCH
from moatvpn.fleet.operations import begin_operation, set_step
from moatvpn.fleet.rollout import DONE, LEFT

Texts = dict[str, str]
Make = Callable[..., Texts]
Key = Callable[[int], str]
OLD, NEW, THIRD = "portal1.example.net", "portal2.example.net", "portal3.example.net"
MOAT, NEIGHBOUR = "m0001.moats.example.net", "m0002.moats.example.net"


@pytest.fixture
def two(two_portals: Callable[[int], Database]) -> Database:
    return two_portals(2)


def begin(database: Database, now: datetime, old: str = OLD, new: str = NEW) -> None:
    with database.write() as session:
        operation = begin_operation(session, "move", {}, [[MOAT]], ACCEPT, now)
        set_step(operation.steps[0], ACCEPT, now, data={"from": old, "to": new})


def enter(database: Database, stage: str, now: datetime) -> None:
    """Enter a stage, and give the customer to the new portal as release does."""
    with database.write() as session:
        query = select(OperationStep).order_by(OperationStep.id.desc()).limit(1)
        step = session.scalars(query).one()
        set_step(step, stage, now)
        if stage in (RELEASE, DROP, DONE):
            new = get_portal(session, step.data["to"])
            get_customer(session, "c0001").moat.portal_id = new.id


def hosts(database: Database, now: datetime) -> dict[str, dict[str, Any]]:
    with database.read() as session:
        return build_inventory(session, now).hosts


def calls(variables: dict[str, Any]) -> dict[str, int]:
    found = variables["moatvpn_connections"]
    return {each["remote_identity"]: each.get("metric", 0) for each in found}


def takes(variables: dict[str, Any]) -> list[str]:
    return [each["name"] for each in variables["moatvpn_connections"]]


HERE = [{"destination": "10.201.1.0/24"}, {"destination": "fd00:201:0:1::/64"}]
AWAY = [{**HERE[0], "via": "10.50.0.2"}, {**HERE[1], "via": "fd00:50::2"}]


def test_what_each_box_has_at_each_stage(two: Database, now: datetime) -> None:
    before = hosts(two, now)
    begin(two, now)
    for stage in STAGES:
        enter(two, stage, now)
        at = hosts(two, now)
        expected = {
            ACCEPT: {OLD: 0},
            ATTACH: {OLD: 0, NEW: 1},
            RELEASE: {NEW: 0},
            DROP: {NEW: 0},
        }
        assert calls(at[MOAT]) == expected.get(stage, {OLD: 2, NEW: 1}), stage
        assert takes(at[NEW]) == ["c0001"]
        assert takes(at[OLD]) == (["c0002"] if stage == DROP else ["c0001", "c0002"])
        assert at[NEW]["portal_moved_here"] == HERE
        handed_on = STAGES.index(stage) >= STAGES.index(HAND_ON)
        assert at[OLD].get("portal_moved_away") == (AWAY if handed_on else None)
        assert at[NEIGHBOUR] == before[NEIGHBOUR]
        assert at[MOAT]["moat_private_subnet"] == "10.201.1.0/24"
    last = at
    enter(two, DONE, now)
    assert hosts(two, now) == last


def test_connections_that_are_there_together_never_have_the_same_metric(
    two: Database, now: datetime
) -> None:
    """moatctl changes one after the other: what is gone first, and what is new last."""
    begin(two, now)
    present: dict[str, int] = {OLD: 0}
    for stage in STAGES:
        enter(two, stage, now)
        wanted = calls(hosts(two, now)[MOAT])
        present = {portal: metric for portal, metric in present.items() if portal in wanted}
        for portal, metric in sorted(wanted.items(), key=lambda each: each[0] not in present):
            present[portal] = metric
            assert len(set(present.values())) == len(present), (stage, present)
    assert present == {NEW: 0}


def test_one_that_moves_back_needs_no_routes_any_more(two: Database, now: datetime) -> None:
    before = hosts(two, now)
    begin(two, now)
    enter(two, DONE, now)
    end(two, now)
    begin(two, now, old=NEW, new=OLD)
    at = hosts(two, now)
    assert (at[OLD]["portal_moved_away"], at[NEW]["portal_moved_here"]) == (AWAY, HERE)
    assert takes(at[OLD]) == ["c0001", "c0002"]
    enter(two, HAND_ON, now)
    at = hosts(two, now)
    assert "portal_moved_away" not in at[OLD]
    assert at[NEW]["portal_moved_here"] == HERE
    enter(two, DONE, now)
    assert hosts(two, now) == before


def end(database: Database, now: datetime) -> None:
    with database.write() as session:
        for operation in session.scalars(select(Operation)):
            operation.state, operation.ended = "done", now


def test_one_that_moves_on_is_handed_on_by_the_portal_of_its_pool(
    two: Database, portal2_texts: Texts, key: Key, now: datetime
) -> None:
    third = {name: value.replace("202", "203") for name, value in portal2_texts.items()} | {
        "portal": THIRD,
        "wild_address": "198.51.100.4/24",
        "corporate_address": "10.50.0.3/24",
        "corporate_address6": "fd00:50::3/64",
    }
    with two.write() as session:
        store.add_portal(session, third, now)
        keys.record_key(session, THIRD, key(102), now)
    begin(two, now)
    enter(two, DONE, now)
    end(two, now)
    begin(two, now, old=NEW, new=THIRD)
    enter(two, SWITCH, now)
    at = hosts(two, now)
    assert at[OLD]["portal_moved_away"] == AWAY
    assert at[NEW]["portal_moved_here"] == at[THIRD]["portal_moved_here"] == HERE
    enter(two, HAND_ON, now)
    vias = [each["via"] for each in hosts(two, now)[OLD]["portal_moved_away"]]
    assert vias == ["10.50.0.3", "fd00:50::3"]
    enter(two, DONE, now)
    assert "portal_moved_here" not in hosts(two, now)[NEW]


@pytest.mark.parametrize("status", ["suspended", "revoked"])
def test_who_is_not_served_any_more_has_no_connection_anywhere(
    two: Database, now: datetime, status: str
) -> None:
    begin(two, now)
    enter(two, SWITCH, now)
    with two.write() as session:
        store.set_customer(session, "c0001", {"status": status}, now)
    at = hosts(two, now)
    assert calls(at[MOAT]) == {}
    assert (takes(at[OLD]), takes(at[NEW])) == (["c0002"], [])


def test_a_move_that_is_given_up_leaves_what_the_record_says(two: Database, now: datetime) -> None:
    before = hosts(two, now)
    begin(two, now)
    enter(two, SWITCH, now)
    enter(two, LEFT, now)
    assert hosts(two, now) == before


def test_new_customers_of_a_portal_get_no_subnet_of_one_who_has_left(
    two: Database, customer: Make, now: datetime
) -> None:
    begin(two, now)
    enter(two, DONE, now)
    with two.write() as session:
        (record,) = store.add_customers(session, [(None, customer(3))], "third", now)
    assert (record.private_subnet, record.private_subnet6) == (
        "10.201.3.0/24",
        "fd00:201:0:3::/64",
    )
