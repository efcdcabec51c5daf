"""Fragments of IKE messages (RFC 7383), so that no IP fragment has to pass.

    HDR, SKF(1 of 3){...} ---->
    HDR, SKF(2 of 3){...} ---->
    HDR, SKF(3 of 3){...} ---->
                          <----  HDR, SKF(1 of 2){...}
                          <----  HDR, SKF(2 of 2){...}

Every fragment is sealed by itself, and nothing is kept of one that is not authentic. What is kept
is bounded: one request and one response of each IKE SA, each no longer than a whole message may
be, for as long as a peer would retransmit, and a total for strangers beside one for peers. Where
that is reached the oldest gives way: an honest message is whole after some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.ike_cipher import SealingKey
from moatvpn.errors import PeerError
from moatvpn.ike.scheduler import Deadline, Scheduler
from moatvpn.ike.state import State
from moatvpn.wire.ike_fragment import FRAGMENT_LENGTH, Fragment, parse_fragment
from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    MAX_MESSAGE_LENGTH,
    IkeHeader,
    RawPayload,
    parse_chain,
    unsealed,
)

if TYPE_CHECKING:
    from moatvpn.ike.ike_sa import IkeSa

# Every IPv4 host takes 576 octets (RFC 7383, 2.5.1): less the headers of IP and UDP, and the
# non-ESP marker of port 4500.
LONGEST_MESSAGE = 576 - 20 - 8 - 4
MOST_FRAGMENTS = 64
REASSEMBLY_SECONDS = 10.0
# Octets that wait for their rest: of half-open IKE SAs, and of all others.
MOST_OF_STRANGERS = 2 << 20
MOST_OF_PEERS = 8 << 20


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in an authentic message: payloads and padding.

    head is the message's header, and that of its SK payload, or of its first fragment.
    """

    head: bytes
    padded: bytes

    @property
    def chain(self) -> bytes:
        """Return the payloads' octets; raise PeerError where the padding does not fit."""
        padding = self.padded[-1]
        if padding + 1 > len(self.padded):
            raise PeerError(DropReason.IKE_MALFORMED, "padding longer than the payload")
        return self.padded[: len(self.padded) - 1 - padding]

    def payloads(self) -> list[RawPayload]:
        """Return the payloads; raise PeerError where they are malformed."""
        return parse_chain(self.head[HEADER_LENGTH], self.chain)

    @property
    def unsealed(self) -> bytes:
        """Return the message as AUTH covers it (RFC 9242, 3.3.2)."""
        return unsealed(self.head, self.chain)


