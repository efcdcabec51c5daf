"""The IKEv2 core as the daemon sees it: datagrams and the time in, datagrams and events out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from moatvpn.config import ConnectionConfig, config_for, gateways_of
from moatvpn.counters import Counters, DropReason
from moatvpn.crypto.sign import Signer
from moatvpn.errors import OperatorError, PeerError
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
from moatvpn.ike.authentication.choose import authentication_for
from moatvpn.ike.connection import Connection, ConnectionStatus
from moatvpn.ike.context import Context, Reveal
from moatvpn.ike.diagnosis import FailureRecord
from moatvpn.ike.events import IkeEvent
from moatvpn.ike.failure import FailureError, failure_of
from moatvpn.ike.fragmentation import Opened
from moatvpn.ike.gate import DEFAULT_LIMITS, Limits
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.ppk import ppk_for
from moatvpn.ike.redirect import RedirectTask
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.secrets import NO_CERTIFICATES, NO_SECRETS, Certificates, ConnectionSecrets
from moatvpn.ike.state import State
from moatvpn.ike.task import notifies_of
from moatvpn.ike.tickets import TicketKeys
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
from moatvpn.wire.selectors import MOST_SELECTORS

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


class IkeEndpoint:
    """Every IKE SA of one box (RFC 7296), without a socket or a clock.

    identity is our FQDN; signer holds our key; counters takes the drops; random(n) gives n octets
    fit for keys; local_address(host) gives the address that we would send from to host, None where
    there is no way now; limits bounds what strangers cost; own_hosts are all addresses that peers
    may reach us at, where there are several; certificates is for connections that use such; tickets
    makes those that IKE SAs are resumed with, None makes none. now is seconds of a clock that never
    goes back.
    """

    def __init__(
        self,
        identity: str,
        signer: Signer,
        counters: Counters,
        random: Callable[[int], bytes],
        local_address: Callable[[str], str | None],
        limits: Limits = DEFAULT_LIMITS,
        own_hosts: Sequence[str] = (),
        certificates: Certificates = NO_CERTIFICATES,
        tickets: TicketKeys | None = None,
    ) -> None:
        self._context = Context(
            identity,
            signer,
            counters,
            random,
            local_address,
            limits,
            own_hosts,
            certificates,
            tickets,
        )

    def reveal_keys_to(self, reveal: Reveal) -> None:
        """Tell the keys of every IKE SA from now on: for a laboratory only."""
        self._context.reveal = reveal

    # Connections

    def add_connection(
        self, config: ConnectionConfig, now: float, secrets: ConnectionSecrets = NO_SECRETS
    ) -> None:
        """Begin to keep a connection up.

        Raises OperatorError where one of that name, or to that identity, is there already, and
        where secrets lacks what its authentication needs.
        """
        context = self._context
        if config.name in context.connections:
            raise OperatorError(config.name, "is there already", "Use replace")
        if max(len(config.local_selectors), len(config.remote_selectors)) > MOST_SELECTORS:
            why = f"has more than {MOST_SELECTORS} networks on one side"
            raise OperatorError(config.name, why, "Join neighbouring networks to larger ones")
        if config.remote_identity in context.by_identity:
            other = context.by_identity[config.remote_identity].config.name
            why = f"connection {other} has the identity {config.remote_identity}"
            raise OperatorError(config.name, why, "Delete that one first")
        authentication = authentication_for(context, config, secrets)
        ppk = ppk_for(config, secrets)
        gateways = {
            gateway: authentication_for(context, config_for(config, gateway), secrets)
            for gateway in gateways_of(config)
        }
        connection = Connection(context, config, authentication, ppk, gateways, now)
        context.connections[config.name] = connection
        context.answering.add(config)
        context.authorities.update(authentication.authorities)
        context.by_identity[config.remote_identity] = connection

    def remove_connection(self, name: str, now: float) -> None:
        """End a connection and forget it."""
        connection = self._connection(name)
        connection.remove(now)
        del self._context.connections[name]
        del self._context.by_identity[connection.config.remote_identity]
        self._context.answering.remove(connection.config)
        self._context.authorities.subtract(connection.authentication.authorities)

    def rekey(self, name: str, sa: Literal["child", "ike"], now: float) -> None:
        """Start a rekey now; raise OperatorError where there is nothing to rekey."""
        connection = self._connection(name)
        if connection.sa is None:
            raise OperatorError(name, "is not established", "Try again when it is")
        if sa == "child":
            connection.children.rekey(None, now)
        else:
            connection.rekey_ike(now)

    def redirect(self, name: str, gateway: str | None, now: float) -> bool:
        """Send the peer of a connection to another gateway, now and whenever it calls; None: stop.

        Returns whether it has been told: it has to be up, and to understand redirects.
        """
        connection = self._connection(name)
        connection.redirects.to = gateway
        if gateway is None or connection.sa is None or not connection.sa.redirectable:
            return False
        connection.sa.start(RedirectTask(gateway), now)
        return True

    def redirect_all(self, gateway: str | None) -> None:
        """Send whoever calls from now on to another gateway, as cheaply as can be; None: stop."""
        self._context.redirect_to = gateway

    def strangers(self) -> list[FailureRecord]:
        """Return who lately failed to call us and belongs to no connection, the latest first."""
        return self._context.diagnosis.strangers()

    def status(self, name: str) -> ConnectionStatus:
        """Return how a connection is doing."""
        return self._connection(name).status()

    def _connection(self, name: str) -> Connection:
        try:
            return self._context.connections[name]
        except KeyError:
            raise OperatorError(
                name, "is no connection of this box", "See moatctl status"
            ) from None

    def shutdown(self, now: float) -> None:
        """End every connection in good order."""
        for name in list(self._context.connections):
            self.remove_connection(name, now)

    # What the data plane and the network tell

    def note_inbound(self, name: str, now: float) -> None:
        """An authentic envelope came in on the connection."""
        connection = self._context.connections.get(name)
        if connection is not None:
            connection.inbound(now)

    def note_outbound(self, name: str, now: float) -> None:
        """An envelope went out on the connection."""
        connection = self._context.connections.get(name)
        if connection is not None:
            connection.outbound(now)

    def peer_moved(self, name: str, peer: Endpoint, now: float) -> None:
        """The newest authentic envelope came from a new address; port 0 keeps the port."""
        connection = self._context.connections.get(name)
        if connection is not None:
            connection.addresses.envelope_from(peer, now)

    def remember_peer(self, name: str, peer: Endpoint, now: float) -> None:
        """Call the peer of a connection that waits: before a restart of ours it was at peer."""
        connection = self._context.connections.get(name)
        if connection is not None and not connection.config.initiate:
            self._context.callbacks.remember(name, peer, now)

    def local_address_changed(self, now: float) -> None:
        """Addresses or routes of this box changed."""
        for connection in list(self._context.connections.values()):
            connection.local_address_changed(now)

    # Time, output

    def get_timer(self) -> float | None:
        """Return when handle_timer wants to be called, or None."""
        return self._context.scheduler.next()

    def handle_timer(self, now: float) -> None:
        """Do what is due. A herd takes several calls: get_timer tells of what is left."""
        self._context.scheduler.run(now)

    def datagrams_to_send(self) -> list[Datagram]:
        """Return what must be sent, in its order, and forget it."""
        out, self._context.outbox = self._context.outbox, []
        return out

    def next_event(self) -> IkeEvent | None:
        """Return the oldest event that has not been taken yet, or None."""
        return self._context.events.popleft() if self._context.events else None

    # Input

    def receive_datagram(self, datagram: Datagram, now: float) -> None:
        """Take one message from outside. Whatever it holds, the worst it can do is be counted."""
        known = receiver_spi(datagram.data) in self._context.ike_sas
        if not known and not strangers.admits(self._context, datagram, now):
            return
        try:
            self._receive(datagram, now)
        except PeerError as error:
            self._context.counters.drop(error.reason)
            if error.reason is DropReason.IKE_VERSION:
                init.answer_version(self._context, datagram, now)
            where = f"from {datagram.remote}: {error}"
            self._context.notice(None, "debug", f"IKE message dropped, {where}")

    def _receive(self, datagram: Datagram, now: float) -> None:
        header = parse_header(datagram.data)
        answer = _FIRST.get(header.exchange)
        if answer is not None and not header.response:
            first.respond(self._context, header, datagram, answer, now)
            return
        spi, other = (
            (header.spi_r, header.spi_i) if header.from_initiator else (header.spi_i, header.spi_r)
        )
        sa = self._context.ike_sas.get(spi)
        if sa is None or sa.initiator == header.from_initiator:
            raise PeerError(DropReason.IKE_UNKNOWN_SPI)
        if answer is not None:
            self._init_response(sa, header, datagram, now)
            return
        if other != (sa.spi_r if sa.initiator else sa.spi_i):
            raise PeerError(DropReason.IKE_UNKNOWN_SPI)
        if header.next_payload == PayloadType.SKF:
            whole = self._context.reassembly.take(sa, header, datagram.data, now)
        else:
            whole = sa.open(header, datagram.data)
        if whole is None:
            return  # other fragments are to come
        if header.response:
            self._response(sa, header, datagram, whole, now)
        else:
            self._request(sa, header, datagram, whole, now)

    def _init_response(self, sa: IkeSa, header: IkeHeader, datagram: Datagram, now: float) -> None:
        connection = self._context.connection_of(sa)
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
        self, sa: IkeSa, header: IkeHeader, datagram: Datagram, opened: Opened, now: float
    ) -> None:
        task = sa.take_response(header.message_id, header.exchange)
        connection = self._context.connection_of(sa)
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
            self._end(sa, error, now)
            raise
        sa.continue_queue(now)

    def _end(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """End an IKE SA with which both sides cannot go on (2.21.3)."""
        connection = self._context.connection_of(sa)
        if connection is None:
            sa.close()
            return
        failure = failure_of(error)
        if failure is None:
            self._context.notice(connection.config.name, "warning", f"IKE SA ends: {error}")
        else:
            connection.failed(failure, sa.remote.host, now)
        connection.sa_failed(sa, str(error), now, refused=True)

    def _request(
        self, sa: IkeSa, header: IkeHeader, datagram: Datagram, opened: Opened, now: float
    ) -> None:
        if sa.answered(header):
            # A retransmission: the same answer, to where it asked from (2.1).
            self._context.outbox += [
                Datagram(data, datagram.local, datagram.remote) for data in sa.cached_response
            ]
            return
        if header.message_id != sa.expected_request:
            raise PeerError(DropReason.IKE_UNEXPECTED_MESSAGE_ID, f"request {header.message_id}")
        sa.expect_next()
        sa.sent_at = now  # every request gets its response at once
        self._follow(sa, datagram, now)
        # Authentic, so every error is told in the response (2.21.3).
        try:
            payloads = opened.payloads()
            init.refuse_critical(payloads)
            self._dispatch(sa, header, opened, payloads, now)
        except RefusalError as refusal:
            if sa.state is not State.CLOSED:
                self._refuse(sa, header, refusal.notify)
            if sa.state is State.HALF_OPEN:
                sa.close()
            raise
        except PeerError as error:
            if sa.state is not State.CLOSED:
                self._refuse(sa, header, Notify(NotifyType.INVALID_SYNTAX))
                self._end(sa, error, now)
            raise

    @staticmethod
    def _refuse(sa: IkeSa, header: IkeHeader, notify: Notify) -> None:
        sa.respond(header.exchange, header.message_id, [(PayloadType.NOTIFY, notify.encode())])

    def _follow(self, sa: IkeSa, datagram: Datagram, now: float) -> None:
        """Answer to where an authentic, new request came from, and move the connection there.

        With MOBIKE no request moves anything but one that says so (RFC 4555, 3.8).
        """
        sa.asked_via = datagram.local, datagram.remote
        if sa.mobility.supported:
            return
        sa.local = datagram.local
        connection = self._context.connection_of(sa)
        if connection is not None and connection.sa is sa:
            connection.addresses.follow(sa, datagram.remote, now)
        elif datagram.remote != sa.remote:
            sa.remote = datagram.remote

    def _dispatch(
        self,
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
            auth.respond(self._context, sa, payloads, message_id, now)
            return
        connection = self._context.connection_of(sa)
        respond = _RESPONDERS.get(header.exchange)
        if connection is None or respond is None or sa.state is State.HALF_OPEN:
            raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, f"exchange {header.exchange}")
        if connection.sa is sa:
            connection.inbound(now)
        respond(connection, sa, payloads, message_id, now)
