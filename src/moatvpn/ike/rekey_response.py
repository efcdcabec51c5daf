"""CREATE_CHILD_SA (RFC 7296, 1.3) as its responder; rekey.py has the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import GROUP_X25519, KeyExchange
from moatvpn.crypto.keymat import rekeyed_ike_keys
from moatvpn.errors import PeerError
from moatvpn.ike import child as negotiation
from moatvpn.ike import init
from moatvpn.ike.children import ChildRecord
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import DeleteTask
from moatvpn.ike.rekey import RekeyChildTask, exchanged, hand_over, replacement
from moatvpn.ike.task import Payloads, body_of, notifies_of
from moatvpn.wire.ike_header import NO_SPI, Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    encode_ke,
    encode_selectors,
    parse_selectors,
)
from moatvpn.wire.ike_proposal import Protocol, encode_proposals, parse_proposals

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection


def respond(
    connection: Connection,
    sa: IkeSa,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    """Answer a CREATE_CHILD_SA request of any kind; collisions are those of 2.25."""
    connection.prefer(sa, now)
    children = connection.children
    rekeyed = next((n for n in notifies_of(payloads) if n.type == NotifyType.REKEY_SA), None)
    if sa is not connection.sa:
        _refuse(sa, message_id, NotifyType.TEMPORARY_FAILURE)
    elif rekeyed is not None:
        record = children.by_peer_spi(int.from_bytes(rekeyed.spi, "big"))
        if record is None and not children.rekeying():
            missing = Notify(NotifyType.CHILD_SA_NOT_FOUND, b"", Protocol.ESP, rekeyed.spi)
            _answer(sa, message_id, [(PayloadType.NOTIFY, missing.encode())])
        elif record is None or sa.rekeying or record.successor is not None or children.full:
            # One that we don't know may be what the answer to our own request will make.
            _refuse(sa, message_id, NotifyType.TEMPORARY_FAILURE)
        else:
            _rekey_child(connection, sa, record, payloads, message_id, now)
    elif body_of(payloads, PayloadType.TS_I) is not None:
        _refuse(sa, message_id, NotifyType.NO_ADDITIONAL_SAS)
    elif sa.rival is not None or _changes_a_child(sa):
        _refuse(sa, message_id, NotifyType.TEMPORARY_FAILURE)
    else:
        _rekey_ike(connection, sa, payloads, message_id, now)


def _changes_a_child(sa: IkeSa) -> bool:
    """Return whether a request of ours about a CHILD_SA is in flight."""
    return sa.pending is not None and isinstance(sa.pending.task, RekeyChildTask | DeleteTask)


def _refuse(sa: IkeSa, message_id: int, kind: NotifyType) -> None:
    _answer(sa, message_id, [(PayloadType.NOTIFY, Notify(kind).encode())])


def _answer(sa: IkeSa, message_id: int, body: Payloads) -> None:
    sa.respond(Exchange.CREATE_CHILD_SA, message_id, body)


def _rekey_child(
    connection: Connection,
    sa: IkeSa,
    old: ChildRecord,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    body, ke_i, nonce_i = exchanged(payloads)
    ts_i, ts_r = (body_of(payloads, kind) for kind in (PayloadType.TS_I, PayloadType.TS_R))
    if ts_i is None or ts_r is None:
        raise PeerError(DropReason.IKE_MALFORMED, "CREATE_CHILD_SA lacks TS")
    context, config = sa.context, connection.config
    choice = negotiation.choose(parse_proposals(body), config, True)
    if choice is None:
        _refuse(sa, message_id, NotifyType.NO_PROPOSAL_CHOSEN)
        return
    theirs = negotiation.narrow(parse_selectors(ts_i), old.child.remote_ts)
    ours = negotiation.narrow(parse_selectors(ts_r), old.child.local_ts)
    if not ours or not theirs:
        _refuse(sa, message_id, NotifyType.TS_UNACCEPTABLE)
        return
    ke, nonce_r = KeyExchange(context.random(32)), context.random(init.NONCE_LENGTH)
    secrets = (ke.shared_secret(init.public_value(ke_i)), nonce_i, nonce_r)
    spi = context.new_child_spi()
    child = negotiation.build_child(sa, config, choice, spi, (ours, theirs), secrets, False)
    answer = [
        (PayloadType.SA, encode_proposals([choice.proposal(spi, with_ke=True)])),
        (PayloadType.NONCE, nonce_r),
        (PayloadType.KE, encode_ke(GROUP_X25519, ke.public)),
        (PayloadType.TS_I, encode_selectors(theirs)),
        (PayloadType.TS_R, encode_selectors(ours)),
    ]
    # Installed before the answer leaves: the initiator may use it as soon as it has the answer.
    connection.children.add(sa, child, old.child.spi_in, False, now)
    old.successor = spi
    if old.rekeying:
        old.rival_nonce = min(nonce_i, nonce_r)
    _answer(sa, message_id, answer)


def _rekey_ike(
    connection: Connection,
    sa: IkeSa,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    body, ke_i, nonce_i = exchanged(payloads)
    proposals = parse_proposals(body)
    chosen = init.choose(proposals, spi_size=8)
    theirs = next((p.spi for p in proposals if chosen and p.number == chosen[0].number), NO_SPI)
    if chosen is None or theirs == NO_SPI or sa.keys is None:
        _refuse(sa, message_id, NotifyType.NO_PROPOSAL_CHOSEN)
        return
    context = sa.context
    ours, nonce_r = context.new_ike_spi(), context.random(init.NONCE_LENGTH)
    ke = KeyExchange(context.random(32))
    shared = ke.shared_secret(init.public_value(ke_i))
    keys = rekeyed_ike_keys(chosen[1], sa.keys, shared, nonce_i, nonce_r, theirs, ours)
    new = replacement(sa, False, theirs, ours, keys)
    answer = chosen[0].with_spi(ours)
    _answer(
        sa,
        message_id,
        [
            (PayloadType.SA, encode_proposals([answer])),
            (PayloadType.NONCE, nonce_r),
            (PayloadType.KE, encode_ke(GROUP_X25519, ke.public)),
        ],
    )
    if sa.rekeying:
        sa.rival = (new, min(nonce_i, nonce_r))
    else:
        hand_over(connection, sa, new, now)
