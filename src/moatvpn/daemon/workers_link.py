"""The private socket between moatd and one of its workers: messages, whole and in order."""

from __future__ import annotations

import select
import socket
from collections import deque
from typing import NoReturn

from moatvpn.daemon.workers_messages import (
    IkeMessage,
    Message,
    ProbeAnswered,
    ProbeAsked,
    decode,
    encode,
)
from moatvpn.errors import OperatorError

_LONGEST = 1 << 18  # octets of a message
_BUFFER = 4 << 20  # octets that the kernel may hold, where it lets us have so much
_AT_ONCE = 256  # messages that one call takes in
# What may wait when the other end is slow: beyond, what may be lost is, and then nothing works.
_MOST_LOSSY, _MOST = 1 << 10, 1 << 16
_LOSSY = (IkeMessage, ProbeAnswered, ProbeAsked)
REMEDY = "See moatd's log; its unit starts it anew"
PATIENCE = 5.0  # seconds that moatd waits for a worker to take something in, or to answer


class GoneError(OperatorError):
    """The other end of a link is closed: its process has ended."""


class Link:
    """One end of a socket pair. The other end is called name in errors.

    blocks: send waits for room, for PATIENCE, so that all that was sent has arrived before
    anything that follows elsewhere. Else nothing waits, and flush sends what is left. Only one end
    of a pair may block.
    """

    def __init__(self, sock: socket.socket, name: str, *, blocks: bool) -> None:
        self._socket = sock
        self._name = name
        self._blocks = blocks
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._view = memoryview(bytearray(_LONGEST))
        self._waiting: deque[bytes] = deque()

    def fileno(self) -> int:
        """Return the descriptor to wait on for messages."""
        return self._socket.fileno()

    @property
    def waiting(self) -> bool:
        """Return whether messages wait for flush."""
        return bool(self._waiting)

    def send(self, message: Message) -> bool:
        """Send one message, or have it wait; return False where it was dropped.

        That happens to what strangers or peers could send any number of, and may be lost anyway:
        messages of IKE and path probes. Raises OperatorError where the other end is gone.
        """
        if len(self._waiting) >= _MOST_LOSSY and isinstance(message, _LOSSY):
            return False
        octets = encode(message)
        if self._blocks:
            while not self._sent(octets):
                if not self._wait(select.POLLOUT, PATIENCE):
                    self._fail("takes nothing in")
        elif self._waiting or not self._sent(octets):
            self._waiting.append(octets)
            if len(self._waiting) > _MOST:
                self._fail("takes nothing in")
        return True

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._waiting and self._sent(self._waiting[0]):
            self._waiting.popleft()

    def _sent(self, octets: bytes) -> bool:
        """Return whether there was room for a message. Raises OperatorError."""
        try:
            self._socket.send(octets)
        except BlockingIOError:
            return False
        except OSError as error:
            raise GoneError(self._name, f"has ended ({error.strerror})", REMEDY) from error
        return True

    def receive(self) -> list[Message]:
        """Return the messages that wait now; never block.

        Raises OperatorError where the other end is gone, or says what has no meaning.
        """
        messages: list[Message] = []
        view, receive_into = self._view, self._socket.recv_into
        try:
            while len(messages) < _AT_ONCE:
                size = receive_into(view)
                if not size:
                    raise GoneError(self._name, "has ended", REMEDY)
                messages.append(decode(view[:size]))
        except BlockingIOError:
            pass
        except OSError as error:
            raise GoneError(self._name, f"has ended ({error.strerror})", REMEDY) from error
        except ValueError as error:
            self._fail(f"says what has no meaning ({error})")
        return messages

    def wait(self, seconds: float) -> bool:
        """Wait for a message; return whether there is one, or the other end is gone."""
        return self._wait(select.POLLIN, seconds)

    def _wait(self, events: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, events)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    def _fail(self, why: str) -> NoReturn:
        raise OperatorError(self._name, why, REMEDY)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def new_pair(name: str) -> tuple[Link, Link]:
    """Return moatd's end and the worker's, which is called name."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return Link(ours, name, blocks=True), Link(theirs, "moatd", blocks=False)
