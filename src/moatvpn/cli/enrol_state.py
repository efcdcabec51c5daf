"""What a moat remembers of its enrolment: it takes nothing older, after a power cut either."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moatvpn.cli.policy_files import write_whole
from moatvpn.config_fields import Record, load_json
from moatvpn.enrol.client import Trust
from moatvpn.enrol.documents import Configuration
from moatvpn.enrol.messages import MOST_SERIAL
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.errors import ConfigError
from moatvpn.signed import read_public_keys

_DIGEST = re.compile(r"[0-9a-f]{64}|")
# Seconds after which settings that cost the tunnel are tried again; each time twice as long.
_RETRY = 600.0
_LONGEST_RETRY = 86400.0


@dataclass(frozen=True, slots=True)
class State:
    """What a moat knows.

    anchors: the operator's keys as its image has them; keys: those that they have handed over to.
    voucher: the newest voucher's serial. serial, digest: of the newest settings it has had.
    in_force: the serial of those in force. failures, failed_at: how often settings newer than that
    have cost the tunnel, and when last (seconds since the epoch). servers: whom to ask first.
    """

    anchors: tuple[str, ...]
    keys: tuple[str, ...]
    voucher: int = 0
    serial: int = 0
    digest: str = ""
    in_force: int = 0
    failures: int = 0
    failed_at: float = 0.0
    servers: tuple[str, ...] = ()

    @property
    def trust(self) -> Trust:
        """Return what the client believes."""
        return Trust(self.keys, self.voucher)

    def check(self, configuration: Configuration, identity: str | None) -> None:
        """Raise EnrolError for settings of another box, or such that are older than what it had.

        identity is the box's own, None before it has one.
        """
        if identity is not None and configuration.identity != identity:
            raise EnrolError(Reason.SERVER, f"settings of {configuration.identity}")
        known = (self.serial, self.digest)
        new = (configuration.serial, configuration.digest)
        if new != known and new[0] <= known[0]:
            why = f"settings of serial {new[0]}, after {known[0]}"
            raise EnrolError(Reason.REPLAYED, why)

    def may_retry(self, now: float) -> bool:
        """Return whether settings that cost the tunnel before may be tried at now."""
        wait = min(_RETRY * 2 ** min(self.failures - 1, 10), _LONGEST_RETRY)
        # A clock that was set back says nothing about how long ago that was.
        return not self.failures or not 0 <= now - self.failed_at < wait


def read_state(path: Path, operator_keys: Path) -> State:
    """Return the state in the file at path, for the operator's public keys in operator_keys.

    Where the image has got other keys since, only those are believed. Raises OperatorError.
    """
    anchors = read_public_keys(operator_keys)
    if not path.exists():
        return State(anchors, anchors)
    get = Record(str(path), load_json(path), tuple(State.__slots__))
    failed = get.record.get("failed_at", 0.0)
    if isinstance(failed, bool) or not isinstance(failed, int | float):
        raise get.error("failed_at", "is no time", "Remove the file")
    same = get.texts("anchors") == anchors
    return State(
        anchors=anchors,
        keys=get.texts("keys") if same else anchors,
        voucher=get.amount("voucher", (0, MOST_SERIAL), "vouchers"),
        serial=get.amount("serial", (0, MOST_SERIAL), "settings"),
        digest=get.text("digest", _DIGEST, "a SHA-256"),
        in_force=get.amount("in_force", (0, MOST_SERIAL), "settings"),
        failures=get.amount("failures", (0, MOST_SERIAL), "failures"),
        failed_at=float(failed),
        servers=get.wild_addresses("servers"),
    )


def write_state(path: Path, state: State) -> None:
    """Write the state, whole or not at all; raise OperatorError."""
    write_whole(path, json.dumps(asdict(state), indent=1).encode() + b"\n", 0o600)


def own_identity(path: Path) -> str | None:
    """Return the identity in the moatd.json at path, None where there is none yet."""
    if not path.exists():
        return None
    identity: Any = load_json(path).get("identity")
    if identity in (None, ""):
        return None
    if not isinstance(identity, str):
        raise ConfigError(f"{path}: identity", "is no text", "Give the moat's FQDN")
    return identity
