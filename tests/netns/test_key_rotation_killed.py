"""moatd dies while its peer does not trust its next key, and after that.

How it can die at each stage of a fleet's rotation is in test_fleet_rotation_killed.py, and moatctl
between two files in tests/unit/cli/test_keys_killed.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, new_box, wait_for
from pair import Pair

UP = 12.0  # seconds: a dead moat is heard of after 1 s, and called back, or calls


class Replacement:
    """One side of a pair, whose key is replaced, and what its peer knows of that."""

    def __init__(self, pair: Pair, of: str) -> None:
        self.pair = pair
        self.box, self.other = (
            (pair.moat, pair.portal) if of == "moat" else (pair.portal, pair.moat)
        )
        self.theirs = pair.to_moat if of == "moat" else pair.to_portal
        self.place = ("--private-key", str(self.box.key), "--socket", str(self.box.socket))

    def step(self, action: str) -> dict[str, Any]:
        return self.box.ctl("key", action, *self.place)

    def trust(self, *public: str) -> None:
        self.theirs["remote_public_keys"] = list(public)
        self.other.apply("replace", self.theirs)

    def wait_for_key(self, mark: str) -> None:
        def agreed() -> bool:
            mine, other = row(self.box), row(self.other)
            return mine["local_key"] == mark == other["remote_key"]

        wait_for(agreed, "the new key on both sides", UP)


def row(box: Box) -> dict[str, Any]:
    (found,) = box.ctl("status", "--socket", str(box.socket))["connections"]
    return dict(found)


@pytest.fixture(params=["moat", "portal"])
def replacement(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replacement]:
    with (
        new_box(tmp_path, "km", MOAT.identity) as moat,
        new_box(tmp_path, "kp", PORTAL.identity) as portal,
    ):
        pair = Pair(moat, portal, "auto")
        for connection in (pair.to_moat, pair.to_portal):
            connection["dpd_interval"] = 1.0
        pair.start()
        yield Replacement(pair, request.param)


def test_moatd_dies_while_the_peer_does_not_trust_the_next_key(replacement: Replacement) -> None:
    """It proves the old one then, and finish refuses whatever the moment."""
    replacement.step("make-next")
    switched = replacement.step("switch")
    replacement.box.kill()
    refused = replacement.box.moatctl("key", "finish", *replacement.place[:2], check=False)
    assert refused.returncode == 1
    assert "not proved" in refused.stderr
    replacement.box.start()
    # Nobody has called yet, or somebody has and was refused: both prove nothing.
    refused = replacement.box.moatctl("key", "finish", *replacement.place[:2], check=False)
    assert refused.returncode == 1
    assert "not proved" in refused.stderr
    replacement.pair.wait_until_up(UP)
    assert row(replacement.box)["local_key"] == switched["old_fingerprint"]
    refused = replacement.box.moatctl("key", "finish", *replacement.place[:2], check=False)
    assert refused.returncode == 1
    replacement.trust(replacement.box.public_key, switched["public_key"])
    assert not replacement.step("switch")["changed"]
    replacement.wait_for_key(switched["fingerprint"])
    assert replacement.step("finish")["changed"]
