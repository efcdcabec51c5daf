"""A box's half of one enrolment connection. It believes what the operator has signed, no more."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from moatvpn.crypto.seal import sha256_hex
from moatvpn.crypto.sign import Signer
from moatvpn.enrol.documents import check_server, walk
from moatvpn.enrol.messages import (
    MOST_ANSWER,
    Answer,
    Claim,
    Configure,
    read_answer,
    read_hello,
    request_line,
)
from moatvpn.enrol.proof import prove
from moatvpn.enrol.reasons import EnrolError, Reason

PATIENCE = 20.0  # seconds for a whole connection
_TO_CONNECT = 5.0  # of them until there is one: the next server may be near
_CHUNK = 16 << 10


@dataclass(frozen=True, slots=True)
class Trust:
    """What a box believes: the operator's keys (texts), and the newest voucher it has seen."""

    keys: tuple[str, ...]
    voucher: int = 0


def ask(
    server: tuple[str, int],
    request: Claim | Configure,
    signer: Signer,
    trust: Trust,
    *,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Answer, Trust]:
    """Return what the service at an address and TCP port answers, and what is believed from now on.

    The request is sent only once the service has shown that it speaks for the operator. Raises
    EnrolError where it does not, or refuses; OSError where it cannot be reached, or is too slow.
    """
    end = clock() + patience
    with socket.create_connection(server, timeout=min(patience, _TO_CONNECT)) as plain:
        _await(plain, end, clock)
        with _context().wrap_socket(plain) as secure:
            certificate = sha256_hex(secure.getpeercert(binary_form=True) or b"")
            hello = read_hello(_line(secure, end, clock))
            keys = walk(trust.keys, hello.handovers)
            voucher = check_server(hello.voucher, keys, certificate, trust.voucher)
            proved = prove(request, signer, hello.nonce, certificate)
            _await(secure, end, clock)
            secure.sendall(request_line(proved))
            return read_answer(_line(secure, end, clock)), Trust(keys, voucher.serial)


def _context() -> ssl.SSLContext:
    """Return how to speak TLS 1.3 with a server whose certificate the operator has signed for.

    There is no authority and no date in it: a box that was away for long may not know the day. What
    stands in their place is check_server.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _await(sock: socket.socket, end: float, clock: Callable[[], float]) -> None:
    """Have the next step of a socket end by then."""
    left = end - clock()
    if left <= 0:
        raise TimeoutError("the enrolment service takes too long")
    sock.settimeout(left)


def _line(sock: ssl.SSLSocket, end: float, clock: Callable[[], float]) -> bytes:
    """Return a line of the service's."""
    line = bytearray()
    while b"\n" not in line:
        if len(line) > MOST_ANSWER:
            raise EnrolError(Reason.MALFORMED, "the answer has no end")
        _await(sock, end, clock)
        chunk = sock.recv(_CHUNK)
        if not chunk:
            raise ConnectionError("the enrolment service has hung up")
        line += chunk
    return bytes(line)
