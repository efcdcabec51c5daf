"""Many packets in one call of the kernel's: sendmmsg(2) and recvmmsg(2), through ctypes.

Everything that the calls point to is made once. Without these calls in the C library, packets go
and come one by one.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
from array import array
from functools import lru_cache
from typing import Any, Final

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.sockets import IP_PKTINFO, PKTINFO, Fragmentation, sent_with
from moatvpn.esp.burst import MAX_ENVELOPES, Burst


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iovecs", ctypes.c_void_p),
        ("iovecs_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr: a header, and how many octets its packet has."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


_WORD: Final = "L"  # as long as a pointer and a size_t
_SIZE = ctypes.sizeof(_Message)
_CMSGHDR = struct.Struct("@Nii")
_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_CONTROL_SPACE = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(PKTINFO.size)
_LIBC = ctypes.CDLL(None, use_errno=True)
_send_many: Any = getattr(_LIBC, "sendmmsg", None)
_receive_many: Any = getattr(_LIBC, "recvmmsg", None)


@lru_cache(maxsize=1024)
def _name(host: str, port: int) -> bytes:
    """Return struct sockaddr_in; raise OSError for what is no address."""
    return _SOCKADDR_IN.pack(socket.AF_INET, port.to_bytes(2, "big"), socket.inet_aton(host))


@lru_cache(maxsize=1024)
def _control(tos: int, source: str) -> bytes:
    """Return control messages as sendmsg(2) takes them, always equally many octets.

    A TOS octet of 0 and a source of 0.0.0.0 are what the kernel takes by itself. Raises OSError
    for what is no address.
    """
    host = socket.inet_aton(source or "0.0.0.0")  # noqa: S104  (nothing is bound)
    packed = b""
    for kind, value in (
        (socket.IP_TOS, struct.pack("=i", tos)),
        (IP_PKTINFO, PKTINFO.pack(0, host, bytes(4))),
    ):
        head = _CMSGHDR.pack(socket.CMSG_LEN(len(value)), socket.IPPROTO_IP, kind)
        packed += (head + value).ljust(socket.CMSG_SPACE(len(value)), b"\0")
    return packed


class _Messages:
    """The array that both calls take: messages of one iovec each."""

    def __init__(self, number: int) -> None:
        self.array = (_Message * number)()
        self.iovecs = (_Iovec * number)()
        words = memoryview(self.iovecs).cast("B").cast(_WORD)
        self.bases, self.lengths = words[0::2], words[1::2]
        first = ctypes.addressof(self.iovecs)
        for position, message in enumerate(self.array):
            message.header.iovecs = first + position * ctypes.sizeof(_Iovec)
            message.header.iovecs_length = 1


class ManySender:
    """Sends bursts through one socket, an envelope a datagram. What cannot go is counted."""

    def __init__(self, sock: socket.socket, counters: Counters) -> None:
        self._socket = sock
        self._counters = counters
        self._fragmentation = Fragmentation(sock)
        self._messages = _Messages(MAX_ENVELOPES)
        self._name = (ctypes.c_char * _SOCKADDR_IN.size)()
        self._control = (ctypes.c_char * _CONTROL_SPACE)()
        for message in self._messages.array:
            header = message.header
            header.name, header.name_length = ctypes.addressof(self._name), _SOCKADDR_IN.size
            header.control = ctypes.addressof(self._control)
        words = memoryview(self._messages.array).cast("B").cast(_WORD)
        at = _Header.control_length.offset // words.itemsize
        self._control_lengths = words[at :: _SIZE // words.itemsize]
        self._controlled = False  # whether these messages have control messages; they cost time
        self._start = ctypes.addressof(self._messages.array)
        self._laid_out = (0, 0)  # the address of the first envelope, and the size of each

    def allow_fragmentation(self, allowed: bool) -> None:
        """Let, or do not let, anybody fragment what the socket sends from now on."""
        self._fragmentation.allow(allowed)

    def send_one(self, burst: Burst, port: int) -> bool:
        """Do as send does for a burst of one envelope."""
        if self._fragmentation.allowed is burst.whole:
            self._fragmentation.allow(not burst.whole)
        try:
            with_what = sent_with(burst.tos, burst.source)
            self._socket.sendmsg((burst.data,), with_what, 0, (burst.peer.host, port))
        except OSError as error:
            self.count(error.errno or errno.EIO, 1)
            return False
        return True

    def send(self, burst: Burst, port: int) -> bool:
        """Send the envelopes to that port of the burst's peer; return whether all of them went.

        Raises ValueError where the burst is longer than bursts may be.
        """
        number = -(-len(burst.data) // burst.size)
        if number > MAX_ENVELOPES:
            raise ValueError(f"{number} envelopes in a burst")
        self._fragmentation.allow(not burst.whole)
        together = _send_many is not None and number > 1
        try:
            sent, why = (self._send_many if together else self._send_each)(burst, port, number)
        except OSError as error:  # no address at all
            sent, why = 0, error.errno or errno.EINVAL
        if sent == number:
            return True
        self.count(why, number - sent)
        return False

    def count(self, why: int, number: int) -> None:
        """Count so many envelopes that an error has kept from being sent."""
        large = why == errno.EMSGSIZE
        reason = DropReason.OUT_TOO_LARGE if large else DropReason.OUT_SEND_FAILED
        self._counters.drop(reason, number)

    def _send_each(self, burst: Burst, port: int, number: int) -> tuple[int, int]:
        """Return how many went, and the number of the error that stopped us, or 0."""
        data, size = burst.data, burst.size
        with_what, to = sent_with(burst.tos, burst.source), (burst.peer.host, port)
        for position in range(number):
            envelope = data[position * size : (position + 1) * size]
            try:
                self._socket.sendmsg((envelope,), with_what, 0, to)
            except OSError as error:
                return position, error.errno or errno.EIO
        return number, 0

    def _send_many(self, burst: Burst, port: int, number: int) -> tuple[int, int]:
        """Do as _send_each does, in one call where the kernel takes all at once."""
        data, size = burst.data, burst.size
        held = ctypes.c_char.from_buffer(bytearray(data) if data.readonly else data)
        self._lay_out(ctypes.addressof(held), size)
        self._name.raw = _name(burst.peer.host, port)
        controlled = bool(burst.tos or burst.source)
        if controlled:
            self._control.raw = _control(burst.tos, burst.source)
        if controlled is not self._controlled:
            length = _CONTROL_SPACE if controlled else 0
            self._control_lengths[:] = memoryview(array(_WORD, (length,) * MAX_ENVELOPES))
            self._controlled = controlled
        lengths, fd = self._messages.lengths, self._socket.fileno()
        lengths[number - 1] = len(data) - (number - 1) * size
        sent, why = 0, 0
        while sent < number:
            start = ctypes.c_void_p(self._start + sent * _SIZE)
            taken = _send_many(fd, start, number - sent, socket.MSG_DONTWAIT)
            if taken <= 0:
                why = ctypes.get_errno()
                break
            sent += taken
        lengths[number - 1] = size
        return sent, why

    def _lay_out(self, first: int, size: int) -> None:
        """Let the messages point to envelopes of size octets, from the address first on."""
        if self._laid_out != (first, size):
            end = first + MAX_ENVELOPES * size
            self._messages.bases[:] = memoryview(array(_WORD, range(first, end, size)))
            self._messages.lengths[:] = memoryview(array(_WORD, (size,) * MAX_ENVELOPES))
            self._laid_out = (first, size)


class ManyReceiver:
    """Receives packets of up to longest octets through one socket, number of them at a time.

    Each has its own place in memory that the kernel gives us only as it is filled.
    """

    def __init__(self, sock: socket.socket, number: int, longest: int) -> None:
        self._socket = sock
        # One page more than a packet may have: were places a power of two apart, all of them would
        # compete for the same few lines of the processor's cache.
        apart = (longest // mmap.PAGESIZE + 2) * mmap.PAGESIZE
        memory = mmap.mmap(-1, number * apart)
        whole = memoryview(memory)
        self.places = [whole[start : start + longest] for start in range(0, len(whole), apart)]
        self._messages = messages = _Messages(number)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        end = first + number * apart
        messages.bases[:] = memoryview(array(_WORD, range(first, end, apart)))
        messages.lengths[:] = memoryview(array(_WORD, (longest,) * number))
        words = memoryview(messages.array).cast("B").cast("I")
        self._sizes = words[_Message.length.offset // 4 :: _SIZE // 4]
        self._start = ctypes.c_void_p(ctypes.addressof(messages.array))

    def receive(self, limit: int) -> list[int]:
        """Fill places with the packets that wait, at most limit; return the length of each.

        An error of the network's ends the list: what may come after it comes with the next call.
        """
        limit = min(limit, len(self.places))
        if _receive_many is None:
            return self._receive_each(limit)
        fd = self._socket.fileno()
        came = _receive_many(fd, self._start, limit, socket.MSG_DONTWAIT, None)
        return self._sizes[:came].tolist() if came > 0 else []

    def _receive_each(self, limit: int) -> list[int]:
        sizes: list[int] = []
        try:
            for place in self.places[:limit]:
                sizes.append(self._socket.recv_into(place))
        except OSError:
            pass
        return sizes
