"""CREATE_CHILD_SA for one more CHILD_SA (RFC 7296, 1.3.1), and what it shares with rekeys.

    HDR, SK{SA, Ni, KEi, TSi, TSr} ---->
                           <----  HDR, SK{SA, Nr, KEr, TSi, TSr}

A peer that takes one pair of networks for each CHILD_SA only (2.9) has several of them. Each has a
line of its own in the connection: a rekey replaces a CHILD_SA within its line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import KeyExchange, new_key_exchange
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.ike import child as negotiation
from moatvpn.ike import followup, framing, init
from moatvpn.ike.failure import UnhiddenError
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import farewell
from moatvpn.ike.task import Payloads, body_of, notifies_of
from moatvpn.wire.algorithms import Group, Kem
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import encode_ke, encode_selectors, parse_nonce, parse_selectors
from moatvpn.wire.ike_proposal import encode_proposals, parse_proposals

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection


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


def first_group(sa: IkeSa, groups: Sequence[Group], asked: Group | None) -> Group | None:
    """Return the group to use first: the one asked for, else the IKE SA's, else the first."""
    if not groups:
        return None
    known = asked if asked is not None else sa.choice.group if sa.choice is not None else None
    return known if known in groups else groups[0]


def new_key(sa: IkeSa, group: Group | None) -> KeyExchange | None:
    """Return a new key pair of group, if there is to be one."""
    return None if group is None else new_key_exchange(group, sa.context.random)


def selectors_of(payloads: Sequence[RawPayload]) -> tuple[bytes, bytes]:
    """Return the bodies of TSi and TSr; raise PeerError where one is missing."""
    ts_i, ts_r = (body_of(payloads, kind) for kind in (PayloadType.TS_I, PayloadType.TS_R))
    if ts_i is None or ts_r is None:
        raise PeerError(DropReason.IKE_MALFORMED, "CREATE_CHILD_SA lacks TS")
    return ts_i, ts_r


class _Agreed(NamedTuple):
    """What a response has agreed to: build makes the CHILD_SA, of the secrets of kems.

    nonce is the responder's. replace: it is to be rekeyed at once.
    """

    build: Callable[[bytes], ChildSa]
    nonce: bytes
    kems: tuple[Kem, ...]
    replace: bool


