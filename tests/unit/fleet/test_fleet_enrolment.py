"""What is published for an enrolment service, and the commands that make it."""

from __future__ import annotations

import datetime
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_words import with_options
from typer.testing import Result

from moatvpn.crypto.seal import generate_seal, load_seal
from moatvpn.crypto.self_signed import self_signed
from moatvpn.enrol.claims import token_hash
from moatvpn.enrol.documents import certificate_digest, open_configuration, open_voucher, walk
from moatvpn.enrol.journal import BOUND, Seen
from moatvpn.enrol.published import Published, read_published

Fleet = Callable[..., Result]
Texts = dict[str, str]
PORTAL = "portal1.example.net"
MOAT = "m0001.moats.example.net"
PASSPHRASE = b"a passphrase of the tests"
BEGIN, END = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2020, 9999))


def output(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


class Office:
    """An operator at work: a database, a signing key, what site.yml has brought from a portal."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self.fleet = fleet
        self.directory = directory
        self.secret = directory / "passphrase"
        self.secret.write_bytes(PASSPHRASE)
        self.secret.chmod(0o600)
        self.public_key = self.new_key("signing.key")
        _, certificate = self_signed("enrol", BEGIN, END)
        self.pem = directory / f"{PORTAL}.tls.pem"
        self.pem.write_bytes(certificate)

    def new_key(self, name: str) -> str:
        pem = generate_seal(PASSPHRASE)
        (self.directory / name).write_bytes(pem)
        (self.directory / name).chmod(0o600)
        return load_seal(pem, PASSPHRASE).public_text

    def signs(self, name: str = "signing.key") -> list[str]:
        words = ["--key", str(self.directory / name), "--passphrase-file", str(self.secret)]
        return [*words, "--directory", str(self.directory)]

    def publish(self, *words: str, key: str = "signing.key") -> Published:
        found = output(self.fleet("enrol", "publish", PORTAL, *self.signs(key), *words, "--json"))
        path = Path(found["file"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return read_published(path.read_bytes(), "published")


@pytest.fixture
def office(
    fleet: Fleet,
    portal_texts: Texts,
    customer: Callable[..., Texts],
    key: Callable[[int], str],
    tmp_path: Path,
) -> Office:
    """A portal with a key, one customer who is served, and one who is suspended."""
    assert fleet("init").exit_code == 0
    given = [("portal", portal_texts)]
    given += [("customer", customer(n, status=s)) for n, s in ((1, "shipped"), (2, "suspended"))]
    for kind, texts in given:
        added = fleet(kind, "add", *with_options(texts, kind))
        assert added.exit_code == 0, added.stderr
    assert fleet("key", "record", PORTAL, key(9)).exit_code == 0
    return Office(fleet, tmp_path)


def test_settings_are_signed_and_their_serial_grows_with_them(
    office: Office, key: Callable[[int], str]
) -> None:
    first = office.publish("--server", "192.0.2.1")
    assert list(first.entries) == [MOAT]
    entry = first.entries[MOAT]
    settings = open_configuration(entry.configuration, [office.public_key])
    assert (settings.identity, settings.serial, entry.serial) == (MOAT, 1, 1)
    assert settings.servers == ("192.0.2.1",)
    (connection,) = settings.connections
    assert connection.remote_identity == PORTAL
    assert connection.remote_public_keys == (key(9),)
    assert office.publish("--server", "192.0.2.1").entries[MOAT].serial == 1
    assert office.publish("--server", "192.0.2.2").entries[MOAT].serial == 2
    more = office.directory / "settings.json"
    more.write_text('{"dpd_interval": 3.0}')
    again = office.publish("--connection-settings", str(more)).entries[MOAT]
    opened = open_configuration(again.configuration, [office.public_key])
    assert (opened.serial, opened.connections[0].dpd_interval) == (3, 3.0)


def test_the_voucher_is_of_the_portals_certificate(office: Office) -> None:
    digest = certificate_digest(office.pem.read_text())
    voucher = open_voucher(office.publish().voucher, [office.public_key])
    assert (voucher.certificate, voucher.serial) == (digest, 1)
    _, other = self_signed("enrol", BEGIN, END)
    office.pem.write_bytes(other)
    voucher = open_voucher(office.publish().voucher, [office.public_key])
    assert voucher.certificate != digest
    assert voucher.serial == 2


def test_a_moat_with_nobody_to_call_is_no_settings(
    office: Office, key: Callable[[int], str]
) -> None:
    ended = ("--not-before", "2020-01-01", "--not-after", "2020-01-02")
    assert office.fleet("key", "record", PORTAL, key(9), *ended).exit_code == 0
    result = office.fleet("enrol", "publish", PORTAL, *office.signs())
    assert result.exit_code == 1
    assert MOAT in result.stderr
    assert not (office.directory / f"{PORTAL}.published").exists()


def test_a_portal_without_a_certificate_yet(office: Office) -> None:
    office.pem.unlink()
    result = office.fleet("enrol", "publish", PORTAL, *office.signs())
    assert result.exit_code == 1
    assert "tls.pem" in result.stderr


def test_the_signing_key_hands_over(office: Office) -> None:
    successor = office.new_key("next.key")
    assert output(office.fleet("enrol", "handover", successor, *office.signs(), "--json"))[
        "changed"
    ]
    published = office.publish(key="next.key")
    assert walk([office.public_key], published.handovers) == (successor,)
    third = office.new_key("third.key")
    office.fleet("enrol", "handover", third, *office.signs("next.key"))
    published = office.publish(key="third.key")
    assert walk([office.public_key], published.handovers) == (third,)


def test_a_claim_from_its_making_to_the_moats_key(
    office: Office, key: Callable[[int], str]
) -> None:
    token = output(office.fleet("claim", "make", "c0001", "--json"))["token"]
    entry = office.publish().entries[MOAT]
    (claim,) = entry.claims
    assert (claim.token_hash, claim.used_key, entry.keys) == (token_hash(token), None, ())
    line = Seen(1_800_000_000.0, BOUND, claim.token_hash, MOAT, key(1), "192.0.2.7")
    journal = office.directory / f"{PORTAL}.journal"
    record = {name: getattr(line, name) for name in Seen.__slots__}
    journal.write_text(json.dumps(record) + "\n")
    found = output(office.fleet("claim", "collect", str(journal), "--json"))
    assert found == {"changed": True, "recorded": [MOAT], "alarms": []}
    entry = office.publish().entries[MOAT]
    assert (entry.claims[0].used_key, entry.keys) == (key(1), (key(1),))
    assert token not in office.fleet("claim", "list", "--json").stdout
    journal.write_text(journal.read_text() + json.dumps(record | {"public_key": key(2)}) + "\n")
    found = output(office.fleet("claim", "collect", str(journal), "--json"), 4)
    assert len(found["alarms"]) == 1
    (row,) = output(office.fleet("claim", "list", "--json"))
    assert row["state"] == "used, ALARM"


def test_a_token_into_a_file_of_an_image(office: Office) -> None:
    path = office.directory / "claim-token"
    result = office.fleet("claim", "make", "c0001", "--output", str(path), "--days", "7")
    assert result.exit_code == 0
    token = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in result.stdout
    (claim,) = office.publish().entries[MOAT].claims
    assert claim.token_hash == token_hash(token)
    assert output(office.fleet("claim", "cancel", "c0001", "--json"))["cancelled"] == 1
    assert office.publish().entries[MOAT].claims == ()


def test_a_token_that_nobody_gets_is_no_claim(office: Office) -> None:
    path = office.directory / "no" / "claim-token"
    assert office.fleet("claim", "make", "c0001", "--output", str(path)).exit_code == 1
    assert output(office.fleet("claim", "list", "--json")) == []
