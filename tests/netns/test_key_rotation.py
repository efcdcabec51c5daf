"""A key of either box is replaced while traffic flows: no ping of a running stream is lost."""

from __future__ import annotations

import re
import subprocess

import pytest
from boxes import Box, wait_for
from pair import Pair


def _row(box: Box) -> dict[str, object]:
    (row,) = box.ctl("status", "--socket", str(box.socket))["connections"]
    return dict(row)


@pytest.mark.parametrize("of", ["moat", "portal"])
def test_key_is_replaced_while_pings_run(pair: Pair, of: str) -> None:
    box, other = (pair.moat, pair.portal) if of == "moat" else (pair.portal, pair.moat)
    theirs = pair.to_moat if of == "moat" else pair.to_portal
    place = ("--private-key", str(box.key), "--socket", str(box.socket))
    pinging = pair.moat.popen("ping", "-i0.01", "-c600", "-W1", "10.50.0.1", stdout=subprocess.PIPE)
    made = box.ctl("key", "make-next", *place)
    before = theirs["remote_public_keys"]
    other.apply("replace", {**theirs, "remote_public_keys": [*before, made["next_public_key"]]})
    new = made["next_fingerprint"]
    box.ctl("key", "switch", *place)
    wait_for(lambda: _row(box)["local_key"] == new == _row(other)["remote_key"], "the new key", 10)
    side = "local" if of == "moat" else "remote"
    proof = ("prove", "--ping", "10.50.0.1", "--socket", str(pair.moat.socket), f"--{side}-key")
    assert pair.moat.ctl(*proof, new)["proved"] == [pair.to_portal["name"]]
    for wrong in (made["fingerprint"], "0" * 64):
        with pytest.raises(AssertionError, match="stands on another"):
            pair.moat.ctl(*proof, wrong, "--wait=0.1")
    box.ctl("key", "finish", *place)
    theirs["remote_public_keys"] = [made["next_public_key"]]
    other.apply("replace", theirs)
    out, _ = pinging.communicate(timeout=30)
    lost = re.search(rb"(\d+) packets transmitted, (\d+) received", out)
    assert lost is not None
    assert lost[1] == lost[2], out[-300:]
