"""Settings as typed, frozen values, read from JSON and checked field by field."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from moatvpn.errors import ConfigError
from moatvpn.subnets import parse_network
from moatvpn.wire.algorithms import (
    DEFAULT_GROUPS,
    DEFAULT_SUITES,
    CipherSuite,
    Group,
    PostQuantum,
)
from moatvpn.wire.selectors import MOST_SELECTORS

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_FQDN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
)
# SubjectPublicKeyInfo of an Ed25519 key (RFC 8410): this prefix, then the 32 octets of the key.
ED25519_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
ED25519_SPKI_LENGTH = len(ED25519_SPKI_PREFIX) + 32

# A week: keys that serve for longer protect too much, and a timer can count it.
MOST_SECONDS = 604800.0
MOST_LINES = 16  # CHILD_SAs of one connection side by side
_WRITE_KEYS = "insecure_write_keys_for_wireshark"
_LONGEST_TEXT = 255
_LONGEST_SOCKET_PATH = 107  # octets (unix(7)), without the zero that ends it
_PATH = re.compile(r"/[^\x00-\x1f\x7f\ud800-\udfff]+")

E = TypeVar("E", bound=Enum)

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One tunnel, as the database describes it.

    Nothing in it depends on a wild-side address, but for the portal's that a moat is told.

    name: the connection's name, unique on a box; a word of a-z, 0-9, '.', '_' and '-'.
    remote_identity: the peer's FQDN identity (ID_FQDN).
    remote_public_keys: the Ed25519 keys that the peer may prove, base64 of SubjectPublicKeyInfo.
    local_selectors, remote_selectors: the networks on our and on the peer's side.
    remote_address: the IPv4 address to reach the peer at; None on a portal, which waits to be
        called.
    initiate: whether this side sets the tunnel up, and sets it up again whenever it is down.
    encapsulation: "auto" (UDP where a NAT is detected, else protocol 50) or "udp", which goes for
        both sides; on a side that is called, one connection's "udp" goes for all that call it.
    esp_suites, ike_suites: what is offered or accepted, best first, for envelopes and for IKE.
    groups: the key exchange methods that are, likewise.
    post_quantum: whether ML-KEM-768 goes beside them: "off", "prefer" or "require".
    pfs: whether each rekey of a CHILD_SA has a key exchange of its own.
    child_sas: "one" CHILD_SA for all networks, or one "per-pair" of networks, for peers that take
        no more (RFC 7296, 2.9); MOST_LINES at most. The side that calls goes by it.
    request_addresses: whether to ask the peer for addresses, resolvers and networks behind it: for
        a moat that is a single machine.
    assigned_addresses, assigned_dns, assigned_domains: what a peer that asks is told, beside
        local_selectors: its addresses, resolvers, and the domains that they are for.
    child_lifetime, ike_lifetime: seconds until a rekey starts, a week at most; each side jitters
        them.
    dpd_interval: seconds of silence from the peer after which it is asked whether it lives.
    """

    name: str
    remote_identity: str
    remote_public_keys: tuple[str, ...]
    local_selectors: tuple[str, ...]
    remote_selectors: tuple[str, ...]
    remote_address: str | None = None
    initiate: bool = False
    encapsulation: str = "auto"
    esp_suites: tuple[CipherSuite, ...] = DEFAULT_SUITES
    ike_suites: tuple[CipherSuite, ...] = DEFAULT_SUITES
    groups: tuple[Group, ...] = DEFAULT_GROUPS
    post_quantum: PostQuantum = PostQuantum.PREFER
    pfs: bool = True
    child_sas: str = "one"
    request_addresses: bool = False
    assigned_addresses: tuple[str, ...] = ()
    assigned_dns: tuple[str, ...] = ()
    assigned_domains: tuple[str, ...] = ()
    child_lifetime: float = 3600.0
    ike_lifetime: float = 14400.0
    dpd_interval: float = 8.0

    def public_keys(self) -> tuple[bytes, ...]:
        """Return remote_public_keys decoded to SubjectPublicKeyInfo octets."""
        return tuple(base64.b64decode(key) for key in self.remote_public_keys)


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """What moatd itself needs to know.

    identity: our own FQDN identity. private_key: the PEM file (PKCS #8, Ed25519) of our key.
    tunnel_interface: the TUN device, made beforehand for moatd's user.
    connections: the directory that holds one NAME.json for each connection.
    control_socket: where moatctl finds us. log_level: one of LOG_LEVELS.
    state: the directory of what outlives moatd, private to its user; None: nothing does.
    insecure_write_keys_for_wireshark: a directory that gets the keys of all traffic, as Wireshark
        reads them: for a laboratory, and never for a box at work.
    """

    identity: str
    private_key: Path
    tunnel_interface: str = "moat0"
    connections: Path = Path("/etc/moatvpn/connections.d")
    control_socket: Path = Path("/run/moatvpn/control.sock")
    log_level: str = "info"
    state: Path | None = None
    insecure_write_keys_for_wireshark: Path | None = None


