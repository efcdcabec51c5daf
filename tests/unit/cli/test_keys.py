"""moatctl key: each step, each step again, and each step where one was killed halfway."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from moatvpn.cli import keys
from moatvpn.cli.client import DaemonNotRunningError
from moatvpn.cli.moatctl import main
from moatvpn.daemon.keyfile import create_key_file, next_key, old_key, read_signer, read_signers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "identity.key"
    create_key_file(place)
    return place


class Moatd:
    """What answers at the control socket: rows of a status; None: nobody."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] | None = []
        self.reloads = 0

    def ask(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        if self.rows is None:
            raise DaemonNotRunningError("moatd", "does not run", "Start it")
        self.reloads += request["command"] == "reload-keys"
        return {"connections": self.rows}


@pytest.fixture
def moatd(monkeypatch: pytest.MonkeyPatch) -> Moatd:
    made = Moatd()
    monkeypatch.setattr(keys, "ask", made.ask)
    return made


def run(path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["key", action, "--private-key", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert "PRIVATE" not in out
    result: dict[str, Any] = json.loads(out)
    return result


def test_whole_way(path: Path, moatd: Moatd, capsys: pytest.CaptureFixture[str]) -> None:
    first = read_signer(path)
    made = run(path, "make-next", capsys)
    assert made["changed"]
    assert stat.S_IMODE(next_key(path).stat().st_mode) == 0o600
    again = run(path, "make-next", capsys)
    assert not again["changed"]
    assert again["next_public_key"] == made["next_public_key"] != first.public_text
    switched = run(path, "switch", capsys)
    assert switched["public_key"] == made["next_public_key"]
    assert [s.public_text for s in read_signers(path)] == [
        made["next_public_key"],
        first.public_text,
    ]
    assert not run(path, "switch", capsys)["changed"]
    assert moatd.reloads == 2
    finished = run(path, "finish", capsys)
    assert finished["changed"]
    assert finished["old_public_key"] is None
    assert not old_key(path).exists()
    assert not run(path, "finish", capsys)["changed"]


def test_switch_goes_on_where_it_was_killed(
    path: Path, moatd: Moatd, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(path, "make-next", capsys)
    old_key(path).hardlink_to(path)
    assert len(read_signers(path)) == 1
    assert run(path, "switch", capsys)["public_key"] == made["next_public_key"]
    assert len(read_signers(path)) == 2


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("switched", [False, True])
def test_back(
    path: Path,
    moatd: Moatd,
    capsys: pytest.CaptureFixture[str],
    switched: bool,
    killed: bool,
) -> None:
    first = read_signer(path).public_text
    run(path, "make-next", capsys)
    if switched:
        run(path, "switch", capsys)
    elif killed:
        old_key(path).hardlink_to(path)
    back = run(path, "back", capsys)
    assert back["changed"]
    assert back["public_key"] == first
    assert not old_key(path).exists()
    assert not next_key(path).exists()
    assert not run(path, "back", capsys)["changed"]


@pytest.mark.parametrize("row", ["old", "refused", "not running"])
def test_finish_waits_for_every_connection(
    path: Path, moatd: Moatd, capsys: pytest.CaptureFixture[str], row: str
) -> None:
    run(path, "make-next", capsys)
    old = run(path, "switch", capsys)["old_fingerprint"]
    key = old if row == "old" else None
    moatd.rows = [{"name": "c0001", "local_key": key, "key_refused": row == "refused"}]
    if row == "not running":
        moatd.rows = None
    assert main(["key", "finish", "--private-key", str(path)]) == 1
    assert "not proved" in capsys.readouterr().err
    assert old_key(path).exists()


def test_switch_needs_a_next_key(
    path: Path, moatd: Moatd, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "switch", "--private-key", str(path)]) == 1
    assert "make-next" in capsys.readouterr().err
