"""DHCP and DNS as a client speaks them (RFC 2131, RFC 1035), and a resolver with one answer."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

A, RRSIG, OPT, ANY = 1, 46, 41, 255
REFUSED, NXDOMAIN = 5, 3
AUTHENTIC = 0x0020  # the AD bit (RFC 4035, 3.2.3)
_DO = 0x8000  # of an OPT record (RFC 3225)
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
BIND_TO_DEVICE = 25


def _name(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"


def question(name: str, signed: bool = False, identifier: int = 4711) -> bytes:
    """Return a query for an A record, with the DO bit where signatures are wanted."""
    flags = 0x0100 | (AUTHENTIC if signed else 0)
    header = struct.pack("!6H", identifier, flags, 1, 0, 0, 1)
    opt = b"\0" + struct.pack("!HHIH", OPT, 1232, _DO if signed else 0, 0)
    return header + _name(name) + struct.pack("!HH", A, 1) + opt


@dataclass
class Answer:
    """rcode, the header's flags, and the data of the answer section by its types."""

    flags: int
    records: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def rcode(self) -> int:
        return self.flags & 0xF

    def addresses(self) -> list[str]:
        return [socket.inet_ntoa(data) for kind, data in self.records if kind == A]

    def types(self) -> set[int]:
        return {kind for kind, _ in self.records}


def _skip_name(message: bytes, at: int) -> int:
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def parse(message: bytes) -> Answer:
    """Return what an answer says."""
    _, flags, questions, answers, _, _ = struct.unpack_from("!6H", message)
    answer = Answer(flags)
    at = 12
    for _ in range(questions):
        at = _skip_name(message, at) + 4
    for _ in range(answers):
        at = _skip_name(message, at)
        kind, _, _, length = struct.unpack_from("!HHIH", message, at)
        answer.records.append((kind, message[at + 10 : at + 10 + length]))
        at += 10 + length
    return answer


class Resolver:
    """Answers every question for an A record, with a signature where one is wanted.

    asked holds the names, in order. The signature is one in form only: nobody here checks it.
    """

    ADDRESS = "10.50.0.80"

    def __init__(self, at: socket.socket) -> None:
        self.asked: list[str] = []
        self._socket = at
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        self._socket.settimeout(0.1)
        while not self._over.is_set():
            try:
                message, peer = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            end = _skip_name(message, 12)
            parts, at = [], 12
            while message[at]:
                parts.append(message[at + 1 : at + 1 + message[at]].decode())
                at += 1 + message[at]
            self.asked.append(".".join(parts).lower())
            signed = struct.pack("!HHIH", OPT, 1232, _DO, 0)[:8] in message[end:]
            self._socket.sendto(self._answer(message[: end + 4], signed), peer)

    def _answer(self, asked: bytes, signed: bool) -> bytes:
        flags = 0x8180 | (AUTHENTIC if signed else 0)
        here = b"\xc0\x0c"
        records = here + struct.pack("!HHIH", A, 1, 300, 4) + socket.inet_aton(self.ADDRESS)
        if signed:
            text = asked[12:-4]
            rrsig = struct.pack("!HBBIIIH", A, 15, text.count(b"\0"), 300, 2**31, 0, 7) + text
            rrsig += bytes(64)
            records += here + struct.pack("!HHIH", RRSIG, 1, 300, len(rrsig)) + rrsig
        opt = b"\0" + struct.pack("!HHIH", OPT, 1232, _DO if signed else 0, 0)
        header = asked[:2] + struct.pack("!5H", flags, 1, 2 if signed else 1, 0, 1)
        return header + asked[12:] + records + opt

    @contextmanager
    def serving(self) -> Iterator[Resolver]:
        """Answer in a thread for as long as the block lasts."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(5)


@dataclass
class Lease:
    """The address, and the options of the server's acknowledgement."""

    address: str
    options: dict[int, bytes]

    def addresses(self, option: int) -> list[str]:
        data = self.options.get(option, b"")
        return [socket.inet_ntoa(data[at : at + 4]) for at in range(0, len(data), 4)]


class Host:
    """A DHCP client with a MAC address and a name, at a socket of its own."""

    def __init__(self, at: socket.socket, device: str, mac: bytes, name: str) -> None:
        self._socket = at
        self._mac = mac
        self._name = name
        at.setsockopt(socket.SOL_SOCKET, BIND_TO_DEVICE, device.encode())
        at.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        at.bind(("", 68))

    def lease(self) -> Lease:
        """Return a lease that the server has acknowledged (RFC 2131, 3.1)."""
        offer = self._exchange(_DISCOVER, {})
        assert offer.options[53] == bytes([_OFFER])
        wanted = {50: socket.inet_aton(offer.address), 54: offer.options[54]}
        return self._acknowledged(self._exchange(_REQUEST, wanted))

    def keep(self, address: str) -> Lease:
        """Ask after a reboot whether the address is still ours (RFC 2131, 3.2)."""
        return self._acknowledged(self._exchange(_REQUEST, {50: socket.inet_aton(address)}))

    def _acknowledged(self, answer: Lease) -> Lease:
        assert answer.options[53] == bytes([_ACK])
        return answer

    def _exchange(self, kind: int, options: dict[int, bytes]) -> Lease:
        asked = {53: bytes([kind]), 12: self._name.encode(), 55: bytes([1, 3, 6, 15])} | options
        body = b"".join(bytes([code, len(data)]) + data for code, data in asked.items())
        # A broadcast is asked for: there is no address yet that an answer could come to.
        message = struct.pack("!4BIHH", 1, 1, 6, 0, 0x4D6F6174, 0, 0x8000) + bytes(16)
        message += self._mac.ljust(16, b"\0") + bytes(192) + _COOKIE + body + b"\xff"
        self._socket.sendto(message, ("255.255.255.255", 67))
        answer = self._socket.recv(4096)
        assert answer[4:8] == message[4:8]
        return Lease(socket.inet_ntoa(answer[16:20]), dict(_options(answer[240:])))


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        yield data[at], data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
