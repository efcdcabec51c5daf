"""One connection: keeps an IKE SA and a CHILD_SA up for as long as it is configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moatvpn.config import ConnectionConfig, Gateway
from moatvpn.esp.child import ChildSa
from moatvpn.ike import init, resumption
from moatvpn.ike.addresses import Addresses
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.authentication.contract import Authentication
from moatvpn.ike.backoff import Backoff
from moatvpn.ike.children import Children
from moatvpn.ike.context import Context
from moatvpn.ike.diagnosis import FailureRecord
from moatvpn.ike.events import Configured, IkeDown, IkeUp
from moatvpn.ike.failure import Failure, no_answer
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import farewell
from moatvpn.ike.init import InitSecrets
from moatvpn.ike.mobike import LivenessTask
from moatvpn.ike.ppk import Ppk
from moatvpn.ike.redirect import Redirects
from moatvpn.ike.rekey import RekeyIkeTask, hand_over
from moatvpn.ike.resumption import Tickets
from moatvpn.ike.scheduler import Deadline
from moatvpn.ike.state import State
from moatvpn.wire.endpoint import IKE_PORT, KEEPALIVE, Endpoint
from moatvpn.wire.ike_config import Assigned

RETRY_SECONDS = 1.0
START_SPREAD = 0.2  # seconds over which connections of one box start, so that they don't at once
KEEPALIVE_SECONDS = 20.0  # without a packet to the peer, from behind a NAT (RFC 3948, 4)
UNANSWERED_SECONDS = 2.0  # traffic out and none in for this long: ask whether the peer lives
# The least part of dpd_interval. Moats that an outage has brought into step fall out of it again.
LIVENESS_PART = 0.8


class Connection:
    """The life of one configured connection.

    sa is the IKE SA that is established and in use. attempt is one that we are setting up: because
    there is none yet, or because sa does not answer.
    """

    def __init__(
        self,
        context: Context,
        config: ConnectionConfig,
        authentication: Authentication,
        ppk: Ppk | None,
        gateways: Mapping[Gateway, Authentication],
        now: float,
    ) -> None:
        self._context = context
        self.config = config
        self.authentication = authentication
        self.ppk = ppk
        self.failure: FailureRecord | None = None
        self._backoff = Backoff(context.fraction)
        self.sa: IkeSa | None = None
        self.attempt: tuple[IkeSa, InitSecrets] | None = None
        self.children = Children(context, self)
        self.addresses = Addresses(context, self)
        self.tickets = Tickets(self)
        self.redirects = Redirects(self, gateways)
        self._retry: Deadline | None = None
        self._watch: Deadline | None = None
        self._unanswered: Deadline | None = None
        self._keepalive: Deadline | None = None
        self._last_outbound = now
        self._last_inbound = now
        self._removed = False
        if config.initiate:
            self.expect_calls()
            self._retry_at(now + START_SPREAD * context.fraction())

    # Setting up

    def _retry_at(self, when: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._context.scheduler.at(when, self.begin)

    def begin(self, now: float) -> None:
        """Start an IKE SA where the peer is configured, with everything fresh, if one is needed."""
        address = self.config.remote_address
        gateway = self.redirects.target
        needed = self.sa is None or self.sa.silent or self.redirects.pending
        if self._removed or address is None or not needed:
            return
        self._drop_attempt()
        host = self.addresses.where_to_call(address) if gateway is None else gateway.address
        attempt = self.attempt_at(Endpoint(host, IKE_PORT), IKE_PORT, now)
        if attempt is None:
            self._retry_at(now + RETRY_SECONDS)
        else:
            attempt.gateway = gateway

    def attempt_at(self, remote: Endpoint, port: int, now: float) -> IkeSa | None:
        """Start an IKE SA with remote from our port, unless one is or goes up; None for no way."""
        host = self._context.local_address(remote.host)
        busy = self.sa is not None and not self.sa.silent and not self.redirects.pending
        if host is None or self.attempt is not None or busy:
            return None
        force_udp = self.config.encapsulation == "udp"
        context, local, name = self._context, Endpoint(host, port), self.config.name
        ticket = self.tickets.usable(remote.host, now)
        if ticket is not None:
            self.attempt = resumption.start(context, name, local, remote, ticket, force_udp, now)
        else:
            policy = ike_policy(self.config)
            self.attempt = init.start(context, name, local, remote, policy, force_udp, now)
        return self.attempt[0]

    def expects(self, host: str) -> bool:
        """Return whether the peer may call from host: anywhere, unless it is we who call."""
        return not self.config.initiate or self._context.callers.may_call(self.config.name, host)

    def expect_calls(self) -> None:
        """Let the peer that we call call us, too: from where it is configured, is, or may be."""
        if not self.config.initiate:
            return
        peer = self.addresses.peer
        hosts = [self.config.remote_address, peer.host if peer is not None else None]
        hosts += self.sa.mobility.peer_hosts if self.sa is not None else ()
        self._context.callers.expect(self.config.name, [host for host in hosts if host])

    def _drop_attempt(self) -> None:
        if self.attempt is not None:
            self.attempt[0].close()
            self.attempt = None

    def established(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        """Take a freshly authenticated IKE SA and its CHILD_SA, in place of any older one."""
        old, old_children = self.sa, list(self.children.records)
        if self.attempt is not None and self.attempt[0] is sa:
            self.attempt = None
        self._drop_attempt()
        self._backoff.reset()
        self._context.callbacks.left(self.config.name, now)
        if sa.expires is not None:
            sa.expires.cancel()
        sa.forget_half_open()
        sa.move(State.ESTABLISHED)
        self.addresses.begin(sa)
        self.adopt(sa, now)
        self.tickets.began(sa)
        self._context.events.append(IkeUp(self.config.name, sa.remote, sa.initiator))
        self.children.add(sa, child, None, True, now)
        for spi_in in old_children:
            self.children.gone(spi_in)
        self.children.fill(now)
        moved = self.redirects.arrived(sa)
        if old is not None:
            if moved:
                old.send(farewell(old))
            old.close()
        self._last_inbound = now
        self._watch_from(now)

    def configured(self, assigned: Assigned) -> None:
        """Take in what the peer has assigned to us."""
        self._context.events.append(Configured(self.config.name, assigned))

    def adopt(self, sa: IkeSa, now: float) -> None:
        """Make sa the IKE SA of this connection and plan its rekey."""
        self.sa = sa
        sa.connection = self.config.name
        self.tickets.adopted(sa, now)
        sa.established_at = now
        self.addresses.handed_over(sa, now)
        self.expect_calls()
        when = now + self.config.ike_lifetime * self._context.lifetime_part()
        sa.rekey_at = self._context.scheduler.at(when, self.rekey_ike)
        self.keep_mapping(now)

    # Rekeying the IKE SA

    def rekey_ike(self, now: float) -> None:
        """Rekey the IKE SA."""
        if self.sa is not None and not self.sa.rekeying:
            self.sa.start(RekeyIkeTask(self, self.sa), now)

    def rekey_ike_later(self, now: float) -> None:
        """Try the IKE SA's rekey again after a TEMPORARY_FAILURE."""
        when = now + 1.0 + 2.0 * self._context.fraction()
        self._context.scheduler.at(when, self.rekey_ike)

    def prefer(self, sa: IkeSa, now: float) -> None:
        """Take in that the peer uses sa: if that is the rival of our IKE SA, it has replaced it.

        The peer did not see our own rekey before it was done with its own (2.8.2).
        """
        if self.sa is not None and self.sa.rival is not None and self.sa.rival[0] is sa:
            hand_over(self, self.sa, sa, now)

    def sa_deleted(self, sa: IkeSa, now: float) -> None:
        """Take in that the peer deleted an IKE SA."""
        if sa is self.sa and sa.rival is not None and sa.rival[0].state is not State.CLOSED:
            hand_over(self, sa, sa.rival[0], now)
        if sa is self.sa:
            self.tickets.void()
        self.sa_failed(sa, "the peer deleted the IKE SA", now)

    # Liveness and addresses

    def inbound(self, now: float) -> None:
        """Something authentic came from the peer."""
        self._last_inbound = now
        if self._unanswered is not None:
            self._unanswered.cancel()
            self._unanswered = None
        if self.sa is not None:
            self.sa.peer_lives(now)
        # Once IKE_AUTH has left, the peer may have replaced our IKE SA already: then go on.
        if self.sa is None or self.attempt is None or self.redirects.pending:
            return
        if self.attempt[0].state is not State.AUTH_SENT:
            self._drop_attempt()

    def outbound(self, now: float) -> None:
        """A packet went to the peer; if nothing comes back, ask soon."""
        self._last_outbound = now
        if self._unanswered is None and self.sa is not None:
            self._unanswered = self._context.scheduler.at(now + UNANSWERED_SECONDS, self._no_answer)

    def keep_mapping(self, now: float) -> None:
        """Send keepalives from now on if there is a NAT on our side, and else none."""
        if self._keepalive is not None:
            self._keepalive.cancel()
        if self.sa is not None and self.sa.behind_nat:
            self._keepalive = self._context.scheduler.at(now + KEEPALIVE_SECONDS, self._keep_alive)

    def _keep_alive(self, now: float) -> None:
        """Keep the NAT in front of us from forgetting us, if nothing else has."""
        if self.sa is None or not self.sa.behind_nat:
            return
        idle_since = max(self._last_outbound, self.sa.sent_at)
        if idle_since + KEEPALIVE_SECONDS <= now:
            self.sa.send(KEEPALIVE)
            idle_since = now
        due = idle_since + KEEPALIVE_SECONDS
        self._keepalive = self._context.scheduler.at(due, self._keep_alive)

    def _no_answer(self, now: float) -> None:
        self._unanswered = None
        self.check_liveness(now)

    def _watch_from(self, since: float) -> None:
        """Ask the peer whether it lives, if nothing of it comes from that time on."""
        if self._watch is not None:
            self._watch.cancel()
        part = LIVENESS_PART + (1 - LIVENESS_PART) * self._context.fraction()
        when = since + part * self.config.dpd_interval
        self._watch = self._context.scheduler.at(when, self._look)

    def _look(self, now: float) -> None:
        if self.sa is None:
            return
        if self._last_inbound + LIVENESS_PART * self.config.dpd_interval <= now:
            self.check_liveness(now)
            self._watch_from(now)
        else:
            self._watch_from(self._last_inbound)

    def check_liveness(self, now: float) -> None:
        """Ask the peer whether it lives, unless some request waits for it already."""
        if self.config.initiate and self.addresses.own_changed(now):
            return
        if self.sa is not None and self.sa.pending is None:
            self.sa.start(LivenessTask(self, self.sa), now)

    def suspect(self, sa: IkeSa, request: Sequence[bytes], now: float) -> None:
        """Take in that sa leaves a request unanswered.

        The peer may have lost it with all its state; so try a new one while the old one has its
        retransmissions yet. Nothing but an authenticated IKE SA replaces the old one.
        """
        if sa is self.sa and self.config.initiate and self.attempt is None:
            self.begin(now)
        self.addresses.unanswered(sa, request, now)

    def local_address_changed(self, now: float) -> None:
        """Our own address may be another one: speak from it at once."""
        if not self.config.initiate:
            return
        self._backoff.reset()
        address = self.config.remote_address
        attempt = self.attempt[0] if self.attempt is not None else None
        if attempt is None or self._context.local_address(str(address)) != attempt.local.host:
            self.begin(now)
        if not self.addresses.own_changed(now):
            self.check_liveness(now)  # another network may have given us the same address

    # Ending

    def failed(self, failure: Failure, host: str, now: float) -> None:
        """Record why the connection does not come up, for people. host is the other end's."""
        name, peer = self.config.name, (host, self.config.remote_identity)
        diagnosis = self._context.diagnosis
        self.failure = diagnosis.of_connection(self.failure, name, failure, peer, now)

    def _unreached(self, sa: IkeSa, now: float) -> None:
        """Record that nobody answers an attempt, unless what came in clear says more."""
        if self.failure is None or self.failure.when < sa.began_at:
            exchange = "IKE_SA_INIT" if sa.state is State.INIT_SENT else "IKE_AUTH"
            self.failed(no_answer(exchange), sa.remote.host, now)

    def sa_failed(self, sa: IkeSa, reason: str, now: float, refused: bool = False) -> None:
        """An IKE SA of ours is dead: forget it and, if it is our part, start over.

        refused: because one of the two will not have the other. That does not mend by asking often.
        """
        wait = self._backoff.wait() if refused else 0.0
        if self.attempt is not None and self.attempt[0] is sa:
            if not refused and self.config.initiate:
                self._unreached(sa, now)
            if sa.resumed:
                self.tickets.failed(sa)
                wait = 0.0  # the next call is a full one
            self.redirects.failed(sa)
            self._drop_attempt()
            if self.config.initiate:
                self._retry_at(now + (wait or RETRY_SECONDS * self._context.fraction()))
            else:
                self._context.callbacks.failed(self.config.name, now)
            return
        sa.close()
        if sa is not self.sa:
            return  # one that another has replaced already
        self.sa = None
        self.children.clear()
        self._context.events.append(IkeDown(self.config.name, reason))
        if self.config.initiate and self.attempt is None:
            self._retry_at(now + wait)

    def childless(self, reason: str, now: float) -> None:
        """End the IKE SA, which has no usable CHILD_SA any more: start over, both of us."""
        if self.sa is not None:
            self.sa.send(farewell(self.sa))
            self.tickets.void()
            self.sa_failed(self.sa, reason, now)

    def remove(self, now: float) -> None:
        """End everything, and tell the peer once."""
        self._removed = True
        for timer in (self._retry, self._watch, self._unanswered, self._keepalive):
            if timer is not None:
                timer.cancel()
        self._drop_attempt()
        self._context.callers.expect(self.config.name, ())
        self._context.callbacks.left(self.config.name, now)
        if self.sa is not None:
            sa, self.sa = self.sa, None
            sa.send(farewell(sa))
            sa.close()
            self.children.clear()
            self._context.events.append(IkeDown(self.config.name, "removed"))
