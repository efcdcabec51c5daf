"""The event loop: readable and writable descriptors, one deadline, and signals."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Protocol

from moatvpn.drivers.interfaces import Clock

Callback = Callable[[], bool | None]  # True: the deadline is as it was before the call
SignalCallback = Callable[[int], None]
_NOTHING: tuple[Callback | None, Callback | None] = (None, None)
_TO_READ, _TO_WRITE = ~select.EPOLLOUT, ~select.EPOLLIN


class HasFileno(Protocol):
    """Anything that has a descriptor to wait on."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...


class Loop:
    """Waits for descriptors, a deadline and signals, and calls back.

    Callbacks take a bounded batch each, so that none of them keeps the others waiting for long.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._callbacks: dict[int, tuple[Callback | None, Callback | None]] = {}
        self._soon: list[Callback] = []
        self._running = False
        self._wakeup: tuple[socket.socket, socket.socket] | None = None

    def watch(
        self, source: HasFileno, readable: Callback | None, writable: Callback | None = None
    ) -> None:
        """Call back whenever source can be read, or written; None leaves out one or the other."""
        fd = source.fileno()
        events = select.EPOLLIN if readable is not None else 0
        events |= select.EPOLLOUT if writable is not None else 0
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = (readable, writable)

    def forget(self, source: HasFileno) -> None:
        """Call back for source no more; call this before source is closed."""
        fd = source.fileno()
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def soon(self, callback: Callback) -> None:
        """Call back once, after those whose descriptors are ready; this waits for none of them.

        Asked again by the callback itself, it comes in the next round.
        """
        self._soon.append(callback)

    def handle_signals(self, numbers: Iterable[int], callback: SignalCallback) -> None:
        """Call back, from within the loop, with the number of each of these signals."""
        receiver, sender = self._wakeup = socket.socketpair()
        receiver.setblocking(False)
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)  # only the wakeup descriptor matters

        def read() -> None:
            for number in receiver.recv(64):
                callback(number)

        self.watch(receiver, read)

    def stop(self) -> None:
        """Make run return once the present callbacks are done."""
        self._running = False

    def run(self, deadline: Callable[[], float | None], on_deadline: Callback) -> None:
        """Call back until stop is called.

        deadline is asked before each wait, unless all callbacks of a round have left it as it was,
        and returns a time of the clock, or None; on_deadline is called once that time has come,
        however busy the descriptors are.
        """
        self._running = True
        clock, poll, callbacks = self._clock, self._epoll.poll, self._callbacks
        due, changed = None, True
        while self._running:
            if changed:
                due, changed = deadline(), False
            timeout = None if due is None else max(0.0, due - clock())
            if self._soon:
                timeout = 0.0
            for fd, events in poll(timeout):
                # Asked anew each time: an earlier callback of this round may have changed them.
                # An error or the other end's hanging up is found out by reading, or by writing.
                readable, writable = callbacks.get(fd, _NOTHING)
                if events & _TO_READ and readable is not None and not readable():
                    changed = True
                if events & _TO_WRITE and writable is not None and not writable():
                    changed = True
                if not self._running:
                    return
            if self._soon:
                soon, self._soon, changed = self._soon, [], True
                for callback in soon:
                    callback()
            if due is not None and clock() >= due:
                changed = True
                on_deadline()

    def close(self) -> None:
        """Let go of the selector and of the signals."""
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for end in self._wakeup:
                end.close()
        self._epoll.close()
