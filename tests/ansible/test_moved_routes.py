"""The module moat_routes, run by Ansible against the kernel's routes in a namespace. Needs root."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_bench import ROOT, Run
from namespaces import Wires

HERE = [{"destination": "10.202.3.0/24", "device": "moat0"},
        {"destination": "fd00:202:3::/64", "device": "moat0"}]  # fmt: skip
AWAY = [{"destination": "10.201.7.0/24", "device": "corp0", "via": "10.50.0.2"},
        {"destination": "fd00:201:7::/64", "device": "corp0", "via": "fd00:50::2"}]  # fmt: skip

# As what modules of Ansible's own ask for Python, and as what ours do, in their first lines.
NAMES = ("python", "python3")


class Portal:
    """A namespace with a portal's interfaces, and routes of its own."""

    def __init__(self, run: Run, directory: Path, name: str) -> None:
        self._run, self._directory, self.name = run, directory, name

    def ip(self, *words: str) -> str:
        command = ["ip", "-n", self.name, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def routes(self) -> set[str]:
        lines = self.ip("route").splitlines() + self.ip("-6", "route").splitlines()
        return {" ".join(line.split()[:5]) for line in lines if "metric 450" in line}

    def have(self, check: str, *routes: dict[str, str]) -> list[dict[str, Any]]:
        """Run the module once for each letter of check, in check mode for c."""
        given = {"routes": list(routes)}
        tasks: list[dict[str, Any]] = [
            {
                "moat_routes": given,
                "check_mode": letter == "c",
                "register": f"r{n}",
                "ignore_errors": True,
            }
            for n, letter in enumerate(check)
        ]
        results = self._directory / "results.json"
        content = "{{ [" + ", ".join(f"r{n}" for n in range(len(check))) + "] | to_json }}"
        tasks.append({"ansible.builtin.copy": {"content": content, "dest": str(results)}})
        play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
        (self._directory / "play.yml").write_text(yaml.safe_dump([play]))
        # An interpreter that runs within the namespace.
        python = self._directory / "python"
        python.write_text(f'#!/bin/sh\nexec ip netns exec {self.name} {sys.executable} "$@"\n')
        python.chmod(0o755)
        done = self._run(
            "ansible-playbook",
            "--inventory=localhost,",
            "--connection=local",
            "--extra-vars",
            json.dumps({f"ansible_{name}_interpreter": str(python) for name in NAMES}),
            "play.yml",
            ANSIBLE_LIBRARY=str(ROOT / "library"),
            ANSIBLE_MODULE_UTILS=str(ROOT / "module_utils"),
            ANSIBLE_INVENTORY_ENABLED="host_list",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: list[dict[str, Any]] = json.loads(results.read_text())
        return found


@pytest.fixture
def portal(run: Run, tmp_path: Path) -> Iterator[Portal]:
    with closing(Wires("moved")) as wires:
        made = Portal(run, tmp_path, wires.box)
        made.ip("link", "add", "corp0", "type", "veth", "peer", "name", "far0")
        made.ip("tuntap", "add", "moat0", "mode", "tun")
        for name in ("corp0", "far0", "moat0"):
            made.ip("link", "set", name, "up")
        made.ip("address", "add", "10.50.0.1/24", "dev", "corp0")
        made.ip("address", "add", "fd00:50::1/64", "dev", "corp0")
        # The pools' own routes, which are none of the module's.
        made.ip("route", "add", "10.201.0.0/16", "dev", "moat0", "proto", "static")
        made.ip("route", "add", "fd00:201::/32", "dev", "moat0", "proto", "static")
        yield made


def changed(results: list[dict[str, Any]]) -> list[bool]:
    assert not [each["msg"] for each in results if each.get("failed")]
    return [each["changed"] for each in results]


def test_routes_come_change_and_go_and_others_stay(portal: Portal) -> None:
    results = portal.have("crcr", *HERE, *AWAY)
    assert changed(results) == [True, True, False, False]
    assert results[0]["commands"] == results[1]["commands"]
    there = {
        "10.202.3.0/24 dev moat0 proto static",
        "fd00:202:3::/64 dev moat0 proto static",
        "10.201.7.0/24 via 10.50.0.2 dev corp0",
        "fd00:201:7::/64 via fd00:50::2 dev corp0",
    }
    assert portal.routes() == there
    # One goes on to a third portal, one comes home, and the IPv6 ones stay.
    elsewhere = {**AWAY[0], "via": "10.50.0.3"}
    results = portal.have("rr", elsewhere, AWAY[1], HERE[1])
    assert changed(results) == [True, False]
    assert len(results[0]["commands"]) == 2
    assert "10.201.7.0/24 via 10.50.0.3 dev corp0" in portal.routes()
    assert len(portal.routes()) == 3
    portal.have("r")
    assert portal.routes() == set()
    assert "10.201.0.0/16 dev moat0" in portal.ip("route")
    assert "fd00:201::/32 dev moat0" in portal.ip("-6", "route")


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"destination": "10.201.7.1/24", "device": "corp0"}, "has host bits set"),
        ({**AWAY[0], "via": "fd00:50::2"}, "is no router to 10.201.7.0/24"),
        ({**AWAY[0], "via": "10.77.0.2"}, "ip: "),  # not at that interface
    ],
)
def test_what_cannot_be_is_refused(portal: Portal, route: dict[str, str], words: str) -> None:
    (result,) = portal.have("r", route)
    assert result["failed"]
    assert words in result["msg"]
    assert "Traceback" not in str(result)
    assert portal.routes() == set()
