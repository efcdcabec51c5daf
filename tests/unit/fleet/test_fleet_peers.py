"""moat-fleet peers sign: what a portal is to have, signed, under a serial that only grows."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_words import with_options
from typer.testing import Result

from moatvpn.crypto.seal import generate_seal, load_seal
from moatvpn.peers import PeerSet, open_peers

Fleet = Callable[..., Result]
Texts = dict[str, str]
PORTALS = ("portal1.example.net", "portal2.example.net")
PASSPHRASE = b"a passphrase of the tests"


class Office:
    """A database, and who signs out of it."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self.fleet = fleet
        self._directory = directory
        pem = generate_seal(PASSPHRASE)
        for name, content in (("signing.key", pem), ("passphrase", PASSPHRASE)):
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o600)
        self._public = load_seal(pem, PASSPHRASE).public_text

    def sign(self, *words: str) -> dict[str, PeerSet]:
        result = self.fleet(
            "peers", "sign", *words, "--key", str(self._directory / "signing.key"),
            "--passphrase-file", str(self._directory / "passphrase"),
            "--directory", str(self._directory / "peers"), "--json",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        rows: list[dict[str, Any]] = json.loads(result.stdout)
        found = {}
        for row in rows:
            path = Path(row["file"])
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
            peers = open_peers(path.read_bytes(), [self._public], row["portal"], "file")
            assert (peers.serial, len(peers.rows)) == (row["serial"], row["connections"])
            found[row["portal"]] = peers
        return found


@pytest.fixture
def office(
    fleet_at: Callable[[str], Fleet],
    sqlite_url: str,
    portal_texts: Texts,
    portal2_texts: Texts,
    customer: Callable[..., Texts],
    key: Callable[[int], str],
    tmp_path: Path,
) -> Office:
    """Two portals, and at the first one two customers."""
    fleet = fleet_at(sqlite_url)
    assert fleet("init").exit_code == 0
    given = [("portal", portal_texts), ("portal", portal2_texts)]
    given += [("customer", customer(number, status="active")) for number in (1, 2)]
    for kind, texts in given:
        assert fleet(kind, "add", *with_options(texts, kind)).exit_code == 0
    for number in (1, 2):
        box = f"m{number:04}.moats.example.net"
        assert fleet("key", "record", box, key(number)).exit_code == 0
    return Office(fleet, tmp_path)


def test_each_portal_gets_its_own(office: Office, key: Callable[[int], str]) -> None:
    found = office.sign()
    assert [(name, peers.serial) for name, peers in found.items()] == [(p, 1) for p in PORTALS]
    first = found[PORTALS[0]].connections()
    assert list(first) == ["c0001", "c0002"]
    assert first["c0002"].remote_public_keys == (key(2),)
    assert first["c0002"].local_selectors == ("0.0.0.0/0", "::/0")
    assert found[PORTALS[1]].connections() == {}


def test_the_serial_grows_with_what_is_in_it(office: Office, tmp_path: Path) -> None:
    assert office.sign(PORTALS[0])[PORTALS[0]].serial == 1
    assert office.sign(PORTALS[0])[PORTALS[0]].serial == 1
    office.fleet("customer", "suspend", "c0001")
    found = office.sign()
    assert {name: peers.serial for name, peers in found.items()} == {PORTALS[0]: 2, PORTALS[1]: 1}
    assert list(found[PORTALS[0]].connections()) == ["c0002"]
    settings = tmp_path / "settings.json"
    settings.write_text('{"post_quantum": "require"}')
    peers = office.sign(PORTALS[0], "--connection-settings", str(settings))[PORTALS[0]]
    assert (peers.serial, peers.common["post_quantum"]) == (3, "require")


def test_a_portal_that_is_not_there(office: Office) -> None:
    result = office.fleet("peers", "sign", "portal9.example.net", "--key", "none")
    assert result.exit_code == 1
