"""CREATE_CHILD_SA (RFC 7296, 1.3.2 and 1.3.3) as its initiator: rekeys of CHILD_SA and IKE SA.

    HDR, SK{N(REKEY_SA), SA, Ni, KEi, TSi, TSr} ---->       a CHILD_SA
                                 <----  HDR, SK{SA, Nr, KEr, TSi, TSr}
    HDR, SK{SA, Ni, KEi} ---->                               the IKE SA
                                 <----  HDR, SK{SA, Nr, KEr}

A CHILD_SA's rekey has its own key exchange, so that old keys tell nothing of new ones, unless the
connection is configured without (pfs). The public value is first one of the group that the IKE SA
has; a peer that wants another one says so with INVALID_KE_PAYLOAD, and is asked again (1.3).

Where both sides rekey the same SA at once, both exchanges are completed. Of the two new SAs the one
whose exchange has the lowest of the four nonces is redundant, and deleted by who initiated it; who
initiated the other exchange deletes the old SA (2.8.1, 2.8.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import KeyExchange, new_key_exchange
from moatvpn.crypto.keymat import IkeKeys, Seed, rekeyed_ike_keys
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.ike import child as negotiation
from moatvpn.ike import init
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.events import IkeRekeyed
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import DeleteIkeTask
from moatvpn.ike.proposal import IkeChoice, accept, offer
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads, PlainTask, body_of, notifies_of
from moatvpn.wire.algorithms import Group
from moatvpn.wire.ike_header import NO_SPI, Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    encode_ke,
    encode_selectors,
    parse_nonce,
    parse_selectors,
)
from moatvpn.wire.ike_proposal import Protocol, encode_proposals, parse_proposals

if TYPE_CHECKING:
    from moatvpn.ike.children import ChildRecord
    from moatvpn.ike.connection import Connection

CLOSE_SECONDS = 30.0  # an IKE SA whose Delete never comes goes by itself


def refusal(payloads: Sequence[RawPayload]) -> int | None:
    """Return the type of the first error notify, or None."""
    return next((n.type for n in notifies_of(payloads) if n.is_error), None)


def exchanged(payloads: Sequence[RawPayload]) -> tuple[bytes, bytes | None, bytes]:
    """Return the bodies of SA and, if it is there, KE, and the nonce."""
    kinds = (PayloadType.SA, PayloadType.KE, PayloadType.NONCE)
    proposals, ke, nonce = (body_of(payloads, kind) for kind in kinds)
    if proposals is None or nonce is None:
        raise PeerError(DropReason.IKE_MALFORMED, "CREATE_CHILD_SA lacks SA or Nonce")
    return proposals, ke, parse_nonce(nonce)


def other_group(
    payloads: Sequence[RawPayload], used: Group | None, ours: Sequence[Group]
) -> Group | None:
    """Return the group of ours that a response asks for instead of the used one, or None."""
    group = init.group_asked_for(notifies_of(payloads))
    return group if group in ours and group is not used else None


def ke_payload(group: Group | None, key: KeyExchange | None) -> list[tuple[int, bytes]]:
    """Return the KE payload of a key of group, or nothing where there is none."""
    if group is None or key is None:
        return []
    return [(PayloadType.KE, encode_ke(group.number, key.public))]


class RekeyChildTask:
    """Replace a CHILD_SA. group: of our public value, None for the IKE SA's own group."""

    exchange = Exchange.CREATE_CHILD_SA

    def __init__(
        self, connection: Connection, sa: IkeSa, spi_in: int, group: Group | None = None
    ) -> None:
        self._connection = connection
        self._sa = sa
        self._old = spi_in
        self._spi = 0
        self._groups = negotiation.rekey_groups(connection.config)
        self._asked = group is not None
        self._group = first_group(sa, self._groups, group)
        self._key = new_key(sa, self._group)
        self._nonce = sa.context.random(init.NONCE_LENGTH)
        self._selectors: negotiation.Selectors = ((), ())

    def move(self, sa: IkeSa) -> bool:
        """Return that it is to run on sa, which has inherited the CHILD_SA."""
        self._sa = sa
        return True

    def abandon(self) -> None:
        """Give the new CHILD_SA's SPI back, and let the old one be rekeyed otherwise."""
        self._sa.context.child_spis.discard(self._spi)
        record = self._connection.children.records.get(self._old)
        if record is not None:
            record.rekeying = False

    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where the old CHILD_SA is gone or replaced already."""
        record = self._connection.children.records.get(self._old)
        usable = record is not None and record.successor is None and not record.rekeying
        if record is None or not usable or self._sa is not self._connection.sa:
            return None
        record.rekeying = True
        self._spi = self._sa.context.new_child_spi()
        self._selectors = record.child.local_ts, record.child.remote_ts
        rekey = Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=self._old.to_bytes(4, "big"))
        proposals = negotiation.offer(self._connection.config, self._spi, self._groups)
        return [
            (PayloadType.NOTIFY, rekey.encode()),
            (PayloadType.SA, encode_proposals(proposals)),
            (PayloadType.NONCE, self._nonce),
            *ke_payload(self._group, self._key),
            (PayloadType.TS_I, encode_selectors(self._selectors[0])),
            (PayloadType.TS_R, encode_selectors(self._selectors[1])),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Use the new CHILD_SA and delete the old one a little later, unless a rival wins."""
        children = self._connection.children
        refused = refusal(payloads)
        if refused is not None:
            self.abandon()
            group = other_group(payloads, self._group, self._groups)
            if group is not None and not self._asked:
                again = RekeyChildTask(self._connection, self._sa, self._old, group)
                self._sa.start(again, now)
            else:
                children.rekey_refused(self._old, refused, now)
            return
        child, nonce = self._child(payloads)
        old = children.records.get(self._old)
        if old is None:  # the peer has replaced and deleted it meanwhile
            winner = children.current()
            lost = winner is not None
        else:
            old.rekeying = False
            winner = children.records.get(old.successor) if old.successor is not None else None
            rival_nonce = old.rival_nonce
            lost = rival_nonce is not None and min(self._nonce, nonce) < rival_nonce
        ours = children.add(self._sa, child, self._old, not lost, now)
        if lost and winner is not None:
            _yield_to(ours, winner)
            children.delete(child.spi_in, now)
            return
        if winner is not None:
            _yield_to(winner, ours)  # the peer deletes it
        if old is not None:
            old.successor = child.spi_in
            children.delete_later(self._old, now)

    def _child(self, payloads: Sequence[RawPayload]) -> tuple[ChildSa, bytes]:
        """Return the new CHILD_SA and the responder's nonce."""
        body, ke, nonce = exchanged(payloads)
        config = self._connection.config
        choice = negotiation.accept(parse_proposals(body), config, self._groups)
        ts_i, ts_r = (body_of(payloads, kind) for kind in (PayloadType.TS_I, PayloadType.TS_R))
        if ts_i is None or ts_r is None:
            raise PeerError(DropReason.IKE_MALFORMED, "CREATE_CHILD_SA lacks TS")
        ours = negotiation.narrow(parse_selectors(ts_i), self._selectors[0])
        theirs = negotiation.narrow(parse_selectors(ts_r), self._selectors[1])
        if not ours or not theirs:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "traffic selectors that we did not offer")
        secrets = (self._shared(choice.group, ke), self._nonce, nonce)
        child = negotiation.build_child(
            self._sa, config, choice, self._spi, (ours, theirs), secrets, True
        )
        return child, nonce

    def _shared(self, group: Group | None, ke: bytes | None) -> bytes:
        """Return the shared secret, empty where there is no key exchange."""
        if group is not self._group:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer in a group that we did not use")
        if group is None or self._key is None:
            return b""
        return self._key.shared_secret(init.public_value(ke, group))


