"""moatctl set --signed: what the operator has signed, nothing older, and nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from connection_records import Moatd, record

from moatvpn.cli import connection_set, revoke
from moatvpn.cli.moatctl import main
from moatvpn.config import DaemonConfig, daemon_from_dict, load_json
from moatvpn.crypto.seal import Seal, generate_seal, load_seal
from moatvpn.daemon.admission import Admission, connection_files
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.peers import FILE, digest_of, make_peers, seal_peers

Tell = Callable[..., Any]
PORTAL = "portal1.example.net"


def new_seal() -> Seal:
    return load_seal(generate_seal(b"a passphrase"), b"a passphrase")


@pytest.fixture(scope="module")
def seal() -> Seal:
    return new_seal()


@pytest.fixture
def moatd(monkeypatch: pytest.MonkeyPatch) -> Moatd:
    made = Moatd()
    for module in (connection_set, revoke):
        monkeypatch.setattr(module, "change", made.change)
    return made


@pytest.fixture
def daemon(tmp_path: Path, seal: Seal) -> DaemonConfig:
    """A portal's settings, with the operator's key."""
    (tmp_path / "connections.d").mkdir()
    (tmp_path / "operator.pub").write_text(seal.public_text + "\n")
    settings = {"identity": PORTAL, "private_key": "/key"}
    settings |= {"operator_keys": str(tmp_path / "operator.pub")}
    settings |= {"connections": str(tmp_path / "connections.d")}
    (tmp_path / "moatd.json").write_text(json.dumps(settings))
    return daemon_from_dict(load_json(tmp_path / "moatd.json"))


@pytest.fixture
def tell(
    daemon: DaemonConfig, tmp_path: Path, moatd: Moatd, capsys: pytest.CaptureFixture[str]
) -> Tell:
    """Give moatctl a command and its file; return its answer, or its error's line."""

    def tell(command: str, given: Any, *words: str, status: int = 0) -> Any:
        path = tmp_path / "given.json"
        path.write_bytes(given if isinstance(given, bytes) else json.dumps(given).encode())
        places = ["--connections", str(daemon.connections), "--json"]
        if "--signed" in words:
            places += ["--config", str(tmp_path / "moatd.json")]
        assert main([command, str(path), *words, *places]) == status
        out, err = capsys.readouterr()
        return json.loads(out) if status == 0 else err

    return tell


def signed(seal: Seal, serial: int, *numbers: int, portal: str = PORTAL, **changes: Any) -> bytes:
    records = [record(number, **changes) for number in numbers]
    return seal_peers(replace(make_peers(portal, records, {}), serial=serial), seal)


def admitted(daemon: DaemonConfig) -> list[str]:
    """Return whom a moatd that starts now lets in."""
    admission = Admission(daemon)
    found = []
    for path in connection_files(daemon.connections):
        try:
            found.append(admission.read(path).name)
        except ConfigError:
            continue
    return found


def test_the_difference_is_applied(
    tell: Tell, moatd: Moatd, seal: Seal, daemon: DaemonConfig
) -> None:
    told = tell("set", signed(seal, 4, 1, 2), "--signed")
    assert (told["added"], told["serial"], told["changed"]) == (["c1", "c2"], 4, True)
    assert tell("set", signed(seal, 4, 1, 2), "--signed")["changed"] is False
    moatd.asked.clear()
    told = tell("set", signed(seal, 5, 2, 3), "--signed")
    assert moatd.asked == [("delete", "c1"), ("replace", "c3")]
    assert admitted(daemon) == ["c2", "c3"]


def test_a_dry_run_leaves_all(tell: Tell, moatd: Moatd, seal: Seal, daemon: DaemonConfig) -> None:
    told = tell("set", signed(seal, 4, 1), "--signed", "--dry-run")
    assert (told["changed"], told["added"], moatd.asked) == (True, ["c1"], [])
    assert list(daemon.connections.iterdir()) == []


def test_none_is_older_than_the_one_in_force(
    tell: Tell, moatd: Moatd, seal: Seal, daemon: DaemonConfig
) -> None:
    tell("set", signed(seal, 5, 1), "--signed")
    moatd.asked.clear()
    assert "5 is in force" in tell("set", signed(seal, 4, 1, 2), "--signed", status=1)
    assert "another one" in tell("set", signed(seal, 5, 1, 2), "--signed", status=1)
    assert (moatd.asked, admitted(daemon)) == ([], ["c1"])
    # The same with a serial of its own says no more than that it is newer.
    assert tell("set", signed(seal, 6, 1), "--signed")["changed"] is True
    assert "6 is in force" in tell("set", signed(seal, 5, 1), "--signed", status=1)


def test_what_is_not_the_operators_is_refused(
    tell: Tell, moatd: Moatd, seal: Seal, daemon: DaemonConfig
) -> None:
    changed = json.loads(signed(seal, 4, 1))
    payload = base64.b64decode(changed["payload"]).replace(b"10.201.1.0", b"10.201.0.0")
    changed["payload"] = base64.b64encode(payload).decode()
    for wrong, why in (
        (signed(new_seal(), 4, 1), "not signed by the operator"),
        (json.dumps(changed).encode(), "not signed by the operator"),
        (signed(seal, 4, 1, portal="portal2.example.net"), "this is portal1"),
        (json.dumps({"connections": [record(1)]}).encode(), "no signed set"),
    ):
        assert why in tell("set", wrong, "--signed", status=1)
    assert (moatd.asked, list(daemon.connections.iterdir())) == ([], [])