def pieces(key: SealingKey, chain: bytes) -> Iterator[tuple[Fragment, bytes]]:
    """Yield what each fragment of a message holds of its payloads, in order."""
    body = LONGEST_MESSAGE - HEADER_LENGTH - GENERIC_LENGTH - FRAGMENT_LENGTH
    room = next(n for n in range(body, 0, -1) if key.sealed_length(n) <= body)
    total = -(-len(chain) // room)
    for number in range(1, total + 1):
        yield Fragment(number, total), chain[(number - 1) * room : number * room]


@dataclass(slots=True)
class _Partial:
    """What has come of one message. head: as in Opened, once the first fragment is there."""

    header: IkeHeader
    total: int
    stranger: bool
    expires: Deadline
    head: bytes = b""
    octets: int = 0
    chains: dict[int, bytes] = field(default_factory=dict)


class Reassembly:
    """Every message of which fragments wait for others; by our SPI, and whether a response."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._partials: dict[tuple[bytes, bool], _Partial] = {}
        # Which of them are strangers', and which are not, the oldest first.
        self._keys: dict[bool, dict[tuple[bytes, bool], None]] = {True: {}, False: {}}
        self._held = {True: 0, False: 0}  # octets, of strangers and of peers

    def __len__(self) -> int:
        return len(self._partials)

    def take(self, sa: IkeSa, header: IkeHeader, data: bytes, now: float) -> Opened | None:
        """Take in one fragment; return the message if this completes it, else None.

        The first fragment of a request that we have answered stands for all of it (2.6.1). Raises
        PeerError for one that does not belong here, or is not authentic; nothing of it is kept.
        """
        if not sa.fragmentation:
            raise PeerError(DropReason.IKE_FRAGMENT_UNEXPECTED, "fragments are not agreed on")
        fragment = parse_fragment(data)
        if fragment.total > MOST_FRAGMENTS:
            raise PeerError(DropReason.IKE_FRAGMENT_LIMIT, f"{fragment.total} fragments")
        if sa.answered(header):
            if fragment.number != 1:
                raise PeerError(DropReason.IKE_FRAGMENT_REPEATED)
            return sa.open(header, data)
        if not sa.awaits(header):
            raise PeerError(DropReason.IKE_UNEXPECTED_MESSAGE_ID, f"fragment of {header}")
        known = self._partials.get((sa.our_spi, header.response))
        if known is not None and known.header.message_id != header.message_id:
            known = None  # of an exchange that is over
        if known is not None:
            _compare(known, header, fragment)
        opened = sa.open(header, data)
        return self._store(sa, header, fragment, opened, now)

    def _store(
        self, sa: IkeSa, header: IkeHeader, fragment: Fragment, opened: Opened, now: float
    ) -> Opened | None:
        key, chain = (sa.our_spi, header.response), opened.chain
        partial = self._partials.get(key)
        fresh = (header.message_id, fragment.total)
        if partial is None or (partial.header.message_id, partial.total) != fresh:
            # The peer begins anew, in smaller pieces (2.6).
            self._forget(key)
            expires = self._scheduler.at(now + REASSEMBLY_SECONDS, lambda _: self._forget(key))
            stranger = sa.state is State.HALF_OPEN
            partial = _Partial(header, fragment.total, stranger, expires)
            self._partials[key] = partial
            self._keys[stranger][key] = None
        if partial.octets + len(chain) > MAX_MESSAGE_LENGTH:
            self._forget(key)
            raise PeerError(DropReason.IKE_FRAGMENT_LIMIT, "too long a message")
        partial.chains[fragment.number] = chain
        partial.octets += len(chain)
        self._held[partial.stranger] += len(chain)
        self._make_room(partial.stranger)
        if fragment.number == 1:
            partial.head = opened.head
        if len(partial.chains) < partial.total:
            return None
        self._forget(key)
        whole = b"".join(partial.chains[number] for number in range(1, partial.total + 1))
        return Opened(partial.head, whole + b"\0")

    def _make_room(self, stranger: bool) -> None:
        """Drop the oldest messages of strangers, or of peers, while they hold too much."""
        most = MOST_OF_STRANGERS if stranger else MOST_OF_PEERS
        while self._held[stranger] > most:
            self._forget(next(iter(self._keys[stranger])))

    def forget(self, spi: bytes, response: bool) -> None:
        """Drop what waits of a request or a response to the IKE SA with this SPI of ours."""
        if self._partials:
            self._forget((spi, response))

    def _forget(self, key: tuple[bytes, bool]) -> None:
        partial = self._partials.pop(key, None)
        if partial is not None:
            partial.expires.cancel()
            del self._keys[partial.stranger][key]
            self._held[partial.stranger] -= partial.octets


def _compare(known: _Partial, header: IkeHeader, fragment: Fragment) -> None:
    """Raise PeerError where a fragment does not go with those that have come (2.6)."""
    if header.exchange != known.header.exchange or fragment.total < known.total:
        raise PeerError(DropReason.IKE_FRAGMENT_UNEXPECTED, "goes with no other fragment")
    if fragment.total == known.total and fragment.number in known.chains:
        raise PeerError(DropReason.IKE_FRAGMENT_REPEATED)
