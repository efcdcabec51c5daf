"""moatd and strongSwan that cannot agree: each side is told why, and keeps nothing of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from boxes import other_public_key, wait_for
from charon import NAME, Tree
from meeting import Meeting


@dataclass(frozen=True)
class Case:
    """Changes of the two connections, and what is then to be seen.

    calls and answers are what `moatctl status` says (the side that refuses, and a word of why) and
    what charon logs, with moatd as the one that calls and as the one that is called.
    """

    calls: tuple[str, str, str]
    answers: tuple[str, str, str]
    ours: Tree = field(default_factory=dict)
    theirs: Tree = field(default_factory=dict)


CASES = {
    "moatd has another key": Case(
        calls=("peer", "AUTHENTICATION_FAILED", "signature validation failed"),
        answers=("peer", "AUTHENTICATION_FAILED", "signature validation failed"),
        theirs={"remote": {"pubkeys": "other.pem"}},
    ),
    "charon has another key": Case(
        calls=("here", "a key that is none of its own", "parsed INFORMATIONAL request 2 [ N(AUTH"),
        answers=("here", "a key that is none of its own", "received AUTHENTICATION_FAILED"),
        ours={"remote_public_keys": [other_public_key()]},
    ),
    "moatd has another identity": Case(
        calls=("peer", "AUTHENTICATION_FAILED", "no matching peer config"),
        answers=("here", "it looks for another one", "received AUTHENTICATION_FAILED"),
        theirs={"remote": {"id": "someone.example.net"}},
    ),
    "charon has another identity": Case(
        calls=("peer", "AUTHENTICATION_FAILED", "no matching peer config"),
        answers=("here", "no connection here expects", "received AUTHENTICATION_FAILED"),
        theirs={"local": {"id": "someone.example.net"}},
    ),
    "no ESP proposal in common": Case(
        calls=("peer", "NO_PROPOSAL_CHOSEN", "no acceptable proposal found"),
        answers=("here", "NO_PROPOSAL_CHOSEN", "received NO_PROPOSAL_CHOSEN"),
        theirs={"children": {NAME: {"esp_proposals": "aes192gcm16-noesn"}}},
    ),
    "no selectors in common": Case(
        calls=("peer", "TS_UNACCEPTABLE", "failed to establish CHILD_SA"),
        answers=("here", "TS_UNACCEPTABLE", "received TS_UNACCEPTABLE"),
        ours={"local_selectors": ["10.99.0.0/24"]},
    ),
}


def failures(meeting: Meeting) -> list[tuple[str, str]]:
    """Return what `moatctl status` tells of this connection and of strangers: side and cause."""
    status: dict[str, Any] = meeting.box.ctl("status")
    found = [status["connections"][0]["last_failure"], *status["strangers"]]
    return [(each["side"], each["what"]) for each in found if each is not None]


@pytest.mark.parametrize("what", CASES)
def test_refused(meeting: Meeting, what: str) -> None:
    case = CASES[what]
    side, cause, logged = case.calls if meeting.we_call else case.answers
    meeting.charon.write_public_key("other", other_public_key())
    log = meeting.charon_log()
    with meeting.configured(case.ours, case.theirs):
        if not meeting.we_call:
            meeting.charon.initiate(check=False)
        wait_for(lambda: any(s == side and cause in w for s, w in failures(meeting)), cause, 5)
        wait_for(lambda: logged in log(), logged, 5)
        # Nobody keeps an IKE SA that the other has given up: charon has none between two calls.
        wait_for(lambda: not meeting.charon.ike_sas(), "charon has no IKE SA", 5)
        assert meeting.status()["state"] != "established"


def test_no_ike_proposal_in_common(meeting: Meeting) -> None:
    log = meeting.charon_log()
    with meeting.configured(theirs={"proposals": "aes256gcm16-prfsha256-modp2048"}):
        if meeting.we_call:
            told, refused = "generating IKE_SA_INIT response 0 [ N(NO_PROP) ]", "peer"
            wait_for(lambda: refused in {side for side, _ in failures(meeting)}, "refused", 5)
        else:
            told = "received NO_PROPOSAL_CHOSEN"
            meeting.charon.initiate(check=False)
        wait_for(lambda: told in log(), told, 5)
        assert meeting.status()["state"] != "established"
