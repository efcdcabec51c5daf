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
from moatvpn.crypto.kex import new_key_exchange
from moatvpn.crypto.keymat import IkeKeys, Seed, rekeyed_ike_keys
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.ike import followup, init
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.create_child import (
    ChildRequest,
    exchanged,
    first_group,
    ke_payload,
    other_group,
    refusal,
)
from moatvpn.ike.events import IkeRekeyed
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import DeleteIkeTask
from moatvpn.ike.proposal import IkeChoice, accept, offer
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads, PlainTask
from moatvpn.wire.algorithms import Group
from moatvpn.wire.ike_header import NO_SPI, Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify, NotifyType
from moatvpn.wire.ike_proposal import Protocol, encode_proposals, parse_proposals

if TYPE_CHECKING:
    from moatvpn.ike.children import ChildRecord
    from moatvpn.ike.connection import Connection

CLOSE_SECONDS = 30.0  # an IKE SA whose Delete never comes goes by itself


class RekeyChildTask(ChildRequest):
    """Replace a CHILD_SA. group: of our public value, None for the IKE SA's own group."""

    def __init__(
        self, connection: Connection, sa: IkeSa, spi_in: int, group: Group | None = None
    ) -> None:
        super().__init__(connection, sa, group)
        self._old = spi_in

    def abandon(self) -> None:
        """Give the new CHILD_SA's SPI back, and let the old one be rekeyed otherwise."""
        super().abandon()
        record = self.connection.children.records.get(self._old)
        if record is not None:
            record.rekeying = False

    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where the old CHILD_SA is gone or replaced already."""
        record = self.connection.children.records.get(self._old)
        usable = record is not None and record.successor is None and not record.rekeying
        if record is None or not usable or self.sa is not self.connection.sa:
            return None
        record.rekeying = True
        rekey = Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=self._old.to_bytes(4, "big"))
        child = record.child
        request = self.request(child.line, (child.local_ts, child.remote_ts))
        return [(PayloadType.NOTIFY, rekey.encode()), *request]

    def again(self, group: Group) -> RekeyChildTask:
        """Return the same request in another group."""
        return RekeyChildTask(self.connection, self.sa, self._old, group)

    def refused(self, notify: int, now: float) -> None:
        """Take in that the peer would not do it."""
        self.abandon()
        self.connection.children.rekey_refused(self._old, notify, now)

    def made(self, child: ChildSa, nonce: bytes, now: float) -> None:
        """Use the new CHILD_SA and delete the old one a little later, unless a rival wins."""
        children = self.connection.children
        old = children.records.get(self._old)
        if old is None:  # the peer has replaced and deleted it meanwhile
            winner = children.current(child.line)
            lost = winner is not None
        else:
            old.rekeying = False
            winner = children.records.get(old.successor) if old.successor is not None else None
            rival_nonce = old.rival_nonce
            lost = rival_nonce is not None and min(self.nonce, nonce) < rival_nonce
        ours = children.add(self.sa, child, self._old, not lost, now)
        if lost and winner is not None:
            _yield_to(ours, winner)
            children.delete(child.spi_in, now)
            return
        if winner is not None:
            _yield_to(winner, ours)  # the peer deletes it
        if old is not None:
            old.successor = child.spi_in
            children.delete_later(self._old, now)


def _yield_to(loser: ChildRecord, winner: ChildRecord) -> None:
    loser.successor, loser.redundant = winner.child.spi_in, True


class RekeyIkeTask(PlainTask):
    """Replace the IKE SA; the CHILD_SAs move to the new one. group: as for RekeyChildTask."""

    exchange = Exchange.CREATE_CHILD_SA
    of_child = False

    def __init__(self, connection: Connection, sa: IkeSa, group: Group | None = None) -> None:
        context = sa.context
        self._connection = connection
        self.sa = sa
        self._spi = context.new_ike_spi()
        self._policy = ike_policy(connection.config)
        if sa.choice is None or not sa.choice.kems:  # the peer did without, and would again
            self._policy = self._policy.without_additional()
        self._asked = group is not None
        groups = self._policy.groups
        self._group = first_group(sa, groups, group) or groups[0]
        self._key = new_key_exchange(self._group, context.random)
        self._nonce = context.random(init.NONCE_LENGTH)

    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where the IKE SA has been replaced already."""
        if self.sa.state is not State.ESTABLISHED or self.sa.rekeying:
            return None
        self.sa.rekeying = True
        return [
            (PayloadType.SA, encode_proposals(offer(self._policy, self._spi))),
            (PayloadType.NONCE, self._nonce),
            *ke_payload(self._group, self._key),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Move to the new IKE SA and delete the old one, unless a rival wins."""
        refused = refusal(payloads)
        if refused is not None:
            again = self._rival() is None and self.sa is self._connection.sa
            if not again or not self._ask_again(payloads, now):
                self.refused(refused, now)
            return
        body, ke, nonce = exchanged(payloads)
        choice = accept(parse_proposals(body), self._policy, spi_size=8)
        if choice.spi == NO_SPI or choice.group is not self._group or self.sa.keys is None:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
        shared = self._key.shared_secret(init.public_value(ke, choice.group))
        seed, old = Seed(self._nonce, nonce, self._spi, choice.spi), self.sa.keys

        def finish(more: bytes, at: float) -> None:
            keys = rekeyed_ike_keys(choice.prf, choice.suite, old, shared, seed, more)
            self._replace(replacement(self.sa, True, seed, choice, keys), nonce, at)

        followup.go_on(self, choice.kems, payloads, finish, now)

    def refused(self, notify: int, now: float) -> None:
        """Take in that the peer would not do it, perhaps because it has done it itself."""
        old, connection, rival = self.sa, self._connection, self._rival()
        old.rekeying = False
        if rival is not None:
            hand_over(connection, old, rival, now)
        elif old is connection.sa:
            name = connection.config.name
            old.context.notice(name, "warning", f"IKE SA rekey refused, notify {notify}")
            connection.rekey_ike_later(now)

    def _rival(self) -> IkeSa | None:
        rival = self.sa.rival[0] if self.sa.rival is not None else None
        return rival if rival is not None and rival.state is not State.CLOSED else None

    def _replace(self, new: IkeSa, nonce: bytes, now: float) -> None:
        old, connection, rival = self.sa, self._connection, self._rival()
        old.rekeying = False
        rival_nonce = old.rival[1] if old.rival is not None else b""
        if old is not connection.sa:
            self._give_way(new, now)
        elif rival is not None and min(self._nonce, nonce) < rival_nonce:
            hand_over(connection, old, rival, now)
            self._give_way(new, now)
        else:
            hand_over(connection, old, new, now)
            old.start(DeleteIkeTask(old), now)

    def _ask_again(self, payloads: Sequence[RawPayload], now: float) -> bool:
        """Start over in the group that the peer asks for, once; return whether it does."""
        group = other_group(payloads, self._group, self._policy.groups)
        if group is None or self._asked:
            return False
        self.sa.rekeying = False
        self.sa.start(RekeyIkeTask(self._connection, self.sa, group), now)
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
    new.choice, new.fragmentation, new.ppk = choice, old.fragmentation, old.ppk
    new.redirectable, new.gateway = old.redirectable, old.gateway
    new.local_key, new.remote_key = old.local_key, old.remote_key
    new.mobility = old.mobility
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
