"""The wild path of the tests of the virtually-large MTU is what they take it for. Needs root."""

from __future__ import annotations

from pathlib import Path

import pytest
from boxes import PORTAL
from wild import CORP, Wild, wild


def _ping(tunnel: Wild, length: int) -> str:
    """Return what ping says of one echo request with DF, of length octets in all, outside."""
    words = ("ping", "-M", "do", "-c", "1", "-W", "1", "-s", str(length - 28), PORTAL.wild)
    return tunnel.moat.run(*words, check=False).stdout


def test_the_wild_path_is_what_it_says(tmp_path: Path) -> None:
    with wild(tmp_path, "auto") as tunnel:
        for mtu in (1280, 576):
            tunnel.narrow(mtu)
            assert " 0% packet loss" in _ping(tunnel, mtu)
            assert f"Frag needed and DF set (mtu = {mtu})" in _ping(tunnel, mtu + 1)
        tunnel.silence()
        tunnel.narrow(1280)
        answer = _ping(tunnel, 1281)
        assert " 100% packet loss" in answer
        assert "Frag needed" not in answer


def test_what_may_not_be_seen_is_seen(tmp_path: Path) -> None:
    with wild(tmp_path, "auto") as tunnel:
        tunnel.narrow(1280)
        before = tunnel.seen()
        tunnel.moat.run("ping", "-M", "dont", "-c", "1", "-s", "1400", PORTAL.wild)
        after = tunnel.seen()
        assert after["fragments"] >= before["fragments"] + 4  # two pieces each way
        # A tunnel with an MTU that it tells its clients about.
        tunnel.moat.ip("link", "set", "moat0", "mtu", "1400")
        words = ("ping", "-M", "do", "-c", "1", "-s", "1472", CORP)
        with pytest.raises(AssertionError, match="told"), tunnel.unseen():
            tunnel.pc.run(*words, check=False)
