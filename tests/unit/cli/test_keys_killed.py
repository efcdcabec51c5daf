"""moatctl key, killed before each of its operations on files in turn: what it leaves, and the rest.

A forked process counts what Python tells its audit hooks of, and ends itself without any clean-up.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moatvpn.cli import keys
from moatvpn.cli.moatctl import main
from moatvpn.daemon.keyfile import create_key_file, next_key, old_key, read_signer, read_signers

ASKED = "moatctl.asks"
CHANGES = {"os.link", "os.rename", "os.remove", "os.chown", "os.chmod", "os.truncate", ASKED}
KILLED, DONE = 137, 0


def moatd(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A moatd without connections."""
    sys.audit(ASKED)
    return {"connections": []}


@pytest.fixture(autouse=True)
def _moatd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "ask", moatd)


def run(path: Path, *words: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return main([*words, "--private-key", str(path)])


def run_killed(path: Path, words: tuple[str, ...], operations: int) -> int:
    """Run moatctl, and kill it before it does one more than operations; return its status."""
    pid = os.fork()
    if pid == 0:
        left = operations

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            creates = event == "open" and arguments[2] & os.O_CREAT
            if creates or event in CHANGES:
                if left == 0:
                    os._exit(KILLED)
                left -= 1

        sys.addaudithook(count)
        status = 1
        with contextlib.suppress(BaseException):
            status = run(path, *words)
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def each_killed(
    directory: Path, words: tuple[str, ...], before: Callable[[Path], None]
) -> Iterator[Path]:
    """Yield the key's path after each death of moatctl that there can be, each from the start."""
    for operations in range(20):
        path = directory / str(operations) / "identity.key"
        path.parent.mkdir()
        before(path)
        status = run_killed(path, words, operations)
        if status == DONE:
            assert operations > 0
            return
        assert status == KILLED
        yield path
    raise AssertionError("moatctl does not come to an end")


def nothing(path: Path) -> None:
    """No key yet."""


def one_key(path: Path) -> None:
    create_key_file(path)


def next_made(path: Path) -> None:
    create_key_file(path)
    assert run(path, "key", "make-next") == 0


def switched(path: Path) -> None:
    next_made(path)
    assert run(path, "key", "switch") == 0


def half_switched(path: Path) -> None:
    next_made(path)
    os.link(path, old_key(path))


ONE, NEXT, BOTH = ["identity.key"], ["identity.key", "identity.key.next"], "identity.key.old"
STEPS = {
    "create": (("identity", "create"), nothing, ONE),
    "make-next": (("key", "make-next"), one_key, NEXT),
    "switch": (("key", "switch"), next_made, [*ONE, BOTH]),
    "finish": (("key", "finish"), switched, ONE),
    "back": (("key", "back"), switched, ONE),
    "back early": (("key", "back"), next_made, ONE),
    "back halfway": (("key", "back"), half_switched, ONE),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_second_run_does_what_is_left_and_nothing_lies_about(tmp_path: Path, step: str) -> None:
    words, before, left = STEPS[step]
    for path in each_killed(tmp_path, words, before):
        assert run(path, *words) == 0
        assert sorted(each.name for each in path.parent.iterdir()) == left
        assert all(each.stat().st_nlink == 1 for each in path.parent.iterdir())
        assert run(path, *words) == 0


@pytest.mark.parametrize("step", list(STEPS)[1:])
def test_moatd_has_a_key_that_its_peers_trust_whenever_it_starts(tmp_path: Path, step: str) -> None:
    words, before, _ = STEPS[step]
    trusted: dict[str, set[str]] = {}

    def prepared(path: Path) -> None:
        before(path)
        both = [read_signers(path)[-1]]  # what the peers had before this began
        if step == "finish":  # which comes once they have the new one, and perhaps that alone
            both = [read_signer(path)]
        trusted[path.parent.name] = {signer.public_text for signer in both}

    for path in each_killed(tmp_path, words, prepared):
        has = {signer.public_text for signer in read_signers(path)}
        assert has >= trusted[path.parent.name]


@pytest.mark.parametrize("step", ["switch", "back"])
def test_each_of_two_steps_at_once_is_whole(tmp_path: Path, step: str) -> None:
    """However two runs meet, what they leave is what one of them after the other does."""
    path = tmp_path / "identity.key"
    next_made(path)
    new = read_signer(next_key(path)).public_text
    pids = []
    for words in (("key", "switch"), ("key", step)):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os._exit(run(path, *words))
            os._exit(3)
        pids.append(pid)
    statuses = {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}
    assert statuses <= ({0} if step == "switch" else {0, 1})  # no next key after `back`
    left = sorted(each.name for each in tmp_path.iterdir())
    assert left == (["identity.key", "identity.key.old"] if step == "switch" else ["identity.key"])
    assert (read_signer(path).public_text == new) == (step == "switch")
