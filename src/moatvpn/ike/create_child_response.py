"""CREATE_CHILD_SA (RFC 7296, 1.3) as its responder: create_child.py and rekey.py have pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.crypto.kex import new_key_exchange
from moatvpn.crypto.keymat import Seed, rekeyed_ike_keys
from moatvpn.esp.child import ChildSa
from moatvpn.ike import child as negotiation
from moatvpn.ike import init
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.children import ChildRecord
from moatvpn.ike.create_child import exchanged, ke_payload, new_key, selectors_of
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import DeleteTask
from moatvpn.ike.proposal import choose
from moatvpn.ike.rekey import RekeyChildTask, hand_over, replacement
from moatvpn.ike.task import Payloads, body_of, notifies_of
from moatvpn.wire.algorithms import Group
from moatvpn.wire.ike_header import NO_SPI, Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    encode_selectors,
    parse_ke,
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
        elif (
            record is None
            or sa.rekeying
            or record.successor is not None
            or record.deleting
            or children.full(record.child.line)
        ):
            # One that we don't know may be what the answer to our own request will make.
            _refuse(sa, message_id, NotifyType.TEMPORARY_FAILURE)
        else:
            _rekey_child(connection, sa, record, payloads, message_id, now)
    elif body_of(payloads, PayloadType.TS_I) is not None:
        _another_child(connection, sa, payloads, message_id, now)
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


def _another_child(
    connection: Connection, sa: IkeSa, payloads: Sequence[RawPayload], message_id: int, now: float
) -> None:
    """Make one more CHILD_SA, of what the connection's networks allow."""
    children, config = connection.children, connection.config
    if sa.rekeying:
        _refuse(sa, message_id, NotifyType.TEMPORARY_FAILURE)  # 2.25.2
    elif children.crowded():
        _refuse(sa, message_id, NotifyType.NO_ADDITIONAL_SAS)
    else:
        allowed = (
            negotiation.configured(config.local_selectors),
            negotiation.configured(config.remote_selectors),
        )
        made = _answer_child(connection, sa, allowed, children.new_line(), payloads, message_id)
        if made is not None:
            children.add(sa, made[0], None, True, now)
            _answer(sa, message_id, made[1])


def _rekey_child(
    connection: Connection,
    sa: IkeSa,
    old: ChildRecord,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    child = old.child
    allowed = (child.local_ts, child.remote_ts)
    made = _answer_child(connection, sa, allowed, child.line, payloads, message_id)
    if made is None:
        return
    new, answer, lowest = made
    # Installed before the answer leaves: the initiator may use it as soon as it has the answer.
    connection.children.add(sa, new, child.spi_in, False, now)
    old.successor = new.spi_in
    if old.rekeying:
        old.rival_nonce = lowest
    _answer(sa, message_id, answer)


def _answer_child(
    connection: Connection,
    sa: IkeSa,
    allowed: negotiation.Selectors,
    line: int,
    payloads: Sequence[RawPayload],
    message_id: int,
) -> tuple[ChildSa, Payloads, bytes] | None:
    """Return a new CHILD_SA, the answer that makes it, and the lower nonce; None once refused.

    allowed are our networks and the peer's of which it may have part.
    """
    body, ke_i, nonce_i = exchanged(payloads)
    ts_i, ts_r = selectors_of(payloads)
    context, config = sa.context, connection.config
    # Who asks for PFS gets it, and where we want it there is no CHILD_SA without.
    groups = config.groups if config.pfs or ke_i is not None else ()
    choice = negotiation.choose(parse_proposals(body), config, groups, _group_of(ke_i))
    if choice is None:
        _refuse(sa, message_id, NotifyType.NO_PROPOSAL_CHOSEN)
        return None
    theirs = negotiation.narrow(parse_selectors(ts_i), allowed[1])
    ours = negotiation.narrow(parse_selectors(ts_r), allowed[0])
    if not ours or not theirs:
        _refuse(sa, message_id, NotifyType.TS_UNACCEPTABLE)
        return None
    nonce_r, shared = context.random(init.NONCE_LENGTH), b""
    key = new_key(sa, choice.group)
    if key is not None and choice.group is not None:
        shared = key.shared_secret(init.public_value(ke_i, choice.group))
    secrets = (shared, nonce_i, nonce_r)
    spi = context.new_child_spi()
    selectors = (ours, theirs)
    child = negotiation.build_child(sa, config, choice, spi, selectors, secrets, False, line)
    answer = [
        (PayloadType.SA, encode_proposals([choice.proposal(spi)])),
        (PayloadType.NONCE, nonce_r),
        *ke_payload(choice.group, key),
        (PayloadType.TS_I, encode_selectors(theirs)),
        (PayloadType.TS_R, encode_selectors(ours)),
    ]
    return child, answer, min(nonce_i, nonce_r)


def _rekey_ike(
    connection: Connection,
    sa: IkeSa,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    body, ke_i, nonce_i = exchanged(payloads)
    policy = ike_policy(connection.config).without_additional()
    choice = choose(parse_proposals(body), policy, spi_size=8, preferred=_group_of(ke_i))
    if choice is None or choice.spi == NO_SPI or sa.keys is None:
        _refuse(sa, message_id, NotifyType.NO_PROPOSAL_CHOSEN)
        return
    public = init.public_value(ke_i, choice.group)
    context = sa.context
    nonce_r, key = context.random(init.NONCE_LENGTH), new_key_exchange(choice.group, context.random)
    seed = Seed(nonce_i, nonce_r, choice.spi, context.new_ike_spi())
    shared = key.shared_secret(public)
    keys = rekeyed_ike_keys(choice.prf, choice.suite, sa.keys, shared, seed)
    new = replacement(sa, False, seed, choice, keys)
    answer: Payloads = [
        (PayloadType.SA, encode_proposals([choice.answer(seed.spi_r)])),
        (PayloadType.NONCE, nonce_r),
        *ke_payload(choice.group, key),
    ]
    _answer(sa, message_id, answer)
    if sa.rekeying:
        sa.rival = (new, min(nonce_i, nonce_r))
    else:
        hand_over(connection, sa, new, now)


def _group_of(ke: bytes | None) -> Group | None:
    """Return the group of a KE payload's body, None where it is not there or not one of ours."""
    return None if ke is None else Group.by_number(parse_ke(ke)[0])
