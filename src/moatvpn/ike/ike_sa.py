"""One IKE SA: its state, keys, message IDs, and the request that waits for its response."""

from __future__ import annotations

from dataclasses import dataclass, field

from moatvpn.config import Gateway
from moatvpn.counters import DropReason
from moatvpn.crypto.ike_cipher import OpeningKey, SealingKey, opening_key, sealing_key
from moatvpn.crypto.keymat import IkeKeys
from moatvpn.errors import MoatError, PeerError
from moatvpn.ike.context import Context
from moatvpn.ike.fragmentation import LONGEST_MESSAGE, Opened, pieces
from moatvpn.ike.mobility import Mobility
from moatvpn.ike.proposal import IkeChoice
from moatvpn.ike.scheduler import Deadline
from moatvpn.ike.state import TRANSITIONS, State
from moatvpn.ike.task import Payloads, Task
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_fragment import FRAGMENT_LENGTH
from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    Exchange,
    IkeHeader,
    PayloadType,
    encode_chain,
    parse_chain,
)

# Seconds from one sending of a request to the next; after the last the peer counts as dead.
RETRANSMIT_AFTER = (0.5, 1.0, 2.0, 4.0)
# Where the peer decides the addresses, it gets the time to find a way (RFC 4555, 3.11): 5 minutes.
PATIENT = (*RETRANSMIT_AFTER, 8.0, 16.0, 32.0, *[60.0] * 4)
_JITTER = 0.1
# Where a payload's sealed part begins; what is before it is authenticated, too.
_SEALED_AT: dict[int, int] = {
    PayloadType.SK: HEADER_LENGTH + GENERIC_LENGTH,
    PayloadType.SKF: HEADER_LENGTH + GENERIC_LENGTH + FRAGMENT_LENGTH,
}
# After so many unanswered sendings, some 1.5 seconds, the peer is suspected to be gone.
SUSPECT_AFTER = 2


@dataclass(slots=True)
class _Pending:
    """The request in flight: the same datagrams go out each time (RFC 7296, 2.1)."""

    message_id: int
    datagrams: tuple[bytes, ...]
    task: Task | None
    sent: int = 0
    last: float = 0.0  # when it was sent last
    deadline: Deadline | None = None


