"""The lines that a box and the enrolment service say to each other: one JSON object each.

    box                                         service
    TLS 1.3                                     <-->
                                                <--  hello: nonce, vouchers, handovers
    claim: token, public_key, proof             -->
      or configure: identity, public_key, serial, proof
                                                <--  answer: identity, configuration
                                                  or refusal: why

Nothing else is ever said on a connection. Whatever comes is read by these functions alone, which
raise EnrolError for everything that is not exactly such a line.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from moatvpn.config import public_key_from_text
from moatvpn.config_fields import FQDN, Record, object_from_json, short
from moatvpn.enrol.reasons import TOLD, EnrolError, Reason
from moatvpn.errors import ConfigError

VERSION = "moat-enrol-1"
NONCE_OCTETS = 32
MOST_REQUEST = 2048  # octets of a line of a box's
MOST_ANSWER = 1 << 20  # octets of a line of the service's
MOST_SERIAL = (1 << 53) - 1  # what every reader of JSON holds exactly
MOST_DOCUMENTS = 64

_Read = TypeVar("_Read")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 bits in base64url, RFC 4648, 5
_BASE64 = re.compile(r"[A-Za-z0-9+/]{0,1024}={0,2}")
_WORD = re.compile(r"[a-z0-9-]{1,40}")
_VERSION = re.compile(re.escape(VERSION))


@dataclass(frozen=True, slots=True)
class Hello:
    """What the service says first.

    nonce: fresh octets that a proof covers. voucher: a signed file that says which certificate
    speaks for the operator. handovers: signed files, each of which hands the operator's signing key
    over to its successor, the oldest first.
    """

    nonce: bytes
    voucher: bytes
    handovers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A box asks to be the customer's whose one-time token it has. The token is no part of repr."""

    token: str
    public_key: str
    proof: bytes = b""

    def __repr__(self) -> str:
        """Return it without its secret."""
        return f"Claim(public_key={self.public_key!r})"

    @property
    def fields(self) -> dict[str, Any]:
        """Return what the proof covers."""
        return {"ask": "claim", "token": self.token, "public_key": self.public_key}


@dataclass(frozen=True, slots=True)
class Configure:
    """A box that is known asks for settings newer than those of serial, which it has (0: none)."""

    identity: str
    public_key: str
    serial: int
    proof: bytes = b""

    @property
    def fields(self) -> dict[str, Any]:
        """Return what the proof covers."""
        return {
            "ask": "configure",
            "identity": self.identity,
            "public_key": self.public_key,
            "serial": self.serial,
        }


Request = Claim | Configure


@dataclass(frozen=True, slots=True)
class Answer:
    """What a box gets: its identity, and its signed settings, None where it has the newest."""

    identity: str
    configuration: bytes | None


def hello_line(hello: Hello) -> bytes:
    """Return the service's first line."""
    record = {
        "version": VERSION,
        "nonce": base64.b64encode(hello.nonce).decode("ascii"),
        "voucher": hello.voucher.decode("ascii"),
        "handovers": [each.decode("ascii") for each in hello.handovers],
    }
    return _line(record)


def read_hello(line: bytes) -> Hello:
    """Return what the service has said first; raise EnrolError."""
    with_fields = ("version", "nonce", "voucher", "handovers")
    return _read(line, MOST_ANSWER, with_fields, _hello)


def request_line(request: Request) -> bytes:
    """Return a box's line."""
    proof = base64.b64encode(request.proof).decode("ascii")
    return _line({"version": VERSION, **request.fields, "proof": proof})


def read_request(line: bytes) -> Request:
    """Return what a box has asked; raise EnrolError. No more than its shape is known thereby."""
    if len(line) > MOST_REQUEST:
        raise EnrolError(Reason.MALFORMED, "too long")
    known = ("version", "ask", "token", "identity", "public_key", "serial", "proof")
    return _read(line, MOST_REQUEST, known, _request)


