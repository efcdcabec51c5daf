"""The way of a message that has come in: to its IKE SA, to the exchange that it is part of.

Whatever it holds, the worst it can do is be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.ike import (
    auth,
    create_child_response,
    first,
    followup,
    informational,
    init,
    intermediate,
    resumption,
    strangers,
)
from moatvpn.ike.connection import Connection
from moatvpn.ike.context import Context
from moatvpn.ike.failure import FailureError, failure_of
from moatvpn.ike.fragmentation import Opened
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.state import State
from moatvpn.ike.task import notifies_of
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_first import receiver_spi
from moatvpn.wire.ike_header import (
    Exchange,
    IkeHeader,
    PayloadType,
    RawPayload,
    parse_header,
)
from moatvpn.wire.ike_payloads import Notify, NotifyType

# By the exchange of an IKE SA's first message.
_FIRST: dict[int, first.Answer] = {
    Exchange.IKE_SA_INIT: init.answer,
    Exchange.IKE_SESSION_RESUME: resumption.answer,
}
Responder = Callable[[Connection, IkeSa, Sequence[RawPayload], int, float], None]
_RESPONDERS: dict[int, Responder] = {
    Exchange.INFORMATIONAL: informational.respond,
    Exchange.CREATE_CHILD_SA: create_child_response.respond,
    Exchange.IKE_FOLLOWUP_KE: followup.respond,
}


def _read_response(opened: Opened) -> list[RawPayload]:
    """Return the payloads of a response; raise PeerError where it cannot be gone on with."""
    payloads = opened.payloads()
    init.refuse_critical(payloads)
    if any(n.type == NotifyType.INVALID_SYNTAX for n in notifies_of(payloads)):
        raise PeerError(DropReason.IKE_MALFORMED, "so the peer finds our request (2.21.3)")
    return payloads


def receive(context: Context, datagram: Datagram, now: float) -> None:
    """Take one message from outside. Whatever it holds, the worst it can do is be counted."""
    known = receiver_spi(datagram.data) in context.ike_sas
    if not known and not strangers.admits(context, datagram, now):
        return
    try:
        _receive(context, datagram, now)
    except PeerError as error:
        context.counters.drop(error.reason)
        if error.reason is DropReason.IKE_VERSION:
            init.answer_version(context, datagram, now)
        where = f"from {datagram.remote}: {error}"
        context.notice(None, "debug", f"IKE message dropped, {where}")


def _receive(context: Context, datagram: Datagram, now: float) -> None:
    header = parse_header(datagram.data)
    answer = _FIRST.get(header.exchange)
    if answer is not None and not header.response:
        first.respond(context, header, datagram, answer, now)
        return
    spi, other = (
        (header.spi_r, header.spi_i) if header.from_initiator else (header.spi_i, header.spi_r)
    )
    sa = context.ike_sas.get(spi)
    if sa is None or sa.initiator == header.from_initiator:
        raise PeerError(DropReason.IKE_UNKNOWN_SPI)
    if answer is not None:
        _init_response(context, sa, header, datagram, now)
        return
    if other != (sa.spi_r if sa.initiator else sa.spi_i):
        raise PeerError(DropReason.IKE_UNKNOWN_SPI)
    if header.next_payload == PayloadType.SKF:
        whole = context.reassembly.take(sa, header, datagram.data, now)
    else:
        whole = sa.open(header, datagram.data)
    if whole is None:
        return  # other fragments are to come
    if header.response:
        _response(context, sa, header, datagram, whole, now)
    else:
        _request(context, sa, header, datagram, whole, now)


def _init_response(
    context: Context, sa: IkeSa, header: IkeHeader, datagram: Datagram, now: float
) -> None:
    connection = context.connection_of(sa)
    attempt = connection.attempt if connection is not None else None
    if sa.state is not State.INIT_SENT or connection is None or attempt is None:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "first request answered twice")
    if header.message_id or attempt[0] is not sa:
        raise PeerError(DropReason.IKE_UNEXPECTED_MESSAGE_ID)
    secrets = attempt[1]
    try:
        if isinstance(secrets, resumption.ResumeSecrets):
            done = resumption.proceed(connection, sa, secrets, header, datagram.data, now)
        else:
            done = init.proceed(connection, sa, secrets, header, datagram.data, now)
    except FailureError as error:
        # In clear, so perhaps a lie: it is told to people, and ends nothing (2.21.1).
        connection.failed(error.failure, datagram.remote.host, now)
        raise
    if not done:
        return
    if (sa.nat or sa.mobility.nat_traversal) and sa.local.port != NAT_PORT:
        # Behind a NAT everything moves to port 4500, on both sides (2.23); so does whoever
        # speaks MOBIKE, because there may be a NAT later (RFC 4555, 3.3).
        sa.local = Endpoint(sa.local.host, NAT_PORT)
        sa.remote = Endpoint(sa.remote.host, NAT_PORT)
    if secrets.kems:
        sa.move(State.INTERMEDIATE)
    intermediate.proceed(connection, sa, secrets, now)


def _response(
    context: Context, sa: IkeSa, header: IkeHeader, datagram: Datagram, opened: Opened, now: float
) -> None:
    task = sa.take_response(header.message_id, header.exchange)
    connection = context.connection_of(sa)
    if connection is not None and connection.sa is sa:
        connection.inbound(now)
        connection.addresses.response_from(sa, datagram.local, datagram.remote, now)
    if task is None:
        return
    if isinstance(task, intermediate.IntermediateTask):
        task.heard = opened.unsealed
    try:
        task.complete(_read_response(opened), now)
    except PeerError as error:
        task.abandon()
        _end(context, sa, error, now)
        raise
    sa.continue_queue(now)


def _end(context: Context, sa: IkeSa, error: PeerError, now: float) -> None:
    """End an IKE SA with which both sides cannot go on (2.21.3)."""
    connection = context.connection_of(sa)
    if connection is None:
        sa.close()
        return
    if not _tell(context, sa, error, now):
        context.notice(connection.config.name, "warning", f"IKE SA ends: {error}")
    connection.sa_failed(sa, str(error), now, refused=True)


def _tell(context: Context, sa: IkeSa, error: PeerError, now: float) -> bool:
    """Record an error that is a connection's failure, for people; return whether it is one."""
    connection, failure = context.connection_of(sa), failure_of(error)
    if connection is None or failure is None:
        return False
    connection.failed(failure, sa.remote.host, now)
    return True


