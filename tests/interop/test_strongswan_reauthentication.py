"""moatd with strongSwan: a new IKE SA beside the old one, which proves both sides anew.

Neither side sends INITIAL_CONTACT in it: that would end what is to go on meanwhile. charon does so
with make_before_break.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from boxes import PORTAL
from meeting import BY_CHARON, Meeting
from traffic import pings


def test_time_for_another_authentication(meeting: Meeting) -> None:
    """charon's reauth_time: where it has been called, it says so by AUTH_LIFETIME (RFC 4478)."""
    with meeting.tunnel(theirs={"reauth_time": "2", "over_time": "30", "rand_time": "0"}):
        log, before = meeting.charon_log(), meeting.status()["ike_spi_i"]
        with pings(meeting.moat, PORTAL.inside) as answers:
            meeting.wait_until_replaced("ike", before)
        assert "N(INIT_CONTACT)" not in log()
        assert answers.sent == answers.received


@pytest.fixture
def next_key(meeting: Meeting) -> Iterator[dict[str, Any]]:
    """moatd's next key, which charon trusts beside the one that it has; moatd goes back at last."""
    box = meeting.box
    place = ("--private-key", str(box.key))
    made = box.ctl("key", "make-next", *place)
    meeting.charon.write_public_key("next", made["next_public_key"])
    yield made
    box.ctl("key", "back", *place)
    meeting.charon.remove("pubkey/next.pem")


def test_moatd_proves_another_key(meeting: Meeting, next_key: dict[str, Any]) -> None:
    """Where moatd was called, it has charon call by an AUTH_LIFETIME of 0."""
    with meeting.tunnel(theirs={"remote": {"pubkeys": ("peer.pem", "next.pem")}}):
        log, before = meeting.charon_log(), meeting.status()["ike_spi_i"]
        with pings(meeting.moat, PORTAL.inside) as answers:
            meeting.box.ctl("key", "switch", "--private-key", str(meeting.box.key))
            meeting.wait_until_replaced("ike", before)
        assert meeting.status()["local_key"] == next_key["next_fingerprint"]
        assert "N(INIT_CONTACT)" not in log()
        assert answers.sent == answers.received
        meeting.rekey(BY_CHARON, "child")  # what is new is whole
