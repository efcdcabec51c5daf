"""What a box says of itself (library/moat_observation.py), read as a stranger's words.

A box may be in anybody's hands: whatever it says is bounded, and of the form that is known here,
or the whole answer is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moatvpn.errors import MoatError

_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_TUNNELS = 100_000
_LONGEST_NAME = 253
_LONGEST_FAULT = 300
# More than a box sends in its life, and far from what a column of the database holds.
MOST_ENVELOPES = 10**13
_LONGEST_UP = 10**10


class BrokenAnswerError(MoatError):
    """An answer that is none, with what is wrong with it as a line for people."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A connection as one of its ends has it.

    up_for is for how many seconds it has been up without a break, 0 while it is down. expected and
    lost are the envelopes that this end was to get since its moatd started; None where its data
    plane does not know. key is the fingerprint of the public key that this end proved.
    """

    up: bool
    up_for: float
    expected: int | None
    lost: int | None
    key: str | None


@dataclass(frozen=True, slots=True)
class Heard:
    """What a box has answered.

    version is that of the installed moatvpn; running: its moatd answers. tunnels are by the names
    of the connections. policy is the hash of the policy in force, empty for none and None where
    the box was not asked; policy_fault is in what the box is not as that says.
    """

    version: str | None
    running: bool
    policy: str | None
    policy_fault: str | None
    tunnels: Mapping[str, Tunnel]

    @property
    def key(self) -> str | None:
        """Return the fingerprint of the key that the box proves, None where no tunnel tells."""
        keys = (tunnel.key for tunnel in self.tunnels.values() if tunnel.up and tunnel.key)
        return next(keys, None)


def read_answer(answer: Mapping[str, Any]) -> Heard:
    """Return what an answer says; raise BrokenAnswerError where it is none."""
    running = answer.get("running")
    if not isinstance(running, bool):
        raise BrokenAnswerError("does not say whether moatd runs")
    rows = answer.get("connections")
    if not isinstance(rows, list) or len(rows) > _MOST_TUNNELS:
        raise BrokenAnswerError(f"has no list of {_MOST_TUNNELS:,} connections at most")
    tunnels: dict[str, Tunnel] = {}
    for row in rows:
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or name in tunnels:
            raise BrokenAnswerError("has a connection without a name of its own")
        tunnels[name] = _tunnel(row)
    return Heard(
        _text(answer, "version", _VERSION),
        running,
        "" if answer.get("policy") == "" else _text(answer, "policy", _HASH),
        _fault(answer.get("policy_faults")),
        tunnels,
    )


def _tunnel(row: Mapping[str, Any]) -> Tunnel:
    up = row.get("state") == "established"
    up_for = row.get("up_for")
    if up_for is None:
        up_for = 0.0
    # The comparison is false for what is no number.
    if type(up_for) not in (int, float) or not 0 <= up_for <= _LONGEST_UP:
        raise BrokenAnswerError("has a connection that has been up for no number of seconds")
    expected, lost = _count(row, "expected_in"), _count(row, "lost_in")
    if expected is None or lost is None:
        expected = lost = None
    elif lost > expected:
        raise BrokenAnswerError("has a connection that lost more envelopes than there were")
    return Tunnel(up, up_for if up else 0.0, expected, lost, _text(row, "local_key", _HASH))


def _count(row: Mapping[str, Any], name: str) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MOST_ENVELOPES:
        raise BrokenAnswerError(f"has a connection whose {name} is no number of envelopes")
    return value


def _text(values: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str | None:
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not form.fullmatch(value):
        raise BrokenAnswerError(f"has a {name.replace('_', ' ')} of no known form")
    return value


def _fault(faults: Any) -> str | None:
    """Return what a box says of its policy as one line without what would change a terminal."""
    if faults is None or faults == []:
        return None
    if not isinstance(faults, list) or not all(isinstance(each, str) for each in faults):
        raise BrokenAnswerError("has policy faults that are no texts")
    text = "; ".join(faults)[:_LONGEST_FAULT]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
