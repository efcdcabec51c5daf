"""IKE_SESSION_RESUME (RFC 5723): a moat goes on where an IKE SA was lost, without public keys.

    moat                                             portal
    HDR, SK{IDi, …, N(TICKET_REQUEST)} ---->                   in any exchange that the moat starts
                                  <----  HDR, SK{IDr, …, N(TICKET_LT_OPAQUE)}
    …                                                          the portal loses all its state
    HDR, [N(COOKIE),] Ni, N(TICKET_OPAQUE), N(NAT…) ---->
                                  <----  HDR, Nr, N(NAT…)      or HDR, N(TICKET_NACK)
    HDR, SK{IDi, IDr, AUTH, SAi2, TSi, TSr, N(TICKET_REQUEST)} ---->
                                  <----  HDR, SK{IDr, AUTH, SAr2, TSi, TSr, N(TICKET_LT_OPAQUE)}

Whoever presents a ticket proves in IKE_AUTH that it knows the keys of the IKE SA which the ticket
was made for; the ticket alone is worth nothing. A ticket is good once, and only while connection,
keys and IKE SA are what they were: else the portal says so, and the moat calls with IKE_SA_INIT.
The answer in clear may be anybody's, so it costs the moat no more than that.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.keymat import Seed, resumed_ike_keys
from moatvpn.crypto.sign import fingerprint
from moatvpn.errors import PeerError
from moatvpn.ike import first, init, redirect
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.part import Part
from moatvpn.ike.proposal import IkeChoice
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads, PlainTask, body_of, notifies_of
from moatvpn.ike.tickets import MOST_OCTETS, Ticket, configuration_digest
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    NO_SPI,
    Exchange,
    IkeHeader,
    PayloadType,
    RawPayload,
    parse_chain,
)
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    parse_nonce,
)

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.context import Context

ASK_AFTER = 1.0  # seconds from an IKE SA without a ticket to our asking for one
_LIFETIME_LENGTH = 4
_NO_TICKET = b""
_FRAGMENTS = Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket that a portal gave us, and what it was made for. expires_at is the core's time.

    local_key and remote_key are those that the two of us proved ourselves by.
    """

    octets: bytes
    expires_at: float
    host: str
    spi: bytes
    choice: IkeChoice
    local_key: bytes | None
    remote_key: bytes | None
    sk_d: bytes = field(repr=False)


@dataclass(slots=True)
class ResumeSecrets(init.InitSecrets):
    """What IKE_AUTH needs of IKE_SESSION_RESUME, which has no key exchange.

    held is what a moat presents; ticket is what its portal has read.
    """

    held: HeldTicket | None = None
    ticket: Ticket | None = None


