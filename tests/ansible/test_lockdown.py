"""The lockdown rulesets, as the roles write them for the lab's boxes and as the kernel has them."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_bench import MOAT, PORTAL, ROOT, Rulesets


def in_a_namespace(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--net", *command], capture_output=True, text=True, check=False
    )


def loaded(path: Path) -> list[dict[str, Any]]:
    """Return the ruleset as the kernel says it after loading it twice."""
    done = in_a_namespace(
        "sh", "-c", 'nft -f "$0" && nft -f "$0" && nft -j list ruleset', str(path)
    )
    assert done.returncode == 0, done.stderr
    objects: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    return objects


def test_nft_takes_them(rulesets: Rulesets) -> None:
    for path in rulesets.values():
        done = in_a_namespace("nft", "-c", "-f", str(path))
        assert (done.returncode, done.stderr) == (0, ""), path.name


def test_one_table_drops_by_default_in_every_chain(
    rulesets: Rulesets,
) -> None:
    for (box, _), path in rulesets.items():
        objects = loaded(path)
        assert [each["table"]["name"] for each in objects if "table" in each] == ["moat"]
        chains = [each["chain"] for each in objects if "chain" in each]
        policies = {chain["hook"]: chain["policy"] for chain in chains if "hook" in chain}
        assert all(chain["policy"] == "drop" for chain in chains if "hook" in chain)
        hooks = ["prerouting", "input", "forward", "output"]
        if box == MOAT:  # what a policy lets go straight out, goes under the box's own address
            hooks.append("postrouting")
        assert policies == dict.fromkeys(hooks, "drop"), path.name


def test_enrolment_opens_one_port_towards_the_portal(rulesets: Rulesets) -> None:
    text = {box: rulesets[box, "enrolment"].read_text() for box in (MOAT, PORTAL)}
    assert "ip daddr 198.51.100.2/32 tcp dport 4510 accept" in text[MOAT]
    assert "ip daddr 10.201.0.1/32 tcp dport 4510 accept" in text[MOAT]
    assert text[MOAT].count("4510") == 2
    assert "tcp dport 4510 notrack accept" in text[PORTAL]
    assert not any("4510" in rulesets[box, "lab"].read_text() for box in (MOAT, PORTAL))


UNIT = ROOT / "roles/moatvpn/templates/etc/systemd/system/moat-lockdown.service.j2"


@pytest.mark.parametrize("fragment", ["", "add rule inet moat policy_mark accept\n", "nonsense\n"])
def test_the_unit_loads_the_ruleset_whatever_a_policy_is(
    rulesets: Rulesets, tmp_path: Path, fragment: str
) -> None:
    policies = tmp_path / "policy.d"
    policies.mkdir()
    (policies / "50.nft").write_text(fragment)
    text = rulesets[MOAT, "lab"].read_text()
    (tmp_path / "lockdown.nft").write_text(text.replace("/etc/moatvpn/policy.d", str(policies)))
    unit = UNIT.read_text().replace("{{ __moatvpn_etc }}", str(tmp_path))
    (start,) = (each for each in unit.splitlines() if each.startswith("ExecStart="))
    words = shlex.split(start.removeprefix("ExecStart="))
    done = in_a_namespace("sh", "-c", '"$@" && exec nft -j list ruleset', "sh", *words)
    assert done.returncode == 0, done.stderr
    chains: list[str] = [
        each["rule"]["chain"] for each in json.loads(done.stdout)["nftables"] if "rule" in each
    ]
    assert "private_to_tunnel" in chains
    assert ("policy_mark" in chains) is ("policy_mark" in fragment)
    assert ("nonsense" in done.stderr) is ("nonsense" in fragment)  # for the journal