def first_group(sa: IkeSa, groups: Sequence[Group], asked: Group | None) -> Group | None:
    """Return the group to use first: the one asked for, else the IKE SA's, else the first."""
    if not groups:
        return None
    known = asked if asked is not None else sa.choice.group if sa.choice is not None else None
    return known if known in groups else groups[0]


def new_key(sa: IkeSa, group: Group | None) -> KeyExchange | None:
    """Return a new key pair of group, if there is to be one."""
    return None if group is None else new_key_exchange(group, sa.context.random)


def _yield_to(loser: ChildRecord, winner: ChildRecord) -> None:
    loser.successor, loser.redundant = winner.child.spi_in, True


class RekeyIkeTask(PlainTask):
    """Replace the IKE SA; the CHILD_SAs move to the new one. group: as for RekeyChildTask."""

    exchange = Exchange.CREATE_CHILD_SA

    def __init__(self, connection: Connection, sa: IkeSa, group: Group | None = None) -> None:
        context = sa.context
        self._connection = connection
        self._sa = sa
        self._spi = context.new_ike_spi()
        self._policy = ike_policy(connection.config)
        self._asked = group is not None
        groups = self._policy.groups
        self._group = first_group(sa, groups, group) or groups[0]
        self._key = new_key_exchange(self._group, context.random)
        self._nonce = context.random(init.NONCE_LENGTH)

    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where the IKE SA has been replaced already."""
        if self._sa.state is not State.ESTABLISHED or self._sa.rekeying:
            return None
        self._sa.rekeying = True
        return [
            (PayloadType.SA, encode_proposals(offer(self._policy, self._spi))),
            (PayloadType.NONCE, self._nonce),
            *ke_payload(self._group, self._key),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Move to the new IKE SA and delete the old one, unless a rival wins."""
        old, connection = self._sa, self._connection
        old.rekeying = False
        rival, rival_nonce = old.rival or (None, b"")
        if rival is not None and rival.state is State.CLOSED:
            rival = None
        refused = refusal(payloads)
        if refused is not None:
            if rival is not None:
                hand_over(connection, old, rival, now)
            elif old is connection.sa and self._ask_again(payloads, now):
                pass
            elif old is connection.sa:
                name = connection.config.name
                old.context.notice(name, "warning", f"IKE SA rekey refused, notify {refused}")
                connection.rekey_ike_later(now)
            return
        new, nonce = self._replacement(payloads)
        if old is not connection.sa:
            self._give_way(new, now)
        elif rival is not None and min(self._nonce, nonce) < rival_nonce:
            hand_over(connection, old, rival, now)
            self._give_way(new, now)
        else:
            hand_over(connection, old, new, now)
            old.start(DeleteIkeTask(old), now)

    def _replacement(self, payloads: Sequence[RawPayload]) -> tuple[IkeSa, bytes]:
        """Return the new IKE SA and the responder's nonce."""
        body, ke, nonce = exchanged(payloads)
        choice = accept(parse_proposals(body), self._policy, spi_size=8)
        if choice.spi == NO_SPI or choice.group is not self._group or self._sa.keys is None:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
        shared = self._key.shared_secret(init.public_value(ke, choice.group))
        seed = Seed(self._nonce, nonce, self._spi, choice.spi)
        keys = rekeyed_ike_keys(choice.prf, choice.suite, self._sa.keys, shared, seed)
        return replacement(self._sa, True, seed, choice, keys), nonce

    def _ask_again(self, payloads: Sequence[RawPayload], now: float) -> bool:
        """Start over in the group that the peer asks for, once; return whether it does."""
        group = other_group(payloads, self._group, self._policy.groups)
        if group is None or self._asked:
            return False
        self._sa.start(RekeyIkeTask(self._connection, self._sa, group), now)
        return True

    @staticmethod
    def _give_way(new: IkeSa, now: float) -> None:
        new.close_at(now + CLOSE_SECONDS)
        new.start(DeleteIkeTask(new), now)


