"""A box's first boot, and its way back after half a year, under both lockdown rulesets.

moat                                        portal
moat-enrol claim   -- TCP 4510, TLS 1.3 --> moat-enrolled
moatd              -- IKE, ESP -----------> moatd, once the operator's side has the key
moat-enrol pull    -- through the tunnel -> moat-enrolled, at the portal's inner address
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import MOAT, PORTAL, Box, join, new_box, wait_for
from enrolling import NOW, Operator, configuration, connection
from inside import within
from lockdown_boxes import moat as moat_rules
from lockdown_boxes import portal as portal_rules
from policies import new_seal

from moatvpn.cli import enrol_box
from moatvpn.crypto.seal import sha256_hex
from moatvpn.daemon.keyfile import read_signer
from moatvpn.enrol.documents import seal_handover
from moatvpn.enrol.journal import BOUND, read_journal
from moatvpn.enrol.published import publish
from moatvpn.lockdown.ruleset import ruleset
from moatvpn.lockdown.zones import Box as Zones

PORT = 4510
ASKS = {"name": "enrolment", "protocol": "tcp", "port": PORT}
TO_WILD = {**ASKS, "zones": ["wild"], "destinations": [f"{PORTAL.wild}/32"]}
TO_TUNNEL = {**ASKS, "zones": ["tunnel"], "destinations": [f"{PORTAL.inside}/32"]}


class Enrolment:
    """A moat as it comes out of its box, and a portal with an enrolment service."""

    def __init__(self, moat: Box, portal: Box) -> None:
        self.moat, self.portal = moat, portal
        self.operator = Operator(expires=NOW * 2)
        join(moat, portal)
        lock(moat, moat_rules(wild_dhcp=False, outgoing=[TO_WILD, TO_TUNNEL]))
        lock(portal, portal_rules(enrolment=PORT))
        settings = json.loads((moat.directory / "moatd.json").read_text())
        del settings["identity"]
        (moat.directory / "moatd.json").write_text(json.dumps(settings))
        moat.key.unlink()
        (moat.directory / "enrol.pub").write_text(self.operator.seal.public_text + "\n")
        self.ask_at(PORTAL.wild)
        self.box = enrol_box.Box(
            moat.directory, moat.directory / "enrol", patience=15, restart=moat.start
        )
        self.state = portal.directory / "enrolled"
        self.state.mkdir()
        self._pair = ["--certificate", str(self.state / "tls.pem")]
        self._pair += ["--private-key", str(self.state / "tls.key")]
        words = [sys.executable, "-m", "moatvpn.cli.moat_enrolled"]
        portal.run(*words, "keygen", *self._pair)
        self.publish(1)
        listen = ["--listen", PORTAL.wild, PORTAL.inside, "--port", str(PORT)]
        files = ["--published", str(self.state / "published"), "--state", str(self.state)]
        command = [*words, "serve", *self._pair, *files, *listen]
        self.service = portal.popen(*command, stderr=subprocess.PIPE)
        assert self.service.stderr is not None
        assert b"ready" in self.service.stderr.readline()
        portal.start()

    def ask_at(self, *servers: str) -> None:
        """Have the moat ask at these addresses."""
        record = {"servers": servers, "port": PORT}
        (self.moat.directory / "enrol.json").write_text(json.dumps(record))

    def publish(self, serial: int, **changes: float) -> None:
        """Publish settings with the portal's key of now, and what changes."""
        to_portal = connection(
            self.portal.public_key, remote_selectors=PORTAL.networks, dpd_interval=2.0, **changes
        )
        self.operator.settings = configuration(serial, connections=(to_portal,), servers=())
        pem = (self.state / "tls.pem").read_text()
        found = self.operator.published(sha256_hex(ssl.PEM_cert_to_DER_cert(pem)))
        new = self.state / "published.new"
        new.write_bytes(publish(found.voucher, found.handovers, found.entries.values()))
        new.replace(self.state / "published")

    def claim(self) -> enrol_box.Outcome:
        with within(self.moat.namespace):
            return enrol_box.claim(self.box, self.operator.token)

    def pull(self) -> enrol_box.Outcome:
        with within(self.moat.namespace):
            return enrol_box.pull(self.box)

    def collect(self) -> None:
        """Do what the operator's side does: give the portal the key that was bound."""
        (seen,) = read_journal((self.state / "journal").read_bytes(), "journal")
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

    def close(self) -> None:
        self.service.send_signal(signal.SIGTERM)
        said = self.service.communicate(timeout=20)[1]
        print(f"--- moat-enrolled\n{said.decode()[-4000:]}")


def lock(box: Box, zones: Zones) -> None:
    """Load the ruleset of a box, without what a policy of this machine would add."""
    lines = ruleset(zones).splitlines()
    path = box.directory / "lockdown.nft"
    path.write_text("\n".join(line for line in lines if not line.startswith("include")) + "\n")
    box.run("nft", "-f", str(path))


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
