"""Secrets and certificates as the role brings them, proved by two moatds to each other. Needs root.

The role's own tasks write the files, moatd's settings and the connections, of a moat and a portal:
one connection that goes by secrets, and one between the same two that goes by certificates.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_bench import ROOT, Run
from boxes import MOAT, PORTAL, Box, new_box, wait_for
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pair import Pair
from pki import DAY, Authority, Issued

ROLE = ROOT / "roles" / "moatvpn"
PERIOD = {"after": time.time() - DAY, "until": time.time() + DAY}
BY_SECRETS, BY_CERTIFICATES = "c0001", "c0002"
PLAY = {
    "hosts": "all",
    "gather_facts": False,
    "vars_files": [str(ROLE / part / "main.yml") for part in ("defaults", "vars")],
    "tasks": [
        {"ansible.builtin.include_vars": "{{ playbook_dir }}/{{ inventory_hostname }}.json"},
        {"ansible.builtin.include_tasks": str(ROLE / "tasks/credentials.yml")},
        {
            "ansible.builtin.template": {
                "src": str(ROLE / "templates/etc/moatvpn/moatd.json.j2"),
                "dest": "{{ __moatvpn_etc }}/moatd.role.json",
                "mode": "0640",
            }
        },
        {
            "ansible.builtin.copy": {
                "content": "{{ __moatvpn_proven.connections | to_json }}",
                "dest": "{{ __moatvpn_etc }}/connections.role.json",
                "mode": "0640",
            }
        },
    ],
    "handlers": [{"name": "Restart moatd", "ansible.builtin.debug": {"msg": "started later"}}],
}


class Operator:
    """The controller, and the two boxes that it brings files to."""

    def __init__(self, run: Run, directory: Path, pair: Pair) -> None:
        self._run = run
        self.directory = directory
        self.pair = pair
        self.boxes: dict[str, Box] = {"moat": pair.moat, "portal": pair.portal}
        self.records: dict[str, dict[str, Any]] = {}

    def file(self, name: str, content: bytes, mode: int = 0o644) -> str:
        path = self.directory / name
        path.touch(mode)
        path.write_bytes(content)
        return str(path)

    def bring(self, settings: dict[str, dict[str, Any]]) -> None:
        """Run the role's tasks for both boxes, and start their moatds by what these wrote."""
        for name, record in (("moat", self.pair.to_portal), ("portal", self.pair.to_moat)):
            variables = {
                "__moatvpn_etc": str(self.boxes[name].directory),
                "__moatvpn_user": "root",
                "moatvpn_identity": self.boxes[name].identity,
                "moatvpn_connections": [
                    {**record, "name": each} for each in (BY_SECRETS, BY_CERTIFICATES)
                ],
            }
            text = json.dumps(variables | settings[name])
            (self.directory / f"{name}.json").write_text(text)
        (self.directory / "play.yml").write_text(yaml.safe_dump([PLAY]))
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {"all": {"hosts": dict.fromkeys(self.boxes), "vars": local}}
        (self.directory / "hosts.yml").write_text(yaml.safe_dump(hosts))
        done = self._run(
            "ansible-playbook", "--inventory=hosts.yml", "play.yml",
            ANSIBLE_INVENTORY_ENABLED="yaml", ANSIBLE_PIPELINING="true",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        for name, box in self.boxes.items():
            made = json.loads((box.directory / "moatd.role.json").read_text())
            path = box.directory / "moatd.json"
            brought = {key: made[key] for key in ("certificate", "crls")}
            path.write_text(json.dumps(json.loads(path.read_text()) | brought))
            made = json.loads((box.directory / "connections.role.json").read_text())
            self.records |= {f"{name} {each['name']}": each for each in made}
            box.start()

    def go_by(self, way: str) -> list[dict[str, Any]]:
        """Have one of the two connections alone; return how it is up at both ends."""
        for name, box in self.boxes.items():
            for path in box.connections.iterdir():
                box.ctl("delete", path.stem)
            box.apply("add", self.records[f"{name} {way}"])
        self.pair.wait_until_up()
        return [box.connection(way) for box in self.boxes.values()]


@pytest.fixture
def made(run: Run, tmp_path: Path) -> Iterator[Operator]:
    with (
        new_box(tmp_path, "rm", MOAT.identity) as moat,
        new_box(tmp_path, "rp", PORTAL.identity) as portal,
    ):
        yield Operator(run, tmp_path, Pair(moat, portal, "auto"))


def certificate(ca: Authority, box: Box) -> Issued:
    """Return a certificate for the key that the box has made."""
    return ca.issue(box.identity, key=load_pem_private_key(box.key.read_bytes(), None), **PERIOD)


def test_secrets_then_certificates_and_one_that_is_revoked(made: Operator) -> None:
    words = [secrets.token_hex(32).encode() for _ in range(2)]
    psk, ppk = (made.file(f"{n}.secret", word, 0o600) for n, word in enumerate(words))
    ca = Authority("Test CA", "p256", **PERIOD)
    own = {name: certificate(ca, box) for name, box in made.boxes.items()}
    credentials = {
        BY_SECRETS: {"psk": psk, "ppk": ppk, "ppk_id": "c0001"},
        BY_CERTIFICATES: {"ca": [made.file("ca.pem", ca.pem)]},
    }
    crls = [made.file("ca.crl", ca.crl(**PERIOD))]
    made.bring(
        {
            name: {
                "moatvpn_credentials": credentials,
                "moatvpn_certificate": made.file(f"{name}.pem", own[name].pem),
                "moatvpn_crls": crls,
            }
            for name in made.boxes
        }
    )
    for row in made.go_by(BY_SECRETS):
        assert (row["authentication"], row["ppk"], row["local_key"]) == ("psk", "c0001", None)
    for row in made.go_by(BY_CERTIFICATES):
        assert (row["authentication"], row["ppk"]) == ("certificate", None)

    # The moat's is revoked: it is in no more, and the portal says why.
    moat, portal = made.pair.moat, made.pair.portal
    brought = portal.directory / "credentials" / "crl-ca.crl"
    new = brought.with_suffix(".new")
    new.write_bytes(ca.crl(own["moat"], **PERIOD))
    new.replace(brought)
    moat.kill()
    moat.start()
    wait_for(lambda: portal.connection(BY_CERTIFICATES)["last_failure"], "a refusal", 20)
    assert "is revoked by its CA" in portal.connection(BY_CERTIFICATES)["last_failure"]["what"]
    assert moat.connection(BY_CERTIFICATES)["state"] != "established"
    assert not made.pair.pings()
