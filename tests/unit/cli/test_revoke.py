"""moatctl revoke: whom a key belonged to is out, and nothing lets it in again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from connection_records import Moatd, record

from moatvpn.cli import connection_set, moatctl, revoke
from moatvpn.cli.client import DaemonUnreachableError
from moatvpn.cli.moatctl import main
from moatvpn.config import DaemonConfig
from moatvpn.daemon.admission import Admission, read_connection
from moatvpn.errors import ConfigError
from moatvpn.revoked import read_revoked

Tell = Callable[..., Any]


def key(number: int) -> str:
    (found,) = record(number)["remote_public_keys"]
    return str(found)


@pytest.fixture
def moatd(monkeypatch: pytest.MonkeyPatch) -> Moatd:
    made = Moatd()
    for module in (connection_set, moatctl, revoke):
        monkeypatch.setattr(module, "change", made.change)
    return made


@pytest.fixture
def connections(tmp_path: Path) -> Path:
    made = tmp_path / "connections.d"
    made.mkdir()
    return made


@pytest.fixture
def tell(connections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Give moatctl a command and its file; return its answer, or its error's line."""

    def tell(command: str, given: Any, *words: str, status: int = 0) -> Any:
        path = tmp_path / "given.json"
        path.write_text(json.dumps(given))
        places = ("--connections", str(connections), "--json")
        assert main([command, str(path), *words, *places]) == status
        out, err = capsys.readouterr()
        return json.loads(out) if status == 0 else err

    return tell


def names(connections: Path) -> list[str]:
    return sorted(path.stem for path in connections.glob("*.json"))


def test_who_has_a_revoked_key_is_out(tell: Tell, moatd: Moatd, connections: Path) -> None:
    tell("set", {"connections": [record(1), record(2), record(3)]})
    moatd.asked.clear()
    told = tell("revoke", {"keys": [key(2)]})
    assert (told["changed"], told["ended"], told["revoked"]) == (True, ["c2"], 1)
    assert moatd.asked == [("delete", "c2")]
    assert names(connections) == ["c1", "c3"]
    again = tell("revoke", {"keys": [key(2)]})
    assert (again["changed"], again["ended"]) == (False, [])
    assert moatd.asked == [("delete", "c2")]


def test_a_dry_run_tells_and_leaves_all(tell: Tell, moatd: Moatd, connections: Path) -> None:
    tell("set", {"connections": [record(1)]})
    moatd.asked.clear()
    told = tell("revoke", {"keys": [key(1)]}, "--dry-run")
    assert (told["changed"], told["ended"], told["running"]) == (True, ["c1"], None)
    assert (names(connections), read_revoked(connections), moatd.asked) == (["c1"], frozenset(), [])


def test_a_set_from_before_lets_nobody_in(tell: Tell, moatd: Moatd, connections: Path) -> None:
    before = {"connections": [record(1), record(2)]}
    tell("set", before)
    tell("revoke", {"keys": [key(2)]})
    told = tell("set", before)
    assert (told["changed"], told["revoked"]) == (False, ["c2"])
    assert names(connections) == ["c1"]
    for command in ("add", "replace"):
        assert "revoked" in tell(command, record(2), status=1)
    # The customer's next box has another key, and comes in.
    tell("add", record(2, remote_public_keys=[key(7)]))
    assert names(connections) == ["c1", "c2"]


def test_of_two_keys_the_other_one_stays(tell: Tell, moatd: Moatd, connections: Path) -> None:
    both = record(1, remote_public_keys=[key(1), key(7)])
    tell("set", {"connections": [both]})
    told = tell("revoke", {"keys": [key(1)]})
    assert (told["replaced"], told["ended"]) == (["c1"], [])
    assert read_connection(connections / "c1.json").remote_public_keys == (key(7),)
    assert tell("set", {"connections": [both]})["revoked"] == ["c1"]
    assert read_connection(connections / "c1.json").remote_public_keys == (key(7),)


def test_who_has_no_key_is_known_by_identity(tell: Tell, moatd: Moatd, connections: Path) -> None:
    secret = {"authentication": "psk", "psk_file": "/etc/moatvpn/psk", "remote_public_keys": []}
    tell("set", {"connections": [record(1, **secret), record(2)]})
    identities = [record(number)["remote_identity"] for number in (1, 2)]
    # The second is another box by now: its key says so.
    assert tell("revoke", {"keys": [key(9)], "identities": identities})["ended"] == ["c1"]
    assert names(connections) == ["c2"]


def test_a_stuck_moatd_keeps_nobody_in(tell: Tell, moatd: Moatd, connections: Path) -> None:
    tell("set", {"connections": [record(1), record(2)]})
    moatd.refuses["c1"] = DaemonUnreachableError
    tell("revoke", {"keys": [key(1), key(2)]}, status=3)
    assert ("delete", "c2") in moatd.asked
    assert names(connections) == []
    assert read_revoked(connections) == {key(1), key(2)}


def test_moatd_lets_none_of_them_in_at_its_start(connections: Path) -> None:
    path = connections / "c1.json"
    path.write_text(json.dumps(record(1)))
    (connections / "revoked.keys").write_text(f"{key(1)}\n")
    daemon = DaemonConfig("portal.example.net", Path("/key"), connections=connections)
    with pytest.raises(ConfigError, match="revoked"):
        Admission(daemon).read(path)
    path.write_text(json.dumps(record(1, remote_public_keys=[key(1), key(7)])))
    assert Admission(daemon).read(path).remote_public_keys == (key(7),)


@pytest.mark.parametrize("content", ["no key\n", "AAAA\n", "\xff"])
def test_nobody_is_let_in_while_nobody_knows(connections: Path, tell: Tell, content: str) -> None:
    (connections / "revoked.keys").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match="whose keys are revoked"):
        read_revoked(connections)
    assert "whose keys are revoked" in tell("set", {"connections": [record(1)]}, status=1)
    assert names(connections) == []


@pytest.mark.parametrize(
    "given", [{}, {"keys": "all"}, {"keys": ["AAAA"]}, {"identities": ["?"]}, {"names": []}]
)
def test_what_is_no_list_of_who_is_revoked(tell: Tell, given: Any) -> None:
    assert "moatctl" in tell("revoke", given, status=1)
