"""moatctl against a real control socket whose commands the test plays."""

from __future__ import annotations

import base64
import io
import json
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moatvpn.cli.moatctl import main
from moatvpn.config import ED25519_SPKI_PREFIX, connection_from_dict, connection_to_dict
from moatvpn.daemon.control import ControlServer, Peer
from moatvpn.drivers.clock import monotonic
from moatvpn.drivers.loop import Loop
from moatvpn.errors import OperatorError

RECORD: dict[str, Any] = {
    "name": "c1",
    "remote_identity": "m1.moats.example.net",
    "remote_public_keys": [base64.b64encode(ED25519_SPKI_PREFIX + bytes(32)).decode()],
    "local_selectors": ["0.0.0.0/0"],
    "remote_selectors": ["10.201.1.0/24"],
}
ROW: dict[str, Any] = {
    "name": "c1",
    "state": "established",
    "peer": "192.0.2.10:500",
    "encapsulation": "esp",
    "key_exchange": "x25519+mlkem768",
    "established_for": 3725.0,
    "child_rekey_in": 59.0,
    "packets_in": 12,
    "bytes_in": 3456,
    "packets_out": 7,
    "bytes_out": 890,
    "loss_in": 0.012345,
    "recent_loss_in": 0.0,
}


class Daemon:
    """A control server in a thread; answer is what the test wants it to say."""

    def __init__(self, path: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Any] = lambda request: {"changed": True}
        self._stop = threading.Event()
        self._loop = Loop(monotonic)
        self._server = ControlServer(path, self._loop, monotonic, self._handle)
        self._thread = threading.Thread(
            target=self._loop.run, args=(lambda: monotonic() + 0.05, self._tick)
        )
        self._thread.start()

    def _handle(self, request: dict[str, Any], peer: Peer) -> Any:
        self.requests.append(request)
        return self.answer(request)

    def _tick(self) -> None:
        if self._stop.is_set():
            self._loop.stop()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._server.close()
        self._loop.close()


