"""moatd with strongSwan: postquantum pre-shared keys (RFC 8784)."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from meeting import BY_CHARON, BY_MOATD, Meeting

PPK_ID = "ppk-1"


def with_ppk(
    meeting: Meeting, *, ours: bool, theirs: bool, required: bool
) -> dict[str, dict[str, Any]]:
    """Return what a tunnel needs for a PPK that each side has, or has not."""
    secret = secrets.token_hex(32)
    path = meeting.box.directory / "ppk"
    path.touch(mode=0o600)
    path.write_text(secret)
    arguments: dict[str, dict[str, Any]] = {"ours": {}, "theirs": {}, "sections": {}}
    if ours:
        arguments["ours"] = {
            "ppk_id": PPK_ID, "ppk_file": str(path), "ppk_required": required
        }  # fmt: skip
    if theirs:
        arguments["theirs"] = {"ppk_id": PPK_ID, "ppk_required": "yes" if required else "no"}
        arguments["sections"] = {"secrets": {"ppk": {"id": PPK_ID, "secret": secret}}}
    return arguments


def test_ppk(meeting: Meeting) -> None:
    with meeting.tunnel(**with_ppk(meeting, ours=True, theirs=True, required=True)):
        meeting.exchange_traffic()
        assert meeting.status()["ppk"] == PPK_ID
        assert meeting.charon.ike_sas()[0]["ppk"] == "yes"
        # Rekeys go on from keys with it.
        for who in (BY_MOATD, BY_CHARON):
            meeting.rekey(who, "ike")
            meeting.rekey(who, "child")
        assert meeting.status()["ppk"] == PPK_ID
        assert meeting.portal.pings(meeting.own.inside if meeting.we_call else meeting.peer.inside)


@pytest.mark.parametrize("ours", [False, True], ids=["charon's", "moatd's"])
def test_ppk_of_one_side_only(meeting: Meeting, ours: bool) -> None:
    arguments = with_ppk(meeting, ours=ours, theirs=not ours, required=False)
    with meeting.tunnel(**arguments):
        assert meeting.status()["ppk"] is None
