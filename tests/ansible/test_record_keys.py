"""A batch's public keys, recorded by one program (playbooks/tasks/record_keys.yml)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_bench import MOAT, PORTAL, ROOT, Run, key

OTHER = "m0002.moats.example.net"
NEW = "m0003.moats.example.net"


@pytest.fixture
def fleet(lab: Run) -> Run:
    """The lab, and two moats that have no key yet."""
    for number, moat in ((2, OTHER), (3, NEW)):
        words = ("--name", "Ada", "--isp", "One", "--portal", PORTAL, "--moat", moat)
        assert lab("moat-fleet", "customer", "add", f"c{number:04}", *words).returncode == 0
    return lab


def played(run: Run, tmp_path: Path, keys: dict[str, str], *words: str, **more: Any) -> Any:
    """Run the tasks on boxes that have made those keys, and then a task that shows who is left."""
    tasks = [
        {"ansible.builtin.set_fact": {"moatvpn_public_key": "{{ made[inventory_hostname] }}"}},
        {"ansible.builtin.include_tasks": str(ROOT / "playbooks" / "tasks" / "record_keys.yml")},
        {"ansible.builtin.debug": {"msg": "left {{ inventory_hostname }}"}},
    ]
    variables = {"ansible_python_interpreter": sys.executable, "made": keys}
    play = {"hosts": list(keys), "gather_facts": False, "vars": variables, "tasks": tasks} | more
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    options = ("--inventory", "inventory/moat.yml", "--connection", "local")
    return run("ansible-playbook", *options, "play.yml", *words)


def left(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {host for host in (MOAT, OTHER, NEW, PORTAL) if f'"left {host}"' in done.stdout}


def recorded(run: Run) -> dict[str, str]:
    rows = json.loads(run("moat-fleet", "key", "list", "--json").stdout)
    return {row["identity"]: row["public_key"] for row in rows}


def test_each_batch_is_recorded_and_then_nothing_changes(fleet: Run, tmp_path: Path) -> None:
    keys = {PORTAL: key(1), MOAT: key(2), OTHER: key(3), NEW: ""}
    done = played(fleet, tmp_path, keys, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert left(done) == set(keys)
    assert OTHER not in recorded(fleet)
    done = played(fleet, tmp_path, keys, serial=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert left(done) == set(keys)
    # One that has none, as in a check of a box that is new, stays without.
    assert recorded(fleet) == {PORTAL: key(1), MOAT: key(2), OTHER: key(3)}
    done = played(fleet, tmp_path, keys)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=1" not in done.stdout


def test_who_is_refused_ends_alone(fleet: Run, tmp_path: Path) -> None:
    """A new disk in one box, a copied one in another: no other box is kept waiting for that."""
    keys = {PORTAL: key(9), MOAT: key(2), OTHER: key(2), NEW: key(4)}
    gone = {"MOAT_DATABASE": "sqlite:////nowhere/moat.sqlite"}
    done = played(fleet, tmp_path, keys, environment=gone)
    assert (done.returncode, left(done)) == (2, set())  # nobody goes on without
    done = played(fleet, tmp_path, keys)
    assert done.returncode == 2, done.stdout + done.stderr
    assert left(done) == {MOAT, NEW}
    assert "has another valid public key" in done.stdout
    assert f"already {MOAT}'s" in done.stdout
    assert recorded(fleet) == {PORTAL: key(1), MOAT: key(2), NEW: key(4)}
