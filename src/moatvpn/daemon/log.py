"""Log lines to the journal, each with its connection's name, without ever waiting.

The native protocol is systemd's JOURNAL_NATIVE_PROTOCOL: one datagram of FIELD=value lines. A
line that the journal cannot take now is dropped and counted, because a slow log must not slow
the tunnels.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from moatvpn.config import LOG_LEVELS
from moatvpn.counters import Counters, DropReason
from moatvpn.errors import ConfigError

JOURNAL = Path("/run/systemd/journal/socket")
IDENTIFIER = "moatd"

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # RFC 5424, 6.2.1
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_LINE = select.PIPE_BUF  # a pipe takes this much in one piece, or nothing


class LogCall(Protocol):
    """What the parts of the daemon log through."""

    def __call__(self, level: str, text: str, connection: str | None = None) -> None:
        """Log text at level (one of LOG_LEVELS), about connection where it is about one."""
        ...


class Sink(Protocol):
    """Where lines go. write returns False where this one was lost."""

    def write(self, priority: int, text: str, connection: str | None) -> bool:
        """Write one line, without waiting."""
        ...


def printable(text: str) -> str:
    """Return text with control characters spelled out: a peer may have chosen part of it."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _field(name: str, value: str) -> bytes:
    """Return one field in its binary form, which holds any value."""
    octets = value.encode("utf-8", "backslashreplace")
    return name.encode() + b"\n" + struct.pack("<Q", len(octets)) + octets + b"\n"


class JournalSink:
    """Sends lines to the journal's socket at path."""

    def __init__(self, path: Path = JOURNAL) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def write(self, priority: int, text: str, connection: str | None) -> bool:
        """Send one datagram; return False where the journal cannot take it now."""
        fields = {"PRIORITY": str(priority), "SYSLOG_IDENTIFIER": IDENTIFIER, "MESSAGE": text}
        if connection is not None:
            fields["MOAT_CONNECTION"] = connection
        message = b"".join(_field(name, value) for name, value in fields.items())
        try:
            self._socket.sendto(message, self._path)
        except OSError:
            return False
        return True


class StreamSink:
    """Writes lines with a priority prefix (sd-daemon(3)) to a descriptor, stderr by default."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = sys.stderr.fileno() if fd is None else fd
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)

    def write(self, priority: int, text: str, connection: str | None) -> bool:
        """Write one line; return False where the reader does not keep up."""
        about = f"connection={connection} " if connection is not None else ""
        line = f"<{priority}>{about}{text}".encode("utf-8", "backslashreplace")
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return False
            with open(self._fd, "wb", buffering=0, closefd=False) as stream:
                stream.write(line[: _LONGEST_LINE - 1] + b"\n")
        except OSError:
            return False
        return True


def default_sink(environment: Mapping[str, str], journal: Path = JOURNAL) -> Sink:
    """Return the journal where the service manager joined us to it and it is there, else stderr.

    JOURNAL_STREAM (systemd.exec(5)) is what tells a service from a person's own call.
    """
    if "JOURNAL_STREAM" in environment and journal.is_socket():
        return JournalSink(journal)
    return StreamSink()


class Log:
    """Writes lines at or above its level to a sink. Call it as LogCall says."""

    def __init__(self, sink: Sink, counters: Counters, level: str = "info") -> None:
        self._sink = sink
        self._counters = counters
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Log from now on what is at least as grave as level; raise ConfigError for no level."""
        if level not in _PRIORITIES:
            raise ConfigError(
                "log level", f"{level!r} is none", f"Give one of {', '.join(LOG_LEVELS)}"
            )
        self.level = level
        self._threshold = _PRIORITIES[level]

    def __call__(self, level: str, text: str, connection: str | None = None) -> None:
        """Log text at level, about connection where it is about one."""
        priority = _PRIORITIES[level]
        if priority > self._threshold:
            return
        if not self._sink.write(priority, printable(text), connection):
            self._counters.drop(DropReason.LOG_OVERFLOW)
