"""Two processes beside moatd, one for each way of the packets, so that they use a core each.

They are forked before moatd has read its private key or opened its control socket, so neither is
ever theirs; of each CHILD_SA they get their own half (esp.child). When moatd ends, so do they: the
other end of their link is gone. When one of them ends, moatd does, and its unit starts all anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from moatvpn.config import DaemonConfig
from moatvpn.counters import Counters
from moatvpn.daemon.log import LogCall
from moatvpn.daemon.workers_halves import OpeningHalf, Reports, SealingHalf
from moatvpn.daemon.workers_link import PATIENCE, GoneError, Link, new_pair
from moatvpn.drivers.clock import monotonic
from moatvpn.drivers.loop import Loop
from moatvpn.drivers.raw import NoRawSocket, RawEspSocket
from moatvpn.drivers.tun import TunDevice
from moatvpn.drivers.udp import UdpPort
from moatvpn.errors import OperatorError
from moatvpn.esp.processor import EspProcessor
from moatvpn.wire.endpoint import NAT_PORT

ENOUGH_CORES = 4  # for moatd, its workers, and all else that a box does
SEALING, OPENING = "moatd-sealing", "moatd-opening"


def workers_are_chosen(config: DaemonConfig) -> bool:
    """Return whether packets are to have processes of their own."""
    if config.workers == "auto":
        return len(os.sched_getaffinity(0)) >= ENOUGH_CORES
    return config.workers == "on"


class HasClose(Protocol):
    """Anything that can be closed."""

    def close(self) -> None:
        """Close it."""
        ...


class Devices(NamedTuple):
    """What packets come from and go to."""

    tun: TunDevice
    raw: RawEspSocket | NoRawSocket
    ports: dict[int, UdpPort]


class Worker:
    """One of the processes, as moatd sees it."""

    def __init__(self, pid: int, link: Link) -> None:
        self.pid = pid
        self.link = link

    def close(self) -> None:
        """End the process, and wait for that; one that does not end is killed."""
        self.link.close()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.002)
                    continue
            return
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def fork(
    name: str, work: Callable[[Link], None], log: LogCall, unneeded: Sequence[HasClose]
) -> Worker:
    """Start a process that does work and ends; it closes first what it does not need.

    What ends it, other than moatd's own end, goes to the log. Raises OperatorError.
    """
    ours, theirs = new_pair(name)
    try:
        pid = os.fork()
    except OSError as error:
        why = f"cannot be started ({error.strerror})"
        raise OperatorError(name, why, "Set workers to off in moatd.json") from error
    if pid:
        theirs.close()
        return Worker(pid, ours)
    try:
        # A service manager tells all processes at once; ours end once moatd has said its last.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(name, encoding="ascii")
        for each in (ours, *unneeded):
            each.close()
        work(theirs)
    except GoneError:
        os._exit(0)
    except OperatorError as error:
        log("error", f"{name}: {error}")
    except BaseException:
        log("error", f"{name} has failed: {traceback.format_exc()}")
    finally:
        os._exit(1)


def _seal(link: Link, devices: Devices, counters: Counters, *, several_addresses: bool) -> None:
    """Carry packets from the TUN to the wild side, until moatd ends."""
    counters.take()
    loop = Loop(monotonic)
    esp = EspProcessor(counters, several_addresses=several_addresses)
    tun, raw, port = devices.tun, devices.raw, devices.ports[NAT_PORT]
    half = SealingHalf(esp, link, counters, monotonic, tun, raw, port, loop.soon)
    loop.watch(link, half.from_link)
    loop.watch(tun, half.from_tun_device)
    loop.run(half.get_timer, half.handle_timer)


def _open(link: Link, devices: Devices, counters: Counters) -> None:
    """Carry packets from the wild side to the TUN, until moatd ends."""
    counters.take()
    loop = Loop(monotonic)
    esp = EspProcessor(counters, sender=Reports(link))
    tun, raw, queue = devices.tun, devices.raw, devices.ports[NAT_PORT].envelopes
    half = OpeningHalf(esp, link, counters, monotonic, tun, raw, queue, loop.soon)
    loop.watch(link, half.from_link)
    if isinstance(raw, RawEspSocket):
        loop.watch(raw, half.from_raw)
    loop.watch(queue, half.from_udp)
    loop.run(half.get_timer, half.handle_timer)


def start(
    devices: Devices,
    counters: Counters,
    log: LogCall,
    loop: Loop,
    stack: ExitStack,
    *,
    several_addresses: bool,
) -> tuple[Worker, Worker]:
    """Start the worker that seals and the one that opens, which end with stack.

    loop is moatd's own; several_addresses is as EspProcessor's. Raises OperatorError.
    """
    seal = partial(_seal, devices=devices, counters=counters, several_addresses=several_addresses)
    open_ = partial(_open, devices=devices, counters=counters)
    not_theirs: list[HasClose] = [
        loop,
        *(queue.socket for port in devices.ports.values() for queue in port.queues_of_messages),
    ]  # fmt: skip
    sealing = stack.enter_context(closing(fork(SEALING, seal, log, not_theirs)))
    not_theirs.append(sealing.link)
    opening = stack.enter_context(closing(fork(OPENING, open_, log, not_theirs)))
    return sealing, opening
