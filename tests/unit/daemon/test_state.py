"""Peers' addresses outlive moatd, and no disk holds it up."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moatvpn.daemon import state
from moatvpn.daemon.state import PeerJournal
from moatvpn.wire.endpoint import Endpoint

HOME, NAT = Endpoint("192.0.2.10", 500), Endpoint("203.0.113.9", 14500)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(state, "FAILED_SECONDS", 0.01)


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def written(path: Path, text: str) -> bool:
    file = path / "peers.jsonl"
    return file.exists() and text in file.read_text()


def test_what_is_noted_is_there_after_a_restart(tmp_path: Path, log: Any) -> None:
    journal = PeerJournal(tmp_path, log)
    journal.note("c1", HOME)
    journal.note("c2", HOME)
    journal.note("c3", HOME)
    journal.note("c2", NAT)
    journal.note("c3", None)
    journal.close()
    again = PeerJournal(tmp_path, log)
    assert again.peers() == {"c1": HOME, "c2": NAT}
    again.close()
    assert [line for line in log.lines if line[0] != "info"] == []
    assert stat.S_IMODE((tmp_path / "peers.jsonl").stat().st_mode) == 0o600


def test_it_is_on_disk_without_an_orderly_end(tmp_path: Path, log: Any) -> None:
    journal = PeerJournal(tmp_path, log)
    journal.note("c1", HOME)
    wait_for(lambda: written(tmp_path, "192.0.2.10"))
    journal.note("c1", NAT)
    wait_for(lambda: written(tmp_path, "203.0.113.9"))
    killed = PeerJournal(tmp_path, log)
    assert killed.peers() == {"c1": NAT}
    killed.close()
    journal.close()


def test_a_change_appends_one_line_however_many_there_are(tmp_path: Path, log: Any) -> None:
    journal = PeerJournal(tmp_path, log)
    for n in range(10_000):
        journal.note(f"c{n}", HOME)
    wait_for(lambda: written(tmp_path, '"c9999"'))
    before = (tmp_path / "peers.jsonl").stat()
    journal.note("c5000", NAT)
    wait_for(lambda: written(tmp_path, "14500"))
    after = (tmp_path / "peers.jsonl").stat()
    assert after.st_ino == before.st_ino
    assert after.st_size - before.st_size == len('["c5000", "203.0.113.9", 14500]\n')
    journal.close()


def test_the_journal_does_not_grow_for_ever(
    tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SPARE_LINES", 8)
    journal = PeerJournal(tmp_path, log)
    for n in range(60):
        journal.note("c1", Endpoint("192.0.2.10", 1000 + n))
        wait_for(lambda text=f" {1000 + n}]": written(tmp_path, text))
        assert len((tmp_path / "peers.jsonl").read_text().splitlines()) <= 2 + 8
    journal.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "peers.jsonl"]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"\x00\xff" * 500, {}),
        (b'["c1", "192.0.2.10", 500]\n["c2", "203.0.', {"c1": HOME}),
        (b'["c1", "192.0.2.10", 500]\n["c1"', {"c1": HOME}),
        (b'["c2", "no address", 500]\n["c1", "192.0.2.10", 500]\n', {"c1": HOME}),
        (b'["c2", "192.0.2.10", 70000]\n["c1", "192.0.2.10", 500]\n', {"c1": HOME}),
        (b"[" * 100_000 + b'\n["c1", "192.0.2.10", 500]\n', {"c1": HOME}),
        (b'{"c1": 1}\n', {}),
    ],
)
def test_what_is_broken_is_left_out_and_mended(
    tmp_path: Path, log: Any, content: bytes, kept: dict[str, Endpoint]
) -> None:
    (tmp_path / "peers.jsonl").write_bytes(content)
    journal = PeerJournal(tmp_path, log)
    assert journal.peers() == kept
    assert len(log.lines) == 1
    assert "call by themselves" in log.lines[0][1]
    journal.note("c9", NAT)
    journal.close()
    again = PeerJournal(tmp_path, log)
    assert again.peers() == kept | {"c9": NAT}
    assert len(log.lines) == 1
    again.close()


def test_none_and_one_that_is_left_empty_are_no_fault(tmp_path: Path, log: Any) -> None:
    PeerJournal(tmp_path, log).close()
    journal = PeerJournal(tmp_path, log)
    journal.note("c1", HOME)
    journal.note("c1", None)
    journal.close()
    again = PeerJournal(tmp_path, log)
    assert again.peers() == {}
    again.close()
    assert [(level, text.split(": ")[1]) for level, text, _ in log.lines] == [
        ("info", "no peer is remembered yet")
    ] * 3


def test_a_full_disk_is_told_once_and_tried_until_it_has_room(
    tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = PeerJournal(tmp_path, log)
    journal.note("c1", HOME)
    wait_for(lambda: written(tmp_path, "192.0.2.10"))
    tries = 0

    def full(fd: int) -> None:
        nonlocal tries
        tries += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        journal.note("c2", NAT)
        wait_for(lambda: tries > 3)
    wait_for(lambda: ("info", f"{tmp_path}/peers.jsonl: is written again", None) in log.lines)
    journal.close()
    assert [level for level, _, _ in log.lines] == ["info", "warning", "info"]
    assert "No space left on device" in log.lines[1][1]
    again = PeerJournal(tmp_path, log)
    assert again.peers() == {"c1": HOME, "c2": NAT}
    again.close()


def test_a_stuck_disk_holds_up_nobody(
    tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "CLOSE_SECONDS", 0.05)
    stuck, free = threading.Event(), threading.Event()

    def hang(fd: int) -> None:
        stuck.set()
        free.wait(10)

    monkeypatch.setattr(os, "fsync", hang)
    journal = PeerJournal(tmp_path, log)
    journal.note("c1", HOME)
    assert stuck.wait(10)
    start = time.monotonic()
    for n in range(1000):
        journal.note(f"c{n % 10}", Endpoint("192.0.2.10", 1000 + n))
    assert len(journal._changed) == 10  # bounded by the connections, not by the changes
    journal.close()
    assert time.monotonic() - start < 5
    assert "does not keep up" in log.lines[-1][1]
    free.set()
