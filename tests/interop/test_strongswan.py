"""moatd with strongSwan, in both directions: setting up, and traffic."""

from __future__ import annotations

from boxes import MOAT, PORTAL
from charon import NAME
from meeting import Meeting


def test_raw_public_keys(meeting: Meeting) -> None:
    with meeting.tunnel():
        meeting.exchange_traffic()
        ours, (theirs,) = meeting.status(), meeting.charon.ike_sas()
        assert (ours["encapsulation"], ours["esn"]) == ("udp", False)
        assert theirs["remote-id"] == meeting.own.identity
        assert "0x" + theirs["initiator-spi"] == ours["ike_spi_i"]
        assert (theirs["encr-alg"], theirs["dh-group"]) == ("AES_GCM_16", "CURVE_25519")


def test_selectors_that_charon_narrows(meeting: Meeting) -> None:
    """charon knows only a part of what moatd's connection says."""
    own = {"local_ts": f"{meeting.peer.inside}/32", "remote_ts": f"{meeting.own.inside}/32"}
    with meeting.tunnel(theirs={"children": {NAME: own}}):
        (child,) = meeting.charon.children()
        assert child["local-ts"] == f"[{meeting.peer.inside}/32]"
        assert child["remote-ts"] == f"[{meeting.own.inside}/32]"
        assert meeting.portal.pings(MOAT.inside)
        # moatd keeps to what was agreed.
        before = meeting.box.drops().get("out-no-policy", 0)
        assert not meeting.box.pings(meeting.peer.inside6)
        assert meeting.box.drops()["out-no-policy"] > before


def test_selectors_that_moatd_narrows(meeting: Meeting) -> None:
    """moatd knows only a part of what charon's connection says."""
    ours = {
        "local_selectors": [f"{meeting.own.inside}/32"],
        "remote_selectors": [f"{meeting.peer.inside}/32"],
    }
    with meeting.tunnel(ours=ours):
        (child,) = meeting.charon.children()
        assert child["local-ts"] == f"[{meeting.peer.inside}/32]"
        assert child["remote-ts"] == f"[{meeting.own.inside}/32]"
        assert meeting.portal.pings(MOAT.inside)
        assert not meeting.portal.pings(MOAT.inside6)
        assert not meeting.moat.pings(PORTAL.inside6)
