"""Settings as typed, frozen values, read from JSON and checked field by field."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from moatvpn.errors import ConfigError
from moatvpn.esp.child import EspSuite
from moatvpn.wire.selectors import MOST_SELECTORS

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_FQDN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
)
# SubjectPublicKeyInfo of an Ed25519 key (RFC 8410): this prefix, then the 32 octets of the key.
ED25519_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
ED25519_SPKI_LENGTH = len(ED25519_SPKI_PREFIX) + 32

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One tunnel, as the database describes it.

    Nothing in it depends on a wild-side address, but for the portal's that a moat is told.

    name: the connection's name, unique on a box; a word of a-z, 0-9, '.', '_' and '-'.
    remote_identity: the peer's FQDN identity (ID_FQDN).
    remote_public_keys: the Ed25519 keys that the peer may prove, base64 of SubjectPublicKeyInfo.
    local_selectors, remote_selectors: the networks on our and on the peer's side.
    remote_address: where to reach the peer; None on a portal, which waits to be called.
    initiate: whether this side sets the tunnel up, and sets it up again whenever it is down.
    encapsulation: "auto" (UDP where a NAT is detected, else protocol 50) or "udp", which goes for
    both sides; on a side that is called, one connection's "udp" goes for all that call it.
    esp_suites: what is offered or accepted, best first.
    child_lifetime, ike_lifetime: seconds until a rekey starts; each side jitters them.
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
    esp_suites: tuple[EspSuite, ...] = (EspSuite.AES_256_GCM, EspSuite.CHACHA20_POLY1305)
    child_lifetime: float = 3600.0
    ike_lifetime: float = 14400.0
    dpd_interval: float = 10.0

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
    """

    identity: str
    private_key: Path
    tunnel_interface: str = "moat0"
    connections: Path = Path("/etc/moatvpn/connections.d")
    control_socket: Path = Path("/run/moatvpn/control.sock")
    log_level: str = "info"


def load_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at path; raise ConfigError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read ({error.strerror})", "Check it exists"
        ) from error
    except ValueError as error:
        raise ConfigError(str(path), f"is not JSON ({error})", "Mend or remove the file") from error
    if not isinstance(value, dict):
        raise ConfigError(str(path), "holds no JSON object", "Mend or remove the file")
    return value


class _Record:
    """Takes checked fields out of a JSON object; whatever is left at the end is an error."""

    def __init__(self, where: str, record: dict[str, Any], known: tuple[str, ...]) -> None:
        self.where = where
        self.record = record
        for key in record:
            if key not in known:
                raise self.error(key, "is not a setting", f"Known: {', '.join(known)}")

    def error(self, key: str, why: str, remedy: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key}", why, remedy)

    def text(self, key: str, pattern: re.Pattern[str], shape: str) -> str:
        value = self.record.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self.error(key, f"is {value!r}", f"Give {shape}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.record.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self.error(key, f"is {value!r}", "Give a list of at least one string")
        return tuple(value)

    def networks(self, key: str) -> tuple[str, ...]:
        values = self.texts(key)
        if len(values) > MOST_SELECTORS:
            why = f"holds {len(values)} networks"
            raise self.error(key, why, f"Join neighbours, down to at most {MOST_SELECTORS}")
        for value in values:
            try:
                ipaddress.ip_network(value)
            except ValueError as error:
                raise self.error(key, str(error), "Give networks such as 10.1.2.0/24") from error
        return values

    def seconds(self, key: str, default: float, least: float) -> float:
        value = self.record.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise self.error(key, f"is {value!r}", f"Give a number of seconds from {least:g} up")
        return float(value)

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.record.get(key, default)
        if value not in choices:
            raise self.error(key, f"is {value!r}", f"Give one of {', '.join(choices)}")
        return str(value)


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
    address = record.get("remote_address")
    if address is not None:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise get.error("remote_address", str(error), "Give an IP address") from error
    initiate = record.get("initiate", False)
    if not isinstance(initiate, bool):
        raise get.error("initiate", f"is {initiate!r}", "Give true or false")
    if initiate and address is None:
        raise get.error("remote_address", "is missing", "A side that initiates must know it")
    suites = record.get("esp_suites", [suite.value for suite in EspSuite])
    try:
        esp_suites = tuple(EspSuite(suite) for suite in suites)
    except (ValueError, TypeError) as error:
        raise get.error("esp_suites", str(error), "Give a list of known suites") from error
    if not esp_suites:
        raise get.error("esp_suites", "is empty", "Give a list of known suites")
    return ConnectionConfig(
        name=get.text("name", _NAME, "1 to 63 of a-z, 0-9, '.', '_' and '-'"),
        remote_identity=get.text("remote_identity", _FQDN, "a domain name in lower case"),
        remote_public_keys=keys,
        local_selectors=get.networks("local_selectors"),
        remote_selectors=get.networks("remote_selectors"),
        remote_address=address,
        initiate=initiate,
        encapsulation=get.choice("encapsulation", ("auto", "udp"), "auto"),
        esp_suites=esp_suites,
        child_lifetime=get.seconds("child_lifetime", 3600.0, 10.0),
        ike_lifetime=get.seconds("ike_lifetime", 14400.0, 20.0),
        dpd_interval=get.seconds("dpd_interval", 10.0, 1.0),
    )


def connection_to_dict(connection: ConnectionConfig) -> dict[str, Any]:
    """Return connection as a JSON object that connection_from_dict reads back as its equal."""
    record: dict[str, Any] = {}
    for field in fields(ConnectionConfig):
        value = getattr(connection, field.name)
        if field.name == "esp_suites":
            value = [suite.value for suite in value]
        record[field.name] = list(value) if isinstance(value, tuple) else value
    return record


def daemon_from_dict(record: dict[str, Any], where: str = "moatd.json") -> DaemonConfig:
    """Return the daemon's settings that record describes; raise ConfigError naming the field."""
    get = _Record(where, record, tuple(f.name for f in fields(DaemonConfig)))
    any_path = re.compile(r"/.+")
    paths = {
        key: Path(get.text(key, any_path, "an absolute path"))
        for key in ("private_key", "connections", "control_socket")
        if key in record or key == "private_key"
    }
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
