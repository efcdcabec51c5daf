"""IKE_SA_INIT (RFC 7296, 1.2), both roles.

initiator                                   responder
HDR, SAi1, KEi, Ni, N(NAT…) ------------>
                             <------------  HDR, SAr1, KEr, Nr, N(NAT…)

Nothing in it is authenticated. So an error in clear ends no attempt of ours (2.21.1), and as long
as IKE_AUTH has not come, a request costs us an entry in a table of limited size. What comes before
that, and what a stranger costs under load, is strangers.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import KeyExchange, answer_key_exchange, new_key_exchange
from moatvpn.crypto.keymat import IkeKeys, Seed, ike_keys
from moatvpn.crypto.signature_algorithms import SignatureHash
from moatvpn.errors import MoatError, PeerError
from moatvpn.ike import extensions, first, nat, redirect
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.context import Context
from moatvpn.ike.failure import Failure, FailureError, failure_told
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.mobility import Mobility
from moatvpn.ike.proposal import IkePolicy, accept, choose, offer
from moatvpn.ike.refusal import CriticalPayloadError, RefusalError
from moatvpn.ike.task import body_of, notifies_of
from moatvpn.wire.algorithms import Group, Kem, Method
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    KNOWN_PAYLOADS,
    NO_SPI,
    Exchange,
    IkeHeader,
    PayloadType,
    RawPayload,
    encode_chain,
    is_later_version,
    parse_chain,
    read_header,
)
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    encode_hash_algorithms,
    encode_ke,
    hash_algorithms,
    parse_ke,
    parse_nonce,
)
from moatvpn.wire.ike_proposal import encode_proposals, parse_proposals
from moatvpn.wire.ike_redirect import redirect as redirect_notify

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection

NONCE_LENGTH = 32
_HASHES = encode_hash_algorithms(tuple(SignatureHash))


@dataclass(slots=True)
class InitSecrets:
    """What IKE_AUTH needs of IKE_SA_INIT: both messages and both nonces, as they were sent.

    exchange is the initiator's key of group; cookie is what the responder wants to hear again.
    kems are the additional key exchanges that are to come; int_auth_i, int_auth_r and rounds are
    what IKE_INTERMEDIATE has left for AUTH (RFC 9242, 3.3.2). hashes are those that the peer
    verifies signatures with (RFC 7427, 4). use_ppk: both have announced a PPK; keys_without are the
    keys before it was mixed in (RFC 8784).
    """

    group: Group
    exchange: KeyExchange | None
    nonce_i: bytes
    nonce_r: bytes = b""
    request: bytes = b""
    response: bytes = b""
    cookie: bytes = b""
    restarts: int = 0
    hashes: frozenset[int] = frozenset()
    kems: tuple[Kem, ...] = ()
    int_auth_i: bytes = b""
    int_auth_r: bytes = b""
    rounds: int = 0
    use_ppk: bool = False
    keys_without: IkeKeys | None = field(default=None, repr=False)

    @property
    def int_auth(self) -> bytes:
        """Return IntAuth: both sides' chunks, and the message ID of IKE_AUTH (RFC 9242, 3.3.2)."""
        if not self.rounds:
            return b""
        return self.int_auth_i + self.int_auth_r + (1 + self.rounds).to_bytes(4, "big")


def start(
    context: Context,
    connection: str,
    local: Endpoint,
    remote: Endpoint,
    policy: IkePolicy,
    force_udp: bool,
    now: float,
) -> tuple[IkeSa, InitSecrets]:
    """Begin an IKE SA as its initiator: send the request, with a key of the first group."""
    sa = first.new_attempt(context, connection, local, remote, force_udp, now)
    group = policy.groups[0]
    key = new_key_exchange(group, context.random)
    secrets = InitSecrets(group, key, context.random(NONCE_LENGTH))
    send_request(sa, secrets, policy, force_udp, now)
    return sa, secrets


def send_request(
    sa: IkeSa, secrets: InitSecrets, policy: IkePolicy, force_udp: bool, now: float
) -> None:
    """Send the request, for the first time or with what the responder asked for (2.6, 2.6.1)."""
    if secrets.exchange is None:
        raise MoatError("IKE_SA_INIT without a key")
    body: list[tuple[int, bytes]] = []
    if secrets.cookie:
        body.append((PayloadType.NOTIFY, Notify(NotifyType.COOKIE, secrets.cookie).encode()))
    body += [
        (PayloadType.SA, encode_proposals(offer(policy))),
        (PayloadType.KE, encode_ke(secrets.group.number, secrets.exchange.public)),
        (PayloadType.NONCE, secrets.nonce_i),
        *notifies_about(sa, force_udp, extensions.offer(sa, policy)),
    ]
    secrets.request = sa.plain(Exchange.IKE_SA_INIT, False, body)
    sa.next_request = 0
    sa.transmit((secrets.request,), None, now)


