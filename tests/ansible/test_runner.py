"""Run by ansible-runner, as AWX runs it: the definition of its image, and the database's locks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml
from ansible_bench import ROOT, Run

from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.locks import lock

# What the bench sets for programs in a directory of their own, and a runner's project has itself.
PROJECTS_OWN = dict.fromkeys(
    ("ANSIBLE_CONFIG", "ANSIBLE_INVENTORY_PLUGINS", "ANSIBLE_FILTER_PLUGINS")
)
STUB = [{"hosts": "all", "gather_facts": False, "connection": "local", "tasks": []}]


def test_two_runners_do_not_collide(lab: Run, tmp_path: Path) -> None:
    """The layout that docs/operations.md has: project is the checkout, env says the rest."""
    runner = tmp_path / "runner"
    (runner / "env").mkdir(parents=True)
    (runner / "project").symlink_to(ROOT)
    stub = tmp_path / "stub.yml"
    stub.write_text(yaml.safe_dump(STUB))
    database = f"sqlite:///{tmp_path}/moat.sqlite"
    (runner / "env" / "envvars").write_text(yaml.safe_dump({"MOAT_DATABASE": database}))
    words = {"moat_fleet": f"apply --yes --playbook {stub}"}
    (runner / "env" / "extravars").write_text(yaml.safe_dump(words))
    command = ("ansible-runner", "run", str(runner), "--playbook", "playbooks/fleet.yml")
    environment = PROJECTS_OWN | {"MOAT_DATABASE": None}

    with lock(Database(database_url(database)), "apply", "bob on another machine"):
        done = lab(*command, **environment)
    assert done.returncode != 0
    assert "held by bob on another machine" in done.stdout
    assert "boxes applied" not in done.stdout

    done = lab(*command, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 boxes applied" in done.stdout


def test_the_definition_is_one_that_ansible_builder_takes(run: Run, tmp_path: Path) -> None:
    for name in ("execution-environment", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    file = tmp_path / "execution-environment" / "execution-environment.yml"
    context = tmp_path / "context"
    done = run("ansible-builder", "create", "--file", str(file), "--context", str(context))
    assert done.returncode == 0, done.stdout + done.stderr
    written = next(path for path in context.iterdir() if path.is_file()).read_text()
    assert 'ARG EE_BASE_IMAGE="docker.io/library/python:' in written
    assert "--require-hashes --requirement /tmp/execution.txt" in written
    pinned = context / "_build" / "requirements" / "execution.txt"
    assert pinned.read_text() == (ROOT / "requirements" / "execution.txt").read_text()


def test_it_has_the_controllers_own_versions() -> None:
    """An execution environment runs what the tests have run."""
    pins = {
        name: set(
            re.findall(r"^[a-z].*==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE)
        )
        for name in ("execution.txt", "controller.txt")
    }
    assert pins["execution.txt"]
    assert pins["execution.txt"] <= pins["controller.txt"]
    every_line = (ROOT / "requirements" / "execution.txt").read_text()
    assert every_line.count("==") <= every_line.count("--hash=sha256:")
