"""IKE_FOLLOWUP_KE (RFC 9370, 2.2.4): the additional key exchanges of a CREATE_CHILD_SA.

    HDR, SK{SA, Ni, KEi(0), ...} ---->
              <----  HDR, SK{SA, Nr, KEr(0), ..., N(ADDITIONAL_KEY_EXCHANGE)(link)}
    HDR, SK{KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link)} ---->
              <----  HDR, SK{KEr(1)}

What the first exchange negotiates is made by the last one, and not before: on both sides a rekey
is under way until then, so that rekeys that cross are settled as they are without (rekey.py). Of
an IKE SA the responder keeps one that is under way, and for a limited time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import KeyExchange, answer_key_exchange, new_key_exchange
from moatvpn.errors import PeerError
from moatvpn.ike.additional import public_value
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.scheduler import Deadline, Scheduler
from moatvpn.ike.task import Payloads, notifies_of
from moatvpn.wire.algorithms import Kem
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify, NotifyType, encode_ke

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.ike_sa import IkeSa

FOLLOWUP_SECONDS = 20.0  # more than all retransmissions of a request take
_LINK_LENGTH = 8

# Makes what was negotiated, of all additional secrets; returns what is to be done after the answer.
Finish = Callable[[bytes, float], Callable[[], None] | None]


class Owner(Protocol):
    """The exchange of ours that negotiated additional key exchanges."""

    sa: IkeSa
    of_child: bool

    def refused(self, notify: int, now: float) -> None:
        """Take in that the peer would not go on with it."""
        ...

    def abandon(self) -> None:
        """Give back what it reserved."""
        ...


def go_on(
    owner: Owner,
    kems: tuple[Kem, ...],
    payloads: Sequence[RawPayload],
    finish: Callable[[bytes, float], None],
    now: float,
) -> None:
    """Go on after a response of owner's: with the key exchanges kems, and then with finish."""
    if not kems:
        finish(b"", now)
        return
    link = _link(payloads)
    if link is None:
        raise PeerError(DropReason.IKE_MALFORMED, "no ADDITIONAL_KEY_EXCHANGE")
    owner.sa.start_next(FollowupTask(owner, kems, link, b"", finish), now)


