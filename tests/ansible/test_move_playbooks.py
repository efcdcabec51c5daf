"""The playbooks of a move between portals: what a moat is told at each stage, and a portal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_bench import MOAT, PORTAL, ROOT, Run, key, make_lab, operator
from sqlalchemy import select

from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.journal import OperationStep
from moatvpn.fleet.move_records import begin_move, to_be_moved
from moatvpn.fleet.operations import set_step
from moatvpn.fleet.playbooks import read_answers

NEW = "portal2.example.net"
ADDRESSES = (
    "--wild-address=198.51.100.3/24",
    "--wild-gateway=198.51.100.1",
    "--corporate-address=10.50.0.2/24",
    "--corporate-address6=fd00:50::2/64",
    "--corporate-gateway=10.50.0.10",
    "--corporate-gateway6=fd00:50::10",
    "--pool=10.202.0.0/16",
    "--pool6=fd00:202::/32",
    "--tunnel-address=10.202.0.1/32",
    "--tunnel-address6=fd00:202::1/128",
)
# In moatctl's place: notes the connections that it is given, and has those up that it is told.
MOATCTL = """\
#!{python}
import json, pathlib, sys
here = pathlib.Path({directory!r})
if sys.argv[1] == "set":
    with (here / "sets").open("a") as file:
        file.write(sys.stdin.read().replace("\\n", " ") + "\\n")
    told = dict(added=[], replaced=[], deleted=[], before={{}}, after={{}})
    print(json.dumps(dict(told, changed=True, running=True)))
else:
    rows = [dict(name=name, state="established") for name in (here / "up").read_text().split()]
    print(json.dumps(dict(connections=rows, drops={{}})))
"""


class Boxes:
    """A moat that moves, with a moatctl and a ping that say what the test has them say."""

    def __init__(self, run: Run, directory: Path) -> None:
        self._run, self._directory = run, directory
        self.moatctl, self.ping = directory / "bin" / "moatctl", directory / "bin" / "ping"
        self.pinged = directory / "pinged"
        self.moatctl.parent.mkdir()
        self.moatctl.write_text(MOATCTL.format(python=sys.executable, directory=str(directory)))
        self.ping.touch()
        for program in (self.moatctl, self.ping):
            program.chmod(0o755)
        for words in (("portal", "add", NEW, *ADDRESSES), ("key", "record", NEW, key(3))):
            done = run("moat-fleet", *words)
            assert done.returncode == 0, done.stderr
        with self.database() as database, database.write() as session:
            found = to_be_moved(session, [], PORTAL, NEW)
            now = datetime.now(UTC)
            begin_move(session, found, NEW, lambda boxes: [list(boxes)], now)

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = Database(database_url(f"sqlite:///{self._directory}/moat.sqlite"), "tests")
        try:
            yield database
        finally:
            database.close()

    def up(self, *names: str) -> None:
        (self._directory / "up").write_text(" ".join(names))

    def enter(self, stage: str) -> None:
        with self.database() as database, database.write() as session:
            for step in session.scalars(select(OperationStep)):
                set_step(step, stage, datetime.now(UTC))

    def play(self, name: str, box: str, *words: str, **given: Any) -> dict[str, Any]:
        """Run a playbook on a box; return what the box answered."""
        answers = self._directory / "answers"
        answers.mkdir(exist_ok=True)
        variables = {
            "moat_answers": str(answers),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "__moatvpn_moatctl": str(self.moatctl),
            "__moatvpn_etc": str(self._directory),
            **given,
        }
        done = self._run(
            "ansible-playbook",
            "--inventory=inventory/moat.yml",
            f"--limit={box}",
            "--extra-vars",
            json.dumps(variables),
            str(ROOT / "playbooks" / name),
            *words,
            ANSIBLE_LIBRARY=str(ROOT / "library"),
            ANSIBLE_MODULE_UTILS=str(ROOT / "module_utils"),
            ANSIBLE_ROLES_PATH=str(ROOT / "roles"),
            PATH=f"{self.ping.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        )
        self.output = done.stdout + done.stderr
        read = read_answers(answers, [box])
        assert not read.refused
        assert box in read.found, self.output
        return read.found[box]

    def moat(self, stage: str) -> dict[str, Any]:
        self.enter(stage)
        given = {"moat_stage": stage, "moat_new": "portal2", "moat_ping": "10.202.0.1"}
        return self.play("move_moats.yml", MOAT, **given)

    def sets(self) -> list[dict[str, int]]:
        """Return the metrics by connection of each set that the moat was given since last time."""
        path = self._directory / "sets"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        records = [json.loads(line)["connections"] for line in lines]
        return [{each["name"]: each.get("metric", 0) for each in record} for record in records]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    directory = tmp_path_factory.mktemp("moves")
    run = operator(directory)
    make_lab(run)
    return Boxes(run, directory)


@pytest.fixture
def boxes(made: Boxes) -> Boxes:
    """The boxes with both tunnels up and a ping that is answered, and nothing noted yet."""
    made.up("portal1", "portal2")
    made.ping.write_text(f'#!/bin/sh\necho "$@" >>{made.pinged}\n')
    made.pinged.unlink(missing_ok=True)
    made.sets()
    return made


def test_a_moat_through_its_stages(boxes: Boxes) -> None:
    for stage, expected in (
        ("attach", {"portal1": 0, "portal2": 1}),
        ("switch", {"portal1": 2, "portal2": 1}),
        ("release", {"portal2": 0}),
    ):
        assert boxes.moat(stage) == {}, boxes.output
        assert boxes.sets() == [expected]
        assert boxes.pinged.exists() is (stage != "attach")
    (pinged,) = boxes.pinged.read_text().splitlines()
    assert pinged.split()[-1] == "10.202.0.1"


def test_a_moat_whose_packets_do_not_come_back_sends_by_the_old_tunnel_again(boxes: Boxes) -> None:
    boxes.ping.write_text("#!/bin/sh\necho 5 packets transmitted, 0 received\nexit 1\n")
    answer = boxes.moat("switch")
    assert "0 received" in answer["error"]
    assert boxes.sets() == [{"portal1": 2, "portal2": 1}, {"portal1": 0, "portal2": 1}]


def test_no_old_tunnel_goes_while_the_new_one_is_down(boxes: Boxes) -> None:
    boxes.up("portal1")
    assert boxes.moat("release") == {"error": "the tunnel portal2 is not up"}
    assert boxes.sets() == []


@pytest.mark.parametrize(
    ("portal", "stage", "rule", "route"),
    [
        (NEW, "accept", "ip saddr { 10.202.0.0/16, 10.201.1.0/24 } accept", "dev moat0"),
        (PORTAL, "hand-on", "ip daddr 10.201.1.0/24 accept", "via 10.50.0.2"),
    ],
)
def test_a_portal_in_check_mode(
    boxes: Boxes, portal: str, stage: str, rule: str, route: str
) -> None:
    boxes.enter(stage)
    assert boxes.play("move_portals.yml", portal, "--check", "--diff") == {}, boxes.output
    assert f"+        {rule}" in boxes.output
    assert f"10.201.1.0/24 dev {'moat0' if portal == NEW else 'corp0'}" in boxes.output
    assert route in boxes.output
    assert "Destination=10.201.1.0/24" in boxes.output
