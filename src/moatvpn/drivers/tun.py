"""A TUN device of Linux (Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.interfaces import BATCH
from moatvpn.errors import OperatorError

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000  # no four octets of flags and EtherType before each packet
_IFREQ = struct.Struct("16sH22x")
_LONGEST_PACKET = 65535

_REMEDIES = {
    errno.ENOENT: "Load the kernel's tun module",
    errno.EACCES: "Let moatd's user open it",
    errno.EPERM: "Make the device for moatd's user (systemd.netdev, [Tun] User=)",
    errno.EBUSY: "Stop the other program that holds it",
}


class TunDevice:
    """The reading and writing end of one TUN device.

    A persistent device of that name is attached to; where there is none, one is made that lasts
    as long as this object is open (that needs CAP_NET_ADMIN). Raises OperatorError.
    """

    def __init__(self, name: str, counters: Counters) -> None:
        self.name = name
        self._counters = counters
        fd = -1
        try:
            fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(fd, _TUNSETIFF, request)
            # A persistent device remembers what a former program could take: we take packets
            # that are whole, with their checksums filled in.
            fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            number = error.errno or 0
            raise OperatorError(
                f"TUN device {name}",
                f"cannot be opened ({error.strerror})",
                _REMEDIES.get(number, f"See whether {_DEVICE} is there"),
            ) from error
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor to wait on for packets."""
        return self._fd

    def read_batch(self, limit: int = BATCH) -> list[bytes]:
        """Return the raw packets that wait now, at most limit of them.

        Raises OperatorError where the device is gone.
        """
        packets: list[bytes] = []
        append, read, fd = packets.append, os.read, self._fd
        try:
            for _ in range(limit):
                append(read(fd, _LONGEST_PACKET))
        except BlockingIOError:
            pass
        except OSError as error:
            raise OperatorError(
                f"TUN device {self.name}", f"cannot be read ({error.strerror})", "Make it anew"
            ) from error
        return packets

    def write(self, packet: bytes) -> bool:
        """Hand one raw packet to the kernel; a refusal (device down, no memory) is counted."""
        try:
            os.write(self._fd, packet)
        except OSError:
            self._counters.drop(DropReason.TUN_WRITE_FAILED)
            return False
        return True

    def close(self) -> None:
        """Let go of the device."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
