"""CREATE_CHILD_SA (RFC 7296, 1.3) as its responder: create_child.py and rekey.py have pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import answer_key_exchange
from moatvpn.crypto.keymat import Seed, rekeyed_ike_keys
from moatvpn.esp.child import ChildSa
from moatvpn.ike import child as negotiation
from moatvpn.ike import framing, init
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.children import ChildRecord
from moatvpn.ike.create_child import exchanged, selectors_of
from moatvpn.ike.followup import Finish, FollowupTask
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import DeleteTask
from moatvpn.ike.proposal import choose
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.rekey import RekeyChildTask, hand_over, replacement
from moatvpn.ike.task import Payloads, body_of, notifies_of
from moatvpn.wire.algorithms import Group, Kem
from moatvpn.wire.ike_header import NO_SPI, Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    encode_ke,
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
    task = sa.pending.task if sa.pending is not None else None
    if isinstance(task, FollowupTask):
        return task.of_child
    return isinstance(task, RekeyChildTask | DeleteTask)


def _refuse(sa: IkeSa, message_id: int, kind: NotifyType) -> None:
    _answer(sa, message_id, [(PayloadType.NOTIFY, Notify(kind).encode())])


def _answer(sa: IkeSa, message_id: int, body: Payloads) -> None:
    sa.respond(Exchange.CREATE_CHILD_SA, message_id, body)


class _Made(NamedTuple):
    """An answer, the lower nonce, and what makes the CHILD_SA of the secrets of kems."""

    answer: list[tuple[int, bytes]]
    lowest: bytes
    build: Callable[[bytes], ChildSa]
    kems: tuple[Kem, ...]
    spi: int

    def conclude(self, sa: IkeSa, message_id: int, finish: Finish, now: float) -> None:
        """Answer, after finish, or with what links the first additional key exchange to it."""
        if self.kems:
            spis = sa.context.child_spis
            more = sa.context.followups.expect(
                sa, self.kems, finish, lambda: spis.discard(self.spi), now
            )
            _answer(sa, message_id, [*self.answer, *more])
        else:
            # Installed before the answer leaves: the initiator may use it as soon as it has that.
            finish(b"", now)
            _answer(sa, message_id, self.answer)


def _another_child(
    connection: Connection, sa: IkeSa, payloads: Sequence[RawPayload], message_id: int, now: float
) -> None:
    """Make one more CHILD_SA, of what the connection's networks allow."""
    children, config = connection.children, connection.config
    if sa.rekeying:
        _refuse(sa, message_id, NotifyType.TEMPORARY_FAILURE)  # 2.25.2
        return
    if children.crowded():
        _refuse(sa, message_id, NotifyType.NO_ADDITIONAL_SAS)
        return
    allowed = (
        negotiation.configured(config.local_selectors),
        negotiation.configured(config.remote_selectors),
    )
    made = _answer_child(connection, sa, allowed, children.new_line, payloads, message_id)

    def finish(more: bytes, at: float) -> None:
        if made is not None:
            if children.crowded():
                raise _crossed()
            children.add(sa, made.build(more), None, True, at)

    if made is not None:
        made.conclude(sa, message_id, finish, now)