class _Short(reprlib.Repr):
    """Shows any value in a few words on one line, whatever a file may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 1

    def repr_int(self, value: int, level: int) -> str:
        """Return value's digits where they are few: Python refuses to write out very many."""
        bits = value.bit_length()
        return repr(value) if bits <= 64 else f"a number of {bits} bits"


_short = _Short().repr


def object_from_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object that text is; raise ConfigError, naming where, for anything else.

    A key that stands twice is refused: the reader and the writer might mean different ones.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"is not JSON ({error})", "Mend or remove it") from error
    if not isinstance(value, dict):
        raise ConfigError(where, "holds no JSON object", "Mend or remove it")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise ValueError(f"it has {_short(key)} twice")
        record[key] = value
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}, which RFC 8259 does not know")


def load_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at path; raise ConfigError where there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read ({error.strerror})", "Check it exists"
        ) from error
    return object_from_json(content, str(path))


class _Record:
    """Takes checked fields out of a JSON object; whatever is left at the end is an error."""

    def __init__(self, where: str, record: dict[str, Any], known: tuple[str, ...]) -> None:
        self.where = where
        self.record = record
        for key in record:
            if key not in known:
                shown = _short(key).strip("'")
                raise self.error(shown, "is not a setting", f"Known: {', '.join(known)}")

    def error(self, key: str, why: str, remedy: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key}", why, remedy)

    def text(self, key: str, pattern: re.Pattern[str], shape: str) -> str:
        value = self.record.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self.error(key, f"is {_short(value)}", f"Give {shape}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.record.get(key)
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(v, str) and len(v) <= _LONGEST_TEXT for v in value)
        ):
            remedy = f"Give a list of strings, each of at most {_LONGEST_TEXT} characters"
            raise self.error(key, f"is {_short(value)}", remedy)
        return tuple(value)

    def networks(self, key: str) -> tuple[str, ...]:
        values = self.texts(key)
        if len(values) > MOST_SELECTORS:
            remedy = f"Give {MOST_SELECTORS} at most, such as one for all of them"
            raise self.error(key, f"has {len(values)} networks", remedy)
        try:
            # One way to write a network, so that two are the same where they read the same.
            return tuple(str(parse_network(value)) for value in values)
        except ValueError as error:
            raise self.error(key, str(error), "Give networks such as 10.1.2.0/24") from error

    def hosts(self, key: str) -> tuple[str, ...]:
        """Take a list of IP addresses of either family; none where it is left out."""
        if not self.record.get(key, ()):
            return ()
        try:
            return tuple(str(ipaddress.ip_address(value)) for value in self.texts(key))
        except ValueError as error:
            raise self.error(key, str(error), "Give addresses such as 10.201.9.1") from error

    def domains(self, key: str) -> tuple[str, ...]:
        """Take a list of domain names; none where it is left out."""
        names = self.texts(key) if self.record.get(key, ()) else ()
        for name in names:
            if not _FQDN.fullmatch(name):
                raise self.error(key, f"has {_short(name)}", "Give domain names in lower case")
        return names

    def members(self, key: str, kind: type[E], default: tuple[E, ...]) -> tuple[E, ...]:
        """Take a list of names of an enumeration's members."""
        if key not in self.record:
            return default
        try:
            members = tuple(kind(name) for name in self.texts(key))
        except ValueError as error:
            known = ", ".join(str(member.value) for member in kind)
            raise self.error(key, str(error), f"Known: {known}") from error
        if len(set(members)) < len(members):
            raise self.error(key, "has one twice", "Give each once")
        return members

    def flag(self, key: str, default: bool) -> bool:
        value = self.record.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {_short(value)}", "Give true or false")
        return value

    def wild_address(self, key: str) -> str | None:
        """Take the address of a host on the wild side, which the drivers speak IPv4 on."""
        value = self.record.get(key)
        if value is None:
            return None
        try:
            # Of numbers and booleans, ipaddress would make addresses, too.
            address = ipaddress.IPv4Address(value if isinstance(value, str) else "")
        except ValueError as error:
            why = f"is {_short(value)}, and the wild side speaks IPv4 only"
            raise self.error(key, why, "Give an IPv4 address such as 198.51.100.2") from error
        if address.is_unspecified or address.is_multicast or address.is_reserved:
            raise self.error(key, f"is {address}, which no host has", "Give the peer's own")
        return str(address)

    def seconds(self, key: str, default: float, least: float) -> float:
        value = self.record.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not least <= value <= MOST_SECONDS  # as NaN never is
        ):
            remedy = f"Give a number of seconds from {least:g} to {MOST_SECONDS:.0f}"
            raise self.error(key, f"is {_short(value)}", remedy)
        return float(value)

    def member(self, key: str, kind: type[E], default: E) -> E:
        """Take the name of one of an enumeration's members."""
        return kind(self.choice(key, tuple(str(m.value) for m in kind), str(default.value)))

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.record.get(key, default)
        if value not in choices:
            raise self.error(key, f"is {_short(value)}", f"Give one of {', '.join(choices)}")
        return str(value)

    def path(self, key: str) -> Path:
        return Path(self.text(key, _PATH, "an absolute path, without control characters"))


