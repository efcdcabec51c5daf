"""What a signed policy lets go straight to the internet goes there, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import lab
import pcap
import pytest
from running import DATABASE, site
from testinfra.host import Host

CORP2, PC2 = "10.60.0.10", "10.202.1.10"
PROGRAM = "/opt/moatvpn/bin/moat-policy"
SOURCE = """
name: lab
version: {version}
destinations:
  web: [203.0.113.80/32]
rules:
  - {{name: no-mail, who: everybody, where: anywhere, what: tcp/25, action: deny}}
  - {{name: web, who: everybody, where: [web], what: tcp/80, action: allow, way: direct}}
examples:
  must-pass:
    - {{who: everybody, to: 203.0.113.80, what: tcp/80, way: direct}}
    - {{who: everybody, to: 203.0.113.80, what: icmp, way: tunnel}}
  must-block:
    - {{who: everybody, to: 203.0.113.80, what: tcp/25}}
"""


class Operator:
    """Who writes and signs policies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._passphrase = directory / "passphrase"
        self._passphrase.touch(mode=0o600)
        self._passphrase.write_text("of the lab's operator")
        self._key = directory / "key.pem"
        self.public_key = self._run("keygen", str(self._key))["public_key"]

    def _run(self, *words: str) -> dict[str, Any]:
        secret = () if words[0] == "compile" else ("--passphrase-file", str(self._passphrase))
        environment = os.environ | {"MOAT_DATABASE": DATABASE}
        command = ["moat-policy", *words, *secret, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def policy(self, version: int) -> Path:
        """Return the signed policy of that version for the moat."""
        source = self._directory / f"{version}.yml"
        source.write_text(SOURCE.format(version=version))
        made = self._directory / str(version)
        made.mkdir(exist_ok=True)
        self._run("compile", str(source), "--all", "--output", str(made))
        plain = made / "m0001.moats.example.net.json"
        self._run("sign", str(plain), "--key", str(self._key))
        return plain.with_suffix(".policy")


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="module")
def policy(operator: Operator) -> Path:
    """Version 2 is in force."""
    signed = operator.policy(2)
    settings = {
        "moat_policy_file": str(signed),
        "moat_policy_public_keys": [operator.public_key],
    }
    site("--tags", "policy", "--extra-vars", json.dumps(settings))
    return signed


def in_force(moat: Host) -> dict[str, Any]:
    return dict(json.loads(moat.check_output(f"{PROGRAM} show --json")))


def seen_by_web(machine: Host) -> str:
    """Return the address that web answers."""
    return str(machine.check_output("curl --silent --max-time 5 http://%s/", lab.WEB)).strip()


def test_what_is_listed_goes_straight_out(tunnel: None, pc: Host, moat: Host, policy: Path) -> None:
    with lab.capture("router", "access0") as seen:
        assert seen_by_web(pc) == lab.wild_address(moat)
        assert lab.reaches(pc, lab.WEB)
    clear = [packet for packet in seen.packets() if {packet.source, packet.destination} & {lab.WEB}]
    assert clear
    assert {(packet.protocol, 80 in packet.ports) for packet in clear} == {(pcap.TCP, True)}
    assert lab.PC not in seen.addresses()


def test_what_is_denied_goes_nowhere(pc: Host, moat: Host, policy: Path) -> None:
    before = lab.dropped(moat)["dropped_policy"]
    for address in (lab.WEB, lab.CORP):
        assert pc.run("curl --silent --max-time 1 http://%s:25/", address).rc != 0
    assert lab.dropped(moat)["dropped_policy"] > before


def test_another_vpn_of_the_home_has_no_part_in_it(pc2: Host, policy: Path) -> None:
    """What it asks of the listed address arrives beyond its own tunnel."""
    lab.wait_for(lambda: lab.reaches(pc2, CORP2), "pc2 reaches corp2", 30)
    with lab.capture("router", "access0") as wild, lab.capture("corp2", "corp0") as beyond:
        pc2.run("curl --silent --max-time 1 http://%s/", lab.WEB)
    asked = [p for p in beyond.packets() if (p.source, p.destination) == (PC2, lab.WEB)]
    assert asked
    assert all(packet.protocol == pcap.TCP and 80 in packet.ports for packet in asked)
    assert wild.frames
    assert lab.WEB not in wild.addresses()


@pytest.mark.parametrize("fault", ["altered", "older", "of somebody else's"])
def test_what_is_not_the_operators_newest_changes_nothing(
    moat: Host, pc: Host, operator: Operator, policy: Path, tmp_path: Path, fault: str
) -> None:
    before = in_force(moat)
    assert (before["version"], before["faults"]) == (2, [])
    if fault == "older":
        data = operator.policy(1).read_bytes()
    elif fault == "altered":
        signed = json.loads(policy.read_text())
        payload = signed["payload"]
        signed["payload"] = ("B" if payload[40] == "A" else "A").join((payload[:40], payload[41:]))
        data = json.dumps(signed).encode()
    else:
        data = Operator(tmp_path).policy(3).read_bytes()
    keep = "import sys; open('/run/new.policy', 'wb').write(sys.stdin.buffer.read())"
    lab.send_python("moat", keep, data=data)
    refused = moat.run(f"{PROGRAM} install /run/new.policy")
    assert refused.rc == 1, refused.stdout + refused.stderr
    assert in_force(moat) == before
    assert seen_by_web(pc) == lab.wild_address(moat)


def test_taken_away_it_lets_nothing_out(pc: Host, moat: Host, policy: Path) -> None:
    """It is the last test: site.yml without a policy removes the one that is there."""
    site("--tags", "policy")
    assert in_force(moat)["hash"] == ""
    assert seen_by_web(pc) == lab.FIREWALL
