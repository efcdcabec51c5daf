"""moatd with strongSwan: several CHILD_SAs, and configuration payloads, in both directions."""

from __future__ import annotations

from boxes import PORTAL, wait_for
from charon import NAME
from meeting import Meeting

NAMES = (NAME, "net6")  # charon's CHILD_SAs: one for IPv4, one for IPv6


def pairs(meeting: Meeting) -> dict[str, dict[str, str]]:
    """Return charon's children, each with a pair of networks of its own."""
    both = zip(meeting.peer.networks, meeting.own.networks, strict=True)
    esp = {"esp_proposals": "aes256gcm16-x25519-noesn", "rekey_time": "0"}
    return {
        name: {"local_ts": local, "remote_ts": remote, **esp}
        for name, (local, remote) in zip(NAMES, both, strict=True)
    }


def names(meeting: Meeting) -> list[str]:
    """Return the names of charon's CHILD_SAs that are in use."""
    return sorted(child["name"] for child in meeting.charon.children())


def test_a_child_sa_for_each_pair_of_networks(meeting: Meeting) -> None:
    """Each carries its own traffic, is rekeyed alone, and goes alone."""
    theirs = {"children": pairs(meeting)}
    with meeting.tunnel({"child_sas": "per-pair"}, theirs):
        if not meeting.we_call:
            meeting.charon.initiate(NAMES[1])
        wait_for(lambda: names(meeting) == sorted(NAMES), "both CHILD_SAs", 5)
        assert meeting.status()["child_sas"] == 2
        meeting.exchange_traffic()
        for name in NAMES:
            spis = {child["spi-in"] for child in meeting.charon.children()}
            meeting.charon.swanctl("--rekey", "--child", name)
            wait_for(
                lambda old=spis: (
                    names(meeting) == sorted(NAMES)
                    and len({c["spi-in"] for c in meeting.charon.children()} - old) == 1
                ),
                f"{name} is another",
                5,
            )
            meeting.exchange_traffic()
        meeting.charon.swanctl("--terminate", "--child", NAMES[1], "--timeout", "5")
        assert meeting.moat.pings(PORTAL.inside)


ASSIGNED, ASSIGNED6, RESOLVER = "10.201.1.77", "fd00:201:1::77", "10.50.0.53"


def test_addresses_by_configuration(meeting: Meeting) -> None:
    """The moat, a single machine, asks for its addresses and resolver, and uses them."""
    if meeting.we_call:
        # With its last address an interface loses all its routes, those of later tests too.
        meeting.box.ip("address", "replace", f"{meeting.own.inside}/32", "dev", "moat0")
        ours = {"request_addresses": True}
        theirs = {"pools": ["four", "six"], "children": {NAME: {"remote_ts": "dynamic"}}}
        pools = {
            "four": {"addrs": f"{ASSIGNED}/32", "dns": RESOLVER},
            "six": {"addrs": f"{ASSIGNED6}/128"},
        }
    else:
        ours = {
            "assigned_addresses": [ASSIGNED, ASSIGNED6],
            "remote_selectors": [f"{ASSIGNED}/32", f"{ASSIGNED6}/128"],
        }
        theirs = {"vips": ["0.0.0.0", "::"], "children": {NAME: {"local_ts": "dynamic"}}}
        pools = {}
    with meeting.configured(ours, theirs, {"pools": pools}):
        if not meeting.we_call:
            meeting.charon.initiate()
        for own, there in ((ASSIGNED, PORTAL.inside), (ASSIGNED6, PORTAL.inside6)):
            ping = ("ping", "-c1", "-W1", "-I", own, there)
            wait_for(lambda c=ping: meeting.moat.run(*c, check=False).returncode == 0, own, 10)
            assert meeting.portal.pings(own)
        if meeting.we_call:
            assert meeting.status()["assigned"]["addresses"] == [ASSIGNED, ASSIGNED6]
            assert meeting.status()["assigned"]["dns"] == [RESOLVER]
        else:
            (sa,) = meeting.charon.ike_sas()
            assert sa["local-vips"] == f"[{ASSIGNED} {ASSIGNED6}]"
    # With the connection go its addresses.
    wait_for(lambda: ASSIGNED not in meeting.moat.ip("address"), "the address is gone", 5)
