"""moatd with strongSwan, once a tunnel is up: rekeys, liveness and deletes, from either side."""

from __future__ import annotations

import pytest
from boxes import PORTAL, wait_for
from charon import NAME
from meeting import Meeting
from traffic import pings, transfer

MOATD, CHARON = "by moatd", "by charon"


def rekey(meeting: Meeting, who: str, sa: str) -> None:
    """Start a rekey."""
    if who == MOATD:
        meeting.box.moatctl("rekey", NAME, sa)
    else:
        meeting.charon.swanctl("--rekey", f"--{sa}", NAME)


def spis_of(meeting: Meeting) -> list[str]:
    """Return the initiators' SPIs of charon's IKE SAs, as moatd writes them."""
    return ["0x" + sa["initiator-spi"] for sa in meeting.charon.ike_sas()]


def wait_until_alone(meeting: Meeting) -> None:
    """Wait until both sides have one IKE SA and one CHILD_SA, and the same."""
    wait_for(lambda: len(meeting.charon.ike_sas()) == 1, "the old IKE SA goes", 5)
    wait_for(lambda: len(meeting.charon.children()) == 1, "the old CHILD_SA goes", 5)
    (child,), ours = meeting.charon.children(), meeting.status()
    assert spis_of(meeting) == [ours["ike_spi_i"]]
    assert ("0x" + child["spi-in"], "0x" + child["spi-out"]) == (ours["spi_out"], ours["spi_in"])


@pytest.mark.parametrize("who", [MOATD, CHARON])
@pytest.mark.parametrize("sa", ["child", "ike"])
def test_rekey(meeting: Meeting, sa: str, who: str) -> None:
    spi = {"child": "spi_in", "ike": "ike_spi_i"}[sa]
    with meeting.tunnel():
        before = meeting.status()[spi]
        drops = meeting.box.drops()
        with (
            pings(meeting.moat, PORTAL.inside) as answers,
            # At a pace: TCP at full speed fills the kernel's queues until they lose packets.
            transfer(meeting.moat, meeting.portal, PORTAL.inside6, 4, pace=2 << 20),
        ):
            rekey(meeting, who, sa)
            wait_for(lambda: meeting.status()[spi] != before, f"another {spi}", 5)
        assert answers.sent == answers.received == 300
        assert answers.duplicates == 0
        assert meeting.box.drops() == drops
        wait_until_alone(meeting)


def test_rekeys_one_after_the_other(meeting: Meeting) -> None:
    """Whatever has been rekeyed can be rekeyed again, by either side."""
    with meeting.tunnel():
        for who, sa in [(w, s) for s in ("ike", "child") for w in (MOATD, CHARON)] * 2:
            spi = {"child": "spi_in", "ike": "ike_spi_i"}[sa]
            before = meeting.status()[spi]
            rekey(meeting, who, sa)
            wait_for(lambda b=before, s=spi: meeting.status()[s] != b, f"another {spi}", 5)
            wait_until_alone(meeting)
            assert meeting.moat.pings(PORTAL.inside)


@pytest.mark.parametrize("who", [MOATD, CHARON])
def test_liveness_asked(meeting: Meeting, who: str) -> None:
    """A side that hears nothing asks whether the other lives, and is answered."""
    ours, theirs = ({"dpd_interval": 1.0}, {}) if who == MOATD else ({}, {"dpd_delay": "1s"})
    asked, answered = "parsed INFORMATIONAL request", "generating INFORMATIONAL response"
    if who == CHARON:
        asked, answered = "sending DPD request", "parsed INFORMATIONAL response"
    with meeting.tunnel(ours=ours, theirs=theirs):
        log, before = meeting.charon_log(), meeting.status()["ike_spi_i"]
        wait_for(lambda: log().count(answered) >= 2, "two answers", 10)
        assert log().count(asked) >= 2
        assert meeting.status()["ike_spi_i"] == before


def test_a_silent_peer(meeting: Meeting) -> None:
    """Each side gives the other up; the one that calls has the tunnel back."""
    child = {} if meeting.we_call else {"dpd_action": "restart"}
    theirs = {"dpd_delay": "1s", "children": {NAME: child}}
    with meeting.tunnel(ours={"dpd_interval": 1.0}, theirs=theirs):
        before = meeting.status()["ike_spi_i"]
        meeting.charon.ip("link", "set", "wild0", "down")
        try:
            waiting = "connecting" if meeting.we_call else "waiting"
            wait_for(lambda: meeting.status()["state"] == waiting, "moatd gives charon up", 20)
            wait_for(lambda: before not in spis_of(meeting), "charon gives moatd up", 20)
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
        tunnel.box.moatctl("delete", NAME)
