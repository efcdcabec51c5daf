"""moatd with strongSwan, once a tunnel is up: rekeys, liveness and deletes, from either side."""

from __future__ import annotations

import pytest
from boxes import PORTAL, wait_for
from charon import NAME
from meeting import BY_CHARON, BY_MOATD, SPI, Meeting
from traffic import pings, transfer


@pytest.mark.parametrize("who", [BY_MOATD, BY_CHARON])
@pytest.mark.parametrize("sa", ["child", "ike"])
def test_rekey(meeting: Meeting, sa: str, who: str) -> None:
    with meeting.tunnel():
        drops = meeting.box.drops()
        with (
            pings(meeting.moat, PORTAL.inside) as answers,
            # At a pace: TCP at full speed fills the kernel's queues until they lose packets.
            transfer(meeting.moat, meeting.portal, PORTAL.inside6, 1, pace=1 << 19),
        ):
            meeting.rekey(who, sa)
        assert answers.sent == answers.received == 300
        assert answers.duplicates == 0
        assert meeting.box.drops() == drops


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


def test_a_silent_peer(meeting: Meeting) -> None:
    """Each side gives the other up; the one that calls has the tunnel back.

    Without MOBIKE: with it the called side waits for five minutes, for the other may have moved.
    """
    child = {} if meeting.we_call else {"dpd_action": "restart"}
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
        with pings(meeting.moat, PORTAL.inside, 300) as answers:
            pass
        assert answers.sent == answers.received
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
