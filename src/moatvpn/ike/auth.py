"""IKE_AUTH (RFC 7296, 1.2 and 2.15) with Ed25519 raw public keys (RFC 7427, 7670, 8420).

    initiator                                            responder
    HDR, SK{IDi, CERT, IDr, AUTH, SAi2, TSi, TSr} ---->
                                            <----  HDR, SK{IDr, CERT, AUTH, SAr2, TSi, TSr}

The key in a CERT payload is never believed: a signature must verify under a key of the
connection's configuration.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.sign import ED25519_ALGORITHM, verify
from moatvpn.errors import MoatError, PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.ike import callback, configuration, mobike
from moatvpn.ike import child as negotiation
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.context import Context
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.init import InitSecrets
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.task import Payloads, PlainTask, body_of, notifies_of
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    AUTH_DIGITAL_SIGNATURE,
    CERT_RAW_PUBLIC_KEY,
    Notify,
    NotifyType,
    encode_auth,
    encode_fqdn,
    encode_selectors,
    parse_auth,
    parse_fqdn,
    parse_selectors,
)
from moatvpn.wire.ike_proposal import encode_proposals, parse_proposals

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection

_ALGORITHM = bytes((len(ED25519_ALGORITHM),)) + ED25519_ALGORITHM


def _signed_octets(sa: IkeSa, secrets: InitSecrets, by_initiator: bool, identity: bytes) -> bytes:
    """Return what AUTH signs: one's own first message, the other's nonce, a MAC of one's ID."""
    if sa.keys is None:
        raise MoatError("IKE_AUTH before there are keys")
    message, nonce, key = (
        (secrets.request, secrets.nonce_r, sa.keys.sk_pi)
        if by_initiator
        else (secrets.response, secrets.nonce_i, sa.keys.sk_pr)
    )
    return message + nonce + sa.keys.prf.compute(key, identity) + secrets.int_auth


def _proof(sa: IkeSa, secrets: InitSecrets, kind: int) -> list[tuple[int, bytes]]:
    """Return our ID, CERT and AUTH payloads. kind is ID_I or ID_R."""
    signer = sa.context.signer
    identity = encode_fqdn(sa.context.identity)
    octets = _signed_octets(sa, secrets, sa.initiator, identity)
    auth = encode_auth(AUTH_DIGITAL_SIGNATURE, _ALGORITHM + signer.sign(octets))
    cert = bytes((CERT_RAW_PUBLIC_KEY,)) + signer.public_key
    return [(kind, identity), (PayloadType.CERT, cert), (PayloadType.AUTH, auth)]


def _authentic(
    sa: IkeSa,
    secrets: InitSecrets,
    keys: Sequence[bytes],
    identity: bytes,
    payloads: Sequence[RawPayload],
) -> bool:
    """Return whether the peer's AUTH verifies under one of keys."""
    body = body_of(payloads, PayloadType.AUTH)
    if body is None:
        return False
    method, data = parse_auth(body)
    if method != AUTH_DIGITAL_SIGNATURE or not data.startswith(_ALGORITHM):
        return False
    octets = _signed_octets(sa, secrets, not sa.initiator, identity)
    signature = data[len(_ALGORITHM) :]
    return any(verify(key, signature, octets) for key in keys)


