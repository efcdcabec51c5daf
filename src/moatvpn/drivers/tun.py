"""A TUN device of Linux (Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Sequence

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.interfaces import BATCH
from moatvpn.errors import OperatorError, PeerError
from moatvpn.wire.offload import GSO_NONE, HEADER_LENGTH, NEEDS_CSUM, Packet, segments

_DEVICE = "/dev/net/tun"
# <linux/if_tun.h>
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETVNETLE = 0x400454DC
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000  # no four octets of flags and EtherType before each packet
_IFF_VNET_HDR = 0x4000  # but a virtio_net_hdr
_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO = 1, 2, 4, 8, 0x60
# What the kernel may leave to us, the most first.
_OFFLOADS = (_CSUM | _TSO4 | _TSO6 | _TSO_ECN, _CSUM | _TSO4 | _TSO6, _CSUM, 0)
_IFREQ = struct.Struct("16sH22x")
_INT = struct.Struct("=i")
_LONGEST_PACKET = 65535
_BURST = 1 << 18  # octets of one batch, more or less: what waits behind it waits less than 1 ms
_PLAIN = bytes(HEADER_LENGTH)
_MOST_PIECES = os.sysconf("SC_IOV_MAX") - 1  # beside the header

_REMEDIES = {
    errno.ENOENT: "Load the kernel's tun module",
    errno.EACCES: "Let moatd's user open it",
    errno.EPERM: "Make the device for moatd's user (systemd.netdev, [Tun] User=)",
    errno.EBUSY: "Stop the other program that holds it",
}


class TunDevice:
    """The reading and writing end of one TUN device.

    A persistent device of that name is attached to; where there is none, one is made that lasts
    as long as this object is open (that needs CAP_NET_ADMIN). offloads: the kernel may give us
    super-packets and leave checksums to us (see wire.offload), as far as it can. Raises
    OperatorError.

    takes_super_packets, takes_udp: whether the kernel cuts super-packets of TCP, and those of UDP
    (since Linux 6.2), that we write; those of TCP are taken in any case, but cut in Python.
    """

    def __init__(self, name: str, counters: Counters, *, offloads: bool = True) -> None:
        self.name = name
        self._counters = counters
        self.more = False  # something may have waited after the last batch
        try:
            self._fd, self.takes_super_packets, self.takes_udp = _open(name, offloads)
        except OSError as error:
            number = error.errno or 0
            raise OperatorError(
                f"TUN device {name}",
                f"cannot be opened ({error.strerror})",
                _REMEDIES.get(number, f"See whether {_DEVICE} is there"),
            ) from error
        self._view = memoryview(bytearray(_BURST + HEADER_LENGTH + _LONGEST_PACKET))

    def fileno(self) -> int:
        """Return the descriptor to wait on for packets."""
        return self._fd

    def read_batch(self, limit: int = BATCH) -> list[tuple[memoryview, bytes]]:
        """Return the raw packets that wait now, and the virtio header of each.

        The header is empty for a packet that is whole as it stands. Packets are limit, and about
        256 KiB, at most; their octets are valid until the next call. Raises OperatorError where
        the device is gone.
        """
        packets: list[tuple[memoryview, bytes]] = []
        append, read, fd, view = packets.append, os.readv, self._fd, self._view
        used, head = 0, HEADER_LENGTH if self.takes_super_packets else 0
        self.more = True
        try:
            while len(packets) < limit and used <= _BURST:
                start = used + head
                used += read(fd, (view[used:],))
                header = b""
                if head and (view[start - head] & NEEDS_CSUM or view[start - head + 1] != GSO_NONE):
                    header = bytes(view[start - head : start])
                append((view[start:used], header))
        except BlockingIOError:
            self.more = False
        except OSError as error:
            raise OperatorError(
                f"TUN device {self.name}", f"cannot be read ({error.strerror})", "Make it anew"
            ) from error
        return packets

    def write(self, pieces: Sequence[Packet], offload: bytes = b"") -> bool:
        """Hand one raw packet to the kernel, in pieces that follow each other.

        offload is its virtio header, empty where it is whole as it stands. A refusal (device down,
        no memory) is counted.
        """
        if len(pieces) > _MOST_PIECES:
            pieces = (b"".join(pieces),)
        try:
            if self.takes_super_packets:
                os.writev(self._fd, (offload or _PLAIN, *pieces))
            elif not offload:
                os.writev(self._fd, pieces)
            else:
                for packet in segments(offload, b"".join(pieces)):
                    os.write(self._fd, packet)
        except (OSError, PeerError):
            self._counters.drop(DropReason.TUN_WRITE_FAILED)
            return False
        return True

    def close(self) -> None:
        """Let go of the device."""
        with contextlib.suppress(OSError):
            os.close(self._fd)


def _open(name: str, offloads: bool) -> tuple[int, bool, bool]:
    """Return the end of a device, whether packets have a virtio header there, and takes_udp.

    Raises OSError.
    """
    if offloads:
        with contextlib.suppress(OSError):  # whatever is wrong without headers, too, is told then
            fd = _attach(name, headed=True)
            udp = _offer(fd, _CSUM | _USO)  # only to ask: we want none of UDP's from the kernel
            for offer in _OFFLOADS:
                if _offer(fd, offer):
                    break
            return fd, True, udp
    return _attach(name, headed=False), False, False


def _attach(name: str, *, headed: bool) -> int:
    """Return the end of a device; raise OSError where headers are asked for in vain, too.

    A persistent device remembers what a former program could take, so all of it is said anew.
    """
    fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if headed else 0)
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
        if headed:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, _INT.pack(HEADER_LENGTH))
            # Headers travel to other machines, so they have one order of octets everywhere.
            fcntl.ioctl(fd, _TUNSETVNETLE, _INT.pack(1))
    except OSError:
        os.close(fd)
        raise
    return fd


def _offer(fd: int, offloads: int) -> bool:
    """Let the kernel leave these to us, and no others; return whether it knows them all."""
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
    except OSError:
        return False
    return True
