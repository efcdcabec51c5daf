"""IKE_AUTH (RFC 7296, 1.2 and 2.15). What proves an identity is in authentication/.

initiator                                                       responder
HDR, SK{IDi, [CERT+], AUTH, [CERTREQ], IDr, SAi2, TSi, TSr} ---->
                                            <----  HDR, SK{IDr, [CERT+], AUTH, SAr2, TSi, TSr}
HDR, SK{N(AUTHENTICATION_FAILED)} ---->                         where the responder's proof fails
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.errors import MoatError, PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.ike import callback, configuration, framing, mobike, ppk, redirect, resumption
from moatvpn.ike import child as negotiation
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.authentication.certificate import claimed_names
from moatvpn.ike.authentication.contract import Authentication, Transcript
from moatvpn.ike.authentication.ticket import TicketAuthentication
from moatvpn.ike.context import Context
from moatvpn.ike.failure import Failure, FailureError, ProofError, failure_of, failure_told
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import DeleteIkeTask, farewell, refusal_of
from moatvpn.ike.init import InitSecrets
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.resumption import ResumeSecrets
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads, PlainTask, body_of, certificate_request, notifies_of
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    encode_fqdn,
    encode_selectors,
    parse_fqdn,
    parse_selectors,
)
from moatvpn.wire.ike_proposal import encode_proposals, parse_proposals

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection

_UNKNOWN = "Add a connection for it if it is yours, or compare its identity with remote_identity"
_KEYS = "Use a key of another kind, or another authentication"
_ALGORITHMS = "Compare ike_suites and groups on both sides"


def _transcript(sa: IkeSa, secrets: InitSecrets, by_initiator: bool, identity: bytes) -> Transcript:
    """Return what AUTH covers: one's own first message, the other's nonce, a MAC of one's ID."""
    if sa.keys is None:
        raise MoatError("IKE_AUTH before there are keys")
    message, nonce, key = (
        (secrets.request, secrets.nonce_r, sa.keys.sk_pi)
        if by_initiator
        else (secrets.response, secrets.nonce_i, sa.keys.sk_pr)
    )
    prf = sa.keys.prf
    return Transcript(prf, message + nonce + prf.compute(key, identity) + secrets.int_auth)


def _proof(
    authentication: Authentication, sa: IkeSa, secrets: InitSecrets
) -> list[tuple[int, bytes]]:
    """Return our ID, any CERT, and AUTH payloads."""
    identity = encode_fqdn(sa.context.identity)
    transcript = _transcript(sa, secrets, sa.initiator, identity)
    sa.local_key = authentication.public_key
    kind = PayloadType.ID_I if sa.initiator else PayloadType.ID_R
    return [(kind, identity), *authentication.prove(transcript, secrets.hashes)]


def _verify(
    authentication: Authentication,
    sa: IkeSa,
    secrets: InitSecrets,
    identity: bytes,
    payloads: Sequence[RawPayload],
) -> None:
    """Raise ProofError unless payloads prove that the peer is the one that we look for."""
    transcript = _transcript(sa, secrets, not sa.initiator, identity)
    sa.remote_key = authentication.verify(transcript, identity, payloads)


def _method(connection: Connection, sa: IkeSa, secrets: InitSecrets) -> Authentication:
    """Return what proves both sides: the ticket where there is one, or what is configured."""
    if isinstance(secrets, ResumeSecrets) and sa.keys is not None:
        proved = resumption.keys_of(connection, sa, secrets)
        return TicketAuthentication(connection.config, sa.keys, sa.initiator, *proved)
    return connection.method(sa)


