"""Single values of a record: from text to canonical form, or a sentence about what is wrong.

Every parser takes text without surrounding space and raises ValueError; the Field that uses it
adds what to do about it.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from moatvpn.config import ED25519_SPKI_PREFIX, public_key_from_text
from moatvpn.fleet.faults import Fault
from moatvpn.fleet.models import Status, WildMode
from moatvpn.subnets import Interface, Network, parse_interface, parse_network, router_address

Value = str | int | bool | None
Parser = Callable[[str], Value]

TEXT_LIMIT = 200
TUNNEL_INTERFACE = "moat0"

_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_INTERFACE = re.compile(r"[a-z][a-z0-9._-]{0,14}")
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,63}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a record.

    name: as in the record, in a CSV file's header and, with dashes, on the command line.
    parse: from text to the value. remedy: what to give instead of a wrong value, one sentence.
    help: what the value is. default: what stands for a value not given; None where the record
    then holds None. required: whether a value must be given.
    """

    name: str
    parse: Parser
    remedy: str
    help: str
    default: str | None = None
    required: bool = False


def parse_fields(
    fields: Sequence[Field], given: Mapping[str, str]
) -> tuple[dict[str, Value], list[Fault]]:
    """Return the values of all fields out of the texts given, and the faults found.

    A text that is empty or absent stands for the default. A field at fault has no value.
    """
    values: dict[str, Value] = {}
    faults: list[Fault] = []
    for field in fields:
        text = given.get(field.name, "").strip() or field.default
        if text is None and field.required:
            faults.append(Fault(field.name, "is missing", field.remedy))
        elif text is None:
            values[field.name] = None
        else:
            try:
                values[field.name] = field.parse(text)
            except ValueError as error:
                faults.append(Fault(field.name, str(error), field.remedy))
    return values, faults


def text(value: str) -> str:
    """Free text for people: printable, at most TEXT_LIMIT characters."""
    if len(value) > TEXT_LIMIT:
        raise ValueError(f"has {len(value)} characters, more than {TEXT_LIMIT}")
    if not value.isprintable():
        raise ValueError(f"{value!r} holds characters that cannot be printed")
    return value


def _matching(pattern: re.Pattern[str], shape: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {shape}")
        return value

    return parse


word = _matching(_WORD, "a word of a-z, 0-9, '.', '_' and '-'")
serial = _matching(_SERIAL, "a serial number")


def interface(value: str) -> str:
    """Return the name of a network interface that a box can have beside lo and its tunnel."""
    if not _INTERFACE.fullmatch(value):
        raise ValueError(f"{value!r} is not an interface's name")
    if value in {"lo", TUNNEL_INTERFACE}:
        raise ValueError(f"{value} is taken on every box")
    return value


def identity(value: str) -> str:
    """Return an FQDN in lower case, of two labels or more, the last not a number (RFC 1123, 2.1).

    An identity is compared octet by octet, so there is one way to write it.
    """
    labels = value.split(".")
    if len(value) > 253 or len(labels) < 2 or not all(_LABEL.fullmatch(each) for each in labels):
        raise ValueError(f"{value!r} is not a fully-qualified domain name in lower case")
    if labels[-1].isdigit():
        raise ValueError(f"{value!r} ends in a number, as an address does and no domain name")
    return value


def mac(value: str) -> str:
    """Return the MAC address of one port, as six pairs in lower case with colons."""
    address = value.lower().replace("-", ":")
    if not _MAC.fullmatch(address):
        raise ValueError(f"{value!r} is not a MAC address")
    if int(address[:2], 16) & 1:
        raise ValueError(f"{value!r} is the address of a group, not of a port")
    if address == "00:00:00:00:00:00":
        raise ValueError(f"{value!r} is no port's address")
    return address


def status(value: str) -> str:
    """Return one of the customer's states."""
    return _one_of(Status, value)


def wild_mode(value: str) -> str:
    """Return one of the ways to get a wild-side address."""
    return _one_of(WildMode, value)


def _one_of(known: type[StrEnum], value: str) -> str:
    if value not in list(known):
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return value


def switch(value: str) -> bool:
    """Return True for yes, true, on and 1; False for no, false, off and 0."""
    low = value.lower()
    if low in {"yes", "true", "on", "1"}:
        return True
    if low in {"no", "false", "off", "0"}:
        return False
    raise ValueError(f"{value!r} is neither yes nor no")


def prefix_length(value: str) -> int:
    """Return the prefix length of the IPv4 private subnets given out, 16 to 30."""
    if not value.isascii() or not value.isdigit() or not 16 <= int(value) <= 30:
        raise ValueError(f"{value!r} is not a number from 16 to 30")
    return int(value)


def address(version: int) -> Parser:
    """Return a parser of one host's address, without a prefix length."""

    def parse(value: str) -> str:
        if "%" in value:
            raise ValueError(f"{value!r} has a zone")
        found = ipaddress.ip_address(value)
        if found.version != version:
            raise ValueError(f"{value!r} is IPv{found.version}, not IPv{version}")
        _check_ordinary(value, ipaddress.ip_network(found))
        return str(found)

    return parse


def host(version: int) -> Parser:
    """Return a parser of a host's address with its network's prefix length."""

    def parse(value: str) -> str:
        found: Interface = parse_interface(value, version)
        _check_ordinary(value, found.network)
        return str(found)

    return parse


def network(version: int) -> Parser:
    """Return a parser of a network."""

    def parse(value: str) -> str:
        found = parse_network(value, version)
        _check_ordinary(value, found)
        return str(found)

    return parse


def private_subnet(version: int) -> Parser:
    """Return a parser of a network for a home: room for hosts, and in IPv6 a /64 (RFC 4862)."""

    def parse(value: str) -> str:
        found = parse_network(value, version)
        _check_ordinary(value, found)
        router_address(found)
        if version == 6 and found.prefixlen != 64:
            raise ValueError(f"{value!r} is not a /64, the only size clients configure in")
        return str(found)

    return parse


def single(version: int) -> Parser:
    """Return a parser of one address written as a network: /32 or /128."""

    def parse(value: str) -> str:
        found = parse_network(value, version)
        _check_ordinary(value, found)
        if found.num_addresses != 1:
            raise ValueError(f"{value!r} is not a single address (/{found.max_prefixlen})")
        return str(found)

    return parse


def _check_ordinary(value: str, found: Network) -> None:
    """Refuse networks that no host on the private or the corporate side can be in."""
    if (
        found.is_multicast
        or found.is_loopback
        or found.is_link_local
        or found.network_address.is_unspecified
    ):
        raise ValueError(f"{value!r} is reserved: multicast, loopback, link-local or unspecified")


def public_key(value: str) -> str:
    """Return base64 of an Ed25519 SubjectPublicKeyInfo, in its one canonical form.

    moatd takes other kinds of its peers; a box of ours makes none.
    """
    spki = public_key_from_text(value)
    if not spki.startswith(ED25519_SPKI_PREFIX):
        raise ValueError("no Ed25519 key, as every box makes")
    return base64.b64encode(spki).decode("ascii")


def moment(value: str) -> datetime:
    """Return a date, or a date and time with its zone, as a moment in UTC.

    A date alone means its first moment in UTC.
    """
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None and len(value) <= len("2026-01-31"):
            found = found.replace(tzinfo=UTC)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{value!r} is not a date of ISO 8601") from error
    raise ValueError(f"{value!r} lacks a time zone")


def slug(value: str) -> str:
    """Return value as a part of an Ansible group's name: of a-z, 0-9 and '_', never empty.

    Accents fall away. Two values may share a slug.
    """
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_") or "other"
