"""moatd: reads its settings, opens its devices, and runs the loop until it is told to end."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from moatvpn.config import (
    DaemonConfig,
    daemon_from_dict,
    load_json,
)
from moatvpn.counters import Counters
from moatvpn.daemon.admission import Admission, connection_files
from moatvpn.daemon.commands import Commands
from moatvpn.daemon.control import ControlServer, Peer
from moatvpn.daemon.credentials import Credentials
from moatvpn.daemon.keyfile import read_signers
from moatvpn.daemon.keylog import KeyLog
from moatvpn.daemon.log import Log, default_sink
from moatvpn.daemon.notify import Notifier
from moatvpn.daemon.planes import Planes
from moatvpn.daemon.state import PeerJournal
from moatvpn.daemon.ticketfile import TicketKeyFile
from moatvpn.deadlines import earliest
from moatvpn.drivers.allocator import keep_freed_memory
from moatvpn.drivers.clock import monotonic, wall_clock
from moatvpn.drivers.loop import Loop
from moatvpn.drivers.netlink import AddressMonitor, Debounce
from moatvpn.drivers.udp import local_address_towards
from moatvpn.errors import OperatorError
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.ike.tickets import TicketKeys

# Python looks for cyclic garbage among what is young, and as good as never among everything: with
# 10,000 tunnels that takes a second, in which nothing moves. Tunnels leave none behind.
_COLLECTOR = (1_000, 10, 10_000)


def _ticket_keys(state: Path | None, log: Log) -> TicketKeys:
    """Return what makes tickets, with the keys of before our restart where they were kept."""
    if state is None:
        return TicketKeys(os.urandom, wall_clock)
    file = TicketKeyFile(state, log)
    return TicketKeys(os.urandom, wall_clock, file.load(), file.save)


class Daemon:
    """All of moatd in one process. Raises OperatorError where something cannot be opened."""

    def __init__(
        self, config: DaemonConfig, log: Log, counters: Counters, notifier: Notifier
    ) -> None:
        self._config = config
        self._log = log
        self._notifier = notifier
        self._clock = monotonic
        self._debounce = Debounce()
        self._watchdog: float | None = None
        with ExitStack() as stack:
            self._loop = stack.enter_context(closing(Loop(self._clock)))
            planes = Planes(config, log, counters, self._clock, self._loop, stack)
            planes.open_devices()  # before the private key is here: no worker is to have it
            signers = read_signers(config.private_key)
            signer = signers[0]
            credentials = Credentials(config, signer, wall_clock, log)
            self._monitor = stack.enter_context(closing(AddressMonitor()))
            ike = IkeEndpoint(
                config.identity,
                signer,
                counters,
                os.urandom,
                local_address_towards,
                certificates=credentials.certificates,
                own_hosts=config.wild_addresses,
                tickets=_ticket_keys(config.state, log),
                abilities=planes.abilities,
            )
            ike.use_keys(signers, self._clock())
            self._memory: PeerJournal | None = None
            if config.state is not None:
                self._memory = stack.enter_context(closing(PeerJournal(config.state, log)))
            keys = None
            if config.insecure_write_keys_for_wireshark is not None:
                keys = KeyLog(config.insecure_write_keys_for_wireshark, log)
                stack.enter_context(closing(keys))
            self._engine, self._forwarder = planes.open(
                ike, memory=self._memory, keys=keys, secrets=credentials.secrets
            )
            self._commands = Commands(self._engine, log, self._clock, credentials.signers)
            control = ControlServer(config.control_socket, self._loop, self._clock, self._command)
            self._control = stack.enter_context(closing(control))
            self._loop.watch(self._monitor, self._addresses)
            self._open = stack.pop_all()

    def load_connections(self) -> None:
        """Add the connections of the directory; one that is broken is logged, and left out.

        Raises OperatorError where nobody can tell which are to be left out.
        """
        admission = Admission(self._config)
        for path in connection_files(self._config.connections):
            try:
                self._engine.add(admission.read(path), self._clock())
            except OperatorError as error:
                self._log("error", f"left out {path}: {error}", path.stem)
        self._call_back()
        self._forwarder.flush()

    def _call_back(self) -> None:
        """Call the peers that were up before our restart, and forget those of no connection."""
        if self._memory is None:
            return
        peers = self._memory.peers()
        for name, peer in peers.items():
            if self._engine.has(name):
                self._engine.call_back(name, peer, self._clock())
            else:
                self._memory.note(name, None)
        if peers:
            self._log("info", f"calling the peers of {len(peers)} connections where they were")

    def run(self) -> None:
        """Carry packets until SIGTERM or SIGINT; then tell the peers, and close everything."""
        with self._open:
            self._loop.handle_signals((signal.SIGTERM, signal.SIGINT), self._end)
            self.load_connections()
            self._feed_watchdog()
            self._notifier.send("READY=1")
            self._log("info", f"ready as {self._config.identity}")
            self._loop.run(self._deadline, self._handle_timers)
            self._notifier.send("STOPPING=1")
            self._engine.shutdown(self._clock())
            self._forwarder.flush()
            self._log("info", "stopped")

    def _end(self, number: int) -> None:
        self._log("info", f"stopping on {signal.Signals(number).name}")
        self._loop.stop()

    def _command(self, request: dict[str, Any], peer: Peer) -> Any:
        try:
            return self._commands(request, peer)
        finally:
            self._forwarder.flush()

    def _addresses(self) -> None:
        if self._monitor.changed():
            self._debounce.note(self._clock())

    def _deadline(self) -> float | None:
        return earliest(
            self._engine.get_timer(),
            self._control.deadline(),
            self._debounce.deadline(),
            self._watchdog,
        )

    def _handle_timers(self) -> None:
        now = self._clock()
        if self._debounce.fire(now):
            self._engine.local_address_changed(now)
        self._forwarder.handle_timer()
        self._control.handle_timer(now)
        if self._watchdog is not None and now >= self._watchdog:
            self._feed_watchdog()

    def _feed_watchdog(self) -> None:
        if self._notifier.interval is not None:
            self._notifier.send("WATCHDOG=1")
            self._watchdog = self._clock() + self._notifier.interval


def main(arguments: list[str] | None = None) -> int:
    """Run moatd; return its exit status: 0 after an orderly end, 1 where it cannot start."""
    parser = argparse.ArgumentParser(prog="moatd", description="Carries a box's IPsec tunnels.")
    parser.add_argument("--config", type=Path, default=Path("/etc/moatvpn/moatd.json"))
    path = parser.parse_args(arguments).config
    gc.set_threshold(*_COLLECTOR)
    keep_freed_memory()
    counters = Counters()
    log = Log(default_sink(os.environ), counters)
    try:
        config = daemon_from_dict(load_json(path), str(path))
        log.set_level(config.log_level)
        daemon = Daemon(config, log, counters, Notifier(os.environ))
        daemon.run()
    except OperatorError as error:
        log("error", str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
