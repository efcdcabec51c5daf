"""moatd with strongSwan when things go wrong: silence, rekeys that cross, a killed daemon."""

from __future__ import annotations

import pytest
from boxes import PORTAL, wait_for
from charon import NAME
from meeting import BY_CHARON, BY_MOATD, SPI, Meeting
from traffic import pings


def test_a_silent_peer(meeting: Meeting) -> None:
    """Each side gives the other up; the one that calls has the tunnel back."""
    child = {} if meeting.we_call else {"dpd_action": "restart"}
    # With MOBIKE a portal would be patient, for its moat may be on the move (RFC 4555, 3.11).
    theirs = {"dpd_delay": "1s", "mobike": "no", "children": {NAME: child}}
    with meeting.tunnel(ours={"dpd_interval": 1.0}, theirs=theirs):
        before = meeting.status()["ike_spi_i"]
        meeting.charon.ip("link", "set", "wild0", "down")
        try:
            waiting = "connecting" if meeting.we_call else "waiting"
            wait_for(lambda: meeting.status()["state"] == waiting, "moatd gives charon up", 20)
            wait_for(lambda: before not in meeting.charon_spis(), "charon gives moatd up", 20)
        finally:
            meeting.charon.ip("link", "set", "wild0", "up")
        meeting.wait_until_up(20)
        assert meeting.status()["ike_spi_i"] != before


@pytest.mark.parametrize("sa", ["child", "ike"])
def test_rekeys_that_cross(meeting: Meeting, sa: str) -> None:
    """Both sides have a request to rekey the same SA in flight; one new SA is left."""
    with meeting.tunnel():
        before, log = meeting.status()[SPI[sa]], meeting.charon_log()
        # charon has moatd's request, and moatd hears neither the answer nor charon's request.
        with meeting.box.deaf():
            with meeting.charon.deaf():
                meeting.start_rekey(BY_MOATD, sa)
                meeting.start_rekey(BY_CHARON, sa)
                wait_for(lambda: "generating CREATE_CHILD_SA" in log(), "charon's request", 5)
            wait_for(lambda: "parsed CREATE_CHILD_SA" in log(), "moatd's request", 5)
        meeting.wait_until_replaced(sa, before)
        assert "collision" in log()
        lost = meeting.lost()
        with pings(meeting.moat, PORTAL.inside, 100) as answers:
            pass
        assert (answers.sent, answers.duplicates) == (answers.received, 0)
        assert meeting.lost() == lost
        meeting.rekey(BY_MOATD, sa)
        meeting.rekey(BY_CHARON, sa)
        assert meeting.moat.pings(PORTAL.inside)


@pytest.mark.parametrize("who", ["moatd", "charon"])
def test_killed(meeting: Meeting, who: str) -> None:
    """It comes back without state, and the IKE SA that it makes takes the place of the old one."""
    theirs = {"dpd_delay": "1s", "children": {NAME: {"dpd_action": "restart"}}}
    with meeting.tunnel({"dpd_interval": 1.0}, {} if meeting.we_call else theirs):
        before = meeting.status()["ike_spi_i"]
        killed = meeting.box if who == "moatd" else meeting.charon
        killed.kill()
        killed.start()
        if who == "charon":
            meeting.charon.reload()
            if not meeting.we_call:
                meeting.call()
        meeting.wait_until_up(20)
        assert meeting.status()["ike_spi_i"] != before
        wait_for(lambda: len(meeting.charon.ike_sas()) == 1, "the old IKE SA goes", 5)
