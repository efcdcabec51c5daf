"""The enrolment service's connections: TLS 1.3, one line each way, bounded in all that they cost.

What a stranger can make it spend: so many connections at once, in all and from one address; so
many TLS handshakes a second; so many octets and seconds each. All beyond that is closed and counted
before any cryptography.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moatvpn.enrol.desk import Desk
from moatvpn.enrol.documents import certificate_digest
from moatvpn.enrol.messages import MOST_REQUEST, NONCE_OCTETS
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.errors import OperatorError
from moatvpn.ike.gate import Bucket, Buckets, Rate

PORT = 4510
_SEGMENT = 536  # octets, which every IPv4 path carries whole (RFC 9293, 3.7.1)
_RATE = Rate(50, 100)
_RATE_OF_HOST = Rate(1, 20)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What strangers may cost.

    connections: at once, in all; of_host: of one address, which many moats behind one NAT may
    share. rate, rate_of_host: how often likewise. seconds: for a whole connection.
    """

    connections: int = 64
    of_host: int = 8
    rate: Rate = _RATE
    rate_of_host: Rate = _RATE_OF_HOST
    seconds: float = 10.0


def server_context(certificate: Path, private_key: Path) -> tuple[ssl.SSLContext, str]:
    """Return how to serve TLS 1.3, and SHA-256 of the certificate, in hex; raise OperatorError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # each connection proves the certificate anew
    try:
        context.load_cert_chain(certificate, private_key)
        digest = certificate_digest(certificate.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        why = f"cannot be used ({error})"
        remedy = "Make both with `moat-enrolled keygen`"
        raise OperatorError(f"{certificate}, {private_key}", why, remedy) from error
    return context, digest


class Service:
    """Serves a desk. random gives nonces and the rates' secret; wall_clock goes for claims."""

    def __init__(
        self,
        desk: Desk,
        context: ssl.SSLContext,
        random: Callable[[int], bytes],
        *,
        bounds: Bounds | None = None,
        wall_clock: Callable[[], float] = time.time,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self._desk = desk
        self._context = context
        self._random = random
        self._bounds = bounds or Bounds()
        self._clock = wall_clock
        self._refresh = refresh
        self._now: Counter[str] = Counter()
        self._rate = Bucket(self._bounds.rate)
        self._rate_of_host = Buckets(self._bounds.rate_of_host, random)

    async def listen(self, addresses: list[str], port: int) -> asyncio.Server:
        """Listen on a TCP port of these addresses, and return who does; raise OperatorError."""
        try:
            server = await asyncio.start_server(
                self._connected, addresses, port, limit=MOST_REQUEST, backlog=128
            )
            # The wild side's ICMP does not get in here, and no path is measured for so little.
            for each in server.sockets:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
            return server  # noqa: TRY300
        except OSError as error:
            why = f"cannot be had ({error.strerror})"
            raise OperatorError(f"TCP port {port}", why, "See who has it: ss -lntp") from error

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        host = str(peer[0]) if peer else ""
        counters = self._desk.counters
        if not self._admits(host):
            counters[Reason.TOO_MANY] += 1
            writer.transport.abort()
            return
        self._now[host] += 1
        try:
            async with asyncio.timeout(self._bounds.seconds):
                await self._converse(reader, writer, host)
        except EnrolError as error:
            counters[error.reason] += 1
        except (TimeoutError, OSError, EOFError, ssl.SSLError):
            counters[Reason.SLOW] += 1
        finally:
            self._now[host] -= 1
            if not self._now[host]:
                del self._now[host]
            writer.transport.abort()

    def _admits(self, host: str) -> bool:
        """Return whether one more connection from host is heard."""
        now = time.monotonic()
        return (
            self._now.total() < self._bounds.connections
            and self._now[host] < self._bounds.of_host
            and self._rate_of_host.allows(host, now)
            and self._rate.allows(now)
        )

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str
    ) -> None:
        await writer.start_tls(self._context, ssl_handshake_timeout=self._bounds.seconds)
        if self._refresh is not None:
            self._refresh()
        nonce = self._random(NONCE_OCTETS)
        writer.write(self._desk.hello(nonce))
        await writer.drain()
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            raise EnrolError(Reason.MALFORMED, "too long") from error
        ticks = time.monotonic()
        answer = self._desk.answer(line, nonce, host, now=self._clock(), ticks=ticks)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
            writer.close()
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await writer.wait_closed()
