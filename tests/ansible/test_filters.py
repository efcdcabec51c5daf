"""The filters, through Ansible itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).parent
FILTERS = ROOT / "filter_plugins"
NAMES = sorted(path.stem for path in FILTERS.glob("*.yml"))


def ansible(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs away from the project's and the user's own settings."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(home / "ansible.cfg"),
        "ANSIBLE_FILTER_PLUGINS": str(FILTERS),
        "ANSIBLE_LOCAL_TEMP": str(home / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    (home / "ansible.cfg").touch()
    program = [str(ANSIBLE / words[0]), *words[1:]]
    return subprocess.run(
        program, env=environment, cwd=home, capture_output=True, text=True, check=False
    )


def evaluate(expressions: dict[str, str], home: Path) -> dict[str, object]:
    """Return what each expression comes to: its value, or what it failed with."""
    tasks = [
        {
            "block": [{"ansible.builtin.set_fact": {name: "{{ " + expression + " }}"}}],
            "rescue": [
                {"ansible.builtin.set_fact": {name: "{{ 'error: ' ~ ansible_failed_result.msg }}"}}
            ],
        }
        for name, expression in expressions.items()
    ]
    result = str(home / "result.json")
    facts = "{{ " + "{" + ", ".join(f"'{name}': {name}" for name in expressions) + "} | to_json }}"
    tasks.append({"ansible.builtin.copy": {"content": facts, "dest": result, "mode": "0600"}})
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (home / "play.yml").write_text(yaml.safe_dump(play))
    done = ansible("ansible-playbook", "play.yml", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DEPRECATION" not in done.stderr
    values: dict[str, object] = json.loads(Path(result).read_text())
    return values


def test_values_and_errors(tmp_path: Path) -> None:
    cases: dict[str, tuple[str, object]] = {
        "first": ("'10.201.0.0/16' | moat_allocate_subnet(24)", "10.201.0.0/24"),
        "next": (
            "'10.201.0.0/16' | moat_allocate_subnet(24, ['10.201.0.1/32', '10.201.1.0/24'])",
            "10.201.2.0/24",
        ),
        "six": (
            "'fd00:201::/32' | moat_allocate_subnet(64, taken=['fd00:201::1/128'])",
            "fd00:201:0:1::/64",
        ),
        "clash": (
            "['10.2.0.0/16', 'fd00::/8', '10.1.0.0/16', '10.2.3.0/24'] | moat_overlaps",
            ["10.2.0.0/16", "10.2.3.0/24"],
        ),
        "no_clash": ("['10.2.0.0/16', '10.3.0.0/16'] | moat_overlaps", []),
        "inside": ("'10.201.0.0/16' | moat_contains('10.201.1.0/24')", True),
        "outside": ("'10.201.0.0/16' | moat_contains('10.202.1.0/24')", False),
        "network": ("'10.50.0.1/24' | moat_network_of", "10.50.0.0/24"),
        "router": ("'10.201.1.0/24' | moat_router_address", "10.201.1.1/24"),
        "router6": ("'fd00:201:1::/64' | moat_router_address", "fd00:201:1::1/64"),
        "leases": ("'10.201.1.0/24' | moat_lease_range", ["10.201.1.64", "10.201.1.254"]),
    }
    errors = {
        "full": ("'10.0.0.0/24' | moat_allocate_subnet(24, ['10.0.0.9/32'])", "no free subnet"),
        "length": ("'10.0.0.0/24' | moat_allocate_subnet('24')", "not an integer"),
        "bits": ("'10.0.0.1/24' | moat_router_address", "host bits"),
        "small": ("'10.0.0.1/32' | moat_router_address", "too small"),
        "lease": ("'10.0.0.0/31' | moat_lease_range", "too small"),
        "number": ("7 | moat_contains('10.0.0.0/8')", "int is no string"),
        "text": ("'10.0.0.0/8' | moat_overlaps", "no list of networks"),
        "loose": ("'10.50.0.1' | moat_network_of", "PREFIX-LENGTH"),
        "list": ("[] | moat_network_of", "as a string"),
        "element": ("['10.0.0.0/8', 'x'] | moat_overlaps", "PREFIX-LENGTH"),
    }
    found = evaluate({name: case[0] for name, case in (cases | errors).items()}, tmp_path)
    assert {name: found[name] for name in cases} == {name: case[1] for name, case in cases.items()}
    for name, (_, words) in errors.items():
        message = str(found[name])
        assert message.startswith("error: "), name
        assert words in message, name


@pytest.mark.parametrize("name", NAMES)
def test_every_filter_is_documented(name: str, tmp_path: Path) -> None:
    done = ansible("ansible-doc", "--type", "filter", "--json", name, home=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)[name]
    assert document["doc"]["short_description"]
    assert name in document["examples"]
    assert document["return"]["_value"]["description"]


def test_every_filter_has_a_page() -> None:
    source = "".join(path.read_text() for path in sorted(FILTERS.glob("*.py")))
    assert NAMES
    assert sorted(re.findall(r'"(moat_[a-z_]+)": \1', source)) == NAMES
