"""INFORMATIONAL (RFC 7296, 1.4): deletes in both roles, and the answer to whatever is asked.

HDR, SK{[D]} ------------>
             <------------  HDR, SK{[D]}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.ike import mobike, redirect, resumption
from moatvpn.ike.failure import failure_told
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.task import Payloads, PlainTask, notifies_of
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Delete, Notify, NotifyType, parse_delete
from moatvpn.wire.ike_proposal import Protocol

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection

# What ends an IKE SA without a Delete (2.21.2).
_FATAL = (NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX)


class DeleteTask(PlainTask):
    """Delete one CHILD_SA of ours."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, connection: Connection, spi_in: int) -> None:
        self._children = connection.children
        self._spi_in = spi_in

    def build(self, now: float) -> Payloads | None:
        """Return the Delete, or None where the CHILD_SA has been deleted already."""
        record = self._children.records.get(self._spi_in)
        if record is None or record.leaving:
            return None
        record.deleting = True
        delete = Delete(Protocol.ESP, (self._spi_in.to_bytes(4, "big"),))
        return [(PayloadType.DELETE, delete.encode())]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Let the CHILD_SA go."""
        record = self._children.records.get(self._spi_in)
        if record is not None:
            self._children.deleted(record, now)

    def move(self, sa: IkeSa) -> bool:
        """Return that it is to run on sa, which has inherited the CHILD_SA."""
        del sa
        return True


def farewell(sa: IkeSa) -> bytes:
    """Return a Delete of a whole IKE SA, to be sent once without waiting for an answer."""
    body = [(PayloadType.DELETE, Delete(Protocol.IKE).encode())]
    return sa.seal(Exchange.INFORMATIONAL, sa.next_request, False, body)


def refusal_of(sa: IkeSa) -> bytes:
    """Return the news that the responder's proof has failed, likewise (2.21.2)."""
    body = [(PayloadType.NOTIFY, Notify(NotifyType.AUTHENTICATION_FAILED).encode())]
    return sa.seal(Exchange.INFORMATIONAL, sa.next_request, False, body)


class DeleteIkeTask(PlainTask):
    """Delete an IKE SA that is of no use any more."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, sa: IkeSa) -> None:
        self._sa = sa

    def build(self, now: float) -> Payloads:
        """Return the Delete."""
        return [(PayloadType.DELETE, Delete(Protocol.IKE).encode())]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Forget the IKE SA."""
        self._sa.close()


def respond(
    connection: Connection,
    sa: IkeSa,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    """Answer a liveness check, a Delete, or what MOBIKE asks."""
    deletes = [parse_delete(p.body) for p in payloads if p.type == PayloadType.DELETE]
    if any(delete.protocol == Protocol.IKE for delete in deletes):
        sa.respond(Exchange.INFORMATIONAL, message_id, [])
        connection.sa_deleted(sa, now)
        return
    fatal = next((n for n in notifies_of(payloads) if n.type in _FATAL), None)
    if fatal is not None:
        sa.respond(Exchange.INFORMATIONAL, message_id, [])
        failure = failure_told(fatal.type)
        if fatal.type == NotifyType.AUTHENTICATION_FAILED:
            connection.key_refused(sa)
        connection.failed(failure, sa.remote.host, now)
        connection.sa_failed(sa, str(failure), now, refused=True)
        return
    connection.prefer(sa, now)
    gone = [
        record
        for delete in deletes
        if delete.protocol == Protocol.ESP
        for spi in delete.spis
        if (record := connection.children.by_peer_spi(int.from_bytes(spi, "big"))) is not None
    ]
    request = mobike.read(connection, sa, payloads)
    answer = request.answer
    # Of one that we are deleting ourselves the peer learns from our own request (1.4.1).
    told = [record for record in gone if not record.deleting]
    if told:
        ours = tuple(record.child.spi_in.to_bytes(4, "big") for record in told)
        answer.append((PayloadType.DELETE, Delete(Protocol.ESP, ours).encode()))
    answer += resumption.grant(connection, sa, payloads)
    sa.respond(Exchange.INFORMATIONAL, message_id, answer)
    connection.addresses.requested(request, now)
    redirect.heard(connection, sa, payloads, now)
    connection.reauthentication.asked(notifies_of(payloads), now)
    for record in gone:
        connection.children.deleted(record, now)
