"""Takes settings out of JSON objects field by field, and says which one is wrong, and why."""

from __future__ import annotations

import ipaddress
import json
import re
import reprlib
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from moatvpn.errors import ConfigError
from moatvpn.subnets import parse_network
from moatvpn.wire.selectors import MOST_SELECTORS

# A week: keys that serve for longer protect too much, and a timer can count it.
MOST_SECONDS = 604800.0
FQDN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
)
_LONGEST_TEXT = 255
_LAST_PORT = 65535
_PATH = re.compile(r"/[^\x00-\x1f\x7f\ud800-\udfff]+")

E = TypeVar("E", bound=Enum)


class _Short(reprlib.Repr):
    """Shows any value in a few words on one line, whatever a file may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 1

    def repr_int(self, value: int, level: int) -> str:
        """Return value's digits where they are few: Python refuses to write out very many."""
        bits = value.bit_length()
        return repr(value) if bits <= 64 else f"a number of {bits} bits"


short = _Short().repr


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
            raise ValueError(f"it has {short(key)} twice")
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


# All connections of a portal have one side in common: it is read once, and held once.
@lru_cache(maxsize=64)
def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return networks in the one way to write them; raise ValueError for what is none."""
    return tuple(str(parse_network(value)) for value in values)


class Record:
    """Takes checked fields out of a JSON object, in which there are none but the known ones.

    Each method raises ConfigError, which names the field at fault.
    """

    def __init__(self, where: str, record: dict[str, Any], known: tuple[str, ...]) -> None:
        self.where = where
        self.record = record
        for key in record:
            if key not in known:
                shown = short(key).strip("'")
                raise self.error(shown, "is not a setting", f"Known: {', '.join(known)}")

    def error(self, key: str, why: str, remedy: str) -> ConfigError:
        """Return the error that the value of key is wrong."""
        return ConfigError(f"{self.where}: {key}", why, remedy)

    def text(self, key: str, pattern: re.Pattern[str], shape: str) -> str:
        """Take a text that pattern matches; shape says in words what that is."""
        value = self.record.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self.error(key, f"is {short(value)}", f"Give {shape}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of texts, of which there is one at least."""
        value = self.record.get(key)
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(v, str) and len(v) <= _LONGEST_TEXT for v in value)
        ):
            remedy = f"Give a list of strings, each of at most {_LONGEST_TEXT} characters"
            raise self.error(key, f"is {short(value)}", remedy)
        return tuple(value)

    def networks(self, key: str) -> tuple[str, ...]:
        """Take a list of networks."""
        values = self.texts(key)
        if len(values) > MOST_SELECTORS:
            remedy = f"Give {MOST_SELECTORS} at most, such as one for all of them"
            raise self.error(key, f"has {len(values)} networks", remedy)
        try:
            return _networks(values)
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
            if not FQDN.fullmatch(name):
                raise self.error(key, f"has {short(name)}", "Give domain names in lower case")
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
        """Take true or false."""
        value = self.record.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {short(value)}", "Give true or false")
        return value

    def wild_address(self, key: str) -> str | None:
        """Take the address of a host on the wild side, which the drivers speak IPv4 on."""
        value = self.record.get(key)
        return None if value is None else self._wild(key, value)

    def wild_addresses(self, key: str) -> tuple[str, ...]:
        """Take a list of addresses of the wild side; none where it is left out."""
        values = self.texts(key) if self.record.get(key, ()) else ()
        return tuple(dict.fromkeys(self._wild(key, value) for value in values))

    def _wild(self, key: str, value: object) -> str:
        try:
            # Of numbers and booleans, ipaddress would make addresses, too.
            address = ipaddress.IPv4Address(value if isinstance(value, str) else "")
        except ValueError as error:
            why = f"is {short(value)}, and the wild side speaks IPv4 only"
            raise self.error(key, why, "Give an IPv4 address such as 198.51.100.2") from error
        if address.is_unspecified or address.is_multicast or address.is_reserved:
            raise self.error(key, f"is {address}, which no host has", "Give one of a host")
        return str(address)

    def seconds(self, key: str, default: float, least: float) -> float:
        """Take a length of time of at least least seconds."""
        value = self.record.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not least <= value <= MOST_SECONDS  # as NaN never is
        ):
            remedy = f"Give a number of seconds from {least:g} to {MOST_SECONDS:.0f}"
            raise self.error(key, f"is {short(value)}", remedy)
        return float(value)

    def amount(self, key: str, bounds: tuple[int, int], unit: str) -> int:
        """Take a whole number within bounds; 0 where it is left out or 0. unit says what of."""
        value = self.record.get(key, 0)
        least, most = bounds
        if type(value) is not int or (value and not least <= value <= most):
            remedy = f"Give a whole number of {unit} from {least} to {most}, or leave it out"
            raise self.error(key, f"is {short(value)}", remedy)
        return value

    def ports(self, key: str, default: tuple[int, int]) -> tuple[int, int]:
        """Take a list of two UDP ports, which differ."""
        value = self.record.get(key, list(default))
        if (
            not isinstance(value, list)
            or len(value) != len(default)
            or not all(type(number) is int and 0 < number <= _LAST_PORT for number in value)
            or value[0] == value[1]
        ):
            remedy = f"Give two different numbers from 1 to {_LAST_PORT}, or leave it out"
            raise self.error(key, f"is {short(value)}", remedy)
        first, second = value
        return first, second

    def member(self, key: str, kind: type[E], default: E) -> E:
        """Take the name of one of an enumeration's members."""
        return kind(self.choice(key, tuple(str(m.value) for m in kind), str(default.value)))

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """Take one of choices."""
        value = self.record.get(key, default)
        if value not in choices:
            raise self.error(key, f"is {short(value)}", f"Give one of {', '.join(choices)}")
        return str(value)

    def path(self, key: str) -> Path:
        """Take an absolute path."""
        return Path(self.text(key, _PATH, "an absolute path, without control characters"))

    def paths(self, key: str) -> tuple[Path, ...]:
        """Take a list of absolute paths."""
        values = self.texts(key)
        if not all(_PATH.fullmatch(value) for value in values):
            raise self.error(key, "holds what is no absolute path", "Give absolute paths")
        return tuple(Path(value) for value in values)
