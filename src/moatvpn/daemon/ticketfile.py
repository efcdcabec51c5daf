"""The keys of tickets, in a file that outlives moatd: so that moats resume after its restart."""

from __future__ import annotations

import json
import os
import stat
import threading
from functools import partial
from pathlib import Path

from moatvpn.crypto.tickets import ID_LENGTH, KEY_LENGTH, TicketKey
from moatvpn.daemon.log import LogCall
from moatvpn.daemon.state import replace_file

_FILE = "ticket-keys.json"
_LONGEST = 64 << 10

Keys = tuple[TicketKey, ...]


class TicketKeyFile:
    """The file in the directory. What is wrong with it costs resumption only, and one log line."""

    def __init__(self, directory: Path, log: LogCall) -> None:
        self._path = directory / _FILE
        self._log = log
        self._writing = threading.Lock()

    def load(self) -> Keys:
        """Return the keys in the file; none where others may have read it, or where it is bad."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return ()
        except OSError as error:
            return self._without(f"cannot be read ({error.strerror})")
        with open(fd, "rb") as file:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                return self._without(f"has mode {mode:04o}, which lets others have it")
            content = file.read(_LONGEST)
        try:
            return tuple(_key(entry) for entry in json.loads(content))
        except (ValueError, TypeError, RecursionError):
            return self._without("is not what we wrote")

    def _without(self, why: str) -> Keys:
        self._log("warning", f"{self._path}: {why}; moats of before call in full")
        return ()

    def save(self, keys: Keys) -> None:
        """Write keys, in a thread: it is once a day, and a disk must not hold up the tunnels."""
        threading.Thread(target=partial(self._save, keys), name="ticket-keys", daemon=True).start()

    def _save(self, keys: Keys) -> None:
        entries = [[key.id.hex(), key.key.hex(), key.made_at] for key in keys]
        try:
            with self._writing:
                replace_file(self._path, json.dumps(entries).encode())
        except OSError as error:
            why = f"cannot be written ({error.strerror}); after a restart moats call in full"
            self._log("warning", f"{self._path}: {why}")


def _key(entry: object) -> TicketKey:
    match entry:
        case [str(name), str(secret), float(made_at)]:
            key = TicketKey(bytes.fromhex(name), bytes.fromhex(secret), made_at)
            if (len(key.id), len(key.key)) == (ID_LENGTH, KEY_LENGTH):
                return key
    raise ValueError("no key")