class ChildRequest(ABC):
    """A request of ours that makes a CHILD_SA. group: as first_group takes it."""

    exchange = Exchange.CREATE_CHILD_SA
    of_child = True

    def __init__(self, connection: Connection, sa: IkeSa, group: Group | None) -> None:
        self.connection = connection
        self.sa = sa
        self.nonce = sa.context.random(init.NONCE_LENGTH)
        self._spi = 0
        self._line = 0
        self._groups = negotiation.rekey_groups(connection.config)
        self._ways: tuple[bool, ...] = (False,)
        self._asked = group is not None
        self._group = first_group(sa, self._groups, group)
        self._key = new_key(sa, self._group)
        self._selectors: negotiation.Selectors = ((), ())

    def move(self, sa: IkeSa) -> bool:
        """Return that it is to run on sa, which has inherited the CHILD_SAs."""
        self.sa = sa
        return True

    def abandon(self) -> None:
        """Give the new CHILD_SA's SPI back."""
        self.sa.context.child_spis.discard(self._spi)

    def request(self, line: int, selectors: negotiation.Selectors) -> list[tuple[int, bytes]]:
        """Return the payloads of the request, and reserve an SPI for what it makes."""
        self._spi, self._line, self._selectors = self.sa.context.new_child_spi(), line, selectors
        config = self.connection.config
        self._ways = negotiation.additional_ways(config, self._groups, self.sa)
        proposals = negotiation.offer(config, self._spi, self._groups, self._ways)
        return [
            (PayloadType.SA, encode_proposals(proposals)),
            (PayloadType.NONCE, self.nonce),
            *ke_payload(self._group, self._key),
            (PayloadType.TS_I, encode_selectors(selectors[0])),
            (PayloadType.TS_R, encode_selectors(selectors[1])),
            *framing.offer(self.sa.context, self.connection),
        ]

    @abstractmethod
    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where there is nothing left to do."""

    @abstractmethod
    def again(self, group: Group) -> ChildRequest:
        """Return the same request in another group."""

    @abstractmethod
    def refused(self, notify: int, now: float) -> None:
        """Take in that the peer would not do it."""

    @abstractmethod
    def made(self, child: ChildSa, nonce: bytes, now: float) -> None:
        """Take the new CHILD_SA in; nonce is the responder's."""

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Make the CHILD_SA, or ask once more, in the group that the peer wants."""
        if self.sa.superseded:
            self.abandon()  # what it makes would go with the IKE SA, which is on its way out
            return
        refused = refusal(payloads)
        if refused is None:
            self._go_on(payloads, now)
            return
        group = None if self._asked else other_group(payloads, self._group, self._groups)
        if group is None:
            self.refused(refused, now)
        else:
            self.abandon()
            self.sa.start(self.again(group), now)

    def _go_on(self, payloads: Sequence[RawPayload], now: float) -> None:
        agreed = self._agreed(payloads)

        def finish(more: bytes, at: float) -> None:
            child = agreed.build(more)
            self.made(child, agreed.nonce, at)
            if agreed.replace:
                self.connection.children.rekey(child.spi_in, at)

        followup.go_on(self, agreed.kems, payloads, finish, now)

    def _agreed(self, payloads: Sequence[RawPayload]) -> _Agreed:
        """Return what the response makes; raise PeerError where that is nothing that we asked."""
        body, ke, nonce = exchanged(payloads)
        config = self.connection.config
        choice = negotiation.accept(parse_proposals(body), config, self._groups, self._ways)
        ts_i, ts_r = selectors_of(payloads)
        ours = negotiation.narrow(parse_selectors(ts_i), self._selectors[0])
        theirs = negotiation.narrow(parse_selectors(ts_r), self._selectors[1])
        if not ours or not theirs:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "traffic selectors that we did not offer")
        if choice.group is not self._group:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer in a group that we did not use")
        shared = b""
        if choice.group is not None and self._key is not None:
            shared = self._key.shared_secret(init.public_value(ke, choice.group))
        secrets = (shared, self.nonce, nonce)
        selectors = (ours, theirs)
        spi, line = self._spi, self._line
        sa = self.sa
        try:
            agreed = framing.answered(sa.context, self.connection, payloads)
        except UnhiddenError:
            sa.send(farewell(sa))  # the peer has what we will not have
            raise

        def build(more: bytes) -> ChildSa:
            return negotiation.build_child(
                sa, config, choice, spi, selectors, secrets, agreed, True, line, more
            )

        return _Agreed(build, nonce, choice.kems, agreed.refused)


class CreateChildTask(ChildRequest):
    """Make the CHILD_SA of one line that the connection wants and does not have."""

    def __init__(
        self, connection: Connection, sa: IkeSa, line: int, group: Group | None = None
    ) -> None:
        super().__init__(connection, sa, group)
        self._wanted = line

    def build(self, now: float) -> Payloads | None:
        """Return the request, or None where there is such a CHILD_SA already."""
        children = self.connection.children
        wanted = children.wanted()
        stale = self.sa is not self.connection.sa or self._wanted >= len(wanted)
        if stale or children.current(self._wanted) is not None:
            return None
        return self.request(self._wanted, wanted[self._wanted])

    def again(self, group: Group) -> CreateChildTask:
        """Return the same request in another group."""
        return CreateChildTask(self.connection, self.sa, self._wanted, group)

    def made(self, child: ChildSa, nonce: bytes, now: float) -> None:
        """Enter the CHILD_SA, and send on it."""
        del nonce
        self.connection.children.add(self.sa, child, None, True, now)

    def refused(self, notify: int, now: float) -> None:
        """Take in that the peer would not make it; try again later."""
        self.abandon()
        self.connection.children.refused(self._wanted, notify, now)
