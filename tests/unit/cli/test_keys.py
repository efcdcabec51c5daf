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


def row(key: str | None, **changes: Any) -> dict[str, Any]:
    """Return what `status` tells of a connection that is up by a key."""
    return {
        "name": "c0001",
        "authentication": "raw-public-key",
        "state": "established",
        "role": "responder",
        "local_key": key,
        "key_refused": False,
        **changes,
    }


AWAY = {"key": None, "state": "waiting"}


@pytest.mark.parametrize(
    ("changes", "wants"),
    [
        ({}, "finished"),
        ({"key": "old"}, "not proved to c0001"),
        ({"key": None}, "not proved to c0001"),  # resumed by a ticket
        ({"key_refused": True}, "not proved to c0001"),
        ({"key": None, "state": "connecting", "role": "initiator"}, "not proved to c0001"),
        (AWAY, "did not call yet"),
        ({"key": None, "authentication": "psk"}, "finished"),
        ({**AWAY, "authentication": "certificate"}, "finished"),
        (None, "moatd does not run"),
    ],
)
def test_finish_waits_for_every_connection(
    path: Path,
    moatd: Moatd,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any] | None,
    wants: str,
) -> None:
    run(path, "make-next", capsys)
    switched = run(path, "switch", capsys)
    marks = {"old": switched["old_fingerprint"], "new": switched["fingerprint"], None: None}
    more = dict(changes or {})
    key = marks[more.pop("key", "new")]
    moatd.rows = None if changes is None else [row(marks["new"]), row(key, **more)]
    refused = main(["key", "finish", "--private-key", str(path)])
    assert refused == (wants != "finished")
    assert wants == "finished" or wants in capsys.readouterr().err
    assert old_key(path).exists() == bool(refused)


def test_finish_leaves_out_who_is_absent_where_it_is_told_to(
    path: Path, moatd: Moatd, capsys: pytest.CaptureFixture[str]
) -> None:
    run(path, "make-next", capsys)
    new = run(path, "switch", capsys)["fingerprint"]
    words = ["key", "finish", "--despite-absent", "--private-key", str(path)]
    moatd.rows = [row(new), row(None, state="waiting"), row(None, key_refused=True)]
    assert main(words) == 1
    moatd.rows.pop()
    assert main(words) == 0
    assert not old_key(path).exists()


def test_switch_needs_a_next_key(
    path: Path, moatd: Moatd, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "switch", "--private-key", str(path)]) == 1
    assert "make-next" in capsys.readouterr().err
