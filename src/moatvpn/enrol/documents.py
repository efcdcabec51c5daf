"""What the operator signs for enrolment: settings of one moat, vouchers, and handovers of keys.

A voucher names the certificate that speaks for the operator. A handover is signed by the operator's
old key, and names the new one: a moat that was away while keys changed walks from one to the next.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from moatvpn.config import ConnectionConfig, connection_from_dict, connection_to_dict
from moatvpn.config_fields import FQDN, Record, object_from_json, short
from moatvpn.crypto.seal import Seal, is_public_text, sha256_hex
from moatvpn.enrol.messages import serial_of
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.errors import ConfigError
from moatvpn.signed import open_octets, seal_octets

CONFIGURATION = "moat-configuration-1"
VOUCHER = "moat-voucher-1"
HANDOVER = "moat-handover-1"
MOST_CONNECTIONS = 64
MOST_SERVERS = 16

_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[A-Za-z0-9+/=]{1,100}")


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a moat is told of its connections.

    identity: the moat it is for. serial: it only grows. connections: all there are to be.
    servers: the IPv4 addresses to ask for settings from now on, best first; empty: as before.
    """

    identity: str
    serial: int
    connections: tuple[ConnectionConfig, ...]
    servers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return a hash of all but the serial: another one means that something has changed."""
        return sha256_hex(_canonical(_configuration_record(replace(self, serial=0))))


@dataclass(frozen=True, slots=True)
class Voucher:
    """Which certificate speaks for the operator: SHA-256 of its DER, in hex. serial only grows."""

    certificate: str
    serial: int


def certificate_digest(pem: str) -> str:
    """Return SHA-256 of the first certificate in pem, in hex; raise ValueError for none."""
    end = pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    return sha256_hex(ssl.PEM_cert_to_DER_cert(pem[pem.index(ssl.PEM_HEADER) : end]))


def seal_configuration(configuration: Configuration, seal: Seal) -> bytes:
    """Return the signed file of a moat's settings."""
    return seal_octets(_canonical(_configuration_record(configuration)), CONFIGURATION, seal)


def open_configuration(data: bytes, keys: Sequence[str]) -> Configuration:
    """Return the settings in data once they have verified under one of keys; raise ConfigError."""
    known = ("identity", "serial", "servers", "connections")
    get = _open(data, keys, CONFIGURATION, known)
    connections = get.record.get("connections")
    if (
        not isinstance(connections, list)
        or len(connections) > MOST_CONNECTIONS
        or not all(isinstance(each, dict) for each in connections)
    ):
        raise get.error("connections", "is no list of records", f"Give {MOST_CONNECTIONS} at most")
    made = tuple(
        connection_from_dict(each, f"{CONFIGURATION}: connections[{n}]")
        for n, each in enumerate(connections)
    )
    if len({each.name for each in made}) < len(made):
        raise get.error("connections", "has a name twice", "Give each its own")
    return Configuration(
        identity=get.text("identity", FQDN, "a domain name in lower case"),
        serial=serial_of(get),
        connections=made,
        servers=get.wild_addresses("servers")[:MOST_SERVERS],
    )


def seal_voucher(voucher: Voucher, seal: Seal) -> bytes:
    """Return the signed file of a voucher."""
    record = {"certificate": voucher.certificate, "serial": voucher.serial}
    return seal_octets(_canonical(record), VOUCHER, seal)


def open_voucher(data: bytes, keys: Sequence[str]) -> Voucher:
    """Return the voucher in data once it has verified under one of keys; raise ConfigError."""
    get = _open(data, keys, VOUCHER, ("certificate", "serial"))
    return Voucher(get.text("certificate", _DIGEST, "a SHA-256"), serial_of(get))


def seal_handover(successor: str, seal: Seal) -> bytes:
    """Return the signed file by which seal's key hands over to successor, a public key (text)."""
    if not is_public_text(successor):
        raise ConfigError(
            "successor", f"is {short(successor)}, no Ed25519 public key", "Copy it from keygen"
        )
    return seal_octets(_canonical({"to": successor}), HANDOVER, seal)


def walk(keys: Sequence[str], handovers: Sequence[bytes]) -> tuple[str, ...]:
    """Return which keys are the operator's after handovers, the oldest of which is first.

    keys are those that were trusted before. A key that has handed over is trusted no more, and its
    successor stands in its place. What no trusted key has signed for itself is left out: it is from
    before our time, or somebody else's.
    """
    trusted = tuple(keys)
    for data in handovers:
        for key in trusted:
            successor = _successor(data, key)
            if successor is not None:
                passed = (successor if each == key else each for each in trusted)
                trusted = tuple(dict.fromkeys(passed))
                break
    return trusted


def _successor(data: bytes, key: str) -> str | None:
    """Return to whom key hands over in data, None where that is no handover of key's."""
    try:
        get = _open(data, (key,), HANDOVER, ("to",))
        to = get.text("to", _KEY, "a public key")
    except ConfigError:
        return None
    return to if is_public_text(to) else None


def check_server(data: bytes, keys: Sequence[str], certificate: str, serial: int) -> Voucher:
    """Return the voucher in data where it is for certificate, and no older than serial.

    Raises EnrolError for any other: then whoever answers does not speak for the operator.
    """
    try:
        voucher = open_voucher(data, keys)
    except ConfigError as error:
        raise EnrolError(Reason.SERVER, str(error)) from error
    if voucher.certificate != certificate:
        raise EnrolError(Reason.SERVER, "the voucher is for another certificate")
    if voucher.serial < serial:
        raise EnrolError(Reason.REPLAYED, f"a voucher of serial {voucher.serial}, not {serial}")
    return voucher


def _configuration_record(configuration: Configuration) -> dict[str, Any]:
    return {
        "identity": configuration.identity,
        "serial": configuration.serial,
        "servers": list(configuration.servers),
        "connections": [connection_to_dict(each) for each in configuration.connections],
    }


def _canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")


def _open(data: bytes, keys: Sequence[str], form: str, known: tuple[str, ...]) -> Record:
    return Record(form, object_from_json(open_octets(data, form, keys, form), form), known)