class Ctl:
    """Runs moatctl with the places of this test."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.socket = directory / "control.sock"
        self.connections = directory / "connections.d"
        self.connections.mkdir()
        self._directory = directory
        self._capsys = capsys

    def file(self, **changes: Any) -> str:
        path = self._directory / "connection.json"
        path.write_text(json.dumps({**RECORD, **changes}))
        return str(path)

    def stored(self) -> dict[str, Any]:
        return {
            path.name: json.loads(path.read_text())["child_lifetime"]
            for path in self.connections.iterdir()
        }

    def __call__(self, *words: str) -> tuple[int, str, str]:
        places = ["--socket", str(self.socket)]
        if words[0] in ("add", "replace", "delete"):
            places += ["--connections", str(self.connections)]
        status = main([*words, *places])
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err

    def json(self, *words: str) -> Any:
        status, out, err = self(*words, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def ctl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ctl:
    return Ctl(tmp_path, capsys)


@pytest.fixture
def daemon(ctl: Ctl) -> Iterator[Daemon]:
    daemon = Daemon(ctl.socket)
    yield daemon
    daemon.close()


def refuse(request: dict[str, Any]) -> Any:
    raise OperatorError("connection c1", "is refused", "Do otherwise")


def test_status_is_a_table(ctl: Ctl, daemon: Daemon) -> None:
    waiting = dict.fromkeys(ROW) | {"name": "c2", "state": "waiting"}
    waiting |= {key: 0 for key in ROW if key.startswith(("packets", "bytes"))}
    status = {"connections": [ROW, waiting], "drops": {"esp-replayed": 5}}
    daemon.answer = lambda request: status
    assert ctl("status")[1] == (
        "NAME  STATE        PEER            VIA  KEYS BY          UP FOR  IN           OUT        "
        "LOST IN / NOW  REKEY IN\n"
        "c1    established  192.0.2.10:500  esp  x25519+mlkem768  1h02m   12 / 3.5 kB  7 / 890 B  "
        "1.2% / 0%      59s\n"
        "c2    waiting      -               -    -                -       0 / 0 B      0 / 0 B    "
        "- / -          -\n"
        "\n"
        "DROPPED BECAUSE  PACKETS\n"
        "esp-replayed     5\n"
    )
    assert ctl.json("status") == status
    daemon.answer = lambda request: {"connections": [], "drops": {}}
    assert ctl("status")[1] == "no connections\n"


def test_status_of_one(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer = lambda request: ROW
    assert ctl.json("status", "c1") == {"connections": [ROW]}
    assert daemon.requests == [{"command": "show", "name": "c1"}]
    assert "established" in ctl("status", "c1")[1]


def test_show(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer = lambda request: {"name": "c1", "peer": None, "config": {"list": ["a", "b"]}}
    assert ctl("show", "c1")[1] == "name: c1\npeer: -\nconfig:\n  list: a, b\n"


@pytest.mark.parametrize(
    ("words", "sa"), [(["c1"], "child"), (["c1", "ike"], "ike"), (["c1", "--ike"], "ike")]
)
def test_rekey(ctl: Ctl, daemon: Daemon, words: list[str], sa: str) -> None:
    assert ctl("rekey", *words)[:2] == (0, f"connection c1: rekey of its {sa} SA started\n")
    assert daemon.requests == [{"command": "rekey", "name": "c1", "sa": sa}]


@pytest.mark.parametrize(
    ("words", "request_", "told"),
    [
        (
            ["c1", "198.51.100.3"],
            {"name": "c1", "all": False, "off": False, "gateway": "198.51.100.3"},
            "connection c1: redirect to 198.51.100.3, 1 told at once\n",
        ),
        (
            ["--all", "p2.example.net"],
            {"all": True, "off": False, "gateway": "p2.example.net"},
            "all connections: redirect to p2.example.net, 1 told at once\n",
        ),
        (
            ["c1", "--off"],
            {"name": "c1", "all": False, "off": True},
            "connection c1: redirect ended\n",
        ),
        (["--all", "--off"], {"all": True, "off": True}, "all connections: redirect ended\n"),
    ],
)
def test_redirect(
    ctl: Ctl, daemon: Daemon, words: list[str], request_: dict[str, Any], told: str
) -> None:
    daemon.answer = lambda _: {"changed": True, "told": 1}
    assert ctl("redirect", *words)[:2] == (0, told)
    assert daemon.requests == [{"command": "redirect", **request_}]


@pytest.mark.parametrize(
    "words", [[], ["c1"], ["--all"], ["c1", "a", "b"], ["--all", "--off", "x"]]
)
def test_redirect_with_words_that_mean_nothing(ctl: Ctl, words: list[str]) -> None:
    status, _, err = ctl("redirect", *words)
    assert status == 1
    assert "Give NAME GATEWAY" in err


def test_log_level(ctl: Ctl, daemon: Daemon) -> None:
    assert ctl.json("log-level", "debug") == {"changed": True}
    assert daemon.requests == [{"command": "log-level", "level": "debug"}]
    with pytest.raises(SystemExit) as caught:
        ctl("log-level", "loud")
    assert caught.value.code == 2


def test_add_reaches_the_daemon_and_the_directory(ctl: Ctl, daemon: Daemon) -> None:
    assert ctl.json("add", ctl.file()) == {"changed": True, "running": True}
    assert daemon.requests[0]["command"] == "add"
    assert daemon.requests[0]["connection"]["name"] == "c1"
    path = ctl.connections / "c1.json"
    assert json.loads(path.read_text()) == daemon.requests[0]["connection"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    status, _, err = ctl("add", ctl.file())
    assert (status, err) == (
        1,
        "moatctl: connection c1: is there already. Use `moatctl replace`\n",
    )
    assert len(daemon.requests) == 1


@pytest.mark.parametrize("word", ["add", "replace"])
def test_what_the_daemon_refuses_is_not_stored(ctl: Ctl, daemon: Daemon, word: str) -> None:
    daemon.answer = refuse
    refused = (1, "", "moatctl: connection c1: is refused. Do otherwise\n")
    assert ctl(word, ctl.file()) == refused
    assert ctl.stored() == {}
    daemon.answer = lambda request: {"changed": True}
    ctl("add", ctl.file(child_lifetime=600))
    daemon.answer = refuse
    assert ctl("replace", ctl.file(child_lifetime=700)) == refused
    assert ctl("delete", "c1") == refused
    assert ctl.stored() == {"c1.json": 600}


@pytest.mark.parametrize("word", ["add", "replace"])
def test_what_is_not_valid_reaches_nobody(ctl: Ctl, daemon: Daemon, word: str) -> None:
    status, _, err = ctl(word, ctl.file(remote_identity="NOT A NAME"))
    assert status == 1
    assert err.startswith("moatctl: ")
    assert "remote_identity: is 'NOT A NAME'. Give a domain name" in err
    assert err.count("\n") == 1
    assert daemon.requests == []
    assert ctl.stored() == {}


def test_replace_tells_the_truth_about_changes(ctl: Ctl, daemon: Daemon) -> None:
    changed, unchanged = {"changed": True, "running": True}, {"changed": False, "running": True}
    assert ctl.json("replace", ctl.file()) == changed
    daemon.answer = lambda request: {"changed": False}
    assert ctl.json("replace", ctl.file()) == unchanged
    # The daemon has it, but the file is another one, or is broken.
    assert ctl.json("replace", ctl.file(child_lifetime=600)) == changed
    (ctl.connections / "c1.json").write_text("broken")
    assert ctl.json("replace", ctl.file(child_lifetime=600)) == changed
    assert ctl.stored() == {"c1.json": 600}
    # The file is as it should be, but the daemon had another one.
    daemon.answer = lambda request: {"changed": True}
    assert ctl.json("replace", ctl.file(child_lifetime=600)) == changed


def test_delete(ctl: Ctl, daemon: Daemon) -> None:
    ctl("add", ctl.file())
    assert ctl.json("delete", "c1") == {"changed": True, "running": True}
    assert ctl.stored() == {}
    daemon.answer = lambda request: {"changed": False}
    assert ctl.json("delete", "c1") == {"changed": False, "running": True}
    assert ctl("delete", "c1")[1] == "connection c1: not there\n"


@pytest.mark.parametrize("name", ["../c1", "/etc/passwd", ".c1", ""])
def test_a_name_does_not_lead_out_of_the_directory(ctl: Ctl, daemon: Daemon, name: str) -> None:
    precious = ctl.connections.parent / "c1.json"
    precious.write_text("precious")
    status, _, err = ctl("delete", name)
    assert status == 1
    assert "is not a name" in err
    assert precious.read_text() == "precious"
    assert daemon.requests == []


def test_without_a_daemon_changes_are_stored_and_said_to_wait(ctl: Ctl) -> None:
    waits = "(moatd does not run; it reads this when it starts)\n"
    assert ctl("add", ctl.file()) == (0, f"connection c1: added {waits}", "")
    assert ctl.json("replace", ctl.file()) == {"changed": False, "running": False}
    replaced = ctl("replace", ctl.file(child_lifetime=600))
    assert replaced == (0, f"connection c1: replaced {waits}", "")
    assert ctl.stored() == {"c1.json": 600}
    assert ctl.json("delete", "c1") == {"changed": True, "running": False}
    assert ctl.stored() == {}


@pytest.mark.parametrize("words", [["status"], ["show", "c1"], ["rekey", "c1"]])
def test_without_a_daemon_questions_end_with_3(ctl: Ctl, words: list[str]) -> None:
    status, out, err = ctl(*words)
    assert (status, out) == (3, "")
    assert err == (
        f"moatctl: moatd at {ctl.socket}: does not run. Start it: systemctl start moatd\n"
    )


def test_a_directory_that_is_not_there(ctl: Ctl, daemon: Daemon) -> None:
    ctl.connections.rmdir()
    status, _, err = ctl("add", ctl.file())
    assert status == 1
    assert "cannot be changed (No such file or directory)" in err
    assert daemon.requests == []


def test_standard_input(ctl: Ctl, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(text: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))

    give(json.dumps(RECORD).encode())
    assert ctl.json("replace", "-") == {"changed": True, "running": True}
    for text, why in (
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "holds no JSON object"),
    ):
        give(text)
        status, _, err = ctl("replace", "-")
        assert status == 1
        assert f"standard input: {why}" in err


def test_identity(ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    words = ("--private-key", str(path))
    made = ctl.json("identity", "create", *words)
    assert made["changed"] is True
    assert base64.b64decode(made["public_key"]).startswith(ED25519_SPKI_PREFIX)
    again = {"changed": False, "public_key": made["public_key"]}
    assert ctl.json("identity", "create", *words) == again
    assert ctl.json("identity", "show", *words) == again
    assert ctl("identity", "show", *words)[1] == made["public_key"] + "\n"
    path.chmod(0o644)
    status, out, err = ctl("identity", "create", *words)
    assert (status, out) == (1, "")
    assert "has mode 0644" in err


def test_check(ctl: Ctl, tmp_path: Path) -> None:
    whole = connection_to_dict(connection_from_dict(RECORD))
    assert ctl.json("check", ctl.file()) == {"valid": True, "connection": whole}
    assert ctl("check", ctl.file(initiate=True))[0] == 1
    settings = tmp_path / "moatd.json"
    settings.write_text('{"identity": "a.example", "private_key": "/k"}')
    assert ctl("check", str(settings)) == (0, f"{settings}: valid\n", "")
    settings.write_text('{"identity": "a.example", "private_key": "k"}')
    assert ctl("check", str(settings))[0] == 1


def test_check_reads_files_only_where_asked(ctl: Ctl, tmp_path: Path) -> None:
    secret = tmp_path / "psk"
    changes = {"authentication": "psk", "psk_file": str(secret), "remote_public_keys": []}
    connection = ctl.file(**changes)
    assert ctl("check", connection)[0] == 0
    status, _, err = ctl("check", "--files", connection)
    assert status == 1
    assert "openssl rand" in err
    secret.touch(0o600)
    secret.write_text("s" * 32)
    assert ctl("check", "--files", connection)[0] == 0
    settings = tmp_path / "moatd.json"
    settings.write_text(f'{{"identity": "a.example", "private_key": "{tmp_path}/no.key"}}')
    assert ctl("check", str(settings))[0] == 0
    assert ctl("check", "--files", str(settings))[0] == 1
