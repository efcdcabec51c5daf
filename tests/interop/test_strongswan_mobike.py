"""moatd with strongSwan when the moat's address changes (RFC 4555), in both roles.

moat                                                portal
HDR, SK{N(UPDATE_SA_ADDRESSES), N(NAT…), …} ------->        from the new address
                                     <-------  HDR, SK{N(NAT…), …}
                                     <-------  HDR, SK{…, N(COOKIE2)}   where moatd is the portal
HDR, SK{…, N(COOKIE2)} ------->
"""

from __future__ import annotations

import time

from boxes import MOAT, PORTAL, wait_for
from meeting import Meeting

ELSEWHERE = "192.0.2.77"
BACK_WITHIN = 2.0  # seconds from the change to traffic both ways


def roam(meeting: Meeting, old: str, new: str) -> float:
    """Give the moat another address; return after how many seconds a ping is answered."""
    start = time.monotonic()
    meeting.moat.ip("address", "del", f"{old}/24", "dev", "wild0")
    meeting.moat.ip("address", "add", f"{new}/24", "dev", "wild0")
    word = ("ping", "-c1", "-W0.2", PORTAL.inside)
    wait_for(lambda: meeting.moat.run(*word, check=False).returncode == 0, "a ping", 10)
    return time.monotonic() - start


def seen_at(meeting: Meeting) -> str:
    """Return where the portal, whichever it is, sees the moat."""
    if meeting.we_call:
        return str(meeting.charon.ike_sas()[0]["remote-host"])
    return str(meeting.status()["peer"]).split(":")[0]


def test_the_moat_roams_and_comes_back(meeting: Meeting) -> None:
    # charon listens to every address of its own when it is the one that roams.
    theirs = {} if meeting.we_call else {"local_addrs": "%any"}
    with meeting.tunnel(theirs=theirs):
        before = meeting.status()["ike_spi_i"]
        for old, new in ((MOAT.wild, ELSEWHERE), (ELSEWHERE, MOAT.wild)):
            took = roam(meeting, old, new)
            print(f"from {old} to {new}: {took:.2f} s")
            assert took < BACK_WITHIN
            wait_for(lambda new=new: seen_at(meeting) == new, "the portal knows", 2)
            meeting.exchange_traffic()
        # The IKE SA goes on; charon's ESP in user space moves by a rekey of the CHILD_SA.
        assert meeting.status()["ike_spi_i"] == before
