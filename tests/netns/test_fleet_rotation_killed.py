"""A fleet's rotation of keys with real moatds, which die at every stage, as does the controller.

After each death the tunnel comes back by a key that both know, and the next run goes on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, join, new_box, wait_for
from fleet_of_two import CUSTOMER_TEXTS, PORTAL_TEXTS
from inside import within

from moatvpn.daemon.keyfile import next_key, old_key
from moatvpn.errors import OperatorError
from moatvpn.fleet import store
from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.journal import State
from moatvpn.fleet.keys import list_keys, record_key
from moatvpn.fleet.operations import begin_operation
from moatvpn.fleet.playbooks import Answers
from moatvpn.fleet.rollout import Limits, Rollout
from moatvpn.fleet.rotation import CONNECTIONS, KEYS, KIND, Kind, Rotation, not_served

UP = 15.0  # seconds: a dead moat is heard of after 1 s, and called back, or calls
STAGES = ["make-next", "trust", "switch", "prove", "finish", "distrust"]


class Killed(BaseException):
    """The controller's end."""


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Fleet:
    """A database, and the two boxes that playbooks would be run on: a Runner of them."""

    def __init__(self, database: Database, moat: Box, portal: Box, kind: Kind) -> None:
        self.database = database
        self.boxes = {MOAT.identity: moat, PORTAL.identity: portal}
        self.kind = kind
        self.box, self.peer = (moat, portal) if kind is Kind.MOATS else (portal, moat)
        self.deaths: list[str] = []
        with database.write() as session:
            store.add_portal(session, PORTAL_TEXTS, now())
            store.add_customers(session, [(None, CUSTOMER_TEXTS)], "test", now())
            for identity, box in self.boxes.items():
                record_key(session, identity, box.public_key, now())
        join(moat, portal)
        for identity, box in self.boxes.items():
            self._connect(identity)
            box.start()
        self.wait_until_up()

    def wait_until_up(self) -> None:
        moat = self.boxes[MOAT.identity]
        wait_for(lambda: moat.pings(PORTAL.inside), "a ping through the tunnel", UP)

    def _connect(self, identity: str) -> None:
        """Give a box the connections of the database, as connections.yml does."""
        with self.database.read() as session:
            hosts = build_inventory(session, now()).hosts
        for record in hosts[identity]["moatvpn_connections"]:
            self.boxes[identity].apply("replace", {**record, "dpd_interval": 1.0})

    def __call__(
        self, playbook: Path, boxes: Collection[str], variables: Mapping[str, Any], /
    ) -> Answers:
        stage = str(variables.get("moat_stage"))
        if playbook == CONNECTIONS:
            stage = "distrust" if "finish" in self.deaths else "trust"
        found: dict[str, dict[str, Any]] = {}
        for identity in boxes:
            if playbook == KEYS:
                found[identity] = self._step(identity, stage, variables)
            else:
                self._connect(identity)
                found[identity] = {}
        if stage not in self.deaths:
            self.deaths.append(stage)
            self._die(stage)
        return Answers(found, {})

    def _step(self, identity: str, stage: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        box = self.boxes[identity]
        try:
            if stage != "prove":
                return box.ctl("key", stage, "--private-key", str(box.key))
            ((side, mark),) = variables["moat_keys"][identity].items()
            with within(box.namespace):
                return box.ctl("prove", f"--{side}-key", mark, "--ping", PORTAL.inside)
        except OperatorError as error:
            return {"error": str(error)}

    def _die(self, stage: str) -> None:
        """Kill moatd at the box whose key it is, or at its peer, and the controller."""
        dying = self.peer if stage in ("trust", "prove", "distrust") else self.box
        dying.kill()
        dying.start()
        self.wait_until_up()
        raise Killed(stage)

    def rotate(self) -> State:
        rotation = Rotation(self.database, self.kind, self, clock=now)
        return Rollout(
            self.database,
            KIND,
            rotation.stages(),
            Limits(),
            clock=now,
            check=lambda: None,
            tell=lambda _: None,
            leave=not_served,
        ).run()


@pytest.fixture(params=list(Kind))
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    database = Database(database_url(f"sqlite:///{tmp_path}/moat.sqlite"), who="ada")
    database.create()
    with (
        new_box(tmp_path, "km", MOAT.identity) as moat,
        new_box(tmp_path, "kp", PORTAL.identity) as portal,
    ):
        yield Fleet(database, moat, portal, request.param)
    database.close()


def test_a_death_at_each_stage_is_made_good_by_the_next_run(fleet: Fleet) -> None:
    box, before = fleet.box, fleet.box.public_key
    with fleet.database.write() as session:
        begin_operation(session, KIND, {"of": fleet.kind}, [[box.identity]], "make", now())
    for stage in STAGES:
        if stage == "switch":
            # moatctl has died in the middle of it: its one link is made, and nothing renamed.
            os.link(box.key, old_key(box.key))
        with pytest.raises(Killed, match=stage):
            fleet.rotate()
    assert fleet.rotate() is State.DONE
    assert fleet.deaths == STAGES
    assert not next_key(box.key).exists()
    assert not old_key(box.key).exists()
    new = box.ctl("key", "status", "--private-key", str(box.key))
    with fleet.database.read() as session:
        keys = [key for key in list_keys(session) if key.box.identity == box.identity]
        valid = {key.key: key.valid(now()) for key in keys}
    assert valid == {before: False, new["public_key"]: True}
    fleet.wait_until_up()
    (row,) = fleet.peer.ctl("status")["connections"]
    assert row["remote_key"] == new["fingerprint"]