class Tickets(Part):
    """The tickets of one connection: the one that we hold, or the one that we issued last.

    resumed says whether the present IKE SA began by a ticket; count, how often that was so.
    issued is the SPI of the IKE SA that our last ticket is for, and its number, which is empty
    where none is good any more; None from our start on, when we cannot know.
    """

    __slots__ = ("_declined", "_skip", "count", "held", "issued", "resumed")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.held: HeldTicket | None = None
        self.issued: tuple[bytes, bytes] | None = None
        self.resumed = False
        self.count = 0
        self._declined = False
        self._skip = False

    @property
    def good(self) -> bool:
        """Return whether there is a ticket for the present IKE SA."""
        return self.held is not None or (self.issued is not None and self.issued[1] != _NO_TICKET)

    # Where we call

    def usable(self, host: str, now: float) -> HeldTicket | None:
        """Return the ticket to call host with, None where this call is to be a full one."""
        held = self.held
        if held is None or now >= held.expires_at or held.host != host:
            return None
        skip, self._skip = self._skip, False
        return None if skip else held

    def failed(self, sa: IkeSa) -> None:
        """Take in that a call with a ticket came to nothing.

        Silence may be anything: the next call is a full one, the one after that tries again.
        """
        if sa.state is State.INIT_SENT:
            self._skip = True
        else:
            self.held = None

    def take(self, sa: IkeSa, payloads: Sequence[RawPayload], now: float) -> None:
        """Take the ticket in an authentic response, if there is one (4.2)."""
        given = [n.data for n in notifies_of(payloads) if n.type == NotifyType.TICKET_LT_OPAQUE]
        self._declined = not given
        if not given or sa.keys is None or sa.choice is None:
            return
        lifetime = int.from_bytes(given[0][:_LIFETIME_LENGTH], "big")
        octets = given[0][_LIFETIME_LENGTH:]
        if 0 < len(octets) <= MOST_OCTETS:
            self.held = HeldTicket(
                octets,
                now + lifetime,
                sa.remote.host,
                sa.our_spi,
                sa.choice,
                sa.local_key,
                sa.remote_key,
                sa.keys.sk_d,
            )

    # On both sides

    def adopted(self, sa: IkeSa, now: float) -> None:
        """Take in that sa is the IKE SA now: a ticket for another one is void (6.2)."""
        if self.held is not None and self.held.spi != sa.our_spi:
            self.held = None
        if self.issued is None or self.issued[0] != sa.our_spi:
            self.issued = (sa.our_spi, _NO_TICKET)
        if self._connection.config.initiate:
            wait = ASK_AFTER * (1.0 + sa.context.fraction())
            sa.context.scheduler.at(now + wait, lambda at: self._ask(sa, at))

    def _ask(self, sa: IkeSa, now: float) -> None:
        if sa is self._sa and self.held is None and not self._declined:
            sa.start(TicketTask(self, sa), now)

    def began(self, sa: IkeSa) -> None:
        """Take in that a fresh IKE SA is up."""
        self.resumed = sa.resumed
        self.count += sa.resumed

    def void(self) -> None:
        """Take in that the IKE SA was deleted in good order, and its ticket with it (6.2)."""
        self.held, self.issued = None, (NO_SPI, _NO_TICKET)


class TicketTask(PlainTask):
    """Ask for a ticket where the exchange that made the IKE SA has not brought one (4.1)."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, tickets: Tickets, sa: IkeSa) -> None:
        self._tickets = tickets
        self._sa = sa

    def build(self, now: float) -> Payloads:
        """Return the request."""
        return _encode(Notify(NotifyType.TICKET_REQUEST))

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Take the ticket."""
        self._tickets.take(self._sa, payloads, now)


def _encode(*notifies: Notify) -> list[tuple[int, bytes]]:
    return [(PayloadType.NOTIFY, notify.encode()) for notify in notifies]


# Asking, and being asked


def ask(connection: Connection) -> list[tuple[int, bytes]]:
    """Return what asks for a ticket in an exchange of ours: whoever calls does."""
    return _encode(Notify(NotifyType.TICKET_REQUEST)) if connection.config.initiate else []


def grant(
    connection: Connection, sa: IkeSa, payloads: Sequence[RawPayload]
) -> list[tuple[int, bytes]]:
    """Return the ticket that payloads ask for, TICKET_NACK where we give none, or nothing."""
    if not any(n.type == NotifyType.TICKET_REQUEST for n in notifies_of(payloads)):
        return []
    config, context = connection.config, sa.context
    # A certificate or a pre-shared key may be over tomorrow, and a ticket would not see it.
    fixed = config.authentication == "raw-public-key" and config.ppk_id is None
    gives = fixed and not config.initiate
    if not gives or context.tickets is None or sa.keys is None or sa.choice is None:
        return _encode(Notify(NotifyType.TICKET_NACK))
    number, octets, seconds = context.tickets.make(
        config.remote_identity,
        _configuration(context, connection),
        config.ike_lifetime,
        sa.choice,
        (_mark(sa.local_key), _mark(sa.remote_key)),
        sa.keys.sk_d,
    )
    connection.tickets.issued = (sa.our_spi, number)
    data = seconds.to_bytes(_LIFETIME_LENGTH, "big") + octets
    return _encode(Notify(NotifyType.TICKET_LT_OPAQUE, data))


