"""Notice of changes of this machine's own addresses, links and routes (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct

from moatvpn.errors import OperatorError

_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
# RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE. Routes count, too:
# which of our addresses leads to a peer is a matter of them, and a lease's route comes last.
_CHANGES = frozenset({16, 17, 20, 21, 24, 25})
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, sender
_LONGEST = 65536
_BATCH = 64

# An address comes as a flock of messages, and its route just after it: wait until they have
# settled, but not longer than the second number however many there are. Seconds.
_SETTLE = 0.25
_AT_MOST = 2.0


def tells_of_change(data: bytes) -> bool:
    """Return whether any of the netlink messages in data tells of a change."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if kind in _CHANGES:
            return True
        if length < _HEADER.size:
            return False
        offset += (length + 3) & ~3
    return False


class Debounce:
    """Turns a flock of changes into one. Times are seconds of the daemon's clock."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0

    def note(self, now: float) -> None:
        """Take a change in."""
        if self._first is None:
            self._first = now
        self._last = now

    def deadline(self) -> float | None:
        """Return when fire is due, None where nothing has changed."""
        if self._first is None:
            return None
        return min(self._last + _SETTLE, self._first + _AT_MOST)

    def fire(self, now: float) -> bool:
        """Return, once for each flock, that it has settled."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return False
        self._first = None
        return True


class AddressMonitor:
    """A netlink socket that hears of changed IPv4 addresses and links.

    Raises OperatorError where it cannot be opened.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            self._socket.setblocking(False)
            self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE))
        except OSError as error:
            raise OperatorError(
                "netlink socket",
                f"cannot be opened ({error.strerror})",
                "Allow AF_NETLINK in moatd's unit (RestrictAddressFamilies=)",
            ) from error

    def fileno(self) -> int:
        """Return the descriptor to wait on for changes."""
        return self._socket.fileno()

    def changed(self) -> bool:
        """Return whether what waits now tells of a change; what does not fit counts as one."""
        changed = False
        for _ in range(_BATCH):
            try:
                data, (sender, _) = self._socket.recvfrom(_LONGEST)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: the kernel had more to tell than the buffer holds
                changed = True
                continue
            if sender == 0:  # from the kernel, not from another process
                changed = tells_of_change(data) or changed
        return changed

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