class FollowupTask:
    """One additional key exchange as its initiator; secrets are those of the ones before."""

    exchange = Exchange.IKE_FOLLOWUP_KE

    def __init__(
        self,
        owner: Owner,
        kems: tuple[Kem, ...],
        link: bytes,
        secrets: bytes,
        finish: Callable[[bytes, float], None],
    ) -> None:
        self.of_child = owner.of_child
        self._owner = owner
        self._kems = kems
        self._link = link
        self._secrets = secrets
        self._finish = finish
        self._key: KeyExchange = new_key_exchange(kems[0], owner.sa.context.random)

    def abandon(self) -> None:
        """Give back what the first exchange reserved."""
        self._owner.abandon()

    def move(self, sa: IkeSa) -> bool:
        """Return that another IKE SA knows nothing of it. It never waits."""
        del sa
        return False

    def build(self, now: float) -> Payloads:
        """Return the request's payloads."""
        return [
            (PayloadType.KE, encode_ke(self._kems[0].number, self._key.public)),
            (PayloadType.NOTIFY, _notify(self._link)),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Go on with the next key exchange, or make what was negotiated."""
        error = next((n.type for n in notifies_of(payloads) if n.is_error), None)
        if error is not None:
            # Without its state the peer cannot go on; all of it may be tried again.
            lost = error == NotifyType.STATE_NOT_FOUND
            self._owner.refused(NotifyType.TEMPORARY_FAILURE if lost else error, now)
            return
        public = public_value(payloads, self._kems[0])
        secrets = self._secrets + self._key.shared_secret(public)
        rest, link = self._kems[1:], _link(payloads)
        if not rest:
            self._finish(secrets, now)
        elif link is None:
            raise PeerError(DropReason.IKE_MALFORMED, "no ADDITIONAL_KEY_EXCHANGE")
        else:
            again = FollowupTask(self._owner, rest, link, secrets, self._finish)
            self._owner.sa.start_next(again, now)


@dataclass(slots=True)
class _Awaited:
    """What a responder keeps between two exchanges."""

    link: bytes
    kems: tuple[Kem, ...]
    secrets: bytes
    finish: Finish
    abandon: Callable[[], None]
    expires: Deadline


class Followups:
    """The key exchanges that peers are to go on with, one for each IKE SA, by our SPI."""

    def __init__(self, scheduler: Scheduler, random: Callable[[int], bytes]) -> None:
        self._scheduler = scheduler
        self._random = random
        self._awaited: dict[bytes, _Awaited] = {}

    def __len__(self) -> int:
        return len(self._awaited)

    def expect(
        self,
        sa: IkeSa,
        kems: tuple[Kem, ...],
        finish: Finish,
        abandon: Callable[[], None],
        now: float,
        secrets: bytes = b"",
    ) -> list[tuple[int, bytes]]:
        """Wait for the key exchanges kems; return the payload that links the next one to this."""
        self.forget(sa.our_spi)
        link, spi = self._random(_LINK_LENGTH), sa.our_spi
        expires = self._scheduler.at(now + FOLLOWUP_SECONDS, lambda _: self.forget(spi))
        self._awaited[spi] = _Awaited(link, kems, secrets, finish, abandon, expires)
        return [(PayloadType.NOTIFY, _notify(link))]

    def take(self, sa: IkeSa, link: bytes | None) -> _Awaited:
        """Return what link stands for, once; raise RefusalError where it stands for nothing."""
        awaited = self._awaited.get(sa.our_spi)
        if awaited is None or awaited.link != link:
            unknown = Notify(NotifyType.STATE_NOT_FOUND)
            raise RefusalError(DropReason.IKE_UNEXPECTED_EXCHANGE, unknown, "no such key exchange")
        awaited.expires.cancel()
        del self._awaited[sa.our_spi]
        return awaited

    def forget(self, spi: bytes) -> None:
        """Give up what is under way on the IKE SA with this SPI of ours."""
        awaited = self._awaited.pop(spi, None)
        if awaited is not None:
            awaited.expires.cancel()
            awaited.abandon()


def respond(
    connection: Connection,
    sa: IkeSa,
    payloads: Sequence[RawPayload],
    message_id: int,
    now: float,
) -> None:
    """Answer one additional key exchange, and after the last make what was negotiated."""
    del connection
    awaited = sa.context.followups.take(sa, _link(payloads))
    try:
        kem = awaited.kems[0]
        public, shared = answer_key_exchange(kem, public_value(payloads, kem), sa.context.random)
        answer: list[tuple[int, bytes]] = [(PayloadType.KE, encode_ke(kem.number, public))]
        rest, secrets = awaited.kems[1:], awaited.secrets + shared
        after = awaited.finish(secrets, now) if not rest else None
    except RefusalError as refusal:
        # Something has overtaken it, which is nobody's fault.
        awaited.abandon()
        overtaken = [(PayloadType.NOTIFY, refusal.notify.encode())]
        sa.respond(Exchange.IKE_FOLLOWUP_KE, message_id, overtaken)
        return
    except PeerError:
        awaited.abandon()
        raise
    if rest:
        followups, ways = sa.context.followups, (awaited.finish, awaited.abandon)
        answer += followups.expect(sa, rest, *ways, now, secrets)
    sa.respond(Exchange.IKE_FOLLOWUP_KE, message_id, answer)
    if after is not None:
        after()


def _notify(link: bytes) -> bytes:
    return Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, link).encode()


def _link(payloads: Sequence[RawPayload]) -> bytes | None:
    notifies = notifies_of(payloads)
    return next((n.data for n in notifies if n.type == NotifyType.ADDITIONAL_KEY_EXCHANGE), None)
