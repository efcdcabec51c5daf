"""One connection: keeps an IKE SA and a CHILD_SA up for as long as it is configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moatvpn.config import ConnectionConfig, Gateway
from moatvpn.esp.child import ChildSa
from moatvpn.ike import init, resumption
from moatvpn.ike.addresses import Addresses
from moatvpn.ike.answering import ike_policy
from moatvpn.ike.authentication.contract import Authentication
from moatvpn.ike.authentication.raw_key import RawKeyAuthentication
from moatvpn.ike.backoff import Backoff
from moatvpn.ike.children import Children
from moatvpn.ike.context import Context
from moatvpn.ike.diagnosis import FailureRecord
from moatvpn.ike.events import Configured, IkeDown, IkeUp, PeerMoved
from moatvpn.ike.failure import Failure, no_answer
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.informational import farewell
from moatvpn.ike.init import InitSecrets
from moatvpn.ike.liveness import Liveness
from moatvpn.ike.ppk import Ppk
from moatvpn.ike.reauthentication import DELETE_AFTER, Reauthentication, retire
from moatvpn.ike.redirect import Redirects
from moatvpn.ike.rekey import RekeyIkeTask, hand_over
from moatvpn.ike.resumption import Tickets
from moatvpn.ike.scheduler import Deadline
from moatvpn.ike.state import State
from moatvpn.wire.endpoint import IKE_PORT, Endpoint
from moatvpn.wire.ike_config import Assigned

RETRY_SECONDS = 1.0
START_SPREAD = 0.2  # seconds over which connections of one box start, so that they don't at once


class Connection:
    """The life of one configured connection.

    sa is the IKE SA that is established and in use. attempt is one that we are setting up: because
    there is none yet, or because sa does not answer. up_since is when the tunnel came up that has
    been kept up since, by rekeys and by IKE SAs that were set up beside a living one.
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
        self.up_since: float | None = None
        self.attempt: tuple[IkeSa, InitSecrets] | None = None
        self.children = Children(context, self)
        self.addresses = Addresses(context, self)
        self.tickets = Tickets(self)
        self.redirects = Redirects(self, gateways)
        self.reauthentication = Reauthentication(self)
        self.liveness = Liveness(context, self, now)
        self._retry: Deadline | None = None
        self._removed = False
        if config.initiate:
            self.expect_calls()
            self._retry_at(now + START_SPREAD * context.fraction())

    # Who we are to the peer

    def method(self, sa: IkeSa) -> Authentication:
        """Return what proves both sides of an IKE SA that is not resumed."""
        if sa.gateway is not None:
            return self.redirects.gateways[sa.gateway]
        return self.authentication

    def key_refused(self, sa: IkeSa) -> None:
        """Take in that the peer does not accept the key that we proved ourselves by."""
        method = self.method(sa)
        if isinstance(method, RawKeyAuthentication):
            method.refused(sa.local_key)

    def renew_key(self) -> None:
        """Prove our first key from now on."""
        for method in (self.authentication, *self.redirects.gateways.values()):
            if isinstance(method, RawKeyAuthentication):
                method.renew()

    @property
    def replaces_living(self) -> bool:
        """Return whether a call of ours is to replace an IKE SA that goes on meanwhile."""
        return self.sa is not None and not self.sa.silent and self.reauthentication.due

    # Setting up

    def _retry_at(self, when: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._context.scheduler.at(when, self.begin)

    def begin(self, now: float) -> None:
        """Start an IKE SA where the peer is configured, with everything fresh, if one is needed."""
        address = self.config.remote_address
        gateway = self.redirects.target
        needed = self.sa is None or self.sa.silent or self._moving
        if self._removed or address is None or not needed:
            return
        self._drop_attempt()
        host = self.addresses.where_to_call(address) if gateway is None else gateway.address
        attempt = self.attempt_at(Endpoint(host, IKE_PORT), IKE_PORT, now)
        if attempt is None:
            self._retry_at(now + RETRY_SECONDS)
        else:
            attempt.gateway = gateway

    @property
    def _moving(self) -> bool:
        """Return whether there is to be another IKE SA though the one that we have is well."""
        return self.redirects.pending or self.reauthentication.due

    def attempt_at(self, remote: Endpoint, port: int, now: float) -> IkeSa | None:
        """Start an IKE SA with remote from our port, unless one is or goes up; None for no way."""
        host = self._context.local_address(remote.host)
        busy = self.sa is not None and not self.sa.silent and not self._moving
        if host is None or self.attempt is not None or busy:
            return None
        force_udp = self.config.encapsulation == "udp"
        context, local, name = self._context, Endpoint(host, port), self.config.name
        proves = self.reauthentication.due  # which a ticket would not do
        ticket = None if proves else self.tickets.usable(remote.host, now)
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

    def established(self, sa: IkeSa, child: ChildSa, now: float, *, beside: bool) -> None:
        """Take a freshly authenticated IKE SA and its CHILD_SA, in place of any older one.

        beside: whoever called has an older one that goes on meanwhile, so nothing is lost.
        """
        if self.attempt is not None and self.attempt[0] is sa:
            self.attempt = None
        self._drop_attempt()
        self._backoff.reset()
        self._context.callbacks.left(self.config.name, now)
        if sa.expires is not None:
            sa.expires.cancel()
        sa.forget_half_open()
        sa.move(State.ESTABLISHED)
        beside = beside and self.sa is not None
        if not beside:
            self.up_since = now
        if beside and not sa.initiator:
            sa.connection = self.config.name
            self.children.add(sa, child, None, False, now)
            self.reauthentication.offered(sa, child.spi_in, now)
            return
        self.reauthentication.drop()
        self.reauthentication.ended()
        old, old_children = self.sa, list(self.children.records)
        self._begin_with(sa, now)
        self.children.add(sa, child, None, True, now)
        moved = self.redirects.arrived(sa)
        if beside and old is not None and not moved:
            self.children.superseded(old_children, child.spi_in, DELETE_AFTER, now)
            retire(old, now, delete=True)
        else:
            for spi_in in old_children:
                self.children.gone(spi_in)
        self.children.fill(now)
        if old is not None and not (beside and not moved):
            if moved:
                old.send(farewell(old))
            old.close()
        self.reauthentication.plan(now)

    def _begin_with(self, sa: IkeSa, now: float) -> None:
        self.addresses.begin(sa)
        self.adopt(sa, now)
        self.tickets.began(sa)
        self._context.events.append(IkeUp(self.config.name, sa.remote, sa.initiator))
        self.liveness.began(now)

    def take_over(self, sa: IkeSa, spi_in: int, now: float) -> None:
        """Go over to an IKE SA that the peer has set up beside ours, and its CHILD_SA spi_in."""
        old = self.sa
        peer, udp = self.addresses.peer, old.nat if old is not None else sa.nat
        old_children = [spi for spi in self.children.records if spi != spi_in]
        self._begin_with(sa, now)
        if (peer, udp) != (sa.remote, sa.nat):
            self._context.events.append(PeerMoved(self.config.name, sa.remote, sa.nat))
        self.children.activate(spi_in)
        self.children.superseded(old_children, spi_in, DELETE_AFTER, now)
        if old is not None:
            retire(old, now, delete=False)
        self.children.fill(now)
        self.reauthentication.plan(now)

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
        self.liveness.keep_mapping(now)

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
        self.reauthentication.used(sa, now)
        if self.sa is not None and self.sa.rival is not None and self.sa.rival[0] is sa:
            hand_over(self, self.sa, sa, now)

    def sa_deleted(self, sa: IkeSa, now: float) -> None:
        """Take in that the peer deleted an IKE SA."""
        candidate = self.reauthentication.candidate
        if sa is self.sa and candidate is not None:
            self.reauthentication.used(candidate, now)
        if sa is self.sa and sa.rival is not None and sa.rival[0].state is not State.CLOSED:
            hand_over(self, sa, sa.rival[0], now)
        if sa is self.sa:
            self.tickets.void()
        self.sa_failed(sa, "the peer deleted the IKE SA", now)

    # What is heard of the peer, and what is not

    def inbound(self, now: float) -> None:
        """Something authentic came from the peer."""
        self.liveness.inbound(now)
        # Once IKE_AUTH has left, the peer may have replaced our IKE SA already: then go on.
        if self.sa is None or self.attempt is None or self._moving:
            return
        if self.attempt[0].state is not State.AUTH_SENT:
            self._drop_attempt()

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
            self.liveness.check(now)  # another network may have given us the same address

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
        if self.reauthentication.lost(sa):
            return
        if sa is self.sa and self.reauthentication.candidate is not None:
            self.reauthentication.used(self.reauthentication.candidate, now)
        if self.attempt is not None and self.attempt[0] is sa:
            if not refused and self.config.initiate:
                self._unreached(sa, now)
            if sa.resumed:
                self.tickets.failed(sa)
                wait = 0.0  # the next call is a full one
            self.redirects.failed(sa)
            if refused:
                self.reauthentication.ended()
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
        if self._retry is not None:
            self._retry.cancel()
        self.liveness.end()
        self._drop_attempt()
        self.reauthentication.drop()
        self._context.callers.expect(self.config.name, ())
        self._context.callbacks.left(self.config.name, now)
        if self.sa is not None:
            sa, self.sa = self.sa, None
            sa.send(farewell(sa))
            sa.close()
            self.children.clear()
            self._context.events.append(IkeDown(self.config.name, "removed"))
