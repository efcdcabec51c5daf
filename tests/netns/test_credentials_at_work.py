"""Two moatds as real programs that prove who they are by secrets and by certificates."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, new_box, wait_for
from pair import Pair
from pki import DAY, Authority, Issued


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two boxes on one wild network, with nothing started yet."""
    with (
        new_box(tmp_path, "am", MOAT.identity) as moat,
        new_box(tmp_path, "ap", PORTAL.identity) as portal,
    ):
        yield Pair(moat, portal, "auto")


def write(path: Path, content: bytes, mode: int = 0o644) -> str:
    """Put a file at path whole, as an operator's tool does."""
    new = path.with_suffix(".new")
    new.touch(mode)
    new.write_bytes(content)
    new.replace(path)
    return str(path)


def told(box: Box, name: str) -> dict[str, Any]:
    """Wait until box says what failed, and return that."""
    wait_for(lambda: box.connection(name)["last_failure"], "a failure that is told", 10)
    failure: dict[str, Any] = box.connection(name)["last_failure"]
    return failure


def test_a_wrong_secret_is_told_by_both_and_a_new_one_is_taken_at_once(pair: Pair) -> None:
    words = [secrets.token_hex(32) for _ in range(2)]
    for box, connection, word in zip(
        (pair.moat, pair.portal), (pair.to_portal, pair.to_moat), words, strict=True
    ):
        connection.pop("remote_public_keys")
        path = write(box.directory / "psk", word.encode(), 0o600)
        connection |= {"authentication": "psk", "psk_file": path}
    pair.moat.apply("add", pair.to_portal)
    pair.portal.apply("add", pair.to_moat)
    pair.portal.start()
    pair.moat.start()
    assert told(pair.portal, "m0001")["side"] == "here"
    assert told(pair.moat, "portal1")["side"] == "peer"
    status = pair.portal.moatctl("status").stdout
    assert "m0001: refused here" in status
    assert "Put the same secret into psk_file on both sides" in status
    assert "refused by the peer: AUTHENTICATION_FAILED" in pair.moat.log.read_text()
    # The same record, with another secret in its file.
    write(pair.moat.directory / "psk", words[1].encode(), 0o600)
    assert pair.moat.apply("replace", pair.to_portal)["changed"] is True
    pair.wait_until_up(5)
    assert pair.moat.apply("replace", pair.to_portal)["changed"] is False
    for box in (pair.moat, pair.portal):
        said = box.log.read_text() + box.moatctl("status", "--json").stdout
        assert not any(word[:16] in said for word in words)


def certify(box: Box, issued: Issued, crl: bytes) -> None:
    """Give a box that does not run yet a certificate, its key, and a CRL to go by."""
    settings = box.directory / "moatd.json"
    changed = {
        "certificate": write(box.directory / "own.pem", issued.pem),
        "private_key": write(box.directory / "own.key", issued.key_pem(), 0o600),
        "crls": [write(box.directory / "ca.crl", crl)],
    }
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changed))


def test_a_certificate_that_is_revoked_while_moatd_runs_is_refused_from_then_on(
    pair: Pair,
) -> None:
    period = {"after": time.time() - DAY, "until": time.time() + DAY}
    ca = Authority("Test CA", "p256", **period)
    moat, portal = ca.issue(MOAT.identity, "rsa2048", **period), ca.issue(PORTAL.identity, **period)
    for box, issued, connection in (
        (pair.moat, moat, pair.to_portal),
        (pair.portal, portal, pair.to_moat),
    ):
        certify(box, issued, ca.crl(**period))
        connection.pop("remote_public_keys")
        path = write(box.directory / "ca.pem", ca.pem)
        connection |= {"authentication": "certificate", "ca_files": [path]}
    pair.start()
    write(pair.portal.directory / "ca.crl", ca.crl(moat, **period))
    pair.moat.kill()
    pair.moat.start()
    assert "is revoked by its CA" in told(pair.portal, "m0001")["what"]
    assert told(pair.moat, "portal1")["side"] == "peer"
    assert not pair.pings()


# moatd as it is, but for a wall clock that is so many seconds off.
_OFF = """
import sys, time
from moatvpn.drivers import clock
clock.wall_clock = lambda: time.time() + float(sys.argv[1])
from moatvpn.daemon.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("years", [-30, 30])
def test_a_moat_whose_clock_is_years_off_gets_its_tunnel(pair: Pair, years: int) -> None:
    """Through it it would set the clock. Its certificate is older than the portal's."""
    old = {"after": time.time() - 9 * DAY, "until": time.time() + 9 * DAY}
    new = {"after": time.time() - DAY, "until": time.time() + 9 * DAY}
    ca = Authority("Test CA", "p256", **old)
    for box, issued, connection in (
        (pair.moat, ca.issue(MOAT.identity, **old), pair.to_portal),
        (pair.portal, ca.issue(PORTAL.identity, **new), pair.to_moat),
    ):
        certify(box, issued, ca.crl(**old))
        connection.pop("remote_public_keys")
        path = write(box.directory / "ca.pem", ca.pem)
        connection |= {"authentication": "certificate", "ca_files": [path]}
    pair.moat.program = ("-c", _OFF, str(years * 365 * DAY))
    pair.start()
    assert "by our clock" in pair.moat.log.read_text()  # it is wrong indeed
