"""moatd with strongSwan: IKE messages in fragments (RFC 7383), in both directions."""

from __future__ import annotations

import re

from boxes import PORTAL
from charon import NAME
from meeting import BY_CHARON, BY_MOATD, Meeting

WAYS = ("parsed", "generating")


def test_long_messages_in_fragments(meeting: Meeting) -> None:
    """So many networks that IKE_AUTH and a rekey take several datagrams each way."""
    more = [f"10.99.{n}.0/24" for n in range(40)]
    ours = {"local_selectors": [*meeting.own.networks, *more]}
    theirs = {"children": {NAME: {"remote_ts": [*meeting.own.networks, *more]}}}
    log = meeting.charon_log()
    with meeting.moat.narrow(), meeting.portal.narrow(), meeting.tunnel(ours, theirs):
        meeting.rekey(BY_MOATD, "child")
        meeting.rekey(BY_CHARON, "child")
        assert meeting.moat.pings(PORTAL.inside)
        assert not [reason for reason in meeting.box.drops() if "fragment" in reason]
    fragment = r"(parsed|generating) (\w+) (request|response) \d+ \[ EF\(1/\d\) \]"
    seen = set(re.findall(fragment, log()))
    created = {(way, "CREATE_CHILD_SA", k) for way in WAYS for k in ("request", "response")}
    asked, answered = WAYS if meeting.we_call else WAYS[::-1]
    assert seen >= created | {(asked, "IKE_AUTH", "request"), (answered, "IKE_AUTH", "response")}
