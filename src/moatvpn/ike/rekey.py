"""CREATE_CHILD_SA (RFC 7296, 1.3.2 and 1.3.3) as its initiator: rekeys of CHILD_SA and IKE SA.

    HDR, SK{N(REKEY_SA), SA, Ni, KEi, TSi, TSr} ---->       a CHILD_SA
                                 <----  HDR, SK{SA, Nr, KEr, TSi, TSr}
    HDR, SK{SA, Ni, KEi} ---->                               the IKE SA
                                 <----  HDR, SK{SA, Nr, KEr}

A CHILD_SA's rekey has its own key exchange, so that old keys tell nothing of new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import GROUP_X25519, KeyExchange
from moatvpn.crypto.keymat import rekeyed_ike_keys
from moatvpn.errors import MoatError, PeerError
from moatvpn.ike import child as negotiation
from moatvpn.ike import init
from moatvpn.ike.events import IkeRekeyed
from moatvpn.ike.ike_sa import IkeSa, new_sa
from moatvpn.ike.informational import DeleteIkeTask
from moatvpn.ike.scheduler import Callback
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads, body_of
from moatvpn.wire.ike_header import NO_SPI, Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import (
    Notify,
    NotifyType,
    encode_ke,
    encode_selectors,
    parse_ke,
    parse_nonce,
    parse_selectors,
)
from moatvpn.wire.ike_proposal import Protocol, encode_proposals, parse_proposals

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection


def refusal(payloads: Sequence[RawPayload]) -> int | None:
    """Return the type of the first error notify, or None."""
    return next((n.type for n in init.notifies_of(payloads) if n.is_error), None)


def exchanged(payloads: Sequence[RawPayload]) -> tuple[bytes, bytes, bytes]:
    """Return the SA payload's body, the X25519 public value and the nonce, all of them required."""
    kinds = (PayloadType.SA, PayloadType.KE, PayloadType.NONCE)
    proposals, ke, nonce = (body_of(payloads, kind) for kind in kinds)
    if proposals is None or ke is None or nonce is None:
        raise PeerError(DropReason.IKE_MALFORMED, "CREATE_CHILD_SA lacks SA, KE or Nonce")
    group, public = parse_ke(ke)
    if group != GROUP_X25519:
        raise PeerError(DropReason.IKE_NO_PROPOSAL, f"key exchange of group {group}")
    return proposals, public, parse_nonce(nonce)


class RekeyChildTask:
    """Replace a CHILD_SA."""

    exchange = Exchange.CREATE_CHILD_SA

    def __init__(self, connection: Connection, sa: IkeSa, spi_in: int) -> None:
        context = sa.context
        self._connection = connection
        self._sa = sa
        self._old = spi_in
        self._spi = context.new_child_spi()
        self._ke = KeyExchange(context.random(32))
        self._nonce = context.random(init.NONCE_LENGTH)

    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where the old CHILD_SA is gone or replaced already."""
        record = self._sa.children.get(self._old)
        if record is None or record.successor is not None or self._sa is not self._connection.sa:
            self._sa.context.child_spis.discard(self._spi)
            return None
        record.rekeying = True
        rekey = Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=self._old.to_bytes(4, "big"))
        offer = negotiation.offer(self._connection.config, self._spi, True)
        return [
            (PayloadType.NOTIFY, rekey.encode()),
            (PayloadType.SA, encode_proposals(offer)),
            (PayloadType.NONCE, self._nonce),
            (PayloadType.KE, encode_ke(GROUP_X25519, self._ke.public)),
            (PayloadType.TS_I, encode_selectors(record.child.local_ts)),
            (PayloadType.TS_R, encode_selectors(record.child.remote_ts)),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Use the new CHILD_SA at once, and delete the old one a little later."""
        record = self._sa.children.get(self._old)
        if record is None:
            self._sa.context.child_spis.discard(self._spi)
            return
        record.rekeying = False
        refused = refusal(payloads)
        if refused is not None:
            self._sa.context.child_spis.discard(self._spi)
            name = self._connection.config.name
            self._sa.context.notice(name, "warning", f"CHILD_SA rekey refused, notify {refused}")
            self._connection.rekey_child_later(self._old, now)
            return
        body, public, nonce = exchanged(payloads)
        config = self._connection.config
        choice = negotiation.accept(parse_proposals(body), config, True)
        ts_i, ts_r = (body_of(payloads, kind) for kind in (PayloadType.TS_I, PayloadType.TS_R))
        if ts_i is None or ts_r is None:
            raise PeerError(DropReason.IKE_MALFORMED, "CREATE_CHILD_SA lacks TS")
        ours = negotiation.narrow(parse_selectors(ts_i), record.child.local_ts)
        theirs = negotiation.narrow(parse_selectors(ts_r), record.child.remote_ts)
        if not ours or not theirs:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "traffic selectors that we did not offer")
        secrets = (self._ke.shared_secret(public), self._nonce, nonce)
        child = negotiation.build_child(
            self._sa, config, choice, self._spi, (ours, theirs), secrets, True
        )
        self._connection.add_child(self._sa, child, self._old, True, now)
        self._connection.delete_child_later(self._old, now)