def notifies_about(sa: IkeSa, force_udp: bool, more: list[Notify]) -> list[tuple[int, bytes]]:
    """Return the notifies of a first message: our addresses, our hashes, and more."""
    hashes = Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, _HASHES)
    notifies = [hashes, *more]
    return [
        *nat.payloads(nat.Path(sa.spi_i, sa.spi_r, sa.local, sa.remote), force_udp),
        *((PayloadType.NOTIFY, notify.encode()) for notify in notifies),
    ]


def detect_nat(sa: IkeSa, notifies: Sequence[Notify]) -> None:
    """Take in which of the two addresses the peer sees as another one than we do (2.23)."""
    # The request was hashed before the responder had chosen its SPI.
    spi_r = sa.spi_r if sa.initiator else NO_SPI
    seen = nat.see(nat.Path(sa.spi_i, spi_r, sa.local, sa.remote), notifies)
    sa.mobility = Mobility(sa.initiator, nat_traversal=seen is not None, force_udp=sa.nat)
    if seen is not None:
        sa.nat, sa.behind_nat = sa.nat or seen.there or seen.here, seen.here


def public_value(ke: bytes | None, method: Method) -> bytes:
    """Return the public value in the body of a KE payload that must be there, and of method.

    Raises RefusalError for one of another method (1.2, 1.3).
    """
    if ke is None:
        raise PeerError(DropReason.IKE_MALFORMED, "no KE payload")
    number, public = parse_ke(ke)
    if number != method.number:
        ours = Notify(NotifyType.INVALID_KE_PAYLOAD, method.number.to_bytes(2, "big"))
        raise RefusalError(DropReason.IKE_NO_PROPOSAL, ours, f"key exchange of group {number}")
    return public


def group_asked_for(notifies: Sequence[Notify]) -> Group | None:
    """Return the group that INVALID_KE_PAYLOAD among notifies asks for, if it is one we know."""
    for notify in notifies:
        if notify.type == NotifyType.INVALID_KE_PAYLOAD and len(notify.data) == 2:
            return Group.by_number(int.from_bytes(notify.data, "big"))
    return None


def _required(payloads: Sequence[RawPayload]) -> tuple[bytes, bytes, bytes]:
    bodies = [body_of(payloads, k) for k in (PayloadType.SA, PayloadType.KE, PayloadType.NONCE)]
    proposals, key, nonce = bodies
    if proposals is None or key is None or nonce is None:
        raise PeerError(DropReason.IKE_MALFORMED, "IKE_SA_INIT lacks SA, KE or Nonce")
    return proposals, key, parse_nonce(nonce)


def refuse_critical(payloads: Sequence[RawPayload]) -> None:
    """Raise CriticalPayloadError for a payload that we must not leave out of account (2.5)."""
    for payload in payloads:
        if payload.critical and payload.type not in KNOWN_PAYLOADS:
            raise CriticalPayloadError(payload.type)


def answer(sa: IkeSa, header: IkeHeader, data: bytes, now: float) -> None:
    """Answer an IKE_SA_INIT request; raise RefusalError where nothing fits."""
    context = sa.context
    payloads = parse_chain(header.next_payload, data[HEADER_LENGTH:])
    refuse_critical(payloads)
    offered, ke, nonce_i = _required(payloads)
    notifies = notifies_of(payloads)
    if context.redirect_to is not None and redirect.may_be_told(notifies):
        away = redirect_notify(context.redirect_to, nonce_i)
        raise RefusalError(DropReason.IKE_REDIRECTED, away, "sent to another gateway")
    sent = Group.by_number(parse_ke(ke)[0])
    # Who it is we learn from IKE_AUTH only, which then checks what its connection allows.
    policy = context.answering.policy
    if not extensions.supports_intermediate(notifies):
        policy = policy.without_additional()
    choice = choose(parse_proposals(offered), policy, preferred=sent)
    if choice is None:
        raise RefusalError(DropReason.IKE_NO_PROPOSAL, Notify(NotifyType.NO_PROPOSAL_CHOSEN))
    nonce_r = context.random(NONCE_LENGTH)
    ke_i = public_value(ke, choice.group)
    ke_r, shared = answer_key_exchange(choice.group, ke_i, context.random)
    secrets = InitSecrets(choice.group, None, nonce_i, nonce_r, kems=choice.kems)
    secrets.hashes = hash_algorithms(notifies)
    sa.spi_r = context.new_ike_spi()
    # One connection that wants UDP decides for all, for the same reason.
    sa.nat = force_udp = context.answering.udp > 0
    detect_nat(sa, notifies)
    extensions.agree(sa, secrets, choice.kems, notifies)
    seed = Seed(nonce_i, nonce_r, sa.spi_i, sa.spi_r)
    sa.choice = choice
    sa.set_keys(ike_keys(choice.prf, choice.suite, shared, seed))
    body = [
        (PayloadType.SA, encode_proposals([choice.answer(b"")])),
        (PayloadType.KE, encode_ke(choice.group.number, ke_r)),
        (PayloadType.NONCE, nonce_r),
        *notifies_about(sa, force_udp, extensions.answer(sa, secrets)),
        *context.certificate_requests(),
    ]
    first.open_half(sa, secrets, Exchange.IKE_SA_INIT, data, body, now)


