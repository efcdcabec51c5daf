"""Log lines: the journal's protocol, the fallback, levels, and what happens when it is slow."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.log import JournalSink, Log, StreamSink, default_sink, printable
from moatvpn.errors import ConfigError


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(5)
        yield path, sock


@pytest.fixture
def counters() -> Counters:
    return Counters()


def fields(message: bytes) -> dict[str, str]:
    """Read the journal's binary form: name, newline, length (64 bits), value, newline."""
    result = {}
    while message:
        name, _, rest = message.partition(b"\n")
        (length,) = struct.unpack_from("<Q", rest)
        result[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        message = rest[9 + length :]
    return result


def test_a_line_of_the_journal(journal: tuple[Path, socket.socket], counters: Counters) -> None:
    path, sock = journal
    Log(JournalSink(path), counters)("warning", "it rains", "home")
    assert fields(sock.recv(4096)) == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "moatd",
        "MESSAGE": "it rains",
        "MOAT_CONNECTION": "home",
    }


def test_a_line_about_no_connection_has_no_name(
    journal: tuple[Path, socket.socket], counters: Counters
) -> None:
    path, sock = journal
    Log(JournalSink(path), counters)("info", "ready")
    assert "MOAT_CONNECTION" not in fields(sock.recv(4096))


def test_a_peer_cannot_forge_fields_or_lines(
    journal: tuple[Path, socket.socket], counters: Counters
) -> None:
    path, sock = journal
    Log(JournalSink(path), counters)("info", "name is x\nPRIORITY=0\x1b[2J\udcff")
    seen = fields(sock.recv(4096))
    assert seen["PRIORITY"] == "6"
    assert seen["MESSAGE"] == "name is x\\x0aPRIORITY=0\\x1b[2J\\udcff"


def test_a_full_journal_loses_lines_and_counts_them(
    journal: tuple[Path, socket.socket], counters: Counters
) -> None:
    path, _ = journal
    log = Log(JournalSink(path), counters)
    for number in range(2000):  # nobody reads: the queue of a datagram socket ends long before
        log("info", f"line {number}")
    assert 0 < counters.value(DropReason.LOG_OVERFLOW) < 2000


def test_a_journal_that_is_gone_is_no_error(tmp_path: Path, counters: Counters) -> None:
    Log(JournalSink(tmp_path / "gone"), counters)("error", "lost")
    assert counters.value(DropReason.LOG_OVERFLOW) == 1


def test_stream_lines_have_a_priority_and_the_connection(counters: Counters) -> None:
    reader, writer = os.pipe()
    try:
        log = Log(StreamSink(writer), counters)
        log("error", "broken\nin two", "home")
        log("info", "ready")
        assert os.read(reader, 4096) == b"<3>connection=home broken\\x0ain two\n<6>ready\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_stream_that_nobody_reads_does_not_block(counters: Counters) -> None:
    reader, writer = os.pipe()
    try:
        log = Log(StreamSink(writer), counters)
        for _ in range(100):
            log("info", "x" * 5000)
        assert counters.value(DropReason.LOG_OVERFLOW) > 0
        written = os.read(reader, 1 << 20)
        assert written.endswith(b"x\n")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_full_disk_loses_lines_and_counts_them(counters: Counters) -> None:
    with Path("/dev/full").open("wb") as disk:  # full(4): every write is ENOSPC
        log = Log(StreamSink(disk.fileno()), counters)
        log("info", "a line")
        log("info", "another")
    assert counters.value(DropReason.LOG_OVERFLOW) == 2


def test_levels(counters: Counters) -> None:
    reader, writer = os.pipe()
    try:
        log = Log(StreamSink(writer), counters, "warning")
        log("info", "not this")
        log("warning", "this")
        log.set_level("debug")
        log("debug", "and this")
        assert os.read(reader, 4096) == b"<4>this\n<7>and this\n"
        assert log.level == "debug"
        with pytest.raises(ConfigError, match="log level: 'loud' is none"):
            log.set_level("loud")
    finally:
        os.close(reader)
        os.close(writer)


def test_the_sink_is_the_journal_only_for_a_service(
    journal: tuple[Path, socket.socket], tmp_path: Path
) -> None:
    path, _ = journal
    reader, writer = os.pipe()
    try:
        assert isinstance(default_sink({"JOURNAL_STREAM": "8:1"}, path), JournalSink)
        assert isinstance(default_sink({}, path), StreamSink)
        assert isinstance(default_sink({"JOURNAL_STREAM": "8:1"}, tmp_path / "no"), StreamSink)
    finally:
        os.close(reader)
        os.close(writer)


def test_printable_leaves_ordinary_text_alone() -> None:
    assert printable("grüße\ttab 10.0.0.1:500") == "grüße\ttab 10.0.0.1:500"
