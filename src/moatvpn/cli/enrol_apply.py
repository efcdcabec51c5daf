"""Puts a moat's connections in force: all of them or none, and back again where no tunnel comes up.

The connections of moatd's directory become exactly those of the configuration. One that is the same
in both is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from moatvpn.cli.client import DaemonNotRunningError, DaemonUnreachableError, ask
from moatvpn.cli.store import Store
from moatvpn.config import ConnectionConfig, connection_to_dict
from moatvpn.daemon.admission import connection_files, read_connection
from moatvpn.errors import ConfigError, OperatorError

_POLL = 0.25  # seconds

Connections = Mapping[str, ConnectionConfig]


class Tunnels:
    """The connections of one moatd: their directory, and its control socket."""

    def __init__(self, directory: Path, control_socket: Path) -> None:
        self._directory = directory
        self._socket = control_socket

    def stored(self) -> dict[str, ConnectionConfig]:
        """Return the sound connections of the directory by name; raise ConfigError for no such."""
        found = {}
        for path in connection_files(self._directory):
            try:
                found[path.stem] = read_connection(path)
            except ConfigError:
                continue  # moatd leaves it out, too
        return found

    def change(self, wanted: Connections) -> bool:
        """Have the connections wanted and no others; return whether that changed anything.

        Raises OperatorError where moatd or the disk refuses; then all is as it was.
        """
        before = self.stored()
        names = {path.stem for path in connection_files(self._directory)}
        gone = sorted(names - wanted.keys())
        new = [each for name, each in sorted(wanted.items()) if before.get(name) != each]
        if not gone and not new:
            return False
        store = Store(self._directory)
        done: list[str] = []
        with store.locked():
            try:
                with ExitStack() as files:
                    # What goes makes room: two connections may not claim the same networks.
                    for name in gone:
                        files.enter_context(store.removing(name))
                        self._tell({"command": "delete", "name": name})
                        done.append(name)
                    for each in new:
                        files.enter_context(store.writing(each))
                        record = connection_to_dict(each)
                        self._tell({"command": "replace", "connection": record})
                        done.append(each.name)
            except BaseException:
                self._undo(done, before)
                raise
        return True

    def _undo(self, names: list[str], before: Connections) -> None:
        for name in reversed(names):
            if name not in before:
                self._tell({"command": "delete", "name": name})
        for name in names:
            if name in before:
                record = connection_to_dict(before[name])
                self._tell({"command": "replace", "connection": record})

    def _tell(self, request: dict[str, Any]) -> None:
        try:
            ask(self._socket, request)
        except DaemonNotRunningError:
            return  # it reads the files when it starts

    def up(self, connections: Connections) -> bool:
        """Return whether one of connections is up that this side sets up.

        A moatd that does not answer has none.
        """
        wanted = {name for name, each in connections.items() if each.initiate}
        try:
            rows = ask(self._socket, {"command": "status"})["connections"]
        except DaemonUnreachableError:
            return False
        found = {row["name"] for row in rows if row["state"] == "established"}
        return bool(wanted & found)

    def apply(
        self,
        wanted: Connections,
        patience: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Have the connections wanted, and go back where that costs the tunnels that were up.

        Return False where it went back, since the tunnels were not up patience seconds later. Where
        none was up before, there is nothing to go back to: what is newer is kept. Raises
        OperatorError like change.
        """
        before = self.stored()
        was_up = self.up(before)
        if not self.change(wanted) or not was_up:
            return True
        end = clock() + patience
        while not self.up(wanted):
            if clock() >= end:
                self.change(before)
                return False
            sleep(_POLL)
        return True


def tunnels_of(directory: Path, control_socket: Path) -> Tunnels:
    """Return the connections of a moatd; raise OperatorError where their directory is none."""
    if not directory.is_dir():
        raise OperatorError(str(directory), "is no directory", "Install moatvpn with Ansible")
    return Tunnels(directory, control_socket)