class AuthTask(PlainTask):
    """IKE_AUTH as its initiator."""

    exchange = Exchange.IKE_AUTH

    def __init__(self, connection: Connection, sa: IkeSa, secrets: InitSecrets) -> None:
        self._connection = connection
        self._sa = sa
        self._secrets = secrets
        self._spi = 0
        self._wanted: negotiation.Selectors = ((), ())

    def abandon(self) -> None:
        """Give the CHILD_SA's SPI back."""
        self._sa.context.child_spis.discard(self._spi)

    def build(self, now: float) -> Payloads:
        """Return the request's payloads."""
        self._spi = self._sa.context.new_child_spi()
        config = self._connection.config
        identity, cert, auth = _proof(self._sa, self._secrets, PayloadType.ID_I)
        self._wanted = ours, theirs = self._connection.children.wanted()[0]
        return [
            identity,
            cert,
            (PayloadType.ID_R, encode_fqdn(config.remote_identity)),
            auth,
            *configuration.request(config),
            (PayloadType.SA, encode_proposals(negotiation.offer(config, self._spi, ()))),
            (PayloadType.TS_I, encode_selectors(ours)),
            (PayloadType.TS_R, encode_selectors(theirs)),
            (PayloadType.NOTIFY, Notify(NotifyType.INITIAL_CONTACT).encode()),
            *mobike.offer(self._sa),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Verify the responder and bring the connection up."""
        config = self._connection.config
        identity = body_of(payloads, PayloadType.ID_R)
        for notify in notifies_of(payloads):
            if notify.is_error and identity is None:
                reason = DropReason.IKE_AUTHENTICATION_FAILED
                raise PeerError(reason, f"the peer refused with notify {notify.type}")
        if identity is None or parse_fqdn(identity) != config.remote_identity:
            raise PeerError(DropReason.IKE_UNKNOWN_PEER, "responder has another identity")
        if not _authentic(self._sa, self._secrets, config.public_keys(), identity, payloads):
            raise PeerError(DropReason.IKE_AUTHENTICATION_FAILED, "responder's proof")
        child = self._child(payloads)
        assigned = configuration.taken(config, payloads, child.local_ts)
        mobike.agree(self._sa, payloads)
        self._connection.established(self._sa, child, now)
        if assigned is not None:
            self._connection.configured(assigned)

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
            raise PeerError(DropReason.IKE_NO_PROPOSAL, f"no CHILD_SA, but notifies {refused}")
        choice = negotiation.accept(parse_proposals(proposals), config, ())
        ours = negotiation.narrow(parse_selectors(ts_i), self._wanted[0])
        theirs = negotiation.narrow(parse_selectors(ts_r), self._wanted[1])
        if not ours or not theirs:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "traffic selectors that we did not offer")
        nonces = (b"", self._secrets.nonce_i, self._secrets.nonce_r)
        return negotiation.build_child(
            self._sa, config, choice, self._spi, (ours, theirs), nonces, True
        )


def respond(
    context: Context, sa: IkeSa, payloads: Sequence[RawPayload], message_id: int, now: float
) -> None:
    """Answer IKE_AUTH: verify the initiator, negotiate, bring its connection up."""
    secrets = context.init_secrets.pop(sa.spi_r, None)
    if secrets is None:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "IKE_AUTH twice")
    try:
        connection = _identify(context, sa, secrets, payloads)
    except PeerError:
        body = [(PayloadType.NOTIFY, Notify(NotifyType.AUTHENTICATION_FAILED).encode())]
        sa.respond(Exchange.IKE_AUTH, message_id, body)
        sa.close()
        raise
    sa.connection = connection.config.name
    answer = _proof(sa, secrets, PayloadType.ID_R)
    try:
        callback.settle(connection, sa)
        _refuse_nat(sa, payloads)
        child, choice = _answer_child(sa, connection, secrets, payloads)
    except RefusalError as refusal:
        # The proof goes with it, as 2.21.2 has it: only the CHILD_SA has failed. But without one
        # the IKE SA is of no use to a moat, which starts over.
        answer.append((PayloadType.NOTIFY, refusal.notify.encode()))
        sa.respond(Exchange.IKE_AUTH, message_id, answer)
        sa.close()
        raise
    proposal = choice.proposal(child.spi_in)
    answer += [
        *configuration.reply(connection.config, payloads),
        (PayloadType.SA, encode_proposals([proposal])),
        (PayloadType.TS_I, encode_selectors(child.remote_ts)),
        (PayloadType.TS_R, encode_selectors(child.local_ts)),
    ]
    if mobike.agree(sa, payloads):
        answer += mobike.offer(sa)
    sa.respond(Exchange.IKE_AUTH, message_id, answer)
    connection.established(sa, child, now)


def _refuse_nat(sa: IkeSa, payloads: Sequence[RawPayload]) -> None:
    """Raise RefusalError where the initiator forbids a NAT that its message met (RFC 4555, 3.9)."""
    if mobike.meets_a_nat(notifies_of(payloads), sa.local, sa.remote):
        refusal = Notify(NotifyType.UNEXPECTED_NAT_DETECTED)
        raise RefusalError(DropReason.IKE_ADDRESSES_REFUSED, refusal)


def _identify(
    context: Context, sa: IkeSa, secrets: InitSecrets, payloads: Sequence[RawPayload]
) -> Connection:
    """Return the connection whose peer has proved that it is there; raise PeerError otherwise."""
    identity = body_of(payloads, PayloadType.ID_I)
    wanted = body_of(payloads, PayloadType.ID_R)
    if identity is None:
        raise PeerError(DropReason.IKE_MALFORMED, "IKE_AUTH lacks IDi")
    if wanted is not None and not hmac.compare_digest(wanted, encode_fqdn(context.identity)):
        raise PeerError(DropReason.IKE_UNKNOWN_PEER, "it looks for somebody else")
    name = parse_fqdn(identity)
    connection = context.by_identity.get(name) if name is not None else None
    if connection is None or not connection.expects(sa.remote.host):
        raise PeerError(DropReason.IKE_UNKNOWN_PEER, "no connection expects it there")
    if not _authentic(sa, secrets, connection.config.public_keys(), identity, payloads):
        raise PeerError(DropReason.IKE_AUTHENTICATION_FAILED, f"proof of {name}")
    _check_choice(sa, connection)
    return connection


def _check_choice(sa: IkeSa, connection: Connection) -> None:
    """Raise PeerError where IKE_SA_INIT took what only other connections allow."""
    policy, choice = ike_policy(connection.config), sa.choice
    if choice is None or not policy.allows(choice):
        name = connection.config.name
        raise PeerError(DropReason.IKE_NO_PROPOSAL, f"{name} allows other IKE algorithms only")


def _answer_child(
    sa: IkeSa, connection: Connection, secrets: InitSecrets, payloads: Sequence[RawPayload]
) -> tuple[ChildSa, negotiation.Choice]:
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
    spi = sa.context.new_child_spi()
    nonces = (b"", secrets.nonce_i, secrets.nonce_r)
    child = negotiation.build_child(sa, config, choice, spi, (ours, theirs), nonces, False)
    return child, choice
