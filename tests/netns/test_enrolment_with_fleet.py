"""A customer's first boot and their return after half a year, by the commands that people type.

At the operator's: moat-policy keygen, moat-fleet claim make, enrol publish, claim collect and key
record; on the box: moat-enrol claim and pull; on the portal: moatctl key. What site.yml carries
between them is copied here.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, new_box, wait_for
from enrolment_boxes import EnrolmentBoxes
from fleet_of_two import CUSTOMER, CUSTOMER_TEXTS, PORTAL_TEXTS
from fleet_words import with_options
from inside import within
from typer.testing import CliRunner

from moatvpn.cli import moat_enrol, moat_policy
from moatvpn.cli.client import ask
from moatvpn.cli.policy_files import read_seal
from moatvpn.daemon.keyfile import create_key_file, read_signer
from moatvpn.fleet.commands import app, common
from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.inventory import build_inventory

HALF_A_YEAR = timedelta(days=183)
# A program of ours as it is, but for a wall clock that is so many seconds ahead.
_AHEAD = """
import runpy, sys, time
real, ahead = time.time, float(sys.argv[2])
time.time = lambda: real() + ahead
del sys.argv[2]
sys.argv[:2] = sys.argv[1:2]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def ahead(module: str) -> tuple[str, ...]:
    return ("-c", _AHEAD, module, str(HALF_A_YEAR.total_seconds()))


