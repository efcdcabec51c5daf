"""site.yml: which boxes it sets up, and that their keys come into the right database."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_bench import MOAT, PORTAL, ROOT, Run, key

SITE = ROOT / "site.yml"
NOWHERE = "sqlite:////nowhere/moat.sqlite"


def add_customers(run: Run, directory: Path, *statuses: str) -> None:
    """Add a customer of each status to the lab's own, who is active."""
    given = ROOT / "molecule" / "default" / "customers.csv"
    (example,) = csv.DictReader(given.read_text().splitlines())
    rows = []
    for number, status in enumerate(statuses, start=2):
        row = {name: value for name, value in example.items() if "mac" not in name}
        row |= {"private_subnet": "", "private_subnet6": "", "status": status}
        rows.append(row | {"customer": f"c000{number}", "moat": f"{status}.moats.example.net"})
    with (directory / "more.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = run("moat-fleet", "customer", "import", "--csv", "more.csv")
    assert done.returncode == 0, done.stderr


def test_it_leaves_alone_who_is_suspended_or_revoked(lab: Run, tmp_path: Path) -> None:
    add_customers(lab, tmp_path, "ordered", "shipped", "suspended", "revoked")
    done = lab("ansible-playbook", "--inventory", "inventory/moat.yml", str(SITE), "--list-hosts")
    assert done.returncode == 0, done.stderr
    moats = {MOAT, "ordered.moats.example.net", "shipped.moats.example.net"}
    plays = re.split(r"\n\n", done.stdout.strip())[1:]
    found = [set(re.findall(r"^ {6}(\S+)$", play, re.MULTILINE)) for play in plays]
    assert found == [moats | {PORTAL}, moats | {PORTAL}, {PORTAL}, moats]


def test_a_fleet_without_such_customers_is_no_warning(lab: Run) -> None:
    done = lab("ansible-playbook", "--inventory", "inventory/moat.yml", str(SITE), "--list-hosts")
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("tag", ["install", "configure"])
def test_a_tag_brings_what_its_tasks_need(lab: Run, tag: str) -> None:
    words = ("--inventory", "inventory/moat.yml", str(SITE), "--list-tasks", "--tags", tag)
    done = lab("ansible-playbook", *words)
    assert done.returncode == 0, done.stderr
    # The version of moatvpn: its directory's name, which moatd's unit has in it.
    assert "moatvpn : Name the set of wheels" in done.stdout


def recording() -> dict[str, Any]:
    """Return the task of site.yml that records the boxes' public keys."""
    plays = yaml.safe_load(SITE.read_text())
    (task,) = (each for each in plays[0]["tasks"] if "Record" in each["name"])
    return dict(task)


@pytest.mark.parametrize("named_by", ["environment", "source", "default"])
def test_a_key_is_recorded_where_the_inventory_came_from(
    lab: Run, tmp_path: Path, named_by: str
) -> None:
    new = key(7)
    assert lab("moat-fleet", "customer", "list").returncode == 0
    changes: dict[str, str | None] = {}
    if named_by == "source":
        (tmp_path / "inventory" / "moat.yml").write_text("plugin: moat\ndatabase: ../moat.sqlite\n")
        changes = {"MOAT_DATABASE": NOWHERE}
    elif named_by == "default":
        changes = {"MOAT_DATABASE": None}
    add_customers(lab, tmp_path, "ordered")
    play = {
        "hosts": "status_ordered",
        "gather_facts": False,
        # As the role gives it: a fact of the box, which the others' tasks may read.
        "tasks": [{"ansible.builtin.set_fact": {"moatvpn_public_key": new}}, recording()],
    }
    # The tasks say where things are from the place of site.yml.
    for name in ("src", "playbooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    words = ("ansible-playbook", "--inventory", "inventory/moat.yml", "play.yml")
    checked = lab(*words, "--check", **changes)
    assert (checked.returncode, keys(lab)) == (0, {key(1), key(2)}), checked.stdout
    for changed in (1, 0):
        done = lab(*words, **changes)
        assert done.returncode == 0, done.stdout
        assert f"changed={changed}" in done.stdout
        assert keys(lab) == {key(1), key(2), new}


def keys(run: Run) -> set[str]:
    listed = json.loads(run("moat-fleet", "key", "list", "--json").stdout)
    return {row["public_key"] for row in listed}