def _mark(key: bytes | None) -> str:
    return "" if key is None else fingerprint(key)


def keys_of(
    connection: Connection, sa: IkeSa, secrets: ResumeSecrets
) -> tuple[bytes | None, bytes | None]:
    """Return the public keys, ours and the peer's, that proved what is resumed.

    None stands for one that is neither ours nor the peer's any more.
    """
    if secrets.held is not None:
        return secrets.held.local_key, secrets.held.remote_key
    if secrets.ticket is None:
        return None, None
    ours = [signer.public_key for signer in sa.context.signers]
    marked = ((ours, secrets.ticket.ours), (connection.config.public_keys(), secrets.ticket.theirs))
    local, remote = (
        next((key for key in keys if fingerprint(key) == mark), None) for keys, mark in marked
    )
    return local, remote


def _configuration(context: Context, connection: Connection) -> bytes:
    return configuration_digest(connection.config, context.identity, context.signer.public_key)


# IKE_SESSION_RESUME as its initiator


def start(
    context: Context,
    connection: str,
    local: Endpoint,
    remote: Endpoint,
    held: HeldTicket,
    force_udp: bool,
    now: float,
) -> tuple[IkeSa, ResumeSecrets]:
    """Begin an IKE SA that resumes another one, as its initiator: send the request."""
    sa = first.new_attempt(context, connection, local, remote, force_udp, now)
    sa.resumed = True
    nonce = context.random(init.NONCE_LENGTH)
    secrets = ResumeSecrets(held.choice.group, None, nonce, held=held)
    _send_request(sa, secrets, held, force_udp, now)
    return sa, secrets


def _send_request(
    sa: IkeSa, secrets: ResumeSecrets, held: HeldTicket, force_udp: bool, now: float
) -> None:
    cookie = [Notify(NotifyType.COOKIE, secrets.cookie)] if secrets.cookie else []
    body = [
        *_encode(*cookie),
        (PayloadType.NONCE, secrets.nonce_i),
        *_encode(Notify(NotifyType.TICKET_OPAQUE, held.octets)),
        *init.notifies_about(sa, force_udp, [_FRAGMENTS, *_redirects(sa)]),
    ]
    secrets.request = sa.plain(Exchange.IKE_SESSION_RESUME, False, body)
    sa.next_request = 0
    sa.transmit((secrets.request,), None, now)


def proceed(
    connection: Connection,
    sa: IkeSa,
    secrets: ResumeSecrets,
    header: IkeHeader,
    data: bytes,
    now: float,
) -> bool:
    """Take the response, as the initiator; return whether the keys stand.

    Where they do not, the request has gone out again, with a cookie, or a call without the ticket,
    which the responder refused. Raises PeerError for what ends nothing, as init.complete does.
    """
    if header.exchange != Exchange.IKE_SESSION_RESUME:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, f"response of type {header.exchange}")
    payloads = parse_chain(header.next_payload, data[HEADER_LENGTH:])
    init.refuse_critical(payloads)
    notifies, held = notifies_of(payloads), secrets.held
    if held is None or any(n.type == NotifyType.TICKET_NACK for n in notifies):
        connection.tickets.held = None
        connection.begin(now)
        return False
    cookie = first.cookie_in(notifies)
    if cookie:
        first.count_restart(secrets)
        secrets.cookie = cookie
        sa.take_response(0, Exchange.IKE_SESSION_RESUME)
        _send_request(sa, secrets, held, connection.config.encapsulation == "udp", now)
        return False
    nonce = body_of(payloads, PayloadType.NONCE)
    if nonce is None or header.spi_r == NO_SPI:
        raise PeerError(DropReason.IKE_MALFORMED, "IKE_SESSION_RESUME without a nonce")
    secrets.nonce_r, secrets.response = parse_nonce(nonce), data
    sa.take_response(0, Exchange.IKE_SESSION_RESUME)
    sa.spi_r = header.spi_r
    _learn(sa, notifies)
    _set_keys(sa, secrets, held.choice, held.sk_d)
    return True


