"""An operator's directory, and the lab's customer database in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from ansible_bench import ROLES, ROOT, VARIANTS, Rulesets, Run, make_lab, operator


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program of the environment in tmp_path."""
    return operator(tmp_path)


@pytest.fixture
def lab(run: Run) -> Run:
    """Run a program beside the lab's database."""
    make_lab(run)
    return run


@pytest.fixture(scope="session")
def rulesets(tmp_path_factory: pytest.TempPathFactory) -> Rulesets:
    """Render the ruleset of each box in each variant; return the files by box and variant."""
    directory = tmp_path_factory.mktemp("lockdown")
    run = operator(directory)
    make_lab(run)
    play = [
        {
            "hosts": host,
            "gather_facts": False,
            "connection": "local",
            "vars": {
                "ansible_python_interpreter": sys.executable,
                "moat_operator_networks": [],
            },
            "vars_files": [
                str(ROOT / "roles" / path)
                for path in (
                    "moatvpn/defaults/main.yml",
                    "moatvpn/vars/main.yml",
                    f"{role}/vars/main.yml",
                    "moat/vars/services.yml",
                )
            ],
            "tasks": [
                {
                    "ansible.builtin.template": {
                        "src": str(ROOT / "roles" / role / "templates/etc/moatvpn/lockdown.nft.j2"),
                        "dest": str(directory / f"{host}-{variant}.nft"),
                        "mode": "0600",
                    },
                    "vars": changes,
                }
                for variant, changes in VARIANTS.items()
            ],
        }
        for host, role in ROLES.items()
    ]
    (directory / "render.yml").write_text(yaml.safe_dump(play))
    done = run("ansible-playbook", "--inventory", "inventory/moat.yml", "render.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return {(host, each): directory / f"{host}-{each}.nft" for host in ROLES for each in VARIANTS}