def replacement(old: IkeSa, initiator: bool, seed: Seed, choice: IkeChoice, keys: IkeKeys) -> IkeSa:
    """Return an IKE SA to replace old, entered: message IDs start at 0 again (2.18)."""
    spis = (seed.spi_i, seed.spi_r)
    new = IkeSa(old.context, initiator, State.ESTABLISHED, *spis, old.local, old.remote)
    new.connection, new.nat, new.behind_nat = old.connection, old.nat, old.behind_nat
    new.choice = choice
    new.set_keys(keys)
    old.context.ike_sas[new.our_spi] = new
    return new


def hand_over(connection: Connection, old: IkeSa, new: IkeSa, now: float) -> None:
    """Make new the connection's IKE SA in place of old: exchanges that wait go on there."""
    if old.rekey_at is not None:
        old.rekey_at.cancel()
    rival = old.rival[0] if old.rival is not None else None
    old.rival = None
    if rival is not None and rival is not new:
        rival.close_at(now + CLOSE_SECONDS)  # the peer, who made it, deletes it
    waiting = list(old.queue)
    old.queue.clear()
    old.move(State.REPLACED)
    connection.adopt(new, now)
    old.context.events.append(IkeRekeyed(connection.config.name))
    old.close_at(now + CLOSE_SECONDS)
    for task in waiting:
        if task.move(new):
            new.start(task, now)
