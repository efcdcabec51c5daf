"""moatd and moatctl die at each step of a key's replacement: the tunnel comes back by a key of two.

How moatctl can die between two files is in tests/unit/cli/test_keys_killed.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, new_box, wait_for
from pair import Pair

from moatvpn.cli import keys
from moatvpn.daemon.keyfile import old_key

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

    def die(self, box: Box) -> None:
        """Kill a moatd and start it again; the tunnel is up afterwards."""
        box.kill()
        box.start()
        self.pair.wait_until_up(UP)

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


def test_moatd_dies_at_each_step(replacement: Replacement, monkeypatch: pytest.MonkeyPatch) -> None:
    first = replacement.box.public_key
    made = replacement.step("make-next")
    replacement.die(replacement.box)
    assert replacement.step("make-next")["next_public_key"] == made["next_public_key"]
    replacement.trust(first, made["next_public_key"])

    # In the middle of switch, with moatctl: the one link is made, and nothing is renamed.
    os.link(replacement.box.key, old_key(replacement.box.key))
    replacement.die(replacement.box)
    # It switches, and its moatd dies before it hears of it.
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_reload", lambda path: False)
        replacement.step("switch")
    replacement.die(replacement.box)
    replacement.wait_for_key(made["next_fingerprint"])
    # After switch, and the peer as well, which knows both.
    assert not replacement.step("switch")["changed"]
    replacement.die(replacement.other)
    replacement.wait_for_key(made["next_fingerprint"])

    # In the middle of finish: the old key is gone, and moatd has not heard of that.
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_reload", lambda path: False)
        assert replacement.step("finish")["changed"]
    replacement.die(replacement.box)
    assert not replacement.step("finish")["changed"]
    replacement.trust(made["next_public_key"])
    replacement.pair.wait_until_up(UP)


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