def public_key_from_text(text: str) -> bytes:
    """Return the SubjectPublicKeyInfo octets of an Ed25519 key; raise ValueError for any other."""
    try:
        spki = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from error
    if len(spki) != ED25519_SPKI_LENGTH or not spki.startswith(ED25519_SPKI_PREFIX):
        raise ValueError("not an Ed25519 SubjectPublicKeyInfo")
    return spki


def connection_from_dict(record: dict[str, Any], where: str = "connection") -> ConnectionConfig:
    """Return the connection that record describes.

    record has the fields of ConnectionConfig; where names its source in errors.
    Raises ConfigError, which names the field at fault.
    """
    get = _Record(where, record, tuple(f.name for f in fields(ConnectionConfig)))
    keys = get.texts("remote_public_keys")
    for key in keys:
        try:
            public_key_from_text(key)
        except ValueError as error:
            raise get.error(
                "remote_public_keys", str(error), "Copy it from moat_identity"
            ) from error
    address = get.wild_address("remote_address")
    initiate = get.flag("initiate", False)
    if initiate and address is None:
        raise get.error("remote_address", "is missing", "A side that initiates must know it")
    networks = {key: get.networks(key) for key in ("local_selectors", "remote_selectors")}
    child_sas = get.choice("child_sas", ("one", "per-pair"), "one")
    if child_sas == "per-pair" and (pairs := _pairs(**networks)) > MOST_LINES:
        why = f"would make {pairs} CHILD_SAs of these networks, and {MOST_LINES} is the most"
        raise get.error("child_sas", why, "Join neighbouring networks to larger ones")
    return ConnectionConfig(
        name=get.text("name", _NAME, "1 to 63 of a-z, 0-9, '.', '_' and '-'"),
        remote_identity=get.text("remote_identity", _FQDN, "a domain name in lower case"),
        remote_public_keys=keys,
        **networks,
        remote_address=address,
        initiate=initiate,
        encapsulation=get.choice("encapsulation", ("auto", "udp"), "auto"),
        esp_suites=get.members("esp_suites", CipherSuite, DEFAULT_SUITES),
        ike_suites=get.members("ike_suites", CipherSuite, DEFAULT_SUITES),
        groups=get.members("groups", Group, DEFAULT_GROUPS),
        post_quantum=get.member("post_quantum", PostQuantum, PostQuantum.PREFER),
        pfs=get.flag("pfs", True),
        child_sas=child_sas,
        request_addresses=get.flag("request_addresses", False),
        **{key: get.hosts(key) for key in ("assigned_addresses", "assigned_dns")},
        assigned_domains=get.domains("assigned_domains"),
        child_lifetime=get.seconds("child_lifetime", 3600.0, 10.0),
        ike_lifetime=get.seconds("ike_lifetime", 14400.0, 20.0),
        dpd_interval=get.seconds("dpd_interval", 8.0, 1.0),
    )


def _pairs(local_selectors: Sequence[str], remote_selectors: Sequence[str]) -> int:
    """Return how many pairs of a local and a remote network of the same family there are."""
    sides = (local_selectors, remote_selectors)
    (ours6, theirs6) = (sum(":" in network for network in side) for side in sides)
    ours4, theirs4 = len(local_selectors) - ours6, len(remote_selectors) - theirs6
    return ours4 * theirs4 + ours6 * theirs6


def connection_to_dict(connection: ConnectionConfig) -> dict[str, Any]:
    """Return connection as a JSON object that connection_from_dict reads back as its equal."""
    record: dict[str, Any] = {}
    for field in fields(ConnectionConfig):
        value = getattr(connection, field.name)
        if isinstance(value, tuple):
            value = [item.value if isinstance(item, Enum) else item for item in value]
        elif isinstance(value, Enum):
            value = value.value
        record[field.name] = value
    return record


def daemon_from_dict(record: dict[str, Any], where: str = "moatd.json") -> DaemonConfig:
    """Return the daemon's settings that record describes; raise ConfigError naming the field."""
    get = _Record(where, record, tuple(f.name for f in fields(DaemonConfig)))
    paths = {
        key: get.path(key)
        for key in ("private_key", "connections", "control_socket", "state", _WRITE_KEYS)
        if key in record or key == "private_key"
    }
    if len(os.fsencode(paths.get("control_socket", ""))) > _LONGEST_SOCKET_PATH:
        why = f"is longer than the {_LONGEST_SOCKET_PATH} octets of a socket's path"
        raise get.error("control_socket", why, "Give a shorter one")
    return DaemonConfig(
        identity=get.text("identity", _FQDN, "a domain name in lower case"),
        tunnel_interface=(
            get.text("tunnel_interface", re.compile(r"[a-z][a-z0-9-]{0,14}"), "an interface's name")
            if "tunnel_interface" in record
            else "moat0"
        ),
        log_level=get.choice("log_level", LOG_LEVELS, "info"),
        **paths,
    )