class AuthTask(PlainTask):
    """IKE_AUTH as its initiator."""

    exchange = Exchange.IKE_AUTH

    def __init__(self, connection: Connection, sa: IkeSa, secrets: InitSecrets) -> None:
        self._connection = connection
        self._sa = sa
        self._secrets = secrets
        self._spi = 0
        self._wanted: negotiation.Selectors = ((), ())
        self._beside = False  # what there is goes on until this is up
        self._replace = False  # the CHILD_SA is to be rekeyed at once

    def abandon(self) -> None:
        """Give the CHILD_SA's SPI back."""
        self._sa.context.child_spis.discard(self._spi)

    def build(self, now: float) -> Payloads:
        """Return the request's payloads."""
        self._spi = self._sa.context.new_child_spi()
        config = self._connection.config
        authentication = _method(self._connection, self._sa, self._secrets)
        gateway = self._sa.gateway
        peer = config.remote_identity if gateway is None else gateway.identity
        self._beside = self._connection.replaces_living
        alone = () if self._beside else (Notify(NotifyType.INITIAL_CONTACT),)
        self._wanted = ours, theirs = self._connection.children.wanted()[0]
        proof, ppk_notifies = self._proof(authentication)
        return [
            *proof,
            *certificate_request(authentication.authorities),
            (PayloadType.ID_R, encode_fqdn(peer)),
            *configuration.request(config),
            (PayloadType.SA, encode_proposals(negotiation.offer(config, self._spi, ()))),
            (PayloadType.TS_I, encode_selectors(ours)),
            (PayloadType.TS_R, encode_selectors(theirs)),
            *framing.offer(self._sa.context, self._connection),
            *((PayloadType.NOTIFY, notify.encode()) for notify in alone),
            *mobike.offer(self._sa),
            *ppk_notifies,
            *resumption.ask(self._connection),
        ]

    def _proof(self, authentication: Authentication) -> tuple[Payloads, Payloads]:
        """Return our proof, with the PPK where there is to be one, and what is told of that."""
        key = self._connection.ppk
        if key is None or not self._secrets.use_ppk:
            return _proof(authentication, self._sa, self._secrets), ()
        without = None if key.required else _proof(authentication, self._sa, self._secrets)
        ppk.mix(self._sa, self._secrets, key)
        return _proof(authentication, self._sa, self._secrets), ppk.notifies(key, without)

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Verify the responder and bring the connection up."""
        identity = body_of(payloads, PayloadType.ID_R)
        errors = [notify.type for notify in notifies_of(payloads) if notify.is_error]
        if errors and identity is None:
            if errors[0] == NotifyType.AUTHENTICATION_FAILED:
                self._connection.key_refused(self._sa)
            raise FailureError(DropReason.IKE_AUTHENTICATION_FAILED, failure_told(errors[0]))
        if identity is None:
            raise PeerError(DropReason.IKE_MALFORMED, "IKE_AUTH lacks IDr")
        sa = self._sa
        try:
            ppk.take_answer(self._connection, sa, self._secrets, payloads)
            authentication = _method(self._connection, sa, self._secrets)
            _verify(authentication, sa, self._secrets, identity, payloads)
        except PeerError:
            sa.send(refusal_of(sa))  # the responder believes that all is well
            raise
        goodbye = farewell(sa)
        if redirect.heard(self._connection, sa, payloads, now):
            sa.send(goodbye)
            self.abandon()
            return
        try:
            child = self._child(payloads)
            assigned = configuration.taken(self._connection.config, payloads, child.local_ts)
        except PeerError:
            sa.send(farewell(sa))
            raise
        mobike.agree(sa, payloads)
        self._connection.established(sa, child, now, beside=self._beside)
        self._connection.reauthentication.asked(notifies_of(payloads), now)
        self._connection.tickets.take(sa, payloads, now)
        if assigned is not None:
            self._connection.configured(assigned)
        if self._replace:
            self._connection.children.rekey(child.spi_in, now)

    def _child(self, payloads: Sequence[RawPayload]) -> ChildSa:
        config = self._connection.config
        bodies = [
            body_of(payloads, kind) for kind in (PayloadType.SA, PayloadType.TS_I, PayloadType.TS_R)
        ]
        proposals, ts_i, ts_r = bodies
        if proposals is None or ts_i is None or ts_r is None:
            refused = [n.type for n in notifies_of(payloads) if n.is_error]
            if NotifyType.SINGLE_PAIR_REQUIRED in refused:
                self._connection.children.single_pairs = True  # from the next try on (2.9)
            if refused:
                raise FailureError(DropReason.IKE_NO_PROPOSAL, failure_told(refused[0]))
            raise PeerError(DropReason.IKE_MALFORMED, "IKE_AUTH lacks SA or TS")
        choice = negotiation.accept(parse_proposals(proposals), config, ())
        ours = negotiation.narrow(parse_selectors(ts_i), self._wanted[0])
        theirs = negotiation.narrow(parse_selectors(ts_r), self._wanted[1])
        if not ours or not theirs:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "traffic selectors that we did not offer")
        nonces = (b"", self._secrets.nonce_i, self._secrets.nonce_r)
        agreed = framing.answered(self._sa.context, self._connection, payloads)
        self._replace = agreed.refused
        return negotiation.build_child(
            self._sa, config, choice, self._spi, (ours, theirs), nonces, agreed, True
        )


def respond(
    context: Context, sa: IkeSa, payloads: Sequence[RawPayload], message_id: int, now: float
) -> None:
    """Answer IKE_AUTH: verify the initiator, negotiate, bring its connection up."""
    secrets = context.init_secrets.pop(sa.spi_r, None)
    if secrets is None:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "IKE_AUTH twice")
    try:
        connection = _identify(context, sa, secrets, payloads, now)
    except PeerError as error:
        proved = error.reason is DropReason.IKE_NO_PROPOSAL
        kind = NotifyType.NO_PROPOSAL_CHOSEN if proved else NotifyType.AUTHENTICATION_FAILED
        body = [(PayloadType.NOTIFY, Notify(kind).encode())]
        sa.respond(Exchange.IKE_AUTH, message_id, body)
        sa.close()
        raise
    sa.connection = connection.config.name
    answer = _proof(_method(connection, sa, secrets), sa, secrets)
    away = redirect.told_in_auth(connection, sa)
    if away:
        sa.connection = None  # it is nobody's, and goes with the peer's Delete, or soon
        sa.respond(Exchange.IKE_AUTH, message_id, [*answer, *away])
        return
    try:
        callback.settle(connection, sa)
        _refuse_nat(sa, payloads)
        child, choice, agreed = _answer_child(sa, connection, secrets, payloads)
    except RefusalError as refusal:
        # The proof goes with it, as 2.21.2 has it: only the CHILD_SA has failed. But without one
        # the IKE SA is of no use to a moat, which starts over; a peer that would keep it is told.
        answer.append((PayloadType.NOTIFY, refusal.notify.encode()))
        sa.respond(Exchange.IKE_AUTH, message_id, answer)
        _note(connection, sa, refusal, now)
        sa.context.counters.drop(refusal.reason)
        sa.forget_half_open()
        sa.move(State.REPLACED)
        sa.start(DeleteIkeTask(sa), now)
        return
    proposal = choice.proposal(child.spi_in)
    answer += [
        *configuration.reply(connection.config, payloads),
        (PayloadType.SA, encode_proposals([proposal])),
        (PayloadType.TS_I, encode_selectors(child.remote_ts)),
        (PayloadType.TS_R, encode_selectors(child.local_ts)),
        *framing.answer(agreed),
        *ppk.answer(sa),
        *resumption.grant(connection, sa, payloads),
    ]
    if mobike.agree(sa, payloads):
        answer += mobike.offer(sa)
    sa.respond(Exchange.IKE_AUTH, message_id, answer)
    first = any(n.type == NotifyType.INITIAL_CONTACT for n in notifies_of(payloads))
    connection.established(sa, child, now, beside=not first)


def _refuse_nat(sa: IkeSa, payloads: Sequence[RawPayload]) -> None:
    """Raise RefusalError where the initiator forbids a NAT that its message met (RFC 4555, 3.9)."""
    if mobike.meets_a_nat(notifies_of(payloads), sa.local, sa.remote):
        refusal = Notify(NotifyType.UNEXPECTED_NAT_DETECTED)
        raise RefusalError(DropReason.IKE_ADDRESSES_REFUSED, refusal)


def _note(connection: Connection, sa: IkeSa, error: PeerError, now: float) -> None:
    failure = failure_of(error)
    if failure is not None:
        connection.failed(failure, sa.remote.host, now)


def _identify(
    context: Context, sa: IkeSa, secrets: InitSecrets, payloads: Sequence[RawPayload], now: float
) -> Connection:
    """Return the connection whose peer has proved that it is there; raise PeerError otherwise."""
    identity = body_of(payloads, PayloadType.ID_I)
    if identity is None:
        raise PeerError(DropReason.IKE_MALFORMED, "IKE_AUTH lacks IDi")
    names = claimed_names(identity, payloads)
    found = [context.by_identity[name] for name in names if name in context.by_identity]
    connection = found[0] if found else None
    if connection is None or not connection.expects(sa.remote.host):
        what = "no connection here expects its identity"
        error = ProofError(what, _UNKNOWN, DropReason.IKE_UNKNOWN_PEER)
        claimed = names[0] if names else "something that is no domain name"
        context.diagnosis.of_stranger(error.failure, (sa.remote.host, claimed), now)
        raise error
    try:
        wanted = body_of(payloads, PayloadType.ID_R)
        if wanted is not None:
            _check_wanted(context, wanted)
        resumption.check(context, secrets, connection)
        proved = ppk.take_request(connection, sa, secrets, payloads)
        authentication = _method(connection, sa, secrets)
        _verify(authentication, sa, secrets, identity, proved)
        if not authentication.can_prove(secrets.hashes):
            raise ProofError("the peer cannot verify what our kind of key signs", _KEYS)
        _check_choice(sa, connection)
    except PeerError as error:
        _note(connection, sa, error, now)
        raise
    return connection


def _check_wanted(context: Context, wanted: bytes) -> None:
    """Raise ProofError where the peer looks for another one than us."""
    if parse_fqdn(wanted) != context.identity:
        what = f"it looks for another one than {context.identity}"
        remedy = "Compare the remote_identity there with the identity here"
        raise ProofError(what, remedy, DropReason.IKE_UNKNOWN_PEER)


def _check_choice(sa: IkeSa, connection: Connection) -> None:
    """Raise PeerError where IKE_SA_INIT took what only other connections allow."""
    policy, choice = ike_policy(connection.config), sa.choice
    if choice is None or not policy.allows(choice):
        name = connection.config.name
        failure = Failure("here", f"{name} allows other IKE algorithms only", _ALGORITHMS)
        raise FailureError(DropReason.IKE_NO_PROPOSAL, failure)


def _answer_child(
    sa: IkeSa, connection: Connection, secrets: InitSecrets, payloads: Sequence[RawPayload]
) -> tuple[ChildSa, negotiation.Choice, framing.Framing]:
    bodies = [
        body_of(payloads, kind) for kind in (PayloadType.SA, PayloadType.TS_I, PayloadType.TS_R)
    ]
    proposals, ts_i, ts_r = bodies
    if proposals is None or ts_i is None or ts_r is None:
        raise PeerError(DropReason.IKE_MALFORMED, "IKE_AUTH lacks SA or TS")
    config = connection.config
    choice = negotiation.choose(parse_proposals(proposals), config, ())
    theirs = negotiation.narrow(
        parse_selectors(ts_i), negotiation.configured(config.remote_selectors)
    )
    ours = negotiation.narrow(parse_selectors(ts_r), negotiation.configured(config.local_selectors))
    if choice is None:
        raise RefusalError(DropReason.IKE_NO_PROPOSAL, Notify(NotifyType.NO_PROPOSAL_CHOSEN))
    if not ours or not theirs:
        raise RefusalError(DropReason.IKE_NO_PROPOSAL, Notify(NotifyType.TS_UNACCEPTABLE))
    agreed = framing.settle(sa.context, config, payloads)
    spi = sa.context.new_child_spi()
    nonces = (b"", secrets.nonce_i, secrets.nonce_r)
    child = negotiation.build_child(sa, config, choice, spi, (ours, theirs), nonces, agreed, False)
    return child, choice, agreed
