"""The IKEv2 core as the daemon sees it: datagrams and the time in, datagrams and events out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from moatvpn.config import ConnectionConfig, Gateway, config_for, gateways_of
from moatvpn.counters import Counters
from moatvpn.crypto.sign import Signer
from moatvpn.errors import OperatorError
from moatvpn.esp.child import NO_ABILITIES, Abilities
from moatvpn.ike.authentication.choose import authentication_for
from moatvpn.ike.authentication.contract import Authentication
from moatvpn.ike.connection import Connection
from moatvpn.ike.context import Context, Reveal
from moatvpn.ike.diagnosis import FailureRecord
from moatvpn.ike.events import IkeEvent
from moatvpn.ike.gate import DEFAULT_LIMITS, Limits
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.ppk import ppk_for
from moatvpn.ike.reauthentication import SPREAD_SECONDS
from moatvpn.ike.reception import receive
from moatvpn.ike.redirect import RedirectTask
from moatvpn.ike.secrets import NO_CERTIFICATES, NO_SECRETS, Certificates, ConnectionSecrets
from moatvpn.ike.status import ConnectionStatus, status_of
from moatvpn.ike.tickets import TicketKeys
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.selectors import MOST_SELECTORS


class IkeEndpoint:
    """Every IKE SA of one box (RFC 7296), without a socket or a clock.

    identity is our FQDN; signer holds our key; counters takes the drops; random(n) gives n octets
    fit for keys; local_address(host) gives the address that we would send from to host, None where
    there is no way now; limits bounds what strangers cost; own_hosts are all addresses that peers
    may reach us at, where there are several; certificates is for connections that use such; tickets
    makes those that IKE SAs are resumed with, None makes none; abilities are the data plane's. now
    is seconds of a clock that never goes back.
    """

    def __init__(
        self,
        identity: str,
        signer: Signer,
        counters: Counters,
        random: Callable[[int], bytes],
        local_address: Callable[[str], str | None],
        limits: Limits = DEFAULT_LIMITS,
        own_hosts: Sequence[str] = (),
        certificates: Certificates = NO_CERTIFICATES,
        tickets: TicketKeys | None = None,
        abilities: Abilities = NO_ABILITIES,
    ) -> None:
        self._context = Context(
            identity,
            signer,
            counters,
            random,
            local_address,
            limits,
            own_hosts,
            certificates,
            tickets,
            abilities,
        )

    def reveal_keys_to(self, reveal: Reveal) -> None:
        """Tell the keys of every IKE SA from now on: for a laboratory only."""
        self._context.reveal = reveal

    # Connections

    def add_connection(
        self, config: ConnectionConfig, now: float, secrets: ConnectionSecrets = NO_SECRETS
    ) -> None:
        """Begin to keep a connection up.

        Raises OperatorError where one of that name, or to that identity, is there already, where
        secrets lacks what its authentication needs, and where the data plane cannot do its tfc.
        """
        context = self._context
        if config.name in context.connections:
            raise OperatorError(config.name, "is there already", "Use replace")
        if max(len(config.local_selectors), len(config.remote_selectors)) > MOST_SELECTORS:
            why = f"has more than {MOST_SELECTORS} networks on one side"
            raise OperatorError(config.name, why, "Join neighbouring networks to larger ones")
        if config.remote_identity in context.by_identity:
            other = context.by_identity[config.remote_identity].config.name
            why = f"connection {other} has the identity {config.remote_identity}"
            raise OperatorError(config.name, why, "Delete that one first")
        if config.hiding.asked_for and not context.abilities.tfc:
            why = f"is {config.tfc.value}, and the data plane of this box hides nothing"
            raise OperatorError(f"{config.name}: tfc", why, "Set it to off")
        authentication = authentication_for(context, config, secrets)
        ppk = ppk_for(config, secrets)
        gateways = self._gateways(config, secrets)
        connection = Connection(context, config, authentication, ppk, gateways, now)
        context.connections[config.name] = connection
        context.answering.add(config)
        context.authorities.update(authentication.authorities)
        context.by_identity[config.remote_identity] = connection

    def remove_connection(self, name: str, now: float) -> None:
        """End a connection and forget it."""
        connection = self._connection(name)
        connection.remove(now)
        del self._context.connections[name]
        del self._context.by_identity[connection.config.remote_identity]
        self._context.answering.remove(connection.config)
        self._context.authorities.subtract(connection.authentication.authorities)

    def rekey(self, name: str, sa: Literal["child", "ike"], now: float) -> None:
        """Start a rekey now; raise OperatorError where there is nothing to rekey."""
        connection = self._connection(name)
        if connection.sa is None:
            raise OperatorError(name, "is not established", "Try again when it is")
        if sa == "child":
            connection.children.rekey(None, now)
        else:
            connection.rekey_ike(now)

    def use_keys(self, signers: tuple[Signer, ...], now: float) -> int:
        """Prove the first of signers from now on, and another one to a peer that refuses it.

        Each connection that is up by another key is authenticated anew, beside what it has.
        Returns how many those are.
        """
        context = self._context
        context.signers = signers
        spread = SPREAD_SECONDS * (len(context.connections) - 1)
        for connection in context.connections.values():
            connection.renew_key()
        return sum(each.reauthentication.plan(now, spread) for each in context.connections.values())

    def change_keys(self, config: ConnectionConfig, now: float) -> bool:
        """Accept other keys of a peer's; return False where its IKE SA is by none of them.

        config differs from what the connection of its name has in public keys only. Where this
        returns False, nothing has changed.
        """
        connection = self._connection(config.name)
        sa, candidate = connection.sa, connection.reauthentication.candidate
        if sa is not None and sa.remote_key not in _keys_of(config, sa):
            return False
        if sa is None:
            connection.tickets.held = None  # whose key may be the one that is trusted no more
        if candidate is not None and candidate.remote_key not in config.public_keys():
            connection.reauthentication.drop()
        connection.config = config
        connection.authentication = authentication_for(self._context, config, NO_SECRETS)
        connection.redirects.renew(self._gateways(config, NO_SECRETS))
        connection.reauthentication.plan(now)
        return True

    def _gateways(
        self, config: ConnectionConfig, secrets: ConnectionSecrets
    ) -> dict[Gateway, Authentication]:
        """Return where a connection's peer may send us, each with what proves it."""
        return {
            gateway: authentication_for(self._context, config_for(config, gateway), secrets)
            for gateway in gateways_of(config)
        }

    def redirect(self, name: str, gateway: str | None, now: float) -> bool:
        """Send the peer of a connection to another gateway, now and whenever it calls; None: stop.

        Returns whether it has been told: it has to be up, and to understand redirects.
        """
        connection = self._connection(name)
        connection.redirects.to = gateway
        if gateway is None or connection.sa is None or not connection.sa.redirectable:
            return False
        connection.sa.start(RedirectTask(gateway), now)
        return True

    def redirect_all(self, gateway: str | None) -> None:
        """Send whoever calls from now on to another gateway, as cheaply as can be; None: stop."""
        self._context.redirect_to = gateway

    def strangers(self) -> list[FailureRecord]:
        """Return who lately failed to call us and belongs to no connection, the latest first."""
        return self._context.diagnosis.strangers()

    def status(self, name: str) -> ConnectionStatus:
        """Return how a connection is doing."""
        return status_of(self._connection(name))

    def _connection(self, name: str) -> Connection:
        try:
            return self._context.connections[name]
        except KeyError:
            raise OperatorError(
                name, "is no connection of this box", "See moatctl status"
            ) from None

    def shutdown(self, now: float) -> None:
        """End every connection in good order."""
        for name in list(self._context.connections):
            self.remove_connection(name, now)

    # What the data plane and the network tell

    def note_inbound(self, name: str, now: float) -> None:
        """An authentic envelope came in on the connection."""
        connection = self._context.connections.get(name)
        if connection is not None:
            connection.inbound(now)

    def note_outbound(self, name: str, now: float) -> None:
        """An envelope went out on the connection."""
        connection = self._context.connections.get(name)
        if connection is not None:
            connection.liveness.outbound(now)

    def peer_moved(self, name: str, peer: Endpoint, now: float) -> None:
        """The newest authentic envelope came from a new address; port 0 keeps the port."""
        connection = self._context.connections.get(name)
        if connection is not None:
            connection.addresses.envelope_from(peer, now)

    def remember_peer(self, name: str, peer: Endpoint, now: float) -> None:
        """Call the peer of a connection that waits: before a restart of ours it was at peer."""
        connection = self._context.connections.get(name)
        if connection is not None and not connection.config.initiate:
            self._context.callbacks.remember(name, peer, now)

    def local_address_changed(self, now: float) -> None:
        """Addresses or routes of this box changed."""
        for connection in list(self._context.connections.values()):
            connection.local_address_changed(now)

    # Time, output

    def get_timer(self) -> float | None:
        """Return when handle_timer wants to be called, or None."""
        return self._context.scheduler.next()

    def handle_timer(self, now: float) -> None:
        """Do what is due. A herd takes several calls: get_timer tells of what is left."""
        self._context.scheduler.run(now)

    def datagrams_to_send(self) -> list[Datagram]:
        """Return what must be sent, in its order, and forget it."""
        out, self._context.outbox = self._context.outbox, []
        return out

    def next_event(self) -> IkeEvent | None:
        """Return the oldest event that has not been taken yet, or None."""
        return self._context.events.popleft() if self._context.events else None

    # Input

    def receive_datagram(self, datagram: Datagram, now: float) -> None:
        """Take one message from outside. Whatever it holds, the worst it can do is be counted."""
        receive(self._context, datagram, now)


def _keys_of(config: ConnectionConfig, sa: IkeSa) -> tuple[bytes, ...]:
    """Return the keys that config has for whoever is at the other end of an IKE SA."""
    if sa.gateway is None:
        return config.public_keys()
    found = [gateway for gateway in gateways_of(config) if gateway.is_where(sa.gateway)]
    return config_for(config, found[0]).public_keys() if found else ()