def _redirects(sa: IkeSa) -> list[Notify]:
    connection = sa.context.connection_of(sa)
    return connection.redirects.announce() if connection is not None else []


def _learn(sa: IkeSa, notifies: Sequence[Notify]) -> None:
    """Take in what is never resumed: addresses, NATs, and what the peer supports."""
    init.detect_nat(sa, notifies)
    sa.fragmentation = any(n.type == _FRAGMENTS.type for n in notifies)
    sa.redirectable = redirect.may_be_told(notifies)


def _set_keys(sa: IkeSa, secrets: ResumeSecrets, choice: IkeChoice, sk_d: bytes) -> None:
    seed = Seed(secrets.nonce_i, secrets.nonce_r, sa.spi_i, sa.spi_r)
    sa.choice = choice
    sa.set_keys(resumed_ike_keys(choice.prf, choice.suite, sk_d, seed))


# IKE_SESSION_RESUME as its responder


def answer(sa: IkeSa, header: IkeHeader, data: bytes, now: float) -> None:
    """Answer a request; raise RefusalError where the ticket is not good."""
    context = sa.context
    payloads = parse_chain(header.next_payload, data[HEADER_LENGTH:])
    init.refuse_critical(payloads)
    nonce = body_of(payloads, PayloadType.NONCE)
    notifies = notifies_of(payloads)
    octets = next((n.data for n in notifies if n.type == NotifyType.TICKET_OPAQUE), None)
    if nonce is None or octets is None:
        raise PeerError(DropReason.IKE_MALFORMED, "IKE_SESSION_RESUME lacks Nonce or ticket")
    ticket = context.tickets.read(octets) if context.tickets is not None else None
    if ticket is None or connection_of(context, ticket) is None:
        raise RefusalError(DropReason.IKE_TICKET_REFUSED, Notify(NotifyType.TICKET_NACK))
    nonce_r = context.random(init.NONCE_LENGTH)
    secrets = ResumeSecrets(ticket.choice.group, None, parse_nonce(nonce), nonce_r, ticket=ticket)
    sa.resumed = True
    sa.spi_r = context.new_ike_spi()
    sa.nat = force_udp = context.answering.udp > 0
    _learn(sa, notifies)
    _set_keys(sa, secrets, ticket.choice, ticket.sk_d)
    more = [_FRAGMENTS] if sa.fragmentation else []
    body = [(PayloadType.NONCE, secrets.nonce_r), *init.notifies_about(sa, force_udp, more)]
    first.open_half(sa, secrets, Exchange.IKE_SESSION_RESUME, data, body, now)


def connection_of(context: Context, ticket: Ticket) -> Connection | None:
    """Return the connection that a ticket is good for, None where it is not good any more."""
    connection = context.by_identity.get(ticket.identity)
    if connection is None or connection.config.initiate:
        return None
    present = _configuration(context, connection)
    issued = connection.tickets.issued
    if context.redirect_to is not None or connection.redirects.to is not None:
        return None  # whoever is to be sent away is told so in IKE_SA_INIT or IKE_AUTH
    last = issued is None or hmac.compare_digest(issued[1], ticket.number)
    same = hmac.compare_digest(present, ticket.configuration)
    return connection if last and same else None


# In IKE_AUTH (4.3.3)


def check(context: Context, secrets: init.InitSecrets, connection: Connection) -> None:
    """Raise PeerError unless the ticket, if there is one, is good for connection still."""
    if isinstance(secrets, ResumeSecrets) and (
        secrets.ticket is None or connection_of(context, secrets.ticket) is not connection
    ):
        raise PeerError(DropReason.IKE_TICKET_REFUSED, "the connection has changed since")
