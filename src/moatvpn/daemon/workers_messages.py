"""What moatd and its two workers tell each other, and how it is written.

A message is one JSON list: its kind and its fields. Nothing in it can name a class or run code: the
worker that opens envelopes meets whatever strangers send, and shall not gain the others by that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar

from moatvpn.counters import DropReason
from moatvpn.esp.child import ChildSa
from moatvpn.esp.loss import LossEstimate
from moatvpn.esp.statistics import EspStatistics
from moatvpn.esp.tfc import Tfc, TfcMode
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.selectors import TrafficSelector

# To the workers: as esp.dataplane.DataPlane has them.


@dataclass(frozen=True, slots=True)
class Install:
    """One half of a CHILD_SA: the worker's own."""

    child: ChildSa
    peer: Endpoint
    activate_outbound: bool


@dataclass(frozen=True, slots=True)
class Activate:
    """Send on this CHILD_SA; from the worker that opens, too, once its peer sends on it."""

    spi_in: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget a CHILD_SA."""

    spi_in: int


@dataclass(frozen=True, slots=True)
class RemoveConnection:
    """Forget a connection."""

    connection: str


@dataclass(frozen=True, slots=True)
class SetMetric:
    """How much later than others a connection carries what several want."""

    connection: str
    metric: int


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Where a connection's peer is."""

    connection: str
    peer: Endpoint
    udp: bool


@dataclass(frozen=True, slots=True)
class SetLocal:
    """At which address of ours a connection's peer speaks to us."""

    connection: str
    host: str


@dataclass(frozen=True, slots=True)
class AskStatistics:
    """Tell what a connection has carried. number comes back with the answer."""

    number: int
    connection: str


@dataclass(frozen=True, slots=True)
class AskDrops:
    """Tell what was dropped since the last such question."""

    number: int


# From the workers, and the first two on to the one that seals; Stray is to the one that opens.


@dataclass(frozen=True, slots=True)
class ProbeAsked:
    """The peer has sent a path probe on a CHILD_SA."""

    spi_in: int
    identifier: int


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """The peer has answered a path probe of ours."""

    spi_in: int
    identifier: int


@dataclass(frozen=True, slots=True)
class Carried:
    """A connection's envelopes have come in, or have gone out."""

    connection: str
    inbound: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """A connection's newest authentic envelope came from there."""

    connection: str
    source: Endpoint


@dataclass(frozen=True, slots=True)
class Worn:
    """A connection's outbound SA nears its end."""

    connection: str


@dataclass(frozen=True, slots=True)
class IkeMessage:
    """A message of IKE that came where envelopes come."""

    datagram: Datagram


@dataclass(frozen=True, slots=True)
class Stray:
    """Envelopes that came where messages of IKE come: the fields are those of an Arrival."""

    data: bytes
    size: int
    source: Endpoint
    tos: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The answer to AskStatistics."""

    number: int
    statistics: EspStatistics


@dataclass(frozen=True, slots=True)
class Drops:
    """The answer to AskDrops: how often each reason has struck."""

    number: int
    drops: dict[DropReason, int]


Message = (
    Install | Activate | Remove | RemoveConnection | SetMetric | SetPeer | SetLocal
    | AskStatistics | AskDrops
    | ProbeAsked | ProbeAnswered | Carried | Moved | Worn | IkeMessage | Stray | Statistics | Drops
)  # fmt: skip


class _Form(NamedTuple):
    """How a field's value is written, as what JSON has, and read; read raises ValueError."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


T = TypeVar("T")
E = TypeVar("E", bound=Enum)


def _only(kind: type[T]) -> Callable[[Any], T]:
    def read(value: Any) -> T:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is no {kind.__name__}")
        return value

    return read


def _same(value: Any) -> Any:
    return value


def _list(value: Any, length: int | None = None) -> list[Any]:
    if type(value) is not list or (length is not None and len(value) != length):
        raise ValueError(f"{value!r} is no list of {length}")
    return value


def _enum(kind: type[E]) -> _Form:
    return _Form(lambda member: member.value, kind)


def _optional(form: _Form) -> _Form:
    return _Form(
        lambda value: None if value is None else form.write(value),
        lambda value: None if value is None else form.read(value),
    )


