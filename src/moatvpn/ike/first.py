"""What IKE_SA_INIT and IKE_SESSION_RESUME have in common: the first message, and who answers it.

Nothing in it is authenticated. As long as IKE_AUTH has not come, a request costs us an entry in a
table of limited size, and an answer in clear costs a caller one more start at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.ike.context import Context
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_header import NO_SPI, Exchange, IkeHeader, PayloadType
from moatvpn.wire.ike_payloads import Notify, NotifyType

if TYPE_CHECKING:
    from moatvpn.ike.init import InitSecrets

MOST_RESTARTS = 5  # of one attempt, on the word of an answer in clear
HALF_OPEN_SECONDS = 10.0
_LONGEST_COOKIE = 64  # octets (2.6)

# Reads a first request and, where it is good, answers it by open_half.
Answer = Callable[[IkeSa, IkeHeader, bytes, float], None]


def respond(
    context: Context, header: IkeHeader, datagram: Datagram, answer: Answer, now: float
) -> None:
    """Answer a first request. The same request again gets the same answer again."""
    if not context.may_be_called_from(datagram.remote.host):
        raise PeerError(DropReason.IKE_UNKNOWN_PEER, "nobody is expected to call here")
    if header.message_id or not header.from_initiator or header.spi_r != NO_SPI:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "first request out of order")
    remote = datagram.remote
    known = context.half_open.get(header.spi_i, remote.host, remote.port)
    secrets = context.init_secrets.get(known.spi_r) if known is not None else None
    if known is not None and secrets is not None and secrets.request == datagram.data:
        context.outbox.append(Datagram(secrets.response, datagram.local, remote))
        return
    sa = IkeSa(context, False, State.HALF_OPEN, header.spi_i, NO_SPI, datagram.local, remote)
    try:
        _check_load(sa)
        answer(sa, header, datagram.data, now)
        if known is not None:
            known.close()  # it asks with a cookie now, say, and means this one
    except RefusalError as refusal:
        # Without a trace: whoever it was may ask again. The answer is no longer than the request.
        body = [(PayloadType.NOTIFY, refusal.notify.encode())]
        told = sa.plain(Exchange(header.exchange), True, body)
        if len(told) <= len(datagram.data):
            sa.send(told)
        raise


def new_attempt(
    context: Context,
    connection: str,
    local: Endpoint,
    remote: Endpoint,
    force_udp: bool,
    now: float,
) -> IkeSa:
    """Return a new IKE SA of which we are the initiator; its first request is yet to be sent."""
    spi = context.new_ike_spi()
    sa = IkeSa(context, True, State.INIT_SENT, spi, NO_SPI, local, remote, connection)
    context.ike_sas[spi] = sa
    sa.nat, sa.began_at = force_udp, now
    return sa


def _check_load(sa: IkeSa) -> None:
    """Raise PeerError where too many are half open, of this address or in all."""
    half_open, limits = sa.context.half_open, sa.context.gate.limits
    if (
        len(half_open) >= limits.half_open
        or half_open.of_host(sa.remote.host) >= limits.half_open_of_host
    ):
        raise PeerError(DropReason.IKE_HALF_OPEN_LIMIT, "too many half-open IKE SAs")


def open_half(
    sa: IkeSa,
    secrets: InitSecrets,
    exchange: Exchange,
    request: bytes,
    body: Payloads,
    now: float,
) -> None:
    """Send the answer to a first request, and wait for IKE_AUTH for a while."""
    context = sa.context
    secrets.request = request
    secrets.response = sa.plain(exchange, True, body)
    sa.cached_response = (secrets.response,)
    sa.expected_request = 1
    sa.began_at = now
    context.ike_sas[sa.spi_r] = sa
    context.half_open.add(sa)
    context.init_secrets[sa.spi_r] = secrets
    sa.close_at(now + HALF_OPEN_SECONDS)
    sa.send(secrets.response)


def cookie_in(notifies: Sequence[Notify]) -> bytes:
    """Return the cookie that a responder wants to hear again, or nothing."""
    cookie = next((n.data for n in notifies if n.type == NotifyType.COOKIE), b"")
    return cookie if len(cookie) <= _LONGEST_COOKIE else b""


def count_restart(secrets: InitSecrets) -> None:
    """Count one more start over on the word of an answer in clear; raise PeerError at the last."""
    if secrets.restarts == MOST_RESTARTS:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "asked to start over again and again")
    secrets.restarts += 1
