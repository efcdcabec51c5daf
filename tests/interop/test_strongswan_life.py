"""moatd with strongSwan, once a tunnel is up: rekeys, liveness and deletes, from either side."""

from __future__ import annotations

import pytest
from boxes import PORTAL, wait_for
from charon import NAME
from meeting import BY_CHARON, BY_MOATD, Meeting
from traffic import pings, transfer


@pytest.mark.parametrize("who", [BY_MOATD, BY_CHARON])
@pytest.mark.parametrize("sa", ["child", "ike"])
def test_rekey(meeting: Meeting, sa: str, who: str) -> None:
    with meeting.tunnel():
        lost = meeting.lost()
        with (
            pings(meeting.moat, PORTAL.inside) as answers,
            # At a pace: TCP at full speed fills the kernel's queues until they lose packets.
            transfer(meeting.moat, meeting.portal, PORTAL.inside6, 1, pace=1 << 19),
        ):
            meeting.rekey(who, sa)
        assert answers.sent == answers.received == 300
        assert answers.duplicates == 0
        assert meeting.lost() == lost


def test_rekeys_one_after_the_other(meeting: Meeting) -> None:
    """Whatever has been rekeyed can be rekeyed again, by either side."""
    with meeting.tunnel():
        for who, sa in [(w, s) for s in ("ike", "child") for w in (BY_MOATD, BY_CHARON)] * 2:
            meeting.rekey(who, sa)
            assert meeting.moat.pings(PORTAL.inside)


@pytest.mark.parametrize("who", [BY_MOATD, BY_CHARON])
def test_liveness_asked(meeting: Meeting, who: str) -> None:
    """A side that hears nothing asks whether the other lives, and is answered."""
    ours, theirs = ({"dpd_interval": 1.0}, {}) if who == BY_MOATD else ({}, {"dpd_delay": "1s"})
    asked, answered = "parsed INFORMATIONAL request", "generating INFORMATIONAL response"
    if who == BY_CHARON:
        asked, answered = "sending DPD request", "parsed INFORMATIONAL response"
    with meeting.tunnel(ours=ours, theirs=theirs):
        log, before = meeting.charon_log(), meeting.status()["ike_spi_i"]
        wait_for(lambda: log().count(answered) >= 2, "two answers", 10)
        assert log().count(asked) >= 2
        assert meeting.status()["ike_spi_i"] == before


@pytest.mark.parametrize("sa", ["child", "ike"])
def test_delete_by_charon(meeting: Meeting, sa: str) -> None:
    """Without its CHILD_SA a connection starts over; charon calls again when it is told to."""
    with meeting.tunnel():
        before = meeting.status()["ike_spi_i"]
        meeting.charon.swanctl("--terminate", f"--{sa}", NAME, "--timeout", "5")
        wait_for(lambda: meeting.status()["ike_spi_i"] != before, "another IKE SA or none", 5)
        if not meeting.we_call:
            wait_for(lambda: not meeting.charon.ike_sas(), "charon has no IKE SA", 5)
            assert meeting.status()["state"] == "waiting"
        meeting.call()


def test_delete_by_moatctl(meeting: Meeting) -> None:
    with meeting.tunnel() as tunnel:
        record = tunnel.our_connection()
        tunnel.box.moatctl("delete", NAME)
        wait_for(lambda: not tunnel.charon.ike_sas(), "charon has no IKE SA", 5)
        assert not tunnel.moat.pings(PORTAL.inside)
        tunnel.box.apply("add", record)
        tunnel.call()
