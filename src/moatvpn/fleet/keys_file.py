"""The keys of many boxes at once, as lines of JSON: what a run of a playbook has found on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from moatvpn.errors import OperatorError
from moatvpn.fleet.faults import Fault, FaultsError
from moatvpn.fleet.keys import record_key

_FIELDS = {"identity", "public_key"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """changed: the boxes that have a new key. refused: why those did not get it."""

    changed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def read_keys(lines: Iterable[str], where: str) -> list[tuple[str, str]]:
    """Return the identity and the public key that each line has; raise FaultsError."""
    found: list[tuple[str, str]] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and row.keys() == _FIELDS and _are_texts(row.values()):
            found.append((row["identity"], row["public_key"]))
        else:
            fault = Fault("line", "is no object of identity and public_key", "Write both as texts")
            faults.append(fault.at_row(number))
    if faults:
        raise FaultsError(where, faults)
    return found


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def record_keys(session: Session, wanted: Iterable[tuple[str, str]], now: datetime) -> Outcome:
    """Record each key for its box as moatvpn.fleet.keys.record_key does; one refused is left out.

    Two keys for one box are refused, both: one of them is not its own.
    """
    outcome = Outcome()
    keys: dict[str, set[str]] = {}
    for identity, key in wanted:
        keys.setdefault(identity, set()).add(key)
    for identity, given in keys.items():
        if len(given) > 1:
            outcome.refused[identity] = "is here with two public keys. See which one is the box's"
            continue
        try:
            with session.begin_nested():
                changed = record_key(session, identity, given.pop(), now)
        except OperatorError as error:
            outcome.refused[identity] = str(error)
        else:
            if changed:
                outcome.changed.append(identity)
    return outcome
