"""A customer is revoked while the tunnel is up: by moat-fleet, Ansible, and a portal's real moatd.

controller                        portal1                        moat
moat-fleet revoke -- Ansible -->  moatctl revoke -- DELETE --->  tunnel down
                  -- refused -x-  portal2                        IKE_AUTH ---> refused, for ever
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from boxes import MOAT, PORTAL, Box, new_box, other_public_key, wait_for
from pair import Pair

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
SECOND = "portal2.example.net"
# Connecting to it is refused at once.
AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


class Office:
    """A controller: its database, and Ansible that finds portals as boxes of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._variables = directory / "inventory" / "host_vars"
        self._variables.mkdir(parents=True)
        (directory / "inventory" / "moat.yml").write_text("plugin: moat\n")
        # The playbook itself; only where a box's program is, is another place here.
        (play,) = yaml.safe_load((ROOT / "playbooks" / "revoke.yml").read_text())
        role, answer = play["tasks"]
        role["vars"] = {"__moatvpn_moatctl": "{{ test_moatctl }}"}
        tasks = answer["ansible.builtin.import_tasks"]
        answer["ansible.builtin.import_tasks"] = str(ROOT / "playbooks" / tasks)
        self.playbook = directory / "revoke.yml"
        self.playbook.write_text(yaml.safe_dump([play]))

    def reaches(self, portal: str, box: Box | None) -> None:
        """Have Ansible reach a portal as this box, or not at all."""
        variables: dict[str, Any] = AWAY
        if box is not None:
            program = box.directory / "moatctl"
            places = f'--socket "{box.socket}" --connections "{box.connections}"'
            program.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" -m moatvpn.cli.moatctl "$@" {places}\n'
            )
            program.chmod(0o755)
            variables = {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "test_moatctl": str(program),
            }
        (self._variables / f"{portal}.yml").write_text(yaml.safe_dump(variables))

    def fleet(self, *words: str, status: int = 0) -> str:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "MOAT_DATABASE": f"sqlite:///{self._directory}/moat.sqlite",
            "ANSIBLE_INVENTORY": str(self._directory / "inventory" / "moat.yml"),
            "ANSIBLE_HOST_KEY_CHECKING": "false",
        }
        command = [str(PROGRAMS / "moat-fleet"), *words]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def revoke(self, *words: str, status: int = 0) -> dict[str, Any]:
        places = ("--playbook", str(self.playbook), "--yes", "--json")
        found: dict[str, Any] = json.loads(self.fleet("revoke", *words, *places, status=status))
        return found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with (
        new_box(tmp_path / "boxes", "m", MOAT.identity) as moat,
        new_box(tmp_path / "boxes", "p", PORTAL.identity) as portal,
    ):
        pair = Pair(moat, portal, "auto")
        # Another customer, for whose sake the portal answers who calls.
        other = {"name": "m0002", "remote_identity": "m2.moats.example.net"}
        keys = {"remote_public_keys": [other_public_key()], "remote_selectors": ["10.201.2.0/24"]}
        portal.apply("add", pair.to_moat | other | keys)
        pair.start()
        yield pair


@pytest.fixture
def office(tmp_path: Path, pair: Pair) -> Office:
    """Two portals, of which the second is not there; the moat of the pair is c0001's."""
    made = Office(tmp_path)
    made.fleet("init")
    for number, portal in ((1, PORTAL.identity), (2, SECOND)):
        made.fleet(
            "portal", "add", portal,
            f"--wild-address=192.0.2.{number}/24", "--wild-gateway=192.0.2.254",
            f"--corporate-address=10.50.0.{number}/24", "--corporate-gateway=10.50.0.254",
            f"--corporate-address6=fd00:50::{number}/64", "--corporate-gateway6=fd00:50::fe",
            f"--pool=10.20{number}.0.0/16", f"--tunnel-address=10.20{number}.0.1/32",
            f"--pool6=fd00:20{number}::/32", f"--tunnel-address6=fd00:20{number}::1/128",
        )  # fmt: skip
    words = ("--name", "Ada", "--isp", "Cable", "--portal", PORTAL.identity, "--status", "active")
    made.fleet("customer", "add", "c0001", *words, "--moat", MOAT.identity)
    made.fleet("key", "record", MOAT.identity, pair.moat.public_key)
    made.reaches(PORTAL.identity, pair.portal)
    made.reaches(SECOND, None)
    return made


def test_a_revoked_box_is_out_within_seconds_and_for_ever(pair: Pair, office: Office) -> None:
    began = time.monotonic()
    told = office.revoke("c0001", status=3)
    wait_for(lambda: _says(pair.moat, "the peer deleted the IKE SA"), "the DELETE", 2)
    assert (told["changed"], list(told["told"])) == (["c0001"], [PORTAL.identity])
    # How long it takes is a benchmark's to judge (benchmarks/fleet.py): a loaded machine is slow.
    assert 0 < told["told"][PORTAL.identity] <= time.monotonic() - began
    assert told["not_told"] == [SECOND]
    assert _names(pair.portal) == ["m0002"]

    # The box calls again, with the key that was good, and is refused.
    wait_for(lambda: _says(pair.moat, "AUTHENTICATION_FAILED"), "a refusal", 20)
    assert not pair.pings()

    # Neither what the portal was given before lets it in again, nor a start from its disk.
    path = pair.portal.directory / "stale.json"
    path.write_text(json.dumps({"connections": [pair.to_moat]}))
    places = ("--connections", str(pair.portal.connections))
    assert pair.portal.ctl("set", str(path), *places)["revoked"] == ["m0001"]
    pair.portal.kill(signal.SIGKILL)
    (pair.portal.connections / "m0001.json").write_text(json.dumps(pair.to_moat))
    pair.portal.start()
    assert _names(pair.portal) == []
    assert "has only keys that were revoked" in pair.portal.log.read_text()
    assert not pair.pings()

    # The other portal is remembered, told of, and told when it is there.
    assert SECOND in office.fleet("forecast", status=4)
    assert office.revoke(status=3)["not_told"] == [SECOND]
    office.reaches(SECOND, pair.portal)
    assert list(office.revoke()["told"]) == [SECOND]
    assert office.revoke("c0001") | {"customers": []} == {
        "changed": [], "customers": [], "told": {}, "not_told": [],
    }  # fmt: skip


def _says(moat: Box, text: str) -> bool:
    return text in moat.log.read_text()


def _names(portal: Box) -> list[str]:
    return [row["name"] for row in portal.ctl("status")["connections"]]