def _rekey_child(
    connection: Connection,
    sa: IkeSa,
    old: ChildRecord,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    child, children = old.child, connection.children
    allowed = (child.local_ts, child.remote_ts)
    made = _answer_child(connection, sa, allowed, lambda: child.line, payloads, message_id)

    def finish(more: bytes, at: float) -> None:
        if made is None:
            return
        gone = children.records.get(child.spi_in) is not old or old.leaving or old.deleting
        if gone or old.successor is not None or children.full(child.line):
            raise _crossed()
        new = made.build(more)
        children.add(sa, new, child.spi_in, False, at)
        old.successor = new.spi_in
        if old.rekeying:
            old.rival_nonce = made.lowest

    if made is not None:
        made.conclude(sa, message_id, finish, now)


def _crossed() -> RefusalError:
    """Return what ends an exchange that something else has overtaken (2.25)."""
    later = Notify(NotifyType.TEMPORARY_FAILURE)
    return RefusalError(DropReason.IKE_UNEXPECTED_EXCHANGE, later)


def _answer_child(
    connection: Connection,
    sa: IkeSa,
    allowed: negotiation.Selectors,
    line: Callable[[], int],
    payloads: Sequence[RawPayload],
    message_id: int,
) -> _Made | None:
    """Return the answer that makes a CHILD_SA, in line; None once it is refused.

    allowed are our networks and the peer's of which it may have part.
    """
    body, ke_i, nonce_i = exchanged(payloads)
    ts_i, ts_r = selectors_of(payloads)
    context, config = sa.context, connection.config
    # Who asks for PFS gets it, and where we want it there is no CHILD_SA without.
    groups = config.groups if config.pfs or ke_i is not None else ()
    ways = negotiation.additional_ways(config, groups, None)
    choice = negotiation.choose(parse_proposals(body), config, groups, _group_of(ke_i), ways)
    if choice is None:
        _refuse(sa, message_id, NotifyType.NO_PROPOSAL_CHOSEN)
        return None
    theirs = negotiation.narrow(parse_selectors(ts_i), allowed[1])
    ours = negotiation.narrow(parse_selectors(ts_r), allowed[0])
    if not ours or not theirs:
        _refuse(sa, message_id, NotifyType.TS_UNACCEPTABLE)
        return None
    agreed = framing.settle(context, config, payloads)
    nonce_r, shared = context.random(init.NONCE_LENGTH), b""
    ke_r: list[tuple[int, bytes]] = []
    if choice.group is not None:
        public = init.public_value(ke_i, choice.group)
        ours_public, shared = answer_key_exchange(choice.group, public, context.random)
        ke_r = [(PayloadType.KE, encode_ke(choice.group.number, ours_public))]
    spi, selectors = context.new_child_spi(), (ours, theirs)

    def build(more: bytes) -> ChildSa:
        secrets = (shared, nonce_i, nonce_r)
        return negotiation.build_child(
            sa, config, choice, spi, selectors, secrets, agreed, False, line(), more
        )

    answer = [
        (PayloadType.SA, encode_proposals([choice.proposal(spi)])),
        (PayloadType.NONCE, nonce_r),
        *ke_r,
        (PayloadType.TS_I, encode_selectors(theirs)),
        (PayloadType.TS_R, encode_selectors(ours)),
        *framing.answer(agreed),
    ]
    return _Made(answer, min(nonce_i, nonce_r), build, choice.kems, spi)


def _rekey_ike(
    connection: Connection,
    sa: IkeSa,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    body, ke_i, nonce_i = exchanged(payloads)
    policy = ike_policy(connection.config)
    choice = choose(parse_proposals(body), policy, spi_size=8, preferred=_group_of(ke_i))
    if choice is None or choice.spi == NO_SPI or sa.keys is None:
        _refuse(sa, message_id, NotifyType.NO_PROPOSAL_CHOSEN)
        return
    context, old = sa.context, sa.keys
    public = init.public_value(ke_i, choice.group)
    nonce_r = context.random(init.NONCE_LENGTH)
    lowest = min(nonce_i, nonce_r)
    ours_public, shared = answer_key_exchange(choice.group, public, context.random)
    seed = Seed(nonce_i, nonce_r, choice.spi, context.new_ike_spi())

    def finish(more: bytes, at: float) -> Callable[[], None]:
        if sa is not connection.sa or sa.rival is not None:
            raise _crossed()
        keys = rekeyed_ike_keys(choice.prf, choice.suite, old, shared, seed, more)
        new = replacement(sa, False, seed, choice, keys)
        if sa.rekeying:
            sa.rival = (new, lowest)
            return lambda: None
        return lambda: hand_over(connection, sa, new, at)

    answer: list[tuple[int, bytes]] = [
        (PayloadType.SA, encode_proposals([choice.answer(seed.spi_r)])),
        (PayloadType.NONCE, nonce_r),
        (PayloadType.KE, encode_ke(choice.group.number, ours_public)),
    ]
    if choice.kems:
        answer += context.followups.expect(sa, choice.kems, finish, lambda: None, now)
        _answer(sa, message_id, answer)
    else:
        after = finish(b"", now)
        _answer(sa, message_id, answer)
        after()


def _group_of(ke: bytes | None) -> Group | None:
    """Return the group of a KE payload's body, None where it is not there or not one of ours."""
    return None if ke is None else Group.by_number(parse_ke(ke)[0])
