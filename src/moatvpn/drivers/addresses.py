"""The addresses of the tunnel's interface that a peer has assigned (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address

from moatvpn.errors import OperatorError

_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_NLM_F_CREATE, _NLM_F_REPLACE = 0x400, 0x100
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, sender
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_LONGEST = 65536


class InterfaceAddresses:
    """Gives one interface the addresses of each connection, each as a host's own (/32, /128).

    Needs CAP_NET_ADMIN. Addresses that somebody else has put there are left alone.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._of: dict[str, tuple[str, ...]] = {}

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
        for address in old:
            if address not in kept:
                self._change(_RTM_DELADDR, address)

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
    flags = _NLM_F_REQUEST | _NLM_F_ACK
    if kind == _RTM_NEWADDR:
        flags |= _NLM_F_CREATE | _NLM_F_REPLACE
    body = _IFADDRMSG.pack(family, 8 * len(octets), 0, 0, index)
    for attribute in (_IFA_LOCAL, _IFA_ADDRESS):
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(octets), attribute) + octets
    message = _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body
    kinds = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kinds, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(2.0)
        sock.bind((0, 0))
        sock.send(message)
        answer = sock.recv(_LONGEST)
    number = _ERROR.unpack_from(answer, _HEADER.size)[0]
    return -int(number)
