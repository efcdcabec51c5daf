"""Thousands of moats in one process: IKE endpoints without daemons, on two UDP sockets.

Each moat has a wild-side address of its own, as in reality; the namespace has them all (AnyIP).
"""

from __future__ import annotations

import heapq
import math
import os
import select
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from ipaddress import IPv4Address, IPv6Address

from scale_portal import ADDRESS, IDENTITY, within

from moatvpn.config import ConnectionConfig
from moatvpn.counters import Counters
from moatvpn.crypto.sign import generate_private_key, load_private_key
from moatvpn.drivers.raw import RawEspSocket
from moatvpn.drivers.udp import UdpPort
from moatvpn.esp.burst import Arrival
from moatvpn.esp.child import Abilities
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.ike.events import ChildUp, IkeDown, IkeUp
from moatvpn.wire.endpoint import IKE_PORT, NAT_PORT

PORTAL = "portal"  # the name of a moat's only connection
EVERYWHERE = ("0.0.0.0/0", "::/0")
_FIRST_HOST = int(IPv4Address("100.64.0.0")) + 1
_FIRST_PRIVATE = int(IPv4Address("10.128.0.0"))
_FIRST_PRIVATE6 = int(IPv6Address("fd00:128::"))
_PROGRESS_SECONDS = 1.0
_BATCHES_AT_ONCE = 8
_TIMERS_AT_ONCE = 64


def private_networks(number: int) -> tuple[str, str]:
    """Return the networks of a moat's private side."""
    four, six = IPv4Address(_FIRST_PRIVATE + (number << 8)), _FIRST_PRIVATE6 + (number << 64)
    return f"{four}/24", f"{IPv6Address(six)}/64"


class Moat:
    """One moat: its key, its address, and an endpoint once it has been started."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"c{number:05}"
        self.identity = f"{self.name}.moats.example.net"
        self.host = str(IPv4Address(_FIRST_HOST + number))
        self.signer = load_private_key(generate_private_key())
        self.networks = private_networks(number)
        self.encapsulation = "auto"
        self.ike: IkeEndpoint | None = None
        self.due = math.inf  # when the fleet is to look at the endpoint's timer

    def at_portal(self) -> ConnectionConfig:
        """Return the portal's connection to this moat."""
        return ConnectionConfig(
            name=self.name,
            remote_identity=self.identity,
            remote_public_keys=(self.signer.public_text,),
            local_selectors=EVERYWHERE,
            remote_selectors=self.networks,
            encapsulation=self.encapsulation,
        )

    def start(self, portal_key: str, now: float) -> IkeEndpoint:
        """Begin to call the portal; return the endpoint that does."""
        ike = IkeEndpoint(
            self.identity,
            self.signer,
            Counters(),
            os.urandom,
            lambda _: self.host,
            abilities=Abilities(aggfrag=True),
        )
        config = ConnectionConfig(
            name=PORTAL,
            remote_identity=IDENTITY,
            remote_public_keys=(portal_key,),
            local_selectors=self.networks,
            remote_selectors=EVERYWHERE,
            remote_address=ADDRESS,
            initiate=True,
            encapsulation=self.encapsulation,
        )
        ike.add_connection(config, now)
        self.ike = ike
        return ike


