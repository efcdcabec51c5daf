"""moatd with strongSwan, in both directions: by pre-shared keys and by certificates."""

from __future__ import annotations

import json
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from boxes import wait_for
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from meeting import Meeting
from pki import DAY, Authority, Issued, new_key

from moatvpn.crypto.sign import Signer

KINDS = ("ed25519", "p256", "p384", "rsa2048")
# How charon's log names what we signed with.
SCHEMES = {
    "ed25519": "ED25519",
    "p256": "ECDSA_WITH_SHA256_DER",
    "p384": "ECDSA_WITH_SHA384_DER",
    "rsa2048": "RSA_EMSA_PSS_SHA2_256_SALT_32",
}


def valid() -> dict[str, float]:
    return {"after": time.time() - DAY, "until": time.time() + DAY}


def failure_of(meeting: Meeting) -> dict[str, Any]:
    """Call from where that is to be done, and return what moatd says has failed."""
    if not meeting.we_call:
        meeting.charon.initiate(check=False)
    wait_for(lambda: meeting.status()["last_failure"], "a failure that is told", 10)
    assert meeting.status()["state"] != "established"
    failure: dict[str, Any] = meeting.status()["last_failure"]
    return failure


def psk_changes(meeting: Meeting, ours: str, theirs: str) -> dict[str, Any]:
    """Return the changes of both sides' settings for these secrets."""
    path = meeting.box.directory / "psk"
    path.touch(0o600)
    path.write_text(ours + "\n")
    secret = {"id-1": meeting.own.identity, "id-2": meeting.peer.identity, "secret": theirs}
    by_psk = {"auth": "psk", "pubkeys": None}
    return {
        "ours": {"authentication": "psk", "psk_file": str(path), "remote_public_keys": []},
        "theirs": {"local": by_psk, "remote": by_psk},
        "sections": {"secrets": {"ike-1": secret}},
    }


def test_pre_shared_key(meeting: Meeting) -> None:
    secret = secrets.token_hex(32)
    with meeting.tunnel(**psk_changes(meeting, secret, secret)):
        meeting.exchange_traffic()
        assert meeting.status()["authentication"] == "psk"


def test_another_pre_shared_key(meeting: Meeting) -> None:
    ours, theirs = secrets.token_hex(32), secrets.token_hex(32)
    with meeting.configured(**psk_changes(meeting, ours, theirs)):
        assert failure_of(meeting)["side"] == ("peer" if meeting.we_call else "here")


@contextmanager
def certified(
    meeting: Meeting, ca: Authority, ours: Issued, theirs: Issued, crl: bytes = b""
) -> Iterator[dict[str, Any]]:
    """Give both their certificates; the block gets the changes of both sides' settings."""
    box, charon = meeting.box, meeting.charon
    settings = box.directory / "moatd.json"
    before = settings.read_text()
    places = {name: box.directory / name for name in ("cert.pem", "cert.key", "ca.pem", "ca.crl")}
    places["cert.key"].touch(0o600)
    contents = {"cert.pem": ours.pem, "cert.key": ours.key_pem(), "ca.pem": ca.pem, "ca.crl": crl}
    for name, content in contents.items():
        places[name].write_bytes(content)
    changed = {"certificate": str(places["cert.pem"]), "private_key": str(places["cert.key"])}
    changed |= {"crls": [str(places["ca.crl"])]} if crl else {}
    charon.write("x509ca/ca.pem", ca.pem)
    charon.write("x509/cert.pem", pem_of(theirs))
    for n, certificate in enumerate(theirs.chain):
        charon.write(f"x509/between{n}.pem", pem_of(Issued(certificate, theirs.key)))
    charon.write("private/cert.pem", theirs.key_pem())
    files = ("x509ca", "x509", "private/cert.pem")
    try:
        box.kill(signal.SIGTERM)
        settings.write_text(json.dumps(json.loads(before) | changed))
        box.start()
        by_ca = {"authentication": "certificate", "ca_files": [str(places["ca.pem"])]}
        yield {
            "ours": {**by_ca, "remote_public_keys": []},
            "theirs": {
                "local": {"certs": "cert.pem", "pubkeys": None},
                "remote": {"cacerts": "ca.pem", "pubkeys": None},
            },
        }
    finally:
        if box.daemon is not None:
            box.kill(signal.SIGTERM)
        settings.write_text(before)
        box.start()
        for place in files:
            charon.remove(place)