class LaterDatetime(datetime):
    """What moat-fleet takes the time from, half a year on."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> LaterDatetime:
        moved = datetime.now(tz) + HALF_A_YEAR
        return cls.combine(moved.date(), moved.timetz())


class Fleet(EnrolmentBoxes):
    """An operator's machine, with its database, a moat out of its box, and a portal."""

    def __init__(self, moat: Box, portal: Box, office: Path) -> None:
        self.office = office
        office.mkdir()
        self.url = f"sqlite:///{office}/moat.sqlite"
        self.secret = office / "passphrase"
        self.secret.write_text("correct horse battery staple\n")
        self.secret.chmod(0o600)
        self.signing = ["--passphrase-file", str(self.secret)]
        assert moat_policy.main(["keygen", str(office / "operator.key"), *self.signing]) == 0
        super().__init__(moat, portal, read_seal(office / "operator.key", self.secret).public_text)
        self.fleet("init")
        self.fleet("portal", "add", *with_options(PORTAL_TEXTS, "portal"))
        self.fleet(
            "customer", "add", *with_options(CUSTOMER_TEXTS | {"status": "shipped"}, "customer")
        )
        self.fleet("key", "record", PORTAL.identity, portal.public_key)
        portal.start()

    def fleet(self, *words: str, code: int = 0) -> Any:
        """Run moat-fleet; return what it says as JSON."""
        more = [] if words[0] == "init" else ["--json"]
        result = CliRunner().invoke(app, ["--database", self.url, *words, *more])
        assert result.exit_code == code, f"{words}: {result.stdout}{result.stderr}"
        return json.loads(result.stdout) if more else None

    def publish(self) -> None:
        """Publish, and bring it to the portal."""
        key = ["--key", str(self.office / "operator.key"), *self.signing]
        shutil.copy(self.state / "tls.pem", self.office / f"{PORTAL.identity}.tls.pem")
        words = ("enrol", "publish", PORTAL.identity, *key, "--directory", str(self.office))
        made = self.fleet(*words)
        assert made["moats"] == [MOAT.identity]
        self.put(Path(made["file"]).read_bytes())

    def collect(self, code: int = 0) -> Any:
        """Fetch the service's journal, take it in, and give the portal its connections."""
        journal = self.office / f"{PORTAL.identity}.journal"
        shutil.copy(self.journal, journal)
        found = self.fleet("claim", "collect", str(journal), code=code)
        database = Database(database_url(self.url))
        with database.read() as session:
            hosts = build_inventory(session, common.now()).hosts
        database.close()
        for record in hosts[PORTAL.identity]["moatvpn_connections"]:
            self.portal.apply("replace", {**record, "dpd_interval": 2.0})
        return found

    def enrol(self, *words: str, directory: Path | None = None) -> int:
        """Run moat-enrol on the box, or on a copy of it in a directory."""
        home = directory or self.moat.directory
        places = ("--settings", str(home), "--state", str(home / "enrol"), "--patience", "15")
        with within(self.moat.namespace):
            return moat_enrol.main([*words, *places])

    def replace_portals_key(self) -> None:
        """Give the portal another key, for good, while its moat is switched off."""
        place = ("--private-key", str(self.portal.key))
        made = self.portal.ctl("key", "make-next", *place)
        new = made["next_public_key"]
        self.fleet("key", "record", PORTAL.identity, new, "--beside")
        self.publish()
        self.portal.ctl("key", "switch", *place)
        refused = self.portal.moatctl("key", "finish", *place, check=False)
        assert f"not proved to {CUSTOMER}, who did not call" in refused.stderr
        self.portal.ctl("key", "finish", "--despite-absent", *place)
        self.fleet("key", "record", PORTAL.identity, new, "--replace")
        self.publish()

    def half_a_year_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start the portal again, and let the operator work, by a clock that is so far on."""
        monkeypatch.setattr(common, "datetime", LaterDatetime)
        self.close()
        self.portal.kill(signal.SIGTERM)
        self.portal.program = ahead("moatvpn.daemon.main")
        self.program = ahead("moatvpn.cli.moat_enrolled")
        self.serve()
        self.portal.start()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with (
        new_box(tmp_path, "fm", MOAT.identity) as moat,
        new_box(tmp_path, "fp", PORTAL.identity) as portal,
    ):
        made = Fleet(moat, portal, tmp_path / "office")
        monkeypatch.setattr(moat_enrol, "_restart", moat.start)
        try:
            yield made
        finally:
            made.close()


def test_a_moat_enrols_a_copied_token_is_told_of_and_half_a_year_changes_nothing(
    fleet: Fleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    token = tmp_path / "claim-token"
    fleet.fleet("claim", "make", CUSTOMER, "--output", str(token))
    copy = Path(shutil.copy(token, tmp_path / "copied-token"))
    fleet.publish()
    fleet.serve()
    assert fleet.enrol("claim", "--token-file", str(token)) == 0
    assert not token.exists()
    assert fleet.collect() == {"changed": True, "recorded": [MOAT.identity], "alarms": []}
    own = read_signer(fleet.moat.key).public_text
    shown = fleet.fleet("customer", "show", CUSTOMER)
    assert [key["public_key"] for key in shown["public_keys"]] == [own]
    wait_until_up(fleet)

    # A second box, with a copy of the token: refused, written down, and an alarm.
    thief = tmp_path / "thief"
    thief.mkdir()
    for name in ("moatd.json", "enrol.pub", "enrol.json"):
        shutil.copy(fleet.moat.directory / name, thief)
    create_key_file(thief / "identity.key")
    capsys.readouterr()
    assert fleet.enrol("claim", "--token-file", str(copy), directory=thief) == 1
    assert "Another box has used this token" in capsys.readouterr().err
    found = fleet.collect(code=4)
    assert found["recorded"] == []
    assert MOAT.wild in found["alarms"][0]
    (claim,) = fleet.fleet("claim", "list")
    assert (claim["state"], claim["used_key"]) == ("used, ALARM", own)
    assert not fleet.collect()["alarms"]  # told of once
    assert fleet.moat.pings(PORTAL.inside)

    # Half a year in a cupboard: the portal's key is replaced twice, and the moat hears of neither.
    fleet.publish()
    fleet.moat.kill(signal.SIGTERM)
    wait_for(lambda: state(fleet.portal) == "waiting", "the portal hears of it", 10)
    fleet.replace_portals_key()
    fleet.half_a_year_on(monkeypatch)
    fleet.collect()
    assert abs(common.now().timestamp() - time.time() - HALF_A_YEAR.total_seconds()) < 5
    fleet.replace_portals_key()
    # It has no battery for its clock, which goes on where it stood.
    fleet.moat.start()
    assert fleet.enrol("pull", "--json") == 0
    wait_until_up(fleet)
    (row,) = ask(fleet.moat.socket, {"command": "status"})["connections"]
    portal = fleet.portal.ctl("key", "status", "--private-key", str(fleet.portal.key))
    assert row["remote_key"] == portal["fingerprint"]
    assert fleet.enrol("claim", "--token-file", str(copy), directory=thief) == 1


def state(box: Box) -> str:
    (row,) = ask(box.socket, {"command": "status"})["connections"]
    return str(row["state"])


def wait_until_up(fleet: Fleet) -> None:
    wait_for(lambda: fleet.moat.pings(PORTAL.inside), "a ping through the tunnel", 20)
