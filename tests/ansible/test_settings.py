"""The project's own ansible.cfg: which inventories it takes, and that a broken one stops a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible_bench import MOAT, PORTAL, ROOT, Run

SETTINGS = {
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    # What the settings say, not what the tests of the plugin alone say.
    "ANSIBLE_INVENTORY_ENABLED": None,
    "ANSIBLE_INVENTORY_PLUGINS": None,
    "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": None,
}
NOWHERE = {"MOAT_DATABASE": "sqlite:////nowhere/moat.sqlite"}


def hosts(run: Run, *sources: str, **changes: str | None) -> set[str]:
    words = [word for source in sources for word in ("--inventory", source)]
    done = run("ansible-inventory", *words, "--list", **SETTINGS | changes)
    assert done.returncode == 0, done.stderr
    groups = json.loads(done.stdout)
    return {host for group in groups.values() for host in group.get("hosts", [])}


def test_the_inventory_is_a_file_or_its_directory(lab: Run) -> None:
    assert hosts(lab) == {MOAT, PORTAL}
    assert hosts(lab, str(ROOT / "inventory")) == {MOAT, PORTAL}
    assert hosts(lab, str(ROOT / "inventory" / "moat.yml")) == {MOAT, PORTAL}


def test_a_list_of_hosts_is_one_too(run: Run) -> None:
    assert hosts(run, "localhost,", **NOWHERE) == {"localhost"}


SHARED = str(ROOT / "molecule" / "shared" / "inventory")
SCENARIOS = sorted(path.parent for path in ROOT.glob("molecule/*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_a_labs_is_its_machines_and_the_boxes(lab: Run, scenario: Path) -> None:
    found = hosts(lab, SHARED, str(scenario / "lab.yml"))
    assert found >= {MOAT, PORTAL, "pc", "router", "corp", "web", "attacker"}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_molecule_makes_and_removes_a_lab_without_its_database(run: Run, scenario: Path) -> None:
    given = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())["ansible"]["env"]
    environment = {name: value for name, value in given.items() if "$" not in value}
    found = hosts(run, SHARED, str(scenario / "lab.yml"), **NOWHERE, **environment)
    assert found >= {"pc", "web"}


@pytest.mark.parametrize("words", [(), ("--check",)])
def test_a_database_that_cannot_be_read_stops_the_run(run: Run, words: tuple[str, ...]) -> None:
    done = run("ansible-playbook", str(ROOT / "site.yml"), *words, **SETTINGS | NOWHERE)
    assert done.returncode != 0
    assert "Run `moat-fleet init`" in done.stderr
    assert "PLAY" not in done.stdout