def pem_of(issued: Issued) -> bytes:
    return Issued(issued.certificate, issued.key).pem


@pytest.mark.parametrize("kind", KINDS)
def test_certificate(meeting: Meeting, kind: str) -> None:
    """Each side has a key of this kind; below a CA that has one of ECDSA."""
    ca = Authority("Interop CA", "p256", **valid())
    ours, theirs = (ca.issue(s.identity, kind, **valid()) for s in (meeting.own, meeting.peer))
    with certified(meeting, ca, ours, theirs) as changes:
        log = meeting.charon_log()
        with meeting.tunnel(**changes):
            meeting.exchange_traffic()
            assert f"with {SCHEMES[kind]} successful" in log()
            meeting.rekey("by moatd", "ike")


@pytest.mark.parametrize("kind", ["p256", "p384"])
def test_raw_public_key(meeting: Meeting, kind: str) -> None:
    """charon's own key is of ECDSA, moatd's of Ed25519 as ever."""
    key = new_key(kind)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    charon, signer = meeting.charon, Signer(key)
    charon.write("private/raw.pem", Issued(None, key).key_pem())  # type: ignore[arg-type]
    charon.write("pubkey/raw.pem", public)
    try:
        ours = {"remote_public_keys": [signer.public_text]}
        with meeting.tunnel(ours=ours, theirs={"local": {"pubkeys": "raw.pem"}}):
            assert meeting.status()["authentication"] == "raw-public-key"
    finally:
        charon.remove("private/raw.pem")
        charon.remove("pubkey/raw.pem")


def test_certificates_of_different_kinds(meeting: Meeting) -> None:
    """moatd has a key of ECDSA, charon one of RSA, and the CA one of Ed25519."""
    ca = Authority("Interop CA", **valid())
    ours = ca.issue(meeting.own.identity, "p256", **valid())
    theirs = ca.issue(meeting.peer.identity, "rsa2048", **valid())
    with certified(meeting, ca, ours, theirs) as changes, meeting.tunnel(**changes):
        meeting.exchange_traffic()


def test_certificate_below_an_intermediate_ca(meeting: Meeting) -> None:
    root = Authority("Interop root", "p384", **valid())
    ca = Authority("Interop intermediate", "rsa2048", above=root, path_length=0, **valid())
    ours, theirs = (ca.issue(s.identity, **valid()) for s in (meeting.own, meeting.peer))
    with certified(meeting, root, ours, theirs) as changes, meeting.tunnel(**changes):
        assert meeting.status()["authentication"] == "certificate"


def test_peer_without_an_identity_but_its_distinguished_name(meeting: Meeting) -> None:
    """As a caller it is known by its certificate; as the called it answers to no domain name."""
    ca = Authority("Interop CA", **valid())
    ours, theirs = (ca.issue(s.identity, **valid()) for s in (meeting.own, meeting.peer))
    with certified(meeting, ca, ours, theirs) as changes:
        changes["theirs"]["local"]["id"] = None
        if meeting.we_call:
            with meeting.configured(**changes):
                assert failure_of(meeting)["side"] == "peer"
        else:
            with meeting.tunnel(**changes):
                (sa,) = meeting.charon.ike_sas()
                assert sa["local-id"].startswith("O=")


def test_revoked_certificate(meeting: Meeting) -> None:
    ca = Authority("Interop CA", **valid())
    ours, theirs = (ca.issue(s.identity, **valid()) for s in (meeting.own, meeting.peer))
    crl = ca.crl(theirs, **valid())
    with certified(meeting, ca, ours, theirs, crl) as changes, meeting.configured(**changes):
        failure = failure_of(meeting)
        assert failure["side"] == "here"
        assert "is revoked by its CA" in failure["what"]
        wait_for(lambda: not meeting.charon.ike_sas(), "charon has no IKE SA", 5)


def test_expired_certificate(meeting: Meeting) -> None:
    ca = Authority("Interop CA", **valid())
    ours = ca.issue(meeting.own.identity, after=time.time() - DAY, until=time.time() - 3600)
    theirs = ca.issue(meeting.peer.identity, **valid())
    with certified(meeting, ca, ours, theirs) as changes, meeting.configured(**changes):
        failure = failure_of(meeting)
        assert failure["side"] == "peer"
        assert "AUTHENTICATION_FAILED" in failure["what"]
