"""A moat as it comes out of its box, and a portal with an enrolment service, both locked down."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from boxes import PORTAL, Box, join
from lockdown_boxes import moat as moat_rules
from lockdown_boxes import portal as portal_rules

from moatvpn.lockdown.ruleset import ruleset
from moatvpn.lockdown.zones import Box as Zones

PORT = 4510
_ASKS = {"name": "enrolment", "protocol": "tcp", "port": PORT}
_TO_WILD = {**_ASKS, "zones": ["wild"], "destinations": [f"{PORTAL.wild}/32"]}
_TO_TUNNEL = {**_ASKS, "zones": ["tunnel"], "destinations": [f"{PORTAL.inside}/32"]}


class EnrolmentBoxes:
    """Both on one wild network. anchor: the operator's public key, as the moat's image has it.

    state is the service's directory, with its certificate (tls.pem) and its journal.
    """

    program: tuple[str, ...] = ("-m", "moatvpn.cli.moat_enrolled")

    def __init__(self, moat: Box, portal: Box, anchor: str) -> None:
        self.moat, self.portal = moat, portal
        join(moat, portal)
        _lock(moat, moat_rules(wild_dhcp=False, outgoing=[_TO_WILD, _TO_TUNNEL]))
        _lock(portal, portal_rules(enrolment=PORT))
        settings = json.loads((moat.directory / "moatd.json").read_text())
        del settings["identity"]
        (moat.directory / "moatd.json").write_text(json.dumps(settings))
        moat.key.unlink()
        (moat.directory / "enrol.pub").write_text(anchor + "\n")
        self.ask_at(PORTAL.wild)
        self.state = portal.directory / "enrolled"
        self.state.mkdir()
        self.service: subprocess.Popen[bytes] | None = None
        self._pair = ["--certificate", str(self.state / "tls.pem")]
        self._pair += ["--private-key", str(self.state / "tls.key")]
        portal.run(sys.executable, *self.program, "keygen", *self._pair)

    @property
    def journal(self) -> Path:
        """Return where the service writes down what it has seen."""
        return self.state / "journal"

    def ask_at(self, *servers: str) -> None:
        """Have the moat ask at these addresses."""
        record = {"servers": servers, "port": PORT}
        (self.moat.directory / "enrol.json").write_text(json.dumps(record))

    def put(self, published: bytes) -> None:
        """Give the service what is published, whole."""
        new = self.state / "published.new"
        new.write_bytes(published)
        new.replace(self.state / "published")

    def serve(self) -> None:
        """Start the service, with what was put before."""
        listen = ["--listen", PORTAL.wild, PORTAL.inside, "--port", str(PORT)]
        files = ["--published", str(self.state / "published"), "--state", str(self.state)]
        words = [sys.executable, *self.program, "serve", *self._pair, *files, *listen]
        self.service = self.portal.popen(*words, stderr=subprocess.PIPE)
        assert self.service.stderr is not None
        assert b"ready" in self.service.stderr.readline()

    def close(self) -> None:
        """End the service, and tell what it said."""
        if self.service is not None:
            service, self.service = self.service, None
            service.send_signal(signal.SIGTERM)
            said = service.communicate(timeout=20)[1]
            print(f"--- moat-enrolled\n{said.decode()[-4000:]}")


def _lock(box: Box, zones: Zones) -> None:
    """Load the ruleset of a box, without what a policy of this machine would add."""
    lines = ruleset(zones).splitlines()
    path = box.directory / "lockdown.nft"
    path.write_text("\n".join(line for line in lines if not line.startswith("include")) + "\n")
    box.run("nft", "-f", str(path))