class RekeyIkeTask:
    """Replace the IKE SA; its CHILD_SAs move to the new one."""

    exchange = Exchange.CREATE_CHILD_SA

    def __init__(self, connection: Connection, sa: IkeSa) -> None:
        context = sa.context
        self._connection = connection
        self._sa = sa
        self._spi = context.new_ike_spi()
        self._ke = KeyExchange(context.random(32))
        self._nonce = context.random(init.NONCE_LENGTH)

    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where the IKE SA has been replaced already."""
        if self._sa.state is not State.ESTABLISHED:
            return None
        self._sa.rekeying = True
        return [
            (PayloadType.SA, encode_proposals(init.offer(self._spi))),
            (PayloadType.NONCE, self._nonce),
            (PayloadType.KE, encode_ke(GROUP_X25519, self._ke.public)),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Move to the new IKE SA and delete the old one."""
        old = self._sa
        old.rekeying = False
        refused = refusal(payloads)
        if refused is not None:
            name = self._connection.config.name
            old.context.notice(name, "warning", f"IKE SA rekey refused, notify {refused}")
            self._connection.rekey_ike_later(now)
            return
        body, public, nonce = exchanged(payloads)
        answer = parse_proposals(body)
        chosen = init.choose(answer, spi_size=8)
        if chosen is None or len(answer) != 1 or answer[0].spi == NO_SPI or old.keys is None:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
        new = replacement(old, True, self._spi, answer[0].spi)
        shared = self._ke.shared_secret(public)
        new.set_keys(
            rekeyed_ike_keys(
                chosen[1], old.keys, shared, self._nonce, nonce, self._spi, answer[0].spi
            )
        )
        hand_over(self._connection, old, new, now)
        old.start(DeleteIkeTask(old), now)


def replacement(old: IkeSa, initiator: bool, spi_i: bytes, spi_r: bytes) -> IkeSa:
    """Return the IKE SA that replaces old: message IDs start at 0 again (2.18)."""
    context = old.context
    new = new_sa(context, initiator, State.ESTABLISHED, spi_i, old.local, old.remote)
    del context.ike_sas[new.our_spi]
    new.spi_i, new.spi_r = spi_i, spi_r
    if new.our_spi in context.ike_sas:
        raise MoatError("an SPI was chosen twice")
    context.ike_sas[new.our_spi] = new
    new.nat = old.nat
    return new


def hand_over(connection: Connection, old: IkeSa, new: IkeSa, now: float) -> None:
    """Move the CHILD_SAs and queued exchanges' purpose from old to new."""
    if old.rekey_at is not None:
        old.rekey_at.cancel()
    new.children, old.children = old.children, {}
    for record in new.children.values():
        record.rekeying = False
    old.queue.clear()
    old.move(State.REPLACED)
    connection.adopt(new, now)
    context = old.context
    context.events.append(IkeRekeyed(connection.config.name))
    # If the Delete of the old one never comes, it goes by itself.
    forget: Callback = lambda _: old.close()  # noqa: E731 a typed callback
    old.expires = context.scheduler.at(now + 30.0, forget)