def _request(
    context: Context, sa: IkeSa, header: IkeHeader, datagram: Datagram, opened: Opened, now: float
) -> None:
    if sa.answered(header):
        # A retransmission: the same answer, to where it asked from (2.1).
        context.outbox += [
            Datagram(data, datagram.local, datagram.remote) for data in sa.cached_response
        ]
        return
    if header.message_id != sa.expected_request:
        raise PeerError(DropReason.IKE_UNEXPECTED_MESSAGE_ID, f"request {header.message_id}")
    sa.expect_next()
    sa.sent_at = now  # every request gets its response at once
    _follow(context, sa, datagram, now)
    # Authentic, so every error is told in the response (2.21.3).
    try:
        payloads = opened.payloads()
        init.refuse_critical(payloads)
        _dispatch(context, sa, header, opened, payloads, now)
    except RefusalError as refusal:
        _tell(context, sa, refusal, now)
        if sa.state is not State.CLOSED:
            _refuse(sa, header, refusal.notify)
        if sa.state is State.HALF_OPEN:
            sa.close()
        raise
    except PeerError as error:
        if sa.state is not State.CLOSED:
            _refuse(sa, header, Notify(NotifyType.INVALID_SYNTAX))
            _end(context, sa, error, now)
        raise


def _refuse(sa: IkeSa, header: IkeHeader, notify: Notify) -> None:
    sa.respond(header.exchange, header.message_id, [(PayloadType.NOTIFY, notify.encode())])


def _follow(context: Context, sa: IkeSa, datagram: Datagram, now: float) -> None:
    """Answer to where an authentic, new request came from, and move the connection there.

    With MOBIKE no request moves anything but one that says so (RFC 4555, 3.8).
    """
    sa.asked_via = datagram.local, datagram.remote
    if sa.mobility.supported:
        return
    sa.local = datagram.local
    connection = context.connection_of(sa)
    if connection is not None and connection.sa is sa:
        connection.addresses.follow(sa, datagram.remote, now)
    elif datagram.remote != sa.remote:
        sa.remote = datagram.remote


def _dispatch(
    context: Context,
    sa: IkeSa,
    header: IkeHeader,
    opened: Opened,
    payloads: list[RawPayload],
    now: float,
) -> None:
    message_id = header.message_id
    if header.exchange == Exchange.IKE_INTERMEDIATE and sa.state is State.HALF_OPEN:
        intermediate.respond(sa, opened, payloads, message_id)
        return
    if header.exchange == Exchange.IKE_AUTH and sa.state is State.HALF_OPEN:
        intermediate.require_done(sa)
        auth.respond(context, sa, payloads, message_id, now)
        return
    connection = context.connection_of(sa)
    respond = _RESPONDERS.get(header.exchange)
    if connection is None or respond is None or sa.state is State.HALF_OPEN:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, f"exchange {header.exchange}")
    if connection.sa is sa:
        connection.inbound(now)
    respond(connection, sa, payloads, message_id, now)
