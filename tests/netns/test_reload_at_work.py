"""moat-lockdown reload: what fails leaves the old ruleset, what changes is forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockdown_boxes import KID, SSH, moat
from zone_packets import Probe, packet, reply
from zone_star import Star

from moatvpn.lockdown.ruleset import ruleset

BOX = moat(**KID)
ZONES = {zone.name: zone for zone in BOX.everywhere}
WILD, PRIVATE, KIDS = (ZONES[name] for name in ("wild", "private", "kid"))
HOME, CHILD, THEIRS = "10.201.1.10", "192.168.77.10", "198.51.100.10"
UDP = Probe(4, "udp", 7001)
POLICY = "add rule inet moat policy_mark udp dport 7001 meta mark set 0x4d\n"


@pytest.fixture(scope="module")
def star() -> Iterator[Star]:
    made = Star(BOX, f"l{os.getpid() % 100_000}")
    try:
        made.start()
        yield made
    finally:
        made.close()


def reload(star: Star, file: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run moat-lockdown in the box; return it with what it has said."""
    file.write_text(text, encoding="utf-8")
    program = [sys.executable, "-m", "moatvpn.cli.lockdown", "reload", str(file)]
    return subprocess.run(
        ["ip", "netns", "exec", star.box, *program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    ["table inet moat {", ruleset(BOX) + "add rule inet moat nowhere accept\n", "flush ruleset\nx"],
)
def test_a_failed_reload_leaves_the_old_ruleset(star: Star, tmp_path: Path, broken: str) -> None:
    star.load(BOX)
    before = star.nft("-s", "list", "ruleset")
    done = reload(star, tmp_path / "broken.nft", broken)
    assert done.returncode == 1
    assert "the ruleset before it is in force" in done.stderr
    assert star.nft("-s", "list", "ruleset") == before


def test_connections_that_may_pass_no_more_are_forgotten(star: Star, tmp_path: Path) -> None:
    file = tmp_path / "lockdown.nft"
    assert reload(star, file, ruleset(BOX) + POLICY).returncode == 0
    direct = star.through(PRIVATE, packet(UDP, HOME, THEIRS, 1), WILD)
    child = star.through(KIDS, packet(UDP, CHILD, THEIRS, 2), WILD)
    # The same again is news for nobody.
    assert reload(star, file, ruleset(BOX) + POLICY).stdout == "Loaded; 0 forgotten\n"
    assert star.through(WILD, reply(direct), PRIVATE)
    # Without the policy its connections end, answers and all; a child's goes on.
    assert reload(star, file, ruleset(BOX)).stdout == "Loaded; 1 forgotten\n"
    assert star.stopped(WILD, reply(direct))
    assert star.through(WILD, reply(child), KIDS)


def test_another_service_is_news_for_its_side_alone(star: Star, tmp_path: Path) -> None:
    file = tmp_path / "lockdown.nft"
    assert reload(star, file, ruleset(BOX)).returncode == 0
    child = star.through(KIDS, packet(UDP, CHILD, THEIRS, 3), WILD)
    changed = moat(**(KID | {"services": [*KID["services"], {**SSH, "name": "x", "port": 23}]}))
    assert reload(star, file, ruleset(changed)).returncode == 0
    assert star.through(WILD, reply(child), KIDS)