def test_at_a_start_nobody_is_let_in_who_is_not_signed(
    tell: Tell, seal: Seal, daemon: DaemonConfig
) -> None:
    (daemon.connections / "c9.json").write_text(json.dumps(record(9)))
    assert admitted(daemon) == []
    tell("set", signed(seal, 4, 1, 2), "--signed")
    (daemon.connections / "c9.json").write_text(json.dumps(record(9)))
    other = record(2, remote_public_keys=record(9)["remote_public_keys"])
    (daemon.connections / "c2.json").write_text(json.dumps(other))
    assert admitted(daemon) == ["c1"]
    # What was changed by hand is put right by the set that is in force.
    told = tell("set", signed(seal, 4, 1, 2), "--signed")
    assert (told["replaced"], told["deleted"]) == (["c2"], ["c9"])
    assert admitted(daemon) == ["c1", "c2"]
    with (daemon.connections / FILE).open("r+b") as file:
        file.write(b"[")
    with pytest.raises(OperatorError):
        Admission(daemon)


def test_who_was_left_out_at_a_start_is_let_in_once_signed(
    tell: Tell, moatd: Moatd, seal: Seal, daemon: DaemonConfig
) -> None:
    for number in (1, 2):
        (daemon.connections / f"c{number}.json").write_text(json.dumps(record(number)))
    tell("set", signed(seal, 4, 1), "--signed")
    assert ("replace", "c1") in moatd.asked
    (daemon.connections / "c2.json").write_text(json.dumps(record(2)))
    moatd.asked.clear()
    tell("set", signed(seal, 5, 1, 2), "--signed")
    assert moatd.asked == [("replace", "c2")]


def test_a_revocation_needs_no_signature(tell: Tell, seal: Seal, daemon: DaemonConfig) -> None:
    tell("set", signed(seal, 4, 1, 2), "--signed")
    tell("revoke", {"keys": record(2)["remote_public_keys"]})
    assert admitted(daemon) == ["c1"]
    told = tell("set", signed(seal, 4, 1, 2), "--signed")
    assert (told["revoked"], told["changed"]) == (["c2"], False)


def test_without_a_signature_nothing_is_added(tell: Tell, seal: Seal) -> None:
    tell("set", signed(seal, 4, 1), "--signed")
    for command, given in (
        ("set", {"connections": [record(1), record(2)]}),
        ("add", record(2)),
        ("replace", record(1)),
    ):
        assert "set --signed" in tell(command, given, status=1)


def test_a_ppk_comes_besides(tell: Tell, seal: Seal, daemon: DaemonConfig) -> None:
    ppk = {"name": "c1", "ppk_id": "one", "ppk_file": "/etc/moatvpn/ppk", "ppk_required": True}
    given = {"signed": json.loads(signed(seal, 4, 1, 2)), "besides": [ppk, {"name": "c8"}]}
    tell("set", given, "--signed")
    assert admitted(daemon) == ["c1", "c2"]
    stored = load_json(daemon.connections / "c1.json")
    assert (stored["ppk_id"], stored["ppk_file"]) == ("one", "/etc/moatvpn/ppk")
    # But nothing in the place of the key that is signed.
    given["besides"] = [{"name": "c1", "authentication": "psk", "psk_file": "/etc/moatvpn/psk"}]
    assert "without the public key" in tell("set", given, "--signed", status=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"ppk_id": "one", "ppk_file": "/etc/moatvpn/ppk"},
        {"authentication": "psk", "psk_file": "/etc/moatvpn/psk", "remote_public_keys": []},
    ],
)
def test_what_cannot_be_signed(seal: Seal, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        signed(seal, 1, 1, 2, **changes)


def test_a_set_that_is_not_the_databases_is_refused(tell: Tell, seal: Seal) -> None:
    given = {"signed": json.loads(signed(seal, 4, 1, 2)), "digest": digest_of([record(1)])}
    assert "customer database" in tell("set", given, "--signed", status=1)
    given["digest"] = digest_of([record(2), record(1)])
    assert tell("set", given, "--signed")["added"] == ["c1", "c2"]


def test_ten_thousand_fit(seal: Seal) -> None:
    keys = record(1)["remote_public_keys"] * 2
    records = [
        {
            "name": f"c{n:05}",
            "remote_identity": f"m{n:05}.moats.example.net",
            "remote_public_keys": keys,
            "local_selectors": ["0.0.0.0/0", "::/0"],
            "remote_selectors": [f"10.{n >> 8}.{n & 255}.0/24", f"fd00:{n:x}::/64"],
        }
        for n in range(10_000)
    ]
    assert len(seal_peers(make_peers(PORTAL, records, {}), seal)) < 8 << 20
