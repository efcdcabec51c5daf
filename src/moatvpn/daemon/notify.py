"""What moatd tells its service manager (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends state to the service manager; does nothing where there is none.

    interval is how often, in seconds, the manager wants to hear WATCHDOG=1; None where never.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero octet of an abstract socket.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.interval = _watchdog_interval(environment)

    def send(self, *lines: str) -> None:
        """Send assignments such as READY=1; a manager that does not listen is no error."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Return half of the manager's patience, as sd_watchdog_enabled(3) advises."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(environment.get("WATCHDOG_USEC", "0"))
        if microseconds > 0:
            return microseconds / 2e6
    return None
