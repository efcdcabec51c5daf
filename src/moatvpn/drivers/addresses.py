"""The addresses of the tunnel's interface that a peer has assigned (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address

from moatvpn.drivers.netlink_codec import (
    ACKNOWLEDGE,
    CREATE,
    DUMP,
    HEADER,
    REQUEST,
    attribute,
    message,
    messages,
)
from moatvpn.errors import OperatorError

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_REPLACE = 0x100
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ERROR = struct.Struct("=i")
_LONGEST = 65536


class InterfaceAddresses:
    """Gives one interface the addresses of each connection, each as a host's own (/32, /128).

    Needs CAP_NET_ADMIN. Addresses that somebody else has put there are left alone. An address of
    ours that is the interface's last IPv4 one stays until another comes: with it the kernel would
    throw away all the interface's IPv4 routes, and nobody would put them back.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._of: dict[str, tuple[str, ...]] = {}
        self._staying: str | None = None

    def set(self, connection: str, addresses: Iterable[str]) -> None:
        """Give the interface these addresses in place of the connection's former ones.

        Raises OperatorError where the kernel refuses.
        """
        new, old = tuple(addresses), self._of.pop(connection, ())
        if new:
            self._of[connection] = new
        kept = {address for others in self._of.values() for address in others}
        for address in new:
            self._change(_RTM_NEWADDR, address)
        former = old if self._staying is None else (*old, self._staying)
        going = [address for address in former if address not in kept]
        self._staying = self._last(going)
        for address in going:
            if address != self._staying:
                self._change(_RTM_DELADDR, address)

    def _last(self, going: Sequence[str]) -> str | None:
        """Return the one of going that has to stay, because no other IPv4 address would be left."""
        ours = [address for address in going if ip_address(address).version == 4]
        if not ours or _count_ipv4(self._interface) > len(ours):
            return None
        return ours[-1]

    def _change(self, kind: int, address: str) -> None:
        parsed = ip_address(address)
        family = socket.AF_INET if isinstance(parsed, IPv4Address) else socket.AF_INET6
        try:
            index = socket.if_nametoindex(self._interface)
            number = _ask(kind, family, index, parsed.packed)
        except OSError as error:
            number = error.errno or errno.EIO
        gone = kind == _RTM_DELADDR and number in (errno.EADDRNOTAVAIL, errno.ENODEV)
        if number and not gone:
            what = f"address {address} of {self._interface}"
            change = "set" if kind == _RTM_NEWADDR else "removed"
            why = f"cannot be {change} ({os.strerror(number)})"
            raise OperatorError(what, why, "See whether the interface is up, and moatd's rights")


def _ask(kind: int, family: int, index: int, octets: bytes) -> int:
    """Ask the kernel for a change of one address; return its error number, 0 for none."""
    flags = REQUEST | ACKNOWLEDGE
    if kind == _RTM_NEWADDR:
        flags |= CREATE | _REPLACE
    body = _IFADDRMSG.pack(family, 8 * len(octets), 0, 0, index)
    body += attribute(_IFA_LOCAL, octets) + attribute(_IFA_ADDRESS, octets)
    with _netlink() as sock:
        sock.send(message(kind, flags, 1, body))
        answer = sock.recv(_LONGEST)
    return -int(_ERROR.unpack_from(answer, HEADER.size)[0])


def _count_ipv4(interface: str) -> int:
    """Return how many IPv4 addresses an interface has, 0 where there is none of that name."""
    count = 0
    try:
        index = socket.if_nametoindex(interface)
        with _netlink() as sock:
            body = _IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, 0)
            sock.send(message(_RTM_GETADDR, REQUEST | DUMP, 1, body))
            kind = _RTM_NEWADDR
            while kind == _RTM_NEWADDR:
                for kind, _, told in messages(sock.recv(_LONGEST)):
                    if kind == _RTM_NEWADDR:
                        count += _IFADDRMSG.unpack_from(told)[4] == index
    except OSError:
        return count
    return count


def _netlink() -> socket.socket:
    kinds = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_NETLINK, kinds, socket.NETLINK_ROUTE)
    sock.settimeout(2.0)
    sock.bind((0, 0))
    return sock