def answer_line(answer: Answer) -> bytes:
    """Return the line that gives a box what it has asked for."""
    settings = answer.configuration
    record = {
        "version": VERSION,
        "identity": answer.identity,
        "configuration": None if settings is None else settings.decode("ascii"),
    }
    return _line(record)


def refusal_line(reason: Reason) -> bytes:
    """Return the line that tells a box no; reason is one of TOLD, others are told as UNKNOWN."""
    return _line({"version": VERSION, "refused": str(reason)})


def read_answer(line: bytes) -> Answer:
    """Return what the service has given; raise EnrolError, of the reason told where it refuses."""
    return _read(line, MOST_ANSWER, ("version", "identity", "configuration", "refused"), _answer)


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


def _read(line: bytes, most: int, known: tuple[str, ...], read: Callable[[Record], _Read]) -> _Read:
    if len(line) > most or not line.endswith(b"\n"):
        raise EnrolError(Reason.MALFORMED, "no whole line")
    try:
        get = Record("line", object_from_json(line, "line"), known)
        get.text("version", _VERSION, VERSION)
        return read(get)
    except ConfigError as error:
        raise EnrolError(Reason.MALFORMED, str(error)) from error


def _hello(get: Record) -> Hello:
    nonce = _octets(get, "nonce")
    if len(nonce) != NONCE_OCTETS:
        raise get.error("nonce", "has another length", f"Give {NONCE_OCTETS} octets")
    handovers = get.record.get("handovers")
    if not isinstance(handovers, list) or len(handovers) > MOST_DOCUMENTS:
        raise get.error("handovers", "is no list, or a long one", "Give few signed files")
    return Hello(
        nonce,
        _file(get, "voucher", get.record.get("voucher")),
        tuple(_file(get, "handovers", each) for each in handovers),
    )


def _request(get: Record) -> Request:
    key = get.record.get("public_key")
    try:
        public_key_from_text(key if isinstance(key, str) else "?")
    except ValueError as error:
        raise get.error("public_key", "is no key", "Give a SubjectPublicKeyInfo") from error
    public_key = str(key)
    proof = _octets(get, "proof")
    if get.record.get("ask") == "claim":
        _only(get, ("version", "ask", "token", "public_key", "proof"))
        return Claim(get.text("token", _TOKEN, "a token"), public_key, proof)
    _only(get, ("version", "ask", "identity", "public_key", "serial", "proof"))
    if get.record["ask"] != "configure":
        raise get.error("ask", "is neither claim nor configure", "Ask one of them")
    identity = get.text("identity", FQDN, "a domain name in lower case")
    return Configure(identity, public_key, serial_of(get), proof)


def _answer(get: Record) -> Answer:
    if "refused" in get.record:
        _only(get, ("version", "refused"))
        told = get.text("refused", _WORD, "a word")
        raise EnrolError(Reason(told) if told in TOLD else Reason.UNKNOWN, "the service refuses")
    _only(get, ("version", "identity", "configuration"))
    identity = get.text("identity", FQDN, "a domain name in lower case")
    settings = get.record["configuration"]
    return Answer(identity, None if settings is None else _file(get, "configuration", settings))


def serial_of(get: Record) -> int:
    """Take a serial number, 0 to MOST_SERIAL; raise ConfigError."""
    value = get.record.get("serial")
    if type(value) is not int or not 0 <= value <= MOST_SERIAL:
        raise get.error("serial", f"is {short(value)}", "Give a whole number, not a negative one")
    return value


def _only(get: Record, keys: tuple[str, ...]) -> None:
    """Raise ConfigError where the object has not exactly these keys."""
    if get.record.keys() != set(keys):
        raise get.error(", ".join(keys), "are not its fields", "Give these, and no others")


def _octets(get: Record, key: str) -> bytes:
    text = get.text(key, _BASE64, "base64")
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise get.error(key, "is no base64", "Give octets in base64") from error


def _file(get: Record, key: str, value: object) -> bytes:
    """Return a signed file, which is ASCII; what is in it is seen when its signature is."""
    if not isinstance(value, str) or not value.isascii():
        raise get.error(key, "is no signed file", "Give its text")
    return value.encode("ascii")
