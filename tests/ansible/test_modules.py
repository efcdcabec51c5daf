"""The modules, run by Ansible with the real moatctl, before a socket that answers as moatd does."""

from __future__ import annotations

import json
import os
import pwd
import socketserver
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_bench import PORTAL, ROOT, Run, key

from moatvpn.crypto.seal import generate_seal, load_seal
from moatvpn.peers import digest_of, make_peers, seal_peers

NAMES = sorted(path.stem for path in (ROOT / "library").glob("*.py"))
RECORD = {
    "name": "c0001",
    "remote_identity": "m0001.moats.example.net",
    "remote_public_keys": [key(1)],
    "local_selectors": ["0.0.0.0/0", "::/0"],
    "remote_selectors": ["10.201.1.0/24", "fd00:201:1::/64"],
}
OWNER = pwd.getpwuid(os.getuid()).pw_name


class Daemon(socketserver.ThreadingUnixStreamServer):
    """Keeps connections as moatd does, and notes what it is asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.connections: dict[str, Any] = {}
        self.requests: list[str] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request["command"])
        before = dict(self.connections)
        if request["command"] == "replace":
            self.connections[request["connection"]["name"]] = request["connection"]
        elif request["command"] == "delete":
            self.connections.pop(request["name"], None)
        return {"connections": [], "changed": before != self.connections}


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Daemon)
        result = self.server.answer(json.loads(self.rfile.readline()))
        self.wfile.write(json.dumps({"ok": True, "result": result}).encode() + b"\n")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    server = Daemon(tmp_path / "sock")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Box:
    """A directory as a box, with a moatctl that asks the socket in it."""

    def __init__(self, run: Run, directory: Path) -> None:
        self._run = run
        self._directory = directory
        self.connections = directory / "connections.d"
        self.key = directory / "identity.key"
        self.moatctl = directory / "moatctl"
        self.output = ""
        self.connections.mkdir()
        self.moatctl.write_text(
            f'#!/bin/sh\nexport PYTHONPATH="{ROOT}/src"\n'
            f'exec "{sys.executable}" -m moatvpn.cli.moatctl "$@" --socket "{directory}/sock"\n'
        )
        self.moatctl.chmod(0o755)

    def path(self, name: str) -> Path:
        return self.connections / f"{name}.json"

    def module(self, name: str, check: str, /, **given: Any) -> list[dict[str, Any]]:
        """Run a module once for each letter of check, in check mode for c; return the results."""
        given = {"moatctl": str(self.moatctl), **given}
        results = self._directory / "results.json"
        tasks: list[dict[str, Any]] = [
            {name: given, "check_mode": letter == "c", "register": f"r{n}", "ignore_errors": True}
            for n, letter in enumerate(check)
        ]
        names = ", ".join(f"r{n}" for n in range(len(check)))
        content = "{{ [" + names + "] | to_json }}"
        tasks.append(
            {"ansible.builtin.copy": {"content": content, "dest": str(results), "mode": "0600"}}
        )
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": sys.executable},
            "tasks": tasks,
        }
        (self._directory / "play.yml").write_text(yaml.safe_dump([play]))
        done = self._run(
            "ansible-playbook",
            "--inventory=localhost,",
            "--connection=local",
            "--diff",
            "-vvv",
            "play.yml",
            ANSIBLE_LIBRARY=str(ROOT / "library"),
            ANSIBLE_MODULE_UTILS=str(ROOT / "module_utils"),
            ANSIBLE_INVENTORY_ENABLED="host_list",
        )
        self.output = done.stdout + done.stderr
        assert done.returncode == 0, self.output
        found: list[dict[str, Any]] = json.loads(results.read_text())
        return found

    def connections_are(self, check: str, **given: Any) -> list[dict[str, Any]]:
        return self.module("moat_connections", check, directory=str(self.connections), **given)

    def identity(self, check: str, **given: Any) -> list[dict[str, Any]]:
        given = {"path": str(self.key), "owner": OWNER, **given}
        return self.module("moat_identity", check, **given)


@pytest.fixture
def box(run: Run, tmp_path: Path) -> Box:
    return Box(run, tmp_path)


def changed(results: list[dict[str, Any]]) -> list[bool]:
    assert not [each["msg"] for each in results if each.get("failed")]
    return [each["changed"] for each in results]


def refusals(results: list[dict[str, Any]]) -> list[str]:
    """Return how each of results failed: in one line, and by no crash."""
    for each in results:
        assert each["failed"]
        assert "Traceback" not in str(each)
        assert "\n" not in each["msg"]
    return [each["msg"] for each in results]


def test_a_connection_comes_changes_and_goes(box: Box, daemon: Daemon) -> None:
    results = box.connections_are("crcr", connections=[RECORD])
    assert changed(results) == [True, True, False, False]
    assert daemon.requests == ["replace"]
    assert daemon.connections["c0001"] == json.loads(box.path("c0001").read_text())
    for each in results[:2]:
        assert each["diff"]["before"] == ""
        assert json.loads(each["diff"]["after"])["c0001"]["remote_public_keys"] == [key(1)]
    # What the record leaves out is the default again, not what it was.
    box.connections_are("r", connections=[{**RECORD, "child_lifetime": 600}])
    assert changed(box.connections_are("crcr", connections=[RECORD])) == [True, True, False, False]
    assert json.loads(box.path("c0001").read_text())["child_lifetime"] == 3600
    results = box.connections_are("crcr", connections=[])
    assert changed(results) == [True, True, False, False]
    assert results[0]["diff"] == results[1]["diff"]
    assert results[0]["diff"]["after"] == ""
    assert key(1) in results[0]["diff"]["before"]
    assert daemon.connections == {}
    assert list(box.connections.iterdir()) == []


def test_a_connection_without_a_daemon_waits_for_it(box: Box) -> None:
    results = box.connections_are("crcr", connections=[RECORD])
    assert changed(results) == [True, True, False, False]
    assert results[1]["running"] is False
    assert box.path("c0001").exists()


def test_files_are_read_again_though_the_record_is_the_same(box: Box, daemon: Daemon) -> None:
    box.connections_are("r", connections=[RECORD])
    results = box.connections_are("cr", connections=[RECORD], reread=["c0001"])
    assert changed(results) == [False, False]  # so says the daemon: they are the same, too
    assert daemon.requests == ["replace"] * 2
    daemon.connections["c0001"] = {}  # as if another secret were in force
    results = box.connections_are("r", connections=[RECORD], reread=["c0001"])
    assert changed(results) == [True]


@pytest.mark.parametrize("connections", [[RECORD], []])
def test_a_broken_record_is_put_right(
    box: Box, daemon: Daemon, connections: list[dict[str, Any]]
) -> None:
    box.path("c0001").write_text("{")
    results = box.connections_are("crcr", connections=connections)
    assert changed(results) == [True, True, False, False]
    assert box.path("c0001").exists() is bool(connections)


def test_settings_that_cannot_be_are_refused_in_check_mode_too(box: Box, daemon: Daemon) -> None:
    wrong = [{**RECORD, "colour": 1}], [{**RECORD, "name": "../c"}]
    for connections, word in zip(wrong, ("colour", "../c"), strict=True):
        for message in refusals(box.connections_are("cr", connections=connections)):
            assert word in message
    assert daemon.requests == []
    assert list(box.connections.iterdir()) == []


def test_connections_of_a_box_without_moatvpn(box: Box) -> None:
    box.moatctl.unlink()
    checked, done = box.connections_are("cr", connections=[RECORD])
    assert changed([checked]) == [True]
    assert refusals([done]) == [
        f"{box.moatctl}: is not there. Install moatvpn on the box first (role moatvpn)"
    ]


def test_exactly_these_connections(box: Box, daemon: Daemon) -> None:
    second = {**RECORD, "name": "c0002", "remote_identity": "m0002.moats.example.net"}
    second["remote_selectors"] = ["10.201.2.0/24"]
    results = box.connections_are("crcr", connections=[RECORD, second])
    assert changed(results) == [True, True, False, False]
    assert results[0]["diff"] == results[1]["diff"]
    assert results[1]["running"] is True
    assert daemon.requests == ["replace", "replace"]
    results = box.connections_are("crcr", connections=[{**second, "child_lifetime": 600}])
    assert changed(results) == [True, True, False, False]
    assert (results[1]["deleted"], results[1]["replaced"]) == (["c0001"], ["c0002"])
    assert daemon.requests[2:] == ["delete", "replace"]
    assert '"child_lifetime": 3600.0' in results[0]["diff"]["before"]
    assert '"child_lifetime": 600' in results[0]["diff"]["after"]
    assert daemon.connections.keys() == {"c0002"}
    assert changed(box.connections_are("cr", connections=[])) == [True, True]
    assert list(box.connections.iterdir()) == []


def test_exactly_these_with_one_that_cannot_be(box: Box, daemon: Daemon) -> None:
    for message in refusals(box.connections_are("cr", connections=[RECORD, {"name": "c0002"}])):
        assert "connections[1]" in message
    assert daemon.requests == []
    assert list(box.connections.iterdir()) == []


def test_exactly_those_that_are_signed(box: Box, daemon: Daemon, tmp_path: Path) -> None:
    seal = load_seal(generate_seal(b"a passphrase"), b"a passphrase")
    (tmp_path / "operator.pub").write_text(seal.public_text + "\n")
    config = tmp_path / "moatd.json"
    settings = {"identity": PORTAL, "private_key": "/key"}
    config.write_text(json.dumps(settings | {"operator_keys": str(tmp_path / "operator.pub")}))

    def signed(serial: int, *records: dict[str, Any]) -> dict[str, Any]:
        peers = replace(make_peers(PORTAL, records, {}), serial=serial)
        given: dict[str, Any] = json.loads(seal_peers(peers, seal))
        return {"signed": given, "digest": digest_of(records), "config": str(config)}

    second = {**RECORD, "name": "c0002", "remote_identity": "m0002.moats.example.net"}
    results = box.connections_are("crcr", **signed(3, RECORD, second))
    assert changed(results) == [True, True, False, False]
    assert (results[1]["added"], results[1]["serial"]) == (["c0001", "c0002"], 3)
    results = box.connections_are("crcr", **signed(4, second))
    assert changed(results) == [True, True, False, False]
    assert daemon.requests == ["replace", "replace", "delete"]
    older = signed(3, RECORD, second)
    other = {**signed(5, RECORD, second), "digest": digest_of([RECORD])}
    for given, why in ((older, "4 is in force"), (other, "customer database says")):
        for message in refusals(box.connections_are("cr", **given)):
            assert why in message
    assert daemon.connections.keys() == {"c0002"}


def secrets(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if "-----" not in line]


def test_a_key_pair_is_made_once(box: Box) -> None:
    results = box.identity("crcr")
    assert changed(results) == [True, True, False, False]
    assert not any(secret in box.output for secret in secrets(box.key))
    assert box.key.stat().st_mode & 0o777 == 0o600
    assert results[0]["public_key"] == ""
    made = results[1]["public_key"]
    assert [each["public_key"] for each in results[2:]] == [made, made]
    assert results[1]["diff"]["before"] == ""
    assert made in results[1]["diff"]["after"]
    assert results[3]["diff"]["before"] == results[3]["diff"]["after"]


def test_a_key_that_is_there_is_never_made_anew(box: Box) -> None:
    box.key.write_text("somebody's key\n")
    box.key.chmod(0o600)
    for message in refusals(box.identity("cr")):
        assert f"private key {box.key}" in message
        assert "somebody" not in message
    assert box.key.read_text() == "somebody's key\n"


def test_a_key_that_others_may_read_is_refused(box: Box) -> None:
    box.identity("r")
    box.key.chmod(0o640)
    for message in refusals(box.identity("cr")):
        assert "has mode 0640" in message
        assert "chmod 0600" in message
    assert not any(secret in box.output for secret in secrets(box.key))


def test_the_owner_is_put_right(box: Box) -> None:
    box.identity("r")
    results = box.identity("crcr", owner="nobody")
    assert changed(results) == [True, True, False, False]
    assert results[0]["diff"] == results[1]["diff"]
    assert results[0]["diff"]["before"] != results[0]["diff"]["after"]
    assert box.key.stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_no_key_is_made_for_nobody_or_by_nothing(box: Box) -> None:
    (message,) = refusals(box.identity("r", owner="no-such-user"))
    assert message == "owner: there is no user no-such-user. Make it first"
    assert not box.key.exists()
    box.moatctl.unlink()
    checked, done = box.identity("cr")
    assert changed([checked]) == [True]
    assert "is not there. Install moatvpn" in refusals([done])[0]


def test_the_tunnels(box: Box, daemon: Daemon) -> None:
    for each in box.module("moat_tunnel_info", "cr"):
        assert each["changed"] is False
        assert each["status"]["connections"] == []


def test_the_tunnels_without_a_daemon(box: Box) -> None:
    for message in refusals(box.module("moat_tunnel_info", "cr")):
        assert "does not run. Start it: systemctl start moatd" in message
    box.moatctl.write_text("#!/bin/sh\necho no JSON\n")
    (message,) = refusals(box.module("moat_tunnel_info", "r"))
    assert message == f"{box.moatctl}: gave no JSON. Install moatvpn anew (role moatvpn)"


def answers(program: Path, answer: dict[str, Any]) -> None:
    """Make a program that prints answer as JSON, whatever it is asked."""
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    program.chmod(0o755)


def test_what_a_box_tells_of_itself(box: Box, tmp_path: Path) -> None:
    (tmp_path / "moatvpn-0123abcd").mkdir()
    (tmp_path / "moatvpn").symlink_to(tmp_path / "moatvpn-0123abcd")
    policy = tmp_path / "moat-policy"
    answers(policy, {"hash": "", "faults": ["a rule too many"]})
    row = {"name": "c0001", "state": "established", "up_for": 7.5, "expected_in": 9, "lost_in": 1}
    row["local_key"] = "ab" * 32
    answers(box.moatctl, {"connections": [{**row, "spi_in": "0x01020304"}]})
    given = {"root": str(tmp_path / "moatvpn"), "moat_policy": str(policy)}
    for each in box.module("moat_observation", "cr", **given):
        assert each["changed"] is False
        assert each["observation"] == {
            "version": "0123abcd",
            "running": True,
            "policy": "",
            "policy_faults": ["a rule too many"],
            "connections": [row],
        }


def test_a_box_without_a_daemon_tells_that(box: Box) -> None:
    (each,) = box.module("moat_observation", "r")
    assert each["observation"]["running"] is False
    assert each["observation"]["connections"] == []
    assert each["observation"]["policy"] is None


@pytest.mark.parametrize("name", NAMES)
def test_every_module_is_documented(run: Run, name: str) -> None:
    done = run("ansible-doc", "--json", name, ANSIBLE_LIBRARY=str(ROOT / "library"))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)[name]
    assert document["doc"]["short_description"]
    assert {"check_mode", "diff_mode"} <= set(document["doc"]["attributes"])
    for task in yaml.safe_load(document["examples"]):
        assert set(task) & set(NAMES) == {name}
        assert set(task[name] or {}) <= set(document["doc"]["options"])
    for value in document["return"].values():
        assert value["description"]
        assert value["returned"]
        assert value["type"]


def test_another_key_step_by_step(box: Box, daemon: Daemon) -> None:
    (made,) = box.identity("r")
    place = {"private_key": str(box.key), "control_socket": f"{box.key.parent}/sock"}

    def step(action: str, check: str = "crcr") -> list[dict[str, Any]]:
        return box.module("moat_key", check, action=action, **place)

    for message in refusals(step("switch", "r")):
        assert "Run `moatctl key make-next` first" in message
    results = step("make-next")
    assert changed(results) == [True, True, False, False]
    new = results[1]["next_public_key"]
    assert results[0]["next_public_key"] is None
    assert results[3]["public_key"] == made["public_key"] != new
    results = step("switch")
    assert changed(results) == [True, True, False, False]
    assert (results[1]["public_key"], results[1]["old_public_key"]) == (new, made["public_key"])
    assert made["public_key"] in results[1]["diff"]["before"]
    assert changed(step("finish")) == [True, True, False, False]
    (left,) = step("status", "r")
    assert left["public_key"] == new
    assert left["next_public_key"] is left["old_public_key"] is None
    assert changed(step("back", "cr")) == [False, False]
    assert daemon.requests.count("reload-keys") >= 3
    assert not any(secret in box.output for secret in secrets(box.key))


def test_what_is_not_proved_is_an_error(box: Box, daemon: Daemon) -> None:
    place = {"control_socket": f"{box.key.parent}/sock", "wait": 0, "ping": "127.0.0.1"}
    given = {"action": "prove", "local_key": "0" * 64, **place}
    for message in refusals(box.module("moat_key", "cr", **given)):
        assert "is not proved: no connection is up" in message
    for missing in ("ping", "local_key"):
        some = {name: value for name, value in given.items() if name != missing}
        (message,) = refusals(box.module("moat_key", "r", **some))
        assert missing in message
