"""What every exchange of one endpoint shares: who we are, randomness, timers, outlets."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import Counters
from moatvpn.crypto.sign import Signer
from moatvpn.esp.child import Abilities
from moatvpn.ike.answering import Answering
from moatvpn.ike.callback import Callbacks, Callers
from moatvpn.ike.defence import AnswerLimit, Cookies
from moatvpn.ike.diagnosis import Diagnosis
from moatvpn.ike.events import IkeEvent, Notice
from moatvpn.ike.followup import Followups
from moatvpn.ike.fragmentation import Reassembly
from moatvpn.ike.gate import Gate, HalfOpen, Limits
from moatvpn.ike.scheduler import Scheduler
from moatvpn.ike.secrets import Certificates
from moatvpn.ike.task import Payloads, certificate_request
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_header import NO_SPI

if TYPE_CHECKING:
    from moatvpn.crypto.keymat import IkeKeys
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.ike_sa import IkeSa
    from moatvpn.ike.init import InitSecrets
    from moatvpn.ike.tickets import TicketKeys

# Takes the SPIs of an IKE SA, initiator's and responder's, and its keys.
Reveal = Callable[[bytes, bytes, "IkeKeys"], None]


class Context:
    """The endpoint's shared state. Nothing in it belongs to one connection alone."""

    def __init__(
        self,
        identity: str,
        signer: Signer,
        counters: Counters,
        random: Callable[[int], bytes],
        local_address: Callable[[str], str | None],
        limits: Limits,
        own_hosts: Sequence[str],
        certificates: Certificates,
        tickets: TicketKeys | None,
        abilities: Abilities,
    ) -> None:
        self.identity = identity
        self.signers: tuple[Signer, ...] = (signer,)  # one that another replaces comes last
        self.counters = counters
        self.random = random
        self.local_address = local_address
        self.own_hosts = own_hosts
        self.certificates = certificates
        self.tickets = tickets
        self.abilities = abilities
        self.redirect_to: str | None = None  # where whoever calls is sent instead
        self.scheduler = Scheduler()
        self.reassembly = Reassembly(self.scheduler)
        self.followups = Followups(self.scheduler, random)
        self.outbox: list[Datagram] = []
        self.events: deque[IkeEvent] = deque()
        self.connections: dict[str, Connection] = {}
        self.by_identity: dict[str, Connection] = {}
        self.ike_sas: dict[bytes, IkeSa] = {}  # by our own SPI
        self.half_open = HalfOpen()
        self.init_secrets: dict[bytes, InitSecrets] = {}  # of half-open SAs, by our own SPI
        self.child_spis: set[int] = set()
        self.cookies = Cookies(random)
        self.gate = Gate(limits, random)
        self.answers = AnswerLimit()
        self.diagnosis = Diagnosis(self.notice)
        # The CAs that may vouch for those who call, and for how many connections each.
        self.authorities: Counter[bytes] = Counter()
        self.answering = Answering()
        self.callers = Callers()
        self.callbacks = Callbacks(self)
        self.reveal: Reveal | None = None  # keys are told to nobody, but in a laboratory

    @property
    def signer(self) -> Signer:
        """Return the key that we want to prove."""
        return self.signers[0]

    def connection_of(self, sa: IkeSa) -> Connection | None:
        """Return the connection that an IKE SA belongs to, or None."""
        return self.connections.get(sa.connection or "")

    def may_be_called_from(self, host: str) -> bool:
        """Return whether any connection waits for a call that may come from host."""
        return self.answering.connections > 0 or self.callers.known(host)

    def certificate_requests(self) -> Payloads:
        """Return CERTREQ for callers, of whom we don't know yet who they are (RFC 7296, 1.2)."""
        return certificate_request([ca for ca, count in self.authorities.items() if count])

    def fraction(self) -> float:
        """Return a random number from 0 to 1, for jitter."""
        return int.from_bytes(self.random(4), "big") / (1 << 32)

    def lifetime_part(self) -> float:
        """Return which part of a lifetime to wait for a rekey, so that thousands don't at once."""
        return 0.8 + 0.15 * self.fraction()

    def new_ike_spi(self) -> bytes:
        """Return an SPI that no IKE SA of ours has."""
        spi = self.random(8)
        while spi == NO_SPI or spi in self.ike_sas:
            spi = self.random(8)
        return spi

    def new_child_spi(self) -> int:
        """Return and reserve an inbound SPI. Values to 255 are reserved (RFC 4303, 2.1)."""
        spi = int.from_bytes(self.random(4), "big")
        while spi <= 255 or spi in self.child_spis:
            spi = int.from_bytes(self.random(4), "big")
        self.child_spis.add(spi)
        return spi

    def notice(self, connection: str | None, level: str, text: str) -> None:
        """Say something in the log."""
        self.events.append(Notice(connection, level, text))
