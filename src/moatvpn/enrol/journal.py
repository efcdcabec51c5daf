"""What an enrolment service has seen of claims: a file of JSON lines that is only added to.

The operator's side collects it into the customer database. A line that was torn by a power cut was
never answered by: it is cut away.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from moatvpn.config import public_key_from_text
from moatvpn.config_fields import FQDN, Record, object_from_json
from moatvpn.enrol.claims import Open
from moatvpn.enrol.reasons import Reason
from moatvpn.errors import ConfigError, OperatorError

BOUND = "bound"
MOST_OCTETS = 64 << 20
# Refusals of one claim that are written down; whoever has a copy of a token fills no disk.
MOST_REFUSALS = 100

_HASH = re.compile(r"[0-9a-f]{64}")
_WHAT = re.compile("|".join((BOUND, *Reason)))
_SOURCE = re.compile(r"[0-9a-f.:]{1,45}")


@dataclass(frozen=True, slots=True)
class Seen:
    """One line: a claim was shown.

    at: seconds since the epoch. what: BOUND, or the reason of a refusal. token_hash, identity: the
    claim, and whose it is. public_key: what it was shown with. source: the address it came from.
    """

    at: float
    what: str
    token_hash: str
    identity: str
    public_key: str
    source: str


def read_journal(data: bytes, where: str) -> list[Seen]:
    """Return the lines of a journal; raise ConfigError, naming where, for what is none."""
    return [_seen(line, f"{where}: line {n}") for n, line in enumerate(_whole(data), 1)]


def _whole(data: bytes) -> list[bytes]:
    return data[: data.rfind(b"\n") + 1].splitlines()


class Journal:
    """The file at path, which one service has open. wall_clock: seconds since the epoch.

    Raises OperatorError where it cannot be opened or read.
    """

    def __init__(self, path: Path, wall_clock: Callable[[], float]) -> None:
        self._clock = wall_clock
        self._bound: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._refused: Counter[str] = Counter()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            data = os.pread(self._fd, MOST_OCTETS, 0)
            self._size = data.rfind(b"\n") + 1
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            why = f"cannot be used ({error.strerror})"
            raise OperatorError(str(path), why, "Make its directory, and see its owner") from error
        for seen in read_journal(data, str(path)):
            self._note(seen)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def bound(self, token_hash: str) -> str | None:
        """Return the key that a claim has bound, None where it has bound none."""
        return self._bound.get(token_hash)

    def owner(self, public_key: str) -> str | None:
        """Return the identity that a key has been bound to, None for none."""
        return self._owners.get(public_key)

    def bind(self, claim: Open, public_key: str, source: str) -> None:
        """Write down that a claim has bound a key; raise OSError where that is not on the disk."""
        self._add(BOUND, claim, public_key, source)

    def refuse(self, claim: Open, reason: Reason, public_key: str, source: str) -> None:
        """Write down that a claim was refused, unless it has been often; raise OSError."""
        if self._refused[claim.token_hash] < MOST_REFUSALS:
            self._add(reason, claim, public_key, source)

    def _add(self, what: str, claim: Open, public_key: str, source: str) -> None:
        seen = Seen(
            round(self._clock(), 3), str(what), claim.token_hash, claim.identity, public_key, source
        )
        line = json.dumps(asdict(seen), separators=(",", ":")).encode("ascii") + b"\n"
        try:
            _write(self._fd, line)
            os.fsync(self._fd)
        except OSError:
            # Half a line would spoil the next one.
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)
        self._note(seen)

    def _note(self, seen: Seen) -> None:
        if seen.what == BOUND:
            self._bound.setdefault(seen.token_hash, seen.public_key)
            self._owners.setdefault(seen.public_key, seen.identity)
        else:
            self._refused[seen.token_hash] += 1


def _write(fd: int, line: bytes) -> None:
    if os.write(fd, line) != len(line):
        raise OSError("the disk is full")


def _seen(line: bytes, where: str) -> Seen:
    get = Record(where, object_from_json(line, where), tuple(Seen.__slots__))
    at, key = get.record.get("at"), get.record.get("public_key")
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise get.error("at", "is no time", "Restore the journal")
    try:
        public_key_from_text(key if isinstance(key, str) else "?")
    except ValueError as error:
        raise ConfigError(f"{where}: public_key", str(error), "Restore the journal") from error
    return Seen(
        at=float(at),
        what=get.text("what", _WHAT, "what was seen"),
        token_hash=get.text("token_hash", _HASH, "a SHA-256"),
        identity=get.text("identity", FQDN, "a domain name"),
        public_key=str(key),
        source=get.text("source", _SOURCE, "an address"),
    )
