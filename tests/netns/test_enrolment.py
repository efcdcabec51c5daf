"""A box's first boot, and its way back after half a year, under both lockdown rulesets.

moat                                        portal
moat-enrol claim   -- TCP 4510, TLS 1.3 --> moat-enrolled
moatd              -- IKE, ESP -----------> moatd, once the operator's side has the key
moat-enrol pull    -- through the tunnel -> moat-enrolled, at the portal's inner address
"""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import MOAT, PORTAL, Box, new_box, wait_for
from enrolling import NOW, Operator, configuration, connection
from enrolment_boxes import PORT, EnrolmentBoxes
from inside import within
from policies import new_seal

from moatvpn.cli import enrol_box
from moatvpn.crypto.seal import sha256_hex
from moatvpn.daemon.keyfile import read_signer
from moatvpn.enrol.documents import seal_handover
from moatvpn.enrol.journal import BOUND, read_journal
from moatvpn.enrol.published import publish


class Enrolment(EnrolmentBoxes):
    """An operator, a moat and a portal."""

    def __init__(self, moat: Box, portal: Box) -> None:
        self.operator = Operator(expires=NOW * 2)
        super().__init__(moat, portal, self.operator.seal.public_text)
        self.box = enrol_box.Box(
            moat.directory, moat.directory / "enrol", patience=15, restart=moat.start
        )
        self.publish(1)
        self.serve()
        portal.start()

    def publish(self, serial: int, **changes: float) -> None:
        """Publish settings with the portal's key of now, and what changes."""
        to_portal = connection(
            self.portal.public_key, remote_selectors=PORTAL.networks, dpd_interval=2.0, **changes
        )
        self.operator.settings = configuration(serial, connections=(to_portal,), servers=())
        pem = (self.state / "tls.pem").read_text()
        found = self.operator.published(sha256_hex(ssl.PEM_cert_to_DER_cert(pem)))
        self.put(publish(found.voucher, found.handovers, found.entries.values()))

    def claim(self) -> enrol_box.Outcome:
        with within(self.moat.namespace):
            return enrol_box.claim(self.box, self.operator.token)

    def pull(self) -> enrol_box.Outcome:
        with within(self.moat.namespace):
            return enrol_box.pull(self.box)

    def collect(self) -> None:
        """Do what the operator's side does: give the portal the key that was bound."""
        (seen,) = read_journal(self.journal.read_bytes(), "journal")
        assert (seen.what, seen.source) == (BOUND, MOAT.wild)
        record = {
            "name": "m0001",
            "remote_identity": seen.identity,
            "remote_public_keys": [seen.public_key],
            "local_selectors": list(PORTAL.networks),
            "remote_selectors": list(MOAT.networks),
            "dpd_interval": 2.0,
        }
        self.portal.apply("add", record)

    def wait_until_up(self) -> None:
        wait_for(lambda: self.moat.pings(PORTAL.inside), "a ping through the tunnel", 20)


@pytest.fixture
def enrolment(tmp_path: Path) -> Iterator[Enrolment]:
    with (
        new_box(tmp_path, "m", MOAT.identity) as moat,
        new_box(tmp_path, "p", PORTAL.identity) as portal,
    ):
        made = Enrolment(moat, portal)
        try:
            yield made
        finally:
            made.close()


def test_from_first_boot_to_a_tunnel_and_back_after_half_a_year(enrolment: Enrolment) -> None:
    moat, portal = enrolment.moat, enrolment.portal
    assert enrolment.claim().what == "applied"
    # The handshake of strangers fills no connection table of the portal's.
    tracked = portal.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout
    assert int(tracked) == 0
    enrolment.collect()
    enrolment.wait_until_up()

    # Through the tunnel, which stays up or comes back under what is newer.
    enrolment.ask_at(PORTAL.inside)
    enrolment.publish(2, child_lifetime=1800.0)
    assert enrolment.pull().what == "applied"
    enrolment.wait_until_up()
    assert enrolment.pull().what == "current"

    # Half a year in a cupboard: the portal's key and the operator's are others now.
    moat.kill()
    first, now = enrolment.operator.seal, new_seal()
    portal.kill(signal.SIGTERM)
    portal.key.unlink()
    made = portal.ctl("identity", "create", "--private-key", str(portal.key))
    portal.public_key = made["public_key"]
    portal.start()
    enrolment.operator.seal = now
    enrolment.operator.handovers = (seal_handover(now.public_text, first),)
    enrolment.operator.keys = (read_signer(moat.key).public_text,)
    enrolment.publish(40)
    moat.start()
    enrolment.ask_at(PORTAL.inside, PORTAL.wild)
    assert enrolment.pull().serial == 40
    enrolment.wait_until_up()


def test_settings_that_cost_the_tunnel_are_taken_back(enrolment: Enrolment) -> None:
    enrolment.claim()
    enrolment.collect()
    enrolment.wait_until_up()
    right = enrolment.portal.public_key
    enrolment.portal.public_key = read_signer(enrolment.moat.key).public_text
    enrolment.publish(2)
    enrolment.portal.public_key = right
    enrolment.box = enrol_box.Box(enrolment.box.settings, enrolment.box.state, patience=3)
    assert enrolment.pull().what == "went-back"
    enrolment.wait_until_up()


def test_the_moat_reaches_that_port_and_no_other(enrolment: Enrolment) -> None:
    enrolment.portal.ip("address", "add", "192.0.2.3/24", "dev", "wild0")

    def reached(address: str, port: int) -> bool:
        try:
            with socket.create_connection((address, port), timeout=1):
                return True
        except OSError:
            return False

    with within(enrolment.moat.namespace):
        assert reached(PORTAL.wild, PORT)
        assert not reached(PORTAL.wild, 22)
        assert not reached("192.0.2.3", PORT)
    counters = enrolment.moat.run("nft", "list", "counter", "inet", "moat", "dropped_wild_output")
    assert "packets 0" not in counters.stdout