class Fleet:
    """All moats, by their wild-side addresses, and their sockets in namespace.

    up are the numbers of those whose IKE SA is established; renewed, of those that have a new
    CHILD_SA; lost counts IKE SAs that went down. Whoever measures empties them.
    """

    def __init__(self, namespace: str, moats: Iterable[Moat]) -> None:
        self.moats = {moat.host: moat for moat in moats}
        self._by_number = {moat.number: moat for moat in self.moats.values()}
        self.up: set[int] = set()
        self.renewed: set[int] = set()
        self.lost = 0
        self._timers: list[tuple[float, int]] = []
        counters = Counters()
        with ExitStack() as stack, within(namespace):
            self._ports = {
                number: stack.enter_context(
                    closing(UdpPort(number, counters, framed=number == NAT_PORT))
                )
                for number in (IKE_PORT, NAT_PORT)
            }
            # Takes the envelopes, so that the kernel does not call the protocol unreachable.
            self._raw = stack.enter_context(closing(RawEspSocket(counters)))
            self._poll = select.poll()
            ports = self._ports.values()
            # On port 500 there are no envelopes: the first two are one.
            self._queues = [
                queue
                for port in ports
                for queue in (port.envelopes, port.established, port.strangers)
            ]
            for source in (*self._queues, self._raw):
                self._poll.register(source.fileno(), select.POLLIN)
            self._open = stack.pop_all()

    def close(self) -> None:
        """Close the sockets."""
        self._open.close()

    def start(self, moat: Moat, portal_key: str) -> None:
        """Have a moat call the portal."""
        now = time.monotonic()
        moat.start(portal_key, now)
        self._settle(moat)

    def rekey(self, moat: Moat) -> None:
        """Have a moat rekey its CHILD_SA."""
        if moat.ike is not None:
            moat.ike.rekey(PORTAL, "child", time.monotonic())
            self._settle(moat)

    def keep(self, number: int) -> None:
        """Let only the first moats live on, and the others fall silent."""
        self.moats = {host: moat for host, moat in self.moats.items() if moat.number < number}
        self._timers = [entry for entry in self._timers if entry[1] < number]
        heapq.heapify(self._timers)

    def pump(self, patience: float = 0.0) -> None:
        """Take what has come, and do what is due; wait up to patience seconds for either.

        What has come goes first: each moat has a processor of its own in reality, and would not
        call an answer late that waits in this process' socket.
        """
        until = self._timers[0][0] if self._timers else math.inf
        self._poll.poll(max(0.0, min(patience, until - time.monotonic())) * 1000)
        self.envelopes(self._raw.receive())
        for _ in range(_BATCHES_AT_ONCE):
            if not self._receive():
                break
        for _ in range(_TIMERS_AT_ONCE):
            now = time.monotonic()
            if not self._timers or self._timers[0][0] > now:
                return
            when, number = heapq.heappop(self._timers)
            moat = self._by_number[number]
            if when == moat.due and moat.ike is not None:
                moat.due = math.inf
                moat.ike.handle_timer(now)
                self._settle(moat)

    def _receive(self) -> int:
        """Take one batch of messages; return how many there were."""
        taken = 0
        for queue in self._queues:
            arrivals, messages = queue.receive()
            self.envelopes(arrivals)
            for datagram in messages:
                taken += 1
                moat = self.moats.get(datagram.local.host)
                if moat is not None and moat.ike is not None:
                    moat.ike.receive_datagram(datagram, time.monotonic())
                    self._settle(moat)
        return taken

    def child_up(self, moat: Moat, event: ChildUp) -> None:
        """Take a moat's new CHILD_SA; nothing is done with it here."""

    def envelopes(self, arrivals: Iterable[Arrival]) -> None:
        """Take envelopes; here they are only taken out of the way."""

    def run(
        self, done: Callable[[], bool], progress: Callable[[], str], patience: float
    ) -> float | None:
        """Pump until done; return how many seconds it took, None where patience ended before.

        A line of progress is shown every second.
        """
        began = shown = time.monotonic()
        while not done():
            self.pump(0.05)
            now = time.monotonic()
            if now - began > patience:
                return None
            if now - shown > _PROGRESS_SECONDS:
                shown = now
                print(f"  {now - began:5.0f} s  {progress()}", flush=True)
        return time.monotonic() - began

    def _settle(self, moat: Moat) -> None:
        """Take what an endpoint has to tell, send what it has to send, and note its timer."""
        ike = moat.ike
        if ike is None:
            return
        while (event := ike.next_event()) is not None:
            if isinstance(event, IkeUp):
                self.up.add(moat.number)
            elif isinstance(event, IkeDown):
                self.up.discard(moat.number)
                self.lost += 1
            elif isinstance(event, ChildUp):
                self.renewed.add(moat.number)
                self.child_up(moat, event)
        for datagram in ike.datagrams_to_send():
            self._ports[datagram.local.port].send_ike(datagram)
        when = ike.get_timer()
        if when is not None and when < moat.due:
            moat.due = when
            heapq.heappush(self._timers, (when, moat.number))
