"""The commands of the control socket: what they do, who did it, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moatvpn.config import ConnectionConfig, connection_to_dict
from moatvpn.crypto.sign import Signer, fingerprint, generate_private_key, load_private_key
from moatvpn.daemon.commands import Commands
from moatvpn.daemon.control import Peer
from moatvpn.errors import OperatorError

Make = Callable[..., ConnectionConfig]
OPERATOR = Peer(4711, 1000, 100)


class FakeEngine:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.changes = True

    def status(self, now: float) -> dict[str, Any]:
        return {"connections": [], "drops": {}}

    def show(self, name: str, now: float) -> dict[str, Any]:
        return {"name": name}

    def add(self, config: ConnectionConfig, now: float) -> None:
        self.calls.append(("add", config, now))

    def replace(self, config: ConnectionConfig, now: float) -> bool:
        self.calls.append(("replace", config, now))
        return self.changes

    def delete(self, name: str, now: float) -> bool:
        self.calls.append(("delete", name, now))
        return self.changes

    def rekey(self, name: str, sa: str, now: float) -> None:
        self.calls.append(("rekey", name, sa, now))

    def redirect(self, name: str | None, gateway: str | None, now: float) -> int:
        self.calls.append(("redirect", name, gateway, now))
        return 3

    def use_keys(self, signers: tuple[Signer, ...], now: float) -> int:
        self.calls.append(("use_keys", signers, now))
        return 2


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def commands(engine: FakeEngine, log: Any) -> Commands:
    return Commands(engine, log, lambda: 50.0, tuple)  # type: ignore[arg-type]


def test_reading_commands_leave_no_trace(commands: Commands, log: Any) -> None:
    assert commands({"command": "status"}, OPERATOR) == {"connections": [], "drops": {}}
    assert commands({"command": "show", "name": "c1"}, OPERATOR) == {"name": "c1"}
    assert log.lines == []


def test_changing_commands_are_logged_with_who_asked(
    commands: Commands, engine: FakeEngine, log: Any, make_connection: Make
) -> None:
    config = make_connection(1)
    record = connection_to_dict(config)
    requests = [
        {"command": "add", "connection": record},
        {"command": "replace", "connection": record},
        {"command": "delete", "name": "c1"},
        {"command": "rekey", "name": "c1"},
        {"command": "rekey", "name": "c1", "sa": "ike"},
        {"command": "log-level", "level": "debug"},
    ]
    for request in requests:
        assert commands(request, OPERATOR) == {"changed": True}
    assert engine.calls == [
        ("add", config, 50.0),
        ("replace", config, 50.0),
        ("delete", "c1", 50.0),
        ("rekey", "c1", "child", 50.0),
        ("rekey", "c1", "ike", 50.0),
    ]
    assert log.level == "debug"
    assert len(log.lines) == len(requests)
    assert all("user 1000, group 100, process 4711" in text for _, text, _ in log.lines)
    assert [connection for *_, connection in log.lines] == ["c1"] * 5 + [None]


def test_what_changes_nothing_is_not_logged(
    commands: Commands, engine: FakeEngine, log: Any, make_connection: Make
) -> None:
    engine.changes = False
    record = connection_to_dict(make_connection(1))
    for request in (
        {"command": "replace", "connection": record},
        {"command": "delete", "name": "c1"},
        {"command": "log-level", "level": "info"},
    ):
        assert commands(request, OPERATOR) == {"changed": False}
    assert log.lines == []


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({}, "lacks the text 'command'"),
        ({"command": 5}, "lacks the text 'command'"),
        ({"command": "reboot"}, "is not known. Known: status, show, add"),
        ({"command": "show"}, "lacks the text 'name'"),
        ({"command": "delete", "name": ["c1"]}, "lacks the text 'name'"),
        ({"command": "add"}, "lacks the object 'connection'"),
        ({"command": "replace", "connection": "c1"}, "lacks the object 'connection'"),
        ({"command": "add", "connection": {}}, "remote_public_keys"),
        ({"command": "rekey", "name": "c1", "sa": "esp"}, "cannot be rekeyed. Give child or ike"),
        ({"command": "rekey", "name": "c1", "sa": []}, "cannot be rekeyed"),
    ],
)
def test_refusals(
    commands: Commands, engine: FakeEngine, request_: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OperatorError) as caught:
        commands(request_, OPERATOR)
    assert reason in str(caught.value)
    assert engine.calls == []


@pytest.mark.parametrize(
    ("request_", "call"),
    [
        ({"name": "c1", "gateway": "198.51.100.3"}, ("c1", "198.51.100.3")),
        ({"name": "c1", "gateway": "p2.example.net"}, ("c1", "p2.example.net")),
        ({"all": True, "gateway": "198.51.100.3"}, (None, "198.51.100.3")),
        ({"name": "c1", "off": True}, ("c1", None)),
        ({"all": True, "off": True}, (None, None)),
    ],
)
def test_redirects(
    commands: Commands,
    engine: FakeEngine,
    log: Any,
    request_: dict[str, Any],
    call: tuple[Any, ...],
) -> None:
    assert commands({"command": "redirect", **request_}, OPERATOR) == {"changed": True, "told": 3}
    assert engine.calls == [("redirect", *call, 50.0)]
    assert log.lines[0][1].startswith("redirect ")


@pytest.mark.parametrize("gateway", ["", "999.1.1.1", "not a name", "::1", None, 5])
def test_no_redirect_to_nowhere(commands: Commands, engine: FakeEngine, gateway: Any) -> None:
    with pytest.raises(OperatorError):
        commands({"command": "redirect", "name": "c1", "gateway": gateway}, OPERATOR)
    assert engine.calls == []


def test_keys_are_read_again_and_the_first_is_told(engine: FakeEngine, log: Any) -> None:
    signers = tuple(load_private_key(generate_private_key()) for _ in range(2))
    commands = Commands(engine, log, lambda: 50.0, lambda: signers)  # type: ignore[arg-type]
    answer = commands({"command": "reload-keys"}, OPERATOR)
    assert answer == {"begun": 2, "key": fingerprint(signers[0].public_key)}
    assert engine.calls == [("use_keys", signers, 50.0)]
    (line,) = log.lines
    assert "2 connections" in str(line)


def test_keys_that_cannot_be_read_leave_those_in_use(engine: FakeEngine, log: Any) -> None:
    def unreadable() -> tuple[Signer, ...]:
        raise OperatorError("private key", "cannot be read", "Run as root")

    commands = Commands(engine, log, lambda: 50.0, unreadable)  # type: ignore[arg-type]
    with pytest.raises(OperatorError, match="cannot be read"):
        commands({"command": "reload-keys"}, OPERATOR)
    assert engine.calls == []
