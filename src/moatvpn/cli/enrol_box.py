"""A moat's enrolment from first boot on: its claim, its settings, and what it does with both."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moatvpn.cli.enrol_apply import Tunnels, tunnels_of
from moatvpn.cli.enrol_state import State, own_identity, read_state, write_state
from moatvpn.cli.policy_files import read_octets, write_whole
from moatvpn.config import daemon_from_dict, load_json
from moatvpn.config_fields import Record
from moatvpn.crypto.sign import Signer
from moatvpn.daemon.keyfile import create_key_file, read_signer
from moatvpn.enrol.client import Trust, ask
from moatvpn.enrol.documents import Configuration, open_configuration
from moatvpn.enrol.messages import Answer, Claim, Configure
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.enrol.service import PORT
from moatvpn.errors import OperatorError

USER = "moatvpn"
# Seconds that new settings have to bring up the tunnel that the old ones had.
PATIENCE = 60.0
# No other service would answer otherwise.
_FINAL = frozenset({Reason.USED, Reason.EXPIRED, Reason.COPIED})


@dataclass(frozen=True, slots=True)
class Box:
    """Where a moat has its settings and what it remembers; whom it asks is in enrol.json.

    restart has moatd read its settings anew. clock: seconds since the epoch.
    """

    settings: Path = Path("/etc/moatvpn")
    state: Path = Path("/var/lib/moat-enrol")
    patience: float = PATIENCE
    restart: Callable[[], None] = lambda: None
    clock: Callable[[], float] = field(default=time.time)

    @property
    def daemon(self) -> Path:
        """Return moatd's own settings."""
        return self.settings / "moatd.json"

    @property
    def key(self) -> Path:
        """Return the file of the box's private key."""
        return self.settings / "identity.key"

    @property
    def servers(self) -> Path:
        """Return the file that says where to ask at first: servers (addresses), port."""
        return self.settings / "enrol.json"

    @property
    def operator_keys(self) -> Path:
        """Return the file of the operator's public keys, as the image has them."""
        return self.settings / "enrol.pub"

    @property
    def remembered(self) -> Path:
        """Return the file of the state."""
        return self.state / "state.json"

    @property
    def pending(self) -> Path:
        """Return the signed settings that are being put in force."""
        return self.state / "pending"

    @property
    def in_force(self) -> Path:
        """Return the signed settings that were put in force last."""
        return self.state / "in-force"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: "current", "applied", "went-back", or "waiting" until the next try."""

    identity: str
    what: str
    serial: int


def claim(box: Box, token: str) -> Outcome:
    """Make the box the customer's whose token this is, and put its settings in force.

    The key pair is made where there is none. Doing it again, with the same key, does no harm.
    Raises EnrolError where the claim is refused, OperatorError where the box cannot do its part.
    """
    with _locked(box):
        if create_key_file(box.key):
            _give_to_daemon(box.key)
        signer = read_signer(box.key)
        state = read_state(box.remembered, box.operator_keys)
        request = Claim(token, signer.public_text)
        answer, trust = _ask(box, request, signer, state)
        if answer.configuration is None:
            raise EnrolError(Reason.SERVER, "no settings come with the claim")
        return _accept(box, state, trust, answer.configuration)


def pull(box: Box) -> Outcome:
    """Ask for newer settings, and put them in force where there are any. Raises as claim does."""
    with _locked(box):
        signer = read_signer(box.key)
        identity = own_identity(box.daemon)
        if identity is None:
            why = "this box has no identity yet"
            raise OperatorError(str(box.daemon), why, "Claim it: moat-enrol claim")
        state = _settled(box, read_state(box.remembered, box.operator_keys))
        request = Configure(identity, signer.public_text, state.in_force)
        answer, trust = _ask(box, request, signer, state)
        if answer.configuration is None:
            now = replace(state, keys=trust.keys, voucher=trust.voucher)
            if now != state:
                write_state(box.remembered, now)
            return Outcome(identity, "current", state.in_force)
        return _accept(box, state, trust, answer.configuration)


def _settled(box: Box, state: State) -> State:
    """End what a power cut has left half done: the settings were good, and are put in force now."""
    if not box.pending.exists():
        return state
    try:
        configuration = open_configuration(read_octets(box.pending), state.keys)
    except OperatorError:
        box.pending.unlink()
        return state
    return _put_in_force(box, state, configuration)[0]


def _accept(box: Box, state: State, trust: Trust, data: bytes) -> Outcome:
    configuration = open_configuration(data, trust.keys)
    state.check(configuration, own_identity(box.daemon))
    fresh = configuration.serial > state.serial
    # The serial first: whatever happens, nothing older is taken from here on.
    state = replace(
        state,
        keys=trust.keys,
        voucher=trust.voucher,
        serial=configuration.serial,
        digest=configuration.digest,
        servers=configuration.servers,
        failures=0 if fresh else state.failures,
    )
    write_state(box.remembered, state)
    if not state.may_retry(box.clock()):
        return Outcome(configuration.identity, "waiting", state.in_force)
    write_whole(box.pending, data, 0o600)
    state, kept = _put_in_force(box, state, configuration)
    what = "applied" if kept else "went-back"
    return Outcome(configuration.identity, what, state.in_force)


def _put_in_force(box: Box, state: State, configuration: Configuration) -> tuple[State, bool]:
    """Apply settings that were checked; return the state, and whether they are in force."""
    _name(box, configuration.identity)
    wanted = {each.name: each for each in configuration.connections}
    kept = _tunnels(box).apply(wanted, box.patience)
    if kept:
        state = replace(state, in_force=configuration.serial, failures=0)
        box.pending.replace(box.in_force)
    else:
        state = replace(state, failures=state.failures + 1, failed_at=box.clock())
        box.pending.unlink()
    write_state(box.remembered, state)
    return state, kept


def _tunnels(box: Box) -> Tunnels:
    daemon = daemon_from_dict(load_json(box.daemon), str(box.daemon))
    return tunnels_of(daemon.connections, daemon.control_socket)


def _name(box: Box, identity: str) -> None:
    """Have moatd know the box by its identity."""
    record: dict[str, Any] = {"private_key": str(box.key), "state": "/var/lib/moatvpn"}
    if box.daemon.exists():
        record = load_json(box.daemon)
    if record.get("identity") == identity:
        return
    record["identity"] = identity
    daemon_from_dict(record, str(box.daemon))
    write_whole(box.daemon, json.dumps(record, indent=4).encode() + b"\n", 0o644)
    box.restart()


def _ask(
    box: Box, request: Claim | Configure, signer: Signer, state: State
) -> tuple[Answer, Trust]:
    """Ask one service after another, those that the newest settings name first.

    Raises the last EnrolError where all refuse, and OperatorError where none can be reached.
    """
    refused: EnrolError | None = None
    failed = "is not named anywhere"
    addresses, port = _servers(box, state)
    for address in addresses:
        try:
            return ask((address, port), request, signer, state.trust)
        except EnrolError as error:
            refused = error
            if error.reason in _FINAL:
                break
        except OSError as error:
            failed = f"cannot be reached at {address} ({error})"
    if refused is not None:
        raise refused
    remedy = "It is tried again; see the wild side, and enrol.json"
    raise OperatorError("enrolment service", failed, remedy)


def _servers(box: Box, state: State) -> tuple[tuple[str, ...], int]:
    get = Record(str(box.servers), load_json(box.servers), ("servers", "port"))
    port = get.amount("port", (1, 65_535), "a TCP port") or PORT
    # The image's stay good: a box that went back may have missed what followed them.
    return tuple(dict.fromkeys((*state.servers, *get.wild_addresses("servers")))), port


def _give_to_daemon(path: Path) -> None:
    """Have moatd's user own a file, where there is such a user and we may."""
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return
    os.chown(path, user.pw_uid, user.pw_gid)


@contextmanager
def _locked(box: Box) -> Iterator[None]:
    """Keep other moat-enrols away."""
    fd = -1
    try:
        box.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(box.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        why = f"cannot be used ({error.strerror})"
        raise OperatorError(str(box.state), why, "Run as root") from error
    try:
        yield
    finally:
        os.close(fd)
