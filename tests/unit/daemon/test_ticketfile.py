"""Ticket keys outlive moatd, and nobody else has them."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any

import pytest

from moatvpn.crypto.tickets import TicketKey
from moatvpn.daemon.ticketfile import TicketKeyFile

KEYS = (TicketKey(b"1" * 8, b"k" * 32, 1.0), TicketKey(b"2" * 8, b"l" * 32, 86401.0))


def saved(directory: Path, log: Any, keys: tuple[TicketKey, ...] = KEYS) -> Path:
    TicketKeyFile(directory, log).save(keys)
    path, end = directory / "ticket-keys.json", time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    return path


def test_keys_are_there_after_a_restart(tmp_path: Path, log: Any) -> None:
    path = saved(tmp_path, log)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TicketKeyFile(tmp_path, log).load() == KEYS
    assert log.lines == []
    assert "k" * 32 not in repr(KEYS)


def test_a_first_start_has_none(tmp_path: Path, log: Any) -> None:
    assert TicketKeyFile(tmp_path, log).load() == ()
    assert log.lines == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", "null", '[["31", "6b", 1.0]]', '[["zz", "6b", 1.0]]', '[["31", "6b"]]'],
)
def test_a_broken_file_costs_one_line(tmp_path: Path, log: Any, content: str) -> None:
    path = saved(tmp_path, log)
    path.write_text(content)
    assert TicketKeyFile(tmp_path, log).load() == ()
    ((level, text, _),) = log.lines
    assert level == "warning"
    assert "moats of before call in full" in text


def test_a_file_that_others_can_read_is_not_trusted(tmp_path: Path, log: Any) -> None:
    path = saved(tmp_path, log)
    path.chmod(0o640)
    assert TicketKeyFile(tmp_path, log).load() == ()
    assert "has mode 0640" in log.lines[0][1]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, log: Any) -> None:
    TicketKeyFile(tmp_path / "no", log).save(KEYS)
    end = time.monotonic() + 10
    while not log.lines:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert "cannot be written" in log.lines[0][1]
