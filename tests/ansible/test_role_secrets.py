"""Secrets and certificates, brought by the role's own tasks: where they are, and are not."""

from __future__ import annotations

import grp
import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_bench import ROOT, Run, key

ROLE = ROOT / "roles" / "moatvpn"
OWNER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
PSK, PPK = "a secret of the moat and its portal", "another one that nobody sees, of 32 octets or so"


class Bench:
    """A directory as controller and as box, and what brings files from one to the other."""

    def __init__(self, run: Run, directory: Path) -> None:
        self._run = run
        self._directory = directory
        self.box = directory / "box"
        self.room = self.box / "credentials"
        self.box.mkdir()
        self.output = ""
        (directory / "vault-password").write_text("of the operator")

    def file(self, name: str, content: str, mode: int = 0o600) -> str:
        path = self._directory / name
        path.touch(mode)
        path.write_text(content)
        return str(path)

    def vaulted(self, name: str, content: str) -> str:
        path = self.file(name, content)
        done = self._run("ansible-vault", "encrypt", "--vault-password-file=vault-password", path)
        assert done.returncode == 0, done.stderr
        os.chmod(path, 0o644)
        return path

    def bring(self, *words: str, ok: bool = True, **variables: Any) -> dict[str, Any]:
        """Run the tasks as site.yml does, with all that Ansible can be made to say."""
        result = self._directory / "result.json"
        names = ("credentials.yml", "credentials_gone.yml")
        tasks: list[dict[str, Any]] = [
            {"ansible.builtin.include_tasks": str(ROLE / "tasks" / name)} for name in names
        ]
        template = str(ROLE / "templates/etc/moatvpn/moatd.json.j2")
        settings = {"src": template, "dest": str(self.box / "moatd.json"), "mode": "0640"}
        tasks.insert(1, {"ansible.builtin.template": settings})
        told = {"content": "{{ __moatvpn_renewed | to_json }}", "dest": str(result), "mode": "0600"}
        tasks.append({"ansible.builtin.copy": told, "check_mode": False, "changed_when": False})
        notice = {"path": str(self.box / "restarted"), "state": "touch", "mode": "0600"}
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars_files": [str(ROLE / part / "main.yml") for part in ("defaults", "vars")],
            "vars": {
                "ansible_python_interpreter": sys.executable,
            },
            "tasks": tasks,
            "handlers": [{"name": "Restart moatd", "ansible.builtin.file": notice}],
        }
        (self._directory / "play.yml").write_text(yaml.safe_dump([play]))
        places = {
            "moatvpn_identity": "portal1.example.net",
            "__moatvpn_etc": str(self.box),
            "__moatvpn_user": OWNER,
        }
        done = self._run(
            "ansible-playbook", "--inventory=localhost,", "--connection=local", "--diff", "-vvv",
            "--vault-password-file=vault-password", "--extra-vars", json.dumps(places | variables),
            *words, "play.yml", ANSIBLE_INVENTORY_ENABLED="host_list", ANSIBLE_PIPELINING="true",
        )  # fmt: skip
        self.output = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, self.output
        for secret in (PSK, PPK):
            assert secret not in self.output
        recap = self.output.rpartition("PLAY RECAP")[2]
        return {
            "changed": "changed=0" not in recap,
            "renewed": json.loads(result.read_text()) if ok else None,
        }

    def brought(self) -> dict[str, str]:
        """Return what is in the room on the box, each file being moatd's user's alone."""
        for path in self.room.iterdir():
            status = path.stat()
            assert (status.st_mode & 0o7777, status.st_uid) == (0o600, os.getuid())
        assert self.room.stat().st_mode & 0o7777 == 0o750
        return {path.name: path.read_text() for path in self.room.iterdir()}


@pytest.fixture
def bench(run: Run, tmp_path: Path) -> Bench:
    if OWNER != GROUP:
        pytest.skip("the user of moatd has a group of its name; this one has not")
    return Bench(run, tmp_path)


def connection(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "remote_identity": f"{name}.moats.example.net",
        "remote_public_keys": [key(1)],
        "local_selectors": ["0.0.0.0/0"],
        "remote_selectors": ["10.201.1.0/24"],
    }


def test_secrets_and_certificates_come_change_and_go(bench: Bench) -> None:
    texts = {name: bench.file(name, name, 0o644) for name in ("ca.pem", "own-1.pem", "ca.crl")}
    entries: dict[str, Any] = {
        "c1": {"psk": bench.file("c1.secret", PSK)},
        "c2": {"ppk": bench.vaulted("c2.secret", PPK), "ppk_id": "c2"},
        "*": {"ca": [texts["ca.pem"]]},
    }
    given = {"moatvpn_connections": [connection(name) for name in ("c1", "c2", "c3", "c4")]}
    certificates = {
        "moatvpn_certificate": texts["own-1.pem"],
        "moatvpn_crls": [texts["ca.crl"]],
    }
    whole = {**given, **certificates, "moatvpn_credentials": entries}
    assert bench.bring("--check", **whole)["changed"]
    assert not bench.room.exists()
    assert bench.bring(**whole) == {"changed": True, "renewed": ["c1", "c2", "c3", "c4"]}
    assert bench.brought() == {
        "c1.psk": PSK,
        "c2.ppk": PPK,
        "ca-ca.pem": "ca.pem",
        "own.pem": "own-1.pem",
        "crl-ca.crl": "ca.crl",
    }
    settings = json.loads((bench.box / "moatd.json").read_text())
    assert settings["certificate"] == str(bench.room / "own.pem")
    assert settings["crls"] == [str(bench.room / "crl-ca.crl")]
    restarted = bench.box / "restarted"
    restarted.unlink()  # it is there: moatd reads its own certificate when it starts
    assert bench.bring(**whole) == {"changed": False, "renewed": []}

    # Another secret for one, and no certificates any more.
    bench.file("c1.secret", PSK[::-1])
    del entries["*"]
    told = bench.bring(**given, moatvpn_credentials=entries)
    assert told == {"changed": True, "renewed": ["c1"]}
    assert PSK[::-1] not in bench.output
    assert bench.brought() == {"c1.psk": PSK[::-1], "c2.ppk": PPK}
    assert "certificate" not in json.loads((bench.box / "moatd.json").read_text())
    assert not restarted.exists()


def test_a_secret_that_others_could_read_is_refused_and_one_that_is_not_there(
    bench: Bench, tmp_path: Path
) -> None:
    path, gone = bench.file("c1.secret", PSK), str(tmp_path / "gone")
    os.chmod(path, 0o640)
    given = {"moatvpn_connections": [connection("c1")]}
    bench.bring(ok=False, **given, moatvpn_credentials={"c1": {"psk": path}})
    assert f"{path}: neither vaulted nor its owner" in bench.output
    bench.bring(ok=False, **given, moatvpn_credentials={"c1": {"psk": gone}})
    assert gone in bench.output
    assert not bench.room.exists()


def test_no_secret_is_in_a_list_of_processes(bench: Bench) -> None:
    """The tasks name files; what is in them is an argument of none."""
    text = (ROLE / "tasks" / "credentials.yml").read_text()
    assert "content:" not in text
    assert "lookup(" not in text
