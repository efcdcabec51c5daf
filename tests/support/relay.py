"""A relay on the wild path: what the router forwards fares as a lossy path has it."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wild import inside

if TYPE_CHECKING:
    from lossy_path import LossyPath
    from wild import Wild

_TUNSETIFF = 0x400454CA
_TUN_NO_PI = 0x1001
_TABLE, _DEVICE = "100", "relay0"


def _carry(fd: int, path: LossyPath[bytes], stop: threading.Event) -> None:
    """Carry packets until told to stop; what is held back when nothing comes is let go."""
    while not stop.is_set():
        if select.select([fd], [], [], 0.01)[0]:
            packets = path(os.read(fd, 1 << 16))
        else:
            packets = path.flush()
        for packet in packets:
            os.write(fd, packet)


@contextmanager
def relay(tunnel: Wild, path: LossyPath[bytes]) -> Iterator[None]:
    """Have all that the router forwards, both ways, go over path for the length of the block."""
    router = tunnel.router
    with inside(router):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _TUN_NO_PI))
    stop = threading.Event()
    thread = threading.Thread(target=_carry, args=(fd, path, stop))
    try:
        router.ip("link", "set", _DEVICE, "addrgenmode", "none", "up", "txqueuelen", "10000")
        router.ip("route", "add", "default", "dev", _DEVICE, "table", _TABLE)
        thread.start()
        for device in ("home0", "wild0"):
            router.ip("rule", "add", "iif", device, "lookup", _TABLE)
        yield
    finally:
        for device in ("home0", "wild0"):
            router.run("ip", "rule", "del", "iif", device, "lookup", _TABLE, check=False)
        stop.set()
        thread.join()
        os.close(fd)