@dataclass(slots=True, eq=False)
class IkeSa:
    """An IKE SA. initiator says whether we are its original initiator.

    choice: the algorithms that both have agreed on, once they have.
    fragmentation: both take messages in fragments (RFC 7383).
    ppk: there is a PPK in its keys (RFC 8784).
    nat: whatever we exchange goes in UDP port 4500; behind_nat: because there is a NAT on our side.
    began_at: when the request that made it came in or left; 0 where a rekey made it.
    seen_as: the hash of our address as the peer saw it last, empty where it has not told yet.
    mobility: shared with the IKE SAs that this one replaces and that replace it.
    asked_via: our address and the peer's of the request that we are answering.
    resumed: it goes on where another one was lost (RFC 5723). redirectable: the peer can be sent to
    another gateway (RFC 5685); gateway: the one that we have been sent to, where this is with it.
    local_key and remote_key: the public keys that we and the peer proved ourselves by, None where
    it was otherwise. superseded: another one, authenticated anew, has replaced it.
    rekeying: our request to replace it is in flight. rival: the IKE SA that the peer's own such
    request has made meanwhile, and the lowest nonce of that exchange (2.8.2).
    """

    context: Context
    initiator: bool
    state: State
    spi_i: bytes
    spi_r: bytes
    local: Endpoint
    remote: Endpoint
    connection: str | None = None
    fragmentation: bool = False
    ppk: bool = False
    nat: bool = False
    behind_nat: bool = False
    seen_as: bytes = b""
    mobility: Mobility = field(default_factory=Mobility)
    asked_via: tuple[Endpoint, Endpoint] | None = None
    sent_at: float = 0.0
    began_at: float = 0.0
    resumed: bool = False
    redirectable: bool = False
    gateway: Gateway | None = None
    local_key: bytes | None = None
    remote_key: bytes | None = None
    superseded: bool = False
    choice: IkeChoice | None = None
    keys: IkeKeys | None = None
    established_at: float = 0.0
    rekey_at: Deadline | None = None
    expires: Deadline | None = None
    rekeying: bool = False
    rival: tuple[IkeSa, bytes] | None = None
    next_request: int = 0
    expected_request: int = 0
    cached_response: tuple[bytes, ...] = ()
    queue: list[Task] = field(default_factory=list)  # an empty deque takes 700 octets
    pending: _Pending | None = None
    on_dead: str = "the peer does not answer"
    _seal: SealingKey | None = None
    _open: OpeningKey | None = None
    _open_before: OpeningKey | None = None

    @property
    def our_spi(self) -> bytes:
        """Return the SPI that we chose."""
        return self.spi_i if self.initiator else self.spi_r

    @property
    def silent(self) -> bool:
        """Return whether the peer leaves a request of ours unanswered."""
        return self.pending is not None and self.pending.sent > SUSPECT_AFTER

    def move(self, state: State) -> None:
        """Change the state along TRANSITIONS; anything else is a mistake of ours."""
        if state not in TRANSITIONS[self.state]:
            raise MoatError(f"IKE SA cannot go from {self.state.value} to {state.value}")
        self.state = state

    def set_keys(self, keys: IkeKeys) -> None:
        """Take the keys that protect everything from now on."""
        self.keys = keys
        ours, theirs = (keys.sk_i, keys.sk_r) if self.initiator else (keys.sk_r, keys.sk_i)
        self._open_before = None
        self._seal, self._open = sealing_key(keys.suite, ours), opening_key(keys.suite, theirs)
        if self.context.reveal is not None:
            self.context.reveal(self.spi_i, self.spi_r, keys)

    def replace_keys(self, keys: IkeKeys) -> None:
        """Take keys in place of others; the request just answered may still come again."""
        before = self._open
        self.set_keys(keys)
        self._open_before = None if self.initiator else before

    def seal(self, exchange: int, message_id: int, response: bool, body: Payloads) -> bytes:
        """Return a whole protected message (RFC 7296, 3.14)."""
        first, inner = encode_chain(body)
        return self._protect(PayloadType.SK, (exchange, message_id, response), first, b"", inner)

    def datagrams(
        self, exchange: int, message_id: int, response: bool, body: Payloads
    ) -> tuple[bytes, ...]:
        """Return a protected message as it is sent: whole, or in fragments where it is long."""
        first, inner = encode_chain(body)
        if self._seal is None:
            raise MoatError("IKE SA has no keys yet")
        message = (exchange, message_id, response)
        length = HEADER_LENGTH + GENERIC_LENGTH + self._seal.sealed_length(len(inner))
        if length <= LONGEST_MESSAGE or not self.fragmentation:
            return (self._protect(PayloadType.SK, message, first, b"", inner),)
        return tuple(
            self._protect(
                PayloadType.SKF, message, first if piece.number == 1 else 0, piece.encode(), part
            )
            for piece, part in pieces(self._seal, inner)
        )

    def _protect(
        self, kind: int, message: tuple[int, int, bool], first: int, start: bytes, inner: bytes
    ) -> bytes:
        """Return a message of one payload that holds start in clear, and inner sealed."""
        if self._seal is None:
            raise MoatError("IKE SA has no keys yet")
        length = GENERIC_LENGTH + len(start) + self._seal.sealed_length(len(inner))
        head = self.header(kind, *message, HEADER_LENGTH + length)
        associated = head + bytes((first, 0)) + length.to_bytes(2, "big") + start
        return associated + self._seal.seal(inner, associated)

    def header(
        self, first: int, exchange: int, message_id: int, response: bool, length: int
    ) -> bytes:
        """Return the header of a message of ours."""
        return IkeHeader(
            self.spi_i, self.spi_r, first, exchange, self.initiator, response, message_id, length
        ).encode()

    def plain(self, exchange: Exchange, response: bool, body: Payloads) -> bytes:
        """Return a whole message in clear: IKE_SA_INIT only."""
        first, chain = encode_chain(body)
        return self.header(first, exchange, 0, response, HEADER_LENGTH + len(chain)) + chain

    def open(self, header: IkeHeader, data: bytes) -> Opened:
        """Return what is in the SK or SKF payload of data; raise PeerError if not authentic."""
        if self._open is None:
            raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "no keys yet")
        start = _SEALED_AT.get(header.next_payload)
        if start is None:
            raise PeerError(DropReason.IKE_MALFORMED, "first payload is not encrypted")
        parse_chain(header.next_payload, data[HEADER_LENGTH:])  # it ends with the message
        # A request again that came before IKE_INTERMEDIATE has changed the keys.
        older = self._open_before if self.answered(header) else None
        opened = (older or self._open).open(data[start:], data[:start])
        return Opened(data[: HEADER_LENGTH + GENERIC_LENGTH], opened)

    def expect_next(self) -> None:
        """Take in that the next request has come."""
        self.expected_request += 1
        self._open_before = None
        self.context.reassembly.forget(self.our_spi, False)

    def awaits(self, header: IkeHeader) -> bool:
        """Return whether a message's ID is that of the next request, or of the response due."""
        if header.response:
            return self.pending is not None and self.pending.message_id == header.message_id
        return header.message_id == self.expected_request

    def answered(self, header: IkeHeader) -> bool:
        """Return whether a message is the request that we have answered last."""
        before = header.message_id == self.expected_request - 1
        return before and not header.response and bool(self.cached_response)

    def start(self, task: Task, now: float) -> None:
        """Begin an exchange, or queue it behind the one in flight (window of 1)."""
        self.queue.append(task)
        self._next_task(now)

    def start_next(self, task: Task, now: float) -> None:
        """Begin an exchange before those that wait: it goes on with the one just completed."""
        self.queue.insert(0, task)
        self._next_task(now)

    def _next_task(self, now: float) -> None:
        while self.pending is None and self.queue and self.state is not State.CLOSED:
            task = self.queue.pop(0)
            body = task.build(now)
            if body is None:
                continue  # nothing was reserved, either
            datagrams = self.datagrams(task.exchange, self.next_request, False, body)
            self.transmit(datagrams, task, now)

    def transmit(self, datagrams: tuple[bytes, ...], task: Task | None, now: float) -> None:
        """Send datagrams as the next request, and again until its response comes."""
        self.pending = _Pending(self.next_request, datagrams, task)
        self.next_request += 1
        self._send_pending(now)

    def _send_pending(self, now: float) -> None:
        pending = self.pending
        if pending is None or self.state is State.CLOSED:
            return
        schedule = PATIENT if self.mobility.waits else RETRANSMIT_AFTER
        if pending.sent == len(schedule):
            self.dead(now)
            return
        self.send(*pending.datagrams)
        self.sent_at = pending.last = now
        delay = schedule[pending.sent] * (1 + _JITTER * self.context.fraction())
        pending.sent += 1
        pending.deadline = self.context.scheduler.at(now + delay, self._send_pending)
        connection = self.context.connections.get(self.connection or "")
        if connection is not None and self.silent:
            connection.suspect(self, pending.datagrams, now)

    def resend(self, now: float) -> bool:
        """Send the request in flight again at once and start its schedule over."""
        if self.pending is None:
            return False
        if self.pending.deadline is not None:
            self.pending.deadline.cancel()
        self.pending.sent = 0
        self._send_pending(now)
        return True

    def peer_lives(self, now: float) -> None:
        """Send the request in flight again if it waits for long, for the peer is there again."""
        pending = self.pending
        if pending is not None and pending.last + RETRANSMIT_AFTER[-1] < now:
            self.send(*pending.datagrams)
            self.sent_at = pending.last = now

    def dead(self, now: float) -> None:
        """Tell the connection that the peer is gone."""
        connection = self.context.connections.get(self.connection or "")
        if connection is None:
            self.close()
        else:
            connection.sa_failed(self, self.on_dead, now)

    def send(self, *datagrams: bytes) -> None:
        """Put one message in the outbox, in as many datagrams as it takes."""
        self.context.outbox += [Datagram(data, self.local, self.remote) for data in datagrams]

    def take_response(self, message_id: int, exchange: int) -> Task | None:
        """Return the task that a response to message_id completes, which is then in flight no more.

        Raises PeerError where nothing waits for it.
        """
        if self.pending is None or self.pending.message_id != message_id:
            raise PeerError(DropReason.IKE_UNEXPECTED_MESSAGE_ID, f"response {message_id}")
        task = self.pending.task
        if task is not None and task.exchange != exchange:
            raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, f"response of type {exchange}")
        if self.pending.deadline is not None:
            self.pending.deadline.cancel()
        self.pending = None
        self.context.reassembly.forget(self.our_spi, True)
        return task

    def continue_queue(self, now: float) -> None:
        """Start the next queued exchange, if none is in flight."""
        self._next_task(now)

    def respond(self, exchange: int, message_id: int, body: Payloads) -> None:
        """Send a protected response, and keep it for retransmitted requests.

        It goes to where the request came from, whatever our own requests are sent to (2.11).
        """
        self.cached_response = self.datagrams(exchange, message_id, True, body)
        local, remote = self.asked_via or (self.local, self.remote)
        self.context.outbox += [Datagram(data, local, remote) for data in self.cached_response]

    def close(self) -> None:
        """Forget everything: timers, exchanges, rival, entries in the tables."""
        if self.state is State.CLOSED:
            return
        self.move(State.CLOSED)
        pending, self.pending = self.pending, None
        timers = (self.rekey_at, self.expires, pending.deadline if pending else None)
        for timer in timers:
            if timer is not None:
                timer.cancel()
        if pending is not None and pending.task is not None:
            pending.task.abandon()
        self.queue.clear()
        if self.rival is not None:
            self.rival[0].close()
        self.context.ike_sas.pop(self.our_spi, None)
        self.context.reassembly.forget(self.our_spi, True)
        self.context.reassembly.forget(self.our_spi, False)
        self.context.followups.forget(self.our_spi)
        if not self.initiator:
            self.context.init_secrets.pop(self.our_spi, None)
            self.forget_half_open()

    def close_at(self, when: float) -> None:
        """Close at a given time, if nothing has closed it before."""
        if self.expires is not None:
            self.expires.cancel()
        self.expires = self.context.scheduler.at(when, lambda _: self.close())

    def forget_half_open(self) -> None:
        """Take the SA out of the list of those that have not authenticated yet."""
        self.context.half_open.remove(self)