def _fields(kind: Callable[..., T], forms: dict[str, _Form]) -> _Form:
    """Return the form of a class that is called with those fields, by position."""

    def read(value: Any) -> T:
        values = _list(value, len(forms))
        return kind(*(form.read(each) for form, each in zip(forms.values(), values, strict=True)))

    return _Form(
        lambda made: [form.write(getattr(made, name)) for name, form in forms.items()], read
    )


def _tuple_of(form: _Form) -> _Form:
    return _Form(
        lambda values: [form.write(value) for value in values],
        lambda values: tuple(form.read(value) for value in _list(values)),
    )


_INT, _STR, _BOOL = (_Form(_same, _only(kind)) for kind in (int, str, bool))
_BYTES = _Form(bytes.hex, bytes.fromhex)
_ADDRESS = _Form(str, ip_address)
_ENDPOINT = _fields(Endpoint, {"host": _STR, "port": _INT})
_SELECTORS = _tuple_of(
    _fields(
        TrafficSelector,
        {
            "start": _ADDRESS,
            "end": _ADDRESS,
            "protocol": _INT,
            "start_port": _INT,
            "end_port": _INT,
        },
    )
)
_TFC = _fields(Tfc, {"mode": _enum(TfcMode), "octets": _INT, "rate": _INT})
_LOSS = _fields(LossEstimate, dict.fromkeys(LossEstimate._fields, _INT))
_CHILD = _fields(
    ChildSa,
    {
        "connection": _STR,
        "spi_in": _INT,
        "spi_out": _INT,
        "suite": _enum(CipherSuite),
        "esn": _BOOL,
        "key_in": _BYTES,
        "key_out": _BYTES,
        "local_ts": _SELECTORS,
        "remote_ts": _SELECTORS,
        "udp": _BOOL,
        "line": _INT,
        "aggfrag": _BOOL,
        "unsplit": _BOOL,
        "private_blocks": _BOOL,
        "tfc": _TFC,
        "tfc_padding": _BOOL,
    },
)
_STATISTICS = _fields(
    EspStatistics,
    {
        "packets_in": _INT,
        "packets_out": _INT,
        "octets_in": _INT,
        "octets_out": _INT,
        "spi_in": _optional(_INT),
        "spi_out": _optional(_INT),
        "suite": _optional(_STR),
        "esn": _BOOL,
        "udp": _BOOL,
        "sequence": _INT,
        "child_sas": _INT,
        "aggfrag": _BOOL,
        "super_packets": _BOOL,
        "path_mtu": _optional(_INT),
        "tfc": _enum(TfcMode),
        "envelope_octets": _optional(_INT),
        "loss": _optional(_LOSS),
    },
)
_DATAGRAM = _fields(Datagram, {"data": _BYTES, "local": _ENDPOINT, "remote": _ENDPOINT})
_DROPS = _Form(
    lambda drops: [[reason.value, number] for reason, number in drops.items()],
    lambda pairs: {
        DropReason(reason): _INT.read(number)
        for reason, number in (_list(pair, 2) for pair in _list(pairs))
    },
)
_OF_FIELD = {
    "child": _CHILD,
    "peer": _ENDPOINT,
    "source": _ENDPOINT,
    "datagram": _DATAGRAM,
    "statistics": _STATISTICS,
    "drops": _DROPS,
    "connection": _STR,
    "metric": _INT,
    "host": _STR,
    "activate_outbound": _BOOL,
    "udp": _BOOL,
    "inbound": _BOOL,
    "spi_in": _INT,
    "identifier": _INT,
    "data": _BYTES,
    "size": _INT,
    "tos": _INT,
    "number": _INT,
}
_KINDS = {
    kind.__name__: _fields(kind, {f.name: _OF_FIELD[f.name] for f in fields(kind)})
    for kind in Message.__args__
}


def encode(message: Message) -> bytes:
    """Return a message as it travels."""
    kind = type(message).__name__
    return json.dumps([kind, _KINDS[kind].write(message)], separators=(",", ":")).encode()


def decode(octets: bytes | memoryview) -> Message:
    """Return the message that octets are; raise ValueError where they are none."""
    try:
        kind, values = _list(json.loads(bytes(octets)), 2)
        message: Message = _KINDS[kind].read(values)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no message of ours ({type(error).__name__})") from error
    return message
