"""What the tests of this directory share: programs run as operators run them."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moatvpn.config import ED25519_SPKI_PREFIX

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
PORTAL = "portal1.example.net"
MOAT = "m0001.moats.example.net"

Run = Callable[..., subprocess.CompletedProcess[str]]

ROLES = {MOAT: "moat", PORTAL: "portal"}
# Beside the lab's boxes, those with less: no IPv6 inside, an address that is not leased; and those
# whose kernel carries the packets; and those that enrol.
VARIANTS: dict[str, dict[str, Any]] = {
    "lab": {},
    "without-ipv6": {"moat_private_subnet6": "", "portal_pool6": ""},
    "static": {"moat_wild_mode": "static"},
    "kernel": {"moatvpn_data_plane": "kernel"},
    "enrolment": {
        "moat_enrolment": True,
        "moat_enrolment_port": 4510,
        "moat_enrolment_servers": ["198.51.100.2"],
        "moat_enrolment_inner": ["10.201.0.1"],
        "portal_enrolment": True,
        "portal_enrolment_port": 4510,
    },
}


Rulesets = dict[tuple[str, str], Path]


def key(number: int) -> str:
    return base64.b64encode(ED25519_SPKI_PREFIX + number.to_bytes(32)).decode()


def operator(directory: Path) -> Run:
    """Return what runs a program of the environment in directory, away from anybody's settings."""
    (directory / "ansible.cfg").touch()
    source = directory / "inventory" / "moat.yml"
    source.parent.mkdir()
    shutil.copy(ROOT / "inventory" / "moat.yml", source)

    def program(*words: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_INVENTORY_PLUGINS": str(ROOT / "inventory_plugins"),
            "ANSIBLE_FILTER_PLUGINS": str(ROOT / "filter_plugins"),
            "ANSIBLE_INVENTORY_ENABLED": "moat",
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "500",
            "MOAT_DATABASE": f"sqlite:///{directory}/moat.sqlite",
        } | changes
        return subprocess.run(
            [str(PROGRAMS / words[0]), *words[1:]],
            env={name: value for name, value in environment.items() if value is not None},
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )

    return program


def make_lab(run: Run) -> None:
    """Make the lab's database, both boxes with a key, by the commands that make it there."""
    addresses = (
        "--wild-address=198.51.100.2/24",
        "--wild-gateway=198.51.100.1",
        "--corporate-address=10.50.0.1/24",
        "--corporate-address6=fd00:50::1/64",
        "--corporate-gateway=10.50.0.10",
        "--corporate-gateway6=fd00:50::10",
        "--pool=10.201.0.0/16",
        "--pool6=fd00:201::/32",
        "--tunnel-address=10.201.0.1/32",
        "--tunnel-address6=fd00:201::1/128",
    )
    customers = str(ROOT / "molecule" / "default" / "customers.csv")
    for words in (
        ("init",),
        ("portal", "add", PORTAL, *addresses),
        ("customer", "import", "--csv", customers),
        ("key", "record", PORTAL, key(1)),
        ("key", "record", MOAT, key(2)),
    ):
        done = run("moat-fleet", *words)
        assert done.returncode == 0, done.stderr
