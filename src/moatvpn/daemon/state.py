"""Where the peers of connections were last, in a file that outlives moatd.

The loop that forwards packets only enters changes into a table. A thread of its own writes them:
it may wait for a disk, and a disk that is slow, full or stuck holds up nothing else. It appends
what has changed to a journal, so that a change costs the same however many connections there are,
and writes the journal anew, in one step, when most of it has been overtaken.
"""

from __future__ import annotations

import json
import os
import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from moatvpn.daemon.log import LogCall
from moatvpn.wire.endpoint import Endpoint

GATHER_SECONDS = 1.0  # changes that come within this time of each other are written together
FAILED_SECONDS = 10.0  # until the next attempt where writing has failed
CLOSE_SECONDS = 2.0  # how long an orderly end waits for the disk
SPARE_LINES = 1024  # of overtaken lines, besides one for each connection, before a fresh journal
MOST_OCTETS = 64 << 20  # of a journal that is read
_FILE = "peers.jsonl"

Peers = dict[str, Endpoint]


class Memory(Protocol):
    """What remembers where peers were."""

    def note(self, connection: str, peer: Endpoint | None) -> None:
        """Remember where the peer of a connection is; None forgets it. Never waits."""
        ...


class NoMemory:
    """Remembers nothing, on a box that has no place to keep it."""

    def note(self, connection: str, peer: Endpoint | None) -> None:
        """Do nothing."""


def _line(connection: str, peer: Endpoint | None) -> str:
    return json.dumps([connection, peer.host, peer.port] if peer else [connection]) + "\n"


def _apply(line: bytes, peers: Peers) -> None:
    """Take one line of a journal into peers; raise ValueError where it is none."""
    match json.loads(line):
        case [str(name), str(host), int(port)] if 0 < port < 65536:
            peers[name] = Endpoint(str(IPv4Address(host)), port)
        case [str(name)]:
            peers.pop(name, None)
        case _:
            raise ValueError("not a line of ours")


class PeerJournal:
    """The last addresses of peers, in a file of the directory.

    What cannot be read is left out, and what cannot be written is tried again, with one line in
    the log; the moats call by themselves in that case, only later.
    """

    def __init__(self, directory: Path, log: LogCall) -> None:
        self._path = directory / _FILE
        self._log = log
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._changed: dict[str, Endpoint | None] = {}
        self._failing = False
        self._peers, self._lines = self._load()
        self._thread = threading.Thread(target=self._write_on, name="state", daemon=True)
        self._thread.start()

    def peers(self) -> Peers:
        """Return a copy of what is remembered."""
        with self._lock:
            return dict(self._peers)

    def note(self, connection: str, peer: Endpoint | None) -> None:
        """Remember where the peer of a connection is; None forgets it. Never waits for a disk."""
        if self._peers.get(connection) == peer:
            return
        with self._lock:
            if peer is None:
                del self._peers[connection]
            else:
                self._peers[connection] = peer
            self._changed[connection] = peer
        self._wake.set()

    def close(self) -> None:
        """Write what is left, if the disk takes it soon."""
        self._ending.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._log("warning", f"{self._path}: the disk does not keep up; left it behind")

    # Reading

    def _load(self) -> tuple[Peers, int | None]:
        """Return what the journal says, and of how many lines; None: write it anew."""
        peers: Peers = {}
        try:
            with self._path.open("rb") as file:
                content = file.read(MOST_OCTETS + 1)
        except FileNotFoundError:
            content = b""
        except OSError as error:
            self._warn_unread(f"cannot be read ({error.strerror})")
            return peers, None
        if not content:  # as a box leaves it that only calls, and one without connections
            self._log("info", f"{self._path}: no peer is remembered yet")
            return peers, None
        if len(content) > MOST_OCTETS:
            self._warn_unread(f"is longer than {MOST_OCTETS} octets")
            return peers, None
        lines = content.splitlines()
        bad = 0
        for line in lines:
            try:
                _apply(line, peers)
            except (ValueError, RecursionError):
                bad += 1
        if bad or not content.endswith(b"\n"):
            self._warn_unread(f"has {bad} of {len(lines)} lines that are none of ours")
            return peers, None
        return peers, len(lines)

    def _warn_unread(self, why: str) -> None:
        self._log("warning", f"{self._path}: {why}; moats that it should name call by themselves")

    # Writing, in a thread of its own

    def _write_on(self) -> None:
        while not self._ending.is_set():
            self._wake.wait()
            self._ending.wait(GATHER_SECONDS)
            self._wake.clear()
            if not self._write():
                self._ending.wait(FAILED_SECONDS)
                self._wake.set()
        if self._changed:
            self._write()

    def _write(self) -> bool:
        """Write what has changed; return whether the disk took it."""
        with self._lock:
            changed, self._changed = self._changed, {}
            most = 2 * len(self._peers) + SPARE_LINES
            whole = self._lines is None or self._lines + len(changed) > most
            content = self._peers.copy() if whole else changed
        data = "".join(_line(name, peer) for name, peer in content.items()).encode()
        try:
            self._replace(data) if whole else self._append(data)
        except OSError as error:
            self._lines = None  # what the file holds now, nobody knows
            if not self._failing:
                why = f"cannot be written ({error.strerror}); tried again until it can"
                self._log("warning", f"{self._path}: {why}")
            self._failing = True
            return False
        if self._failing:
            self._log("info", f"{self._path}: is written again")
        self._failing = False
        self._lines = len(content) if whole or self._lines is None else self._lines + len(content)
        return True

    def _append(self, data: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(0, "it took a part only")
            os.fsync(file.fileno())

    def _replace(self, data: bytes) -> None:
        replace_file(self._path, data)


def replace_file(path: Path, data: bytes) -> None:
    """Put data in the place of the file at path, in one step, readable for its owner alone.

    Raises OSError, with the file as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