def answer_version(context: Context, datagram: Datagram, now: float) -> None:
    """Tell the sender of a request of a later major version which one we speak (2.5).

    Without state, and not more than so often: anybody may have sent it, in anybody's name.
    """
    asked = read_header(datagram.data)
    if asked is None or asked.response or not is_later_version(datagram.data):
        return
    if not context.may_be_called_from(datagram.remote.host) or not context.answers.allows(now):
        return
    spi_i, spi_r, exchange = asked.spi_i, asked.spi_r, asked.exchange
    kind, chain = encode_chain(
        [(PayloadType.NOTIFY, Notify(NotifyType.INVALID_MAJOR_VERSION).encode())]
    )
    length = HEADER_LENGTH + len(chain)
    if length > len(datagram.data):
        return  # nobody gets more out of us than it has sent, perhaps in another's name
    ours = not asked.from_initiator
    head = IkeHeader(spi_i, spi_r, kind, exchange, ours, True, asked.message_id, length)
    context.outbox.append(Datagram(head.encode() + chain, datagram.local, datagram.remote))


def complete(
    sa: IkeSa, secrets: InitSecrets, policy: IkePolicy, header: IkeHeader, data: bytes
) -> bool:
    """Take the response, as the initiator: derive the keys.

    Returns False where the responder wants the request again, with a cookie or with a key of
    another group, which secrets then holds (2.6, 2.7); True where the keys stand.
    Raises PeerError for anything else; nothing in clear may end the attempt, so the caller counts
    it and keeps retransmitting (2.21.1).
    """
    if header.exchange != Exchange.IKE_SA_INIT:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, f"response of type {header.exchange}")
    payloads = parse_chain(header.next_payload, data[HEADER_LENGTH:])
    refuse_critical(payloads)
    notifies = notifies_of(payloads)
    if _must_restart(sa, secrets, policy, notifies):
        return False
    error = next((notify for notify in notifies if notify.is_error), None)
    if error is not None:
        raise FailureError(DropReason.IKE_NO_PROPOSAL, failure_told(error.type))
    body, ke, nonce_r = _required(payloads)
    choice = accept(parse_proposals(body), policy)
    if header.spi_r == NO_SPI or choice.group is not secrets.group or secrets.exchange is None:
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
    extensions.agree(sa, secrets, choice.kems, notifies)
    secrets.hashes = hash_algorithms(notifies)
    connection = sa.context.connection_of(sa)
    if connection is None or not connection.authentication.can_prove(secrets.hashes):
        what = "the peer cannot verify what our kind of key signs (SIGNATURE_HASH_ALGORITHMS)"
        failure = Failure("here", what, "Use a key of another kind, or another authentication")
        raise FailureError(DropReason.IKE_NO_PROPOSAL, failure)
    shared = secrets.exchange.shared_secret(public_value(ke, choice.group))
    sa.spi_r = header.spi_r
    sa.choice = choice
    secrets.nonce_r, secrets.response, secrets.kems = nonce_r, data, choice.kems
    detect_nat(sa, notifies)
    seed = Seed(secrets.nonce_i, nonce_r, sa.spi_i, sa.spi_r)
    sa.set_keys(ike_keys(choice.prf, choice.suite, shared, seed))
    return True


def proceed(
    connection: Connection,
    sa: IkeSa,
    secrets: InitSecrets,
    header: IkeHeader,
    data: bytes,
    now: float,
) -> bool:
    """Take the response, as complete does, and send the request again where it has to be."""
    policy = ike_policy(connection.config)
    notifies = notifies_of(parse_chain(header.next_payload, data[HEADER_LENGTH:]))
    if redirect.heard_in_clear(connection, sa, secrets.nonce_i, notifies, now):
        return False
    done = complete(sa, secrets, policy, header, data)
    sa.take_response(0, Exchange.IKE_SA_INIT)
    if not done:
        send_request(sa, secrets, policy, connection.config.encapsulation == "udp", now)
    return done


def _must_restart(
    sa: IkeSa, secrets: InitSecrets, policy: IkePolicy, notifies: Sequence[Notify]
) -> bool:
    """Take what the responder asks for into secrets; return whether it asks for anything.

    Anybody can ask, so only for a group that we have offered, and only so often.
    """
    cookie = first.cookie_in(notifies)
    group = group_asked_for(notifies)
    if group not in policy.groups or group is secrets.group:
        group = None
    if group is None and not cookie:
        return False
    first.count_restart(secrets)
    if group is None:
        secrets.cookie = cookie
    else:
        secrets.group, secrets.exchange = group, new_key_exchange(group, sa.context.random)
    return True
