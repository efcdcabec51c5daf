"""moatd with strongSwan, in both directions: each cipher and group that both sides know."""

from __future__ import annotations

import pytest
from boxes import PORTAL
from charon import NAME, Tree
from meeting import BY_CHARON, BY_MOATD, Meeting

# What charon calls a suite in a proposal, and what it then says of an SA.
SUITES = {
    "aes-256-gcm": ("aes256gcm16", {"encr-alg": "AES_GCM_16", "encr-keysize": "256"}),
    "aes-128-gcm": ("aes128gcm16", {"encr-alg": "AES_GCM_16", "encr-keysize": "128"}),
    "chacha20-poly1305": ("chacha20poly1305", {"encr-alg": "CHACHA20_POLY1305"}),
    "aes-128-cbc-hmac-sha2-256": (
        "aes128-sha256",
        {"encr-alg": "AES_CBC", "encr-keysize": "128", "integ-alg": "HMAC_SHA2_256_128"},
    ),
    "aes-256-cbc-hmac-sha2-256": (
        "aes256-sha256",
        {"encr-alg": "AES_CBC", "encr-keysize": "256", "integ-alg": "HMAC_SHA2_256_128"},
    ),
    "aes-256-cbc-hmac-sha2-512": (
        "aes256-sha512",
        {"encr-alg": "AES_CBC", "encr-keysize": "256", "integ-alg": "HMAC_SHA2_512_256"},
    ),
}
# Likewise.
GROUPS = {
    "x25519": ("x25519", "CURVE_25519"),
    "ecp256": ("ecp256", "ECP_256"),
    "ecp384": ("ecp384", "ECP_384"),
    "modp3072": ("modp3072", "MODP_3072"),
}


def child(**settings: str) -> Tree:
    """Return changes of charon's CHILD_SA."""
    return {"children": {NAME: settings}}


def rekey_everything(meeting: Meeting) -> None:
    """Let each side rekey the IKE SA and the CHILD_SA once, and see that a ping goes through."""
    for sa in ("ike", "child"):
        for who in (BY_MOATD, BY_CHARON):
            meeting.rekey(who, sa)
            assert meeting.moat.pings(PORTAL.inside)


@pytest.mark.parametrize("suite", SUITES)
def test_esp(meeting: Meeting, suite: str) -> None:
    proposal, facts = SUITES[suite]
    with meeting.tunnel({"esp_suites": [suite]}, child(esp_proposals=f"{proposal}-x25519-noesn")):
        meeting.exchange_traffic()
        assert meeting.status()["suite"] == suite
        rekey_everything(meeting)
        meeting.exchange_traffic()
        (theirs,) = meeting.charon.children()
        assert facts.items() <= theirs.items()


@pytest.mark.parametrize("suite", SUITES)
def test_ike(meeting: Meeting, suite: str) -> None:
    proposal, facts = SUITES[suite]
    theirs = {"proposals": f"{proposal}-prfsha256-x25519"}
    with meeting.tunnel({"ike_suites": [suite]}, theirs):
        rekey_everything(meeting)
        (sa,) = meeting.charon.ike_sas()
        assert facts.items() <= sa.items()


@pytest.mark.parametrize("prf", ["sha256", "sha384", "sha512"])
def test_prf(meeting: Meeting, prf: str) -> None:
    with meeting.tunnel(theirs={"proposals": f"aes256gcm16-prf{prf}-x25519"}):
        rekey_everything(meeting)
        (sa,) = meeting.charon.ike_sas()
        assert sa["prf-alg"] == f"PRF_HMAC_SHA2_{prf[3:]}"


@pytest.mark.parametrize("group", GROUPS)
def test_group(meeting: Meeting, group: str) -> None:
    """In IKE_SA_INIT, and in rekeys of both SAs."""
    word, name = GROUPS[group]
    theirs = {
        "proposals": f"aes256gcm16-prfsha256-{word}",
        **child(esp_proposals=f"aes256gcm16-{word}-noesn"),
    }
    with meeting.tunnel({"groups": [group]}, theirs):
        rekey_everything(meeting)
        (sa,) = meeting.charon.ike_sas()
        assert sa["dh-group"] == name
        (theirs,) = meeting.charon.children()
        assert theirs["dh-group"] == name


def test_another_group_first(meeting: Meeting) -> None:
    """The caller's first guess is a group that the other side does not want."""
    ours, theirs = ["ecp256", "ecp384"], "ecp384"
    if not meeting.we_call:
        ours, theirs = ["ecp384"], "ecp256-ecp384"
    log = meeting.charon_log()
    with meeting.tunnel({"groups": ours}, {"proposals": f"aes256gcm16-prfsha256-{theirs}"}):
        assert "N(INVAL_KE)" in log()
        (sa,) = meeting.charon.ike_sas()
        assert sa["dh-group"] == "ECP_384"


@pytest.mark.parametrize("who", [BY_MOATD, BY_CHARON])
def test_another_group_first_in_a_rekey(meeting: Meeting, who: str) -> None:
    """A CHILD_SA's rekey begins with the group of the IKE SA, and the other side wants another."""
    ours, theirs = ["x25519", "ecp384"], "ecp384"
    if who == BY_CHARON:
        ours, theirs = ["ecp384"], "x25519-ecp384"
    esp = child(esp_proposals=f"aes256gcm16-{theirs}-noesn")
    both = {"proposals": "aes256gcm16-prfsha256-ecp384"} if who == BY_CHARON else {}
    with meeting.tunnel({"groups": ours}, {**both, **esp}):
        log = meeting.charon_log()
        meeting.rekey(who, "child")
        assert "N(INVAL_KE)" in log()
        (sa,) = meeting.charon.children()
        assert sa["dh-group"] == "ECP_384"
        assert meeting.moat.pings(PORTAL.inside)


@pytest.mark.parametrize("who", [BY_MOATD, BY_CHARON])
def test_rekey_of_a_child_without_a_group(meeting: Meeting, who: str) -> None:
    """Without PFS: the keys are made of the IKE SA's and fresh nonces."""
    with meeting.tunnel({"pfs": False}, child(esp_proposals="aes256gcm16-noesn")):
        meeting.rekey(who, "child")
        (sa,) = meeting.charon.children()
        assert "dh-group" not in sa
        meeting.exchange_traffic()
