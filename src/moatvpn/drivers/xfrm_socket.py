"""The kernel's IPsec through netlink: what it is asked to do, and the news that it has."""

from __future__ import annotations

import errno
import os
import socket
import sys

from moatvpn.drivers import xfrm_messages as xfrm
from moatvpn.drivers.netlink_codec import (
    ACKNOWLEDGE,
    CREATE,
    DONE,
    DUMP,
    ERROR,
    EXCLUSIVE,
    REQUEST,
    message,
    messages,
)
from moatvpn.drivers.sockets import BUFFER, SO_RCVBUFFORCE
from moatvpn.drivers.xfrm_messages import KernelSa, SaEvent, SaState, Selector, Template
from moatvpn.errors import OperatorError

_LONGEST = 1 << 17
_BATCH = 64
_PATIENCE = 5.0  # seconds; the kernel answers while we wait
_ERRNO = 4  # octets, at the beginning of an ERROR's body


class Netlink:
    """Requests of one netlink protocol, each answered before the next. Raises OSError."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.settimeout(_PATIENCE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def ask(self, kind: int, body: bytes, flags: int = 0) -> list[tuple[int, bytes]]:
        """Send a request; return the messages of its answer; raise OSError for a refusal."""
        return self._exchange(kind, body, flags | REQUEST | ACKNOWLEDGE)

    def dump(self, kind: int, body: bytes = b"") -> list[bytes]:
        """Return everything of a kind; body is what the question says besides."""
        return [found for _, found in self._exchange(kind, body, REQUEST | DUMP)]

    def _exchange(self, kind: int, body: bytes, flags: int) -> list[tuple[int, bytes]]:
        self._sequence += 1
        self._socket.send(message(kind, flags, self._sequence, body))
        answers: list[tuple[int, bytes]] = []
        while True:
            for kind_of_answer, sequence, content in messages(self._socket.recv(_LONGEST)):
                if sequence != self._sequence:
                    continue  # of a request that we lost patience with
                if kind_of_answer == DONE:
                    return answers
                if kind_of_answer == ERROR:
                    number = -int.from_bytes(content[:_ERRNO], sys.byteorder, signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return answers
                answers.append((kind_of_answer, content))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class XfrmSocket:
    """The SAs and policies of this network namespace that have our interface's id.

    Raises OperatorError where the kernel has no IPsec for us; methods raise OSError where it
    refuses what they ask.
    """

    def __init__(self, if_id: int) -> None:
        self.if_id = if_id
        try:
            self._requests = Netlink(socket.NETLINK_XFRM)
            self._events = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                socket.NETLINK_XFRM,
            )
            self._events.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            self._events.bind((0, xfrm.EVENT_GROUPS))
        except OSError as error:
            raise no_kernel_ipsec(error) from error

    def fileno(self) -> int:
        """Return the descriptor to wait on for news."""
        return self._events.fileno()

    def add(self, sa: KernelSa) -> None:
        """Give the kernel an SA."""
        self._requests.ask(xfrm.NEW_SA, sa.encode(), CREATE | EXCLUSIVE)

    def read(self, sa: KernelSa) -> SaState | None:
        """Return what the kernel has counted on an SA, None where it has none such."""
        try:
            answers = self._requests.ask(xfrm.GET_SA, sa.identity())
        except OSError as error:
            if error.errno == errno.ESRCH:
                return None
            raise
        return next((xfrm.read_sa(body) for kind, body in answers if kind == xfrm.NEW_SA), None)

    def delete(self, sa: KernelSa) -> None:
        """Have the kernel forget an SA, if it knows it."""
        self._forget(xfrm.DEL_SA, sa.identity())

    def set_policy(
        self, direction: int, selector: Selector, template: Template, priority: int
    ) -> None:
        """Have raw packets of selector use template, whatever they used before."""
        body = xfrm.set_policy(direction, selector, template, priority, self.if_id)
        self._requests.ask(xfrm.UPDATE_POLICY, body)

    def delete_policy(self, direction: int, selector: Selector) -> None:
        """Have the kernel forget a policy, if it knows it."""
        self._forget(xfrm.DEL_POLICY, xfrm.delete_policy(direction, selector.encode(), self.if_id))

    def _forget(self, kind: int, body: bytes) -> None:
        try:
            self._requests.ask(kind, body)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise

    def clear(self) -> None:
        """Have the kernel forget every SA and policy of our interface, whoever made them."""
        for body in self._requests.dump(xfrm.GET_SA):
            if xfrm.sa_if_id(body) == self.if_id:
                self._forget(xfrm.DEL_SA, xfrm.sa_identity(body))
        for body in self._requests.dump(xfrm.GET_POLICY):
            direction, selector, if_id = xfrm.policy_key(body)
            if if_id == self.if_id:
                self._forget(xfrm.DEL_POLICY, xfrm.delete_policy(direction, selector, if_id))

    def events(self) -> list[SaEvent]:
        """Return the news that wait now.

        Some may be missing where there were very many: what goes on is told again.
        """
        found: list[SaEvent] = []
        for _ in range(_BATCH):
            try:
                data, (sender, _) = self._events.recvfrom(_LONGEST)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: the kernel had more to tell than the buffer holds
                continue
            if sender == 0:  # from the kernel, not from another process
                news = (xfrm.read_event(kind, body) for kind, _, body in messages(data))
                found += [event for event in news if event is not None]
        return found

    def close(self) -> None:
        """Close the sockets. The SAs and policies stay."""
        self._requests.close()
        self._events.close()


def no_kernel_ipsec(error: OSError) -> OperatorError:
    """Return the error that tells a person that this kernel has no IPsec for us."""
    remedy = "Load the modules xfrm_user, xfrm_interface and esp4, or set data_plane to python"
    if isinstance(error, PermissionError):
        remedy = "Run moatd with CAP_NET_ADMIN, as its unit does"
    return OperatorError(
        "the kernel's IPsec", f"cannot be used ({error.strerror or error})", remedy
    )
