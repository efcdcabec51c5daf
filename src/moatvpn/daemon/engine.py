"""The engine: joins the IKE core and the ESP processor. It does no input or output itself.

Packets and messages go in with the time, and what is to be sent comes out; a driver loop
(forwarder.py) moves them. Calls on the path of every packet are kept few: what IKE wants to know
about traffic it is told at most twice a second and connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypedDict

from moatvpn.config import ConnectionConfig
from moatvpn.counters import Counters
from moatvpn.crypto.sign import Signer
from moatvpn.daemon.connections import Connections
from moatvpn.daemon.keylog import KeyLog
from moatvpn.daemon.log import LogCall
from moatvpn.daemon.state import Memory, NoMemory
from moatvpn.daemon.status import (
    assigned_row,
    connection_detail,
    connection_row,
    failure_detail,
)
from moatvpn.drivers.interfaces import Addresses
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.esp.dataplane import DataPlane
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.ike.events import (
    ChildActivate,
    ChildDown,
    ChildUp,
    Configured,
    IkeDown,
    IkeEvent,
    IkeRekeyed,
    IkeUp,
    LocalAddress,
    Notice,
    PeerMoved,
)
from moatvpn.ike.secrets import NO_SECRETS, ConnectionSecrets
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_config import Assigned


def _none(config: ConnectionConfig) -> ConnectionSecrets:
    return NO_SECRETS


class Beside(TypedDict, total=False):
    """What an engine may have besides: see Engine."""

    memory: Memory | None
    addresses: Addresses | None
    keys: KeyLog | None
    secrets: Callable[[ConnectionConfig], ConnectionSecrets]


class Engine:
    """One daemon's connections, their keys and their traffic. Times are the daemon's clock's."""

    def __init__(
        self,
        ike: IkeEndpoint,
        esp: DataPlane,
        counters: Counters,
        log: LogCall,
        memory: Memory | None = None,
        addresses: Addresses | None = None,
        keys: KeyLog | None = None,
        secrets: Callable[[ConnectionConfig], ConnectionSecrets] = _none,
        one_for_each_network: bool = False,
    ) -> None:
        self._ike = ike
        self._esp = esp
        self._counters = counters
        self._log = log
        self._memory = memory or NoMemory()
        self._addresses = addresses
        self._keys = keys
        if keys is not None:
            ike.reveal_keys_to(keys.ike)
        self._assigned: dict[str, Assigned] = {}  # to us, by connection
        self._connections = Connections(one_for_each_network=one_for_each_network)
        self._read_secrets = secrets
        self._secrets: dict[str, ConnectionSecrets] = {}
        self._outbox: list[Datagram] = []

    # Traffic

    def carried(self, name: str, inbound: bool, now: float) -> None:
        """Take in that envelopes of a connection came in, all authentic, or went out."""
        if inbound:
            self._ike.note_inbound(name, now)
        else:
            self._ike.note_outbound(name, now)
            self.rekey_worn(now)
        self._settle()

    def peer_seen_at(self, name: str, peer: Endpoint, now: float) -> None:
        """Take in that a connection's newest authentic envelope came from another address."""
        self._ike.peer_moved(name, peer, now)
        self._settle()

    def rekey_worn(self, now: float) -> None:
        """Start the rekeys that the traffic makes due."""
        for worn in self._esp.rekeys_wanted():
            try:
                self._ike.rekey(worn, "child", now)
            except OperatorError as error:
                self._log("warning", f"no rekey of a worn SA: {error}", worn)
        self._settle()

    # Messages and time

    def from_ike(self, datagram: Datagram, now: float) -> None:
        """Take one IKE message in. Hostile ones are counted and dropped."""
        self._ike.receive_datagram(datagram, now)
        self._settle()

    def datagrams_to_send(self) -> list[Datagram]:
        """Return, once, the IKE messages that are to be sent now."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def get_timer(self) -> float | None:
        """Return when handle_timer is due, None where it is not."""
        return self._ike.get_timer()

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._ike.handle_timer(now)
        self._settle()

    def local_address_changed(self, now: float) -> None:
        """Take in that this machine's own addresses or links have changed."""
        self._ike.local_address_changed(now)
        self._settle()

    def shutdown(self, now: float) -> None:
        """Tell every peer that its SAs end. Afterwards nothing is carried."""
        self._ike.shutdown(now)
        self._settle()
        for config in self._connections:
            self._configure(config.name, Assigned())
            self._esp.remove_connection(config.name)

    # Connections

    def add(self, config: ConnectionConfig, now: float) -> None:
        """Add a connection; raise OperatorError where it cannot stand beside the others."""
        if self._connections.get(config.name) is not None:
            raise ConfigError(
                f"connection {config.name}", "is there already", "Use `moatctl replace`"
            )
        self.replace(config, now)

    def replace(self, config: ConnectionConfig, now: float) -> bool:
        """Put config in place of the connection of its name, if there is one; touch no other.

        Returns False where that one equals config, files it names included, and is left as it is.
        Raises OperatorError, with nothing changed, where config cannot stand beside the others,
        or a file is not sound.
        """
        present = self._connections.get(config.name)
        secrets = self._read_secrets(config)
        if present == config and self._secrets.get(config.name) == secrets:
            return False
        self._connections.check(config)
        if present is not None and self._in_place(present, config, secrets, now):
            self._connections.put(config)
            self._settle()
            return True
        if present is not None:
            self._remove(config.name, now)
        self._connections.put(config)
        self._secrets[config.name] = secrets
        if config.metric:
            self._esp.set_metric(config.name, config.metric)
        self._ike.add_connection(config, now, secrets)
        self._settle()
        return True

    def _in_place(
        self,
        present: ConnectionConfig,
        config: ConnectionConfig,
        secrets: ConnectionSecrets,
        now: float,
    ) -> bool:
        """Take another metric and other public keys in place, if that is all.

        Keys are taken so where the IKE SA is by one that stays.
        """
        alike = _settled(present) == _settled(config)
        if not alike or self._secrets.get(config.name) != secrets:
            return False
        if replace(config, metric=present.metric) != present:
            raw = config.authentication == "raw-public-key"
            if not raw or not self._ike.change_keys(config, now):
                return False
        if config.metric != present.metric:
            self._esp.set_metric(config.name, config.metric)
        return True

    def use_keys(self, signers: tuple[Signer, ...], now: float) -> int:
        """Prove the first of signers from now on; return how many connections begin to."""
        begun = self._ike.use_keys(signers, now)
        self._settle()
        return begun

    def delete(self, name: str, now: float) -> bool:
        """Take the connection of that name down and forget it; return whether there was one."""
        if self._connections.get(name) is None:
            return False
        self._remove(name, now)
        self._memory.note(name, None)
        return True

    def has(self, name: str) -> bool:
        """Return whether there is a connection of that name."""
        return self._connections.get(name) is not None

    def call_back(self, name: str, peer: Endpoint, now: float) -> None:
        """Call the peer of a connection that waits, where it was before a restart of ours."""
        self._ike.remember_peer(name, peer, now)
        self._settle()

    def redirect(self, name: str | None, gateway: str | None, now: float) -> int:
        """Send the peer of a connection, with None every peer, to another gateway; None: stop.

        Returns how many have been told at once. Raises OperatorError where there is no such name.
        """
        if name is not None:
            self._connections.expect(name)
            names = [name]
        else:
            self._ike.redirect_all(gateway)
            names = [config.name for config in self._connections if not config.initiate]
        told = sum(self._ike.redirect(each, gateway, now) for each in names)
        self._settle()
        return told

    def rekey(self, name: str, sa: Literal["child", "ike"], now: float) -> None:
        """Start the rekey of an SA; raise OperatorError where there is none to rekey."""
        self._connections.expect(name)
        self._ike.rekey(name, sa, now)
        self._settle()

    def status(self, now: float) -> dict[str, Any]:
        """Return every connection's row and the counters of drops, as a JSON object.

        The rows are made one by one, as they are asked for: thousands of them take a while.
        """
        return {
            "connections": self._rows(now),
            "drops": self._counters.snapshot(),
            "insecure": self._keys is not None,
            "strangers": [failure_detail(record, now) for record in self._ike.strangers()],
        }

    def show(self, name: str, now: float) -> dict[str, Any]:
        """Return one connection's row and settings; raise OperatorError where there is none."""
        config = self._connections.expect(name)
        return connection_detail(config, self._row(config, now))

    # Within

    def _rows(self, now: float) -> Iterator[dict[str, Any]]:
        for name in [config.name for config in self._connections]:
            config = self._connections.get(name)
            if config is not None:  # it may have gone since the first row
                yield self._row(config, now)

    def _row(self, config: ConnectionConfig, now: float) -> dict[str, Any]:
        name = config.name
        row = connection_row(config, self._ike.status(name), self._esp.statistics(name), now)
        assigned = self._assigned.get(name)
        return row | {"assigned": None if assigned is None else assigned_row(assigned)}

    def _configure(self, name: str, assigned: Assigned) -> None:
        """Take what the peer has assigned, in place of what it had; it stays while calls repeat."""
        if self._assigned.get(name, Assigned()) == assigned:
            return
        if assigned == Assigned():
            del self._assigned[name]
        else:
            self._assigned[name] = assigned
            told = ", ".join((*assigned.addresses, *assigned.dns)) or "no address"
            self._log("info", f"assigned by the peer: {told}", name)
        if self._addresses is not None:
            try:
                self._addresses.set(name, assigned.addresses)
            except OperatorError as error:
                self._log("error", str(error), name)

    def _remove(self, name: str, now: float) -> None:
        self._ike.remove_connection(name, now)
        self._settle()
        self._configure(name, Assigned())
        self._esp.remove_connection(name)
        self._connections.remove(name)
        self._secrets.pop(name, None)

    def _speaks_from(self, name: str, host: str) -> None:
        """Tell the data plane from which of our addresses a connection is spoken."""

    def _settle(self) -> None:
        """Take what the IKE core has to tell: first what the data plane needs, then messages."""
        while (event := self._ike.next_event()) is not None:
            self._apply(event)
        self._outbox += self._ike.datagrams_to_send()

    def _seen_at(self, name: str, peer: Endpoint) -> None:
        """Remember where the peer of a connection that waits has authenticated itself from."""
        config = self._connections.get(name)
        if config is not None and not config.initiate:
            self._memory.note(name, peer)

    def _apply(self, event: IkeEvent) -> None:
        match event:
            case ChildUp(child, peer, replaces, activate_outbound):
                if self._keys is not None:
                    self._keys.child(child)
                self._esp.install(child, peer, activate_outbound=activate_outbound)
                how = "up" if replaces is None else f"up in place of {replaces:#010x}"
                way = f"{_way(child.udp)}, {peer}"
                self._log(
                    "info",
                    f"CHILD_SA {child.spi_in:#010x} {how}: {child.suite.value}, {way}",
                    child.connection,
                )
            case ChildActivate(connection, spi_in):
                self._esp.activate(spi_in)
            case ChildDown(connection, spi_in):
                self._esp.remove(spi_in)
                self._log("info", f"CHILD_SA {spi_in:#010x} down", connection)
            case PeerMoved(connection, peer, udp):
                self._esp.set_peer(connection, peer, udp=udp)
                self._seen_at(connection, peer)
                self._log("info", f"peer is at {peer} now, {_way(udp)}", connection)
            case LocalAddress(connection, host):
                self._speaks_from(connection, host)
            case IkeUp(connection, peer, initiator):
                self._seen_at(connection, peer)
                role = "initiator" if initiator else "responder"
                self._log("info", f"IKE SA up as {role}, peer {peer}", connection)
            case IkeDown(connection, reason):
                self._log("warning", f"IKE SA down: {reason}", connection)
            case IkeRekeyed(connection):
                self._log("info", "IKE SA rekeyed", connection)
            case Configured(connection, assigned):
                self._configure(connection, assigned)
            case Notice(connection_or_none, level, text):
                self._log(level, text, connection_or_none)


def _settled(config: ConnectionConfig) -> ConnectionConfig:
    """Return what of a connection is not changed in place."""
    gateways = tuple(replace(gateway, public_keys=()) for gateway in config.redirect_gateways)
    return replace(config, metric=0, remote_public_keys=(), redirect_gateways=gateways)


def _way(udp: bool) -> str:
    return "in UDP" if udp else "as protocol 50"
