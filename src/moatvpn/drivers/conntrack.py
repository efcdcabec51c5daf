"""Connection tracking's memory, through netlink: connections that the kernel is to forget."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from moatvpn.drivers.netlink_codec import attribute, attributes
from moatvpn.drivers.xfrm_socket import Netlink
from moatvpn.errors import OperatorError
from moatvpn.subnets import Network

# linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_DELETE = 1 << 8 | 2  # IPCTNL_MSG_CT_DELETE
_FAMILY = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
_ALL = _FAMILY.pack(socket.AF_UNSPEC, 0, 0)
_ORIGINAL, _REPLY, _ID, _ZONE = 1, 2, 12, 18
_ADDRESSES = 1  # of a direction: a nest of these, IPv4's source and destination, and IPv6's
_PACKED = (1, 2, 3, 4)
_NEST = 0x8000


def forget(networks: Collection[Network] | None) -> int:
    """Have the kernel forget connections with an address in one of networks; None for all.

    Return how many those were, -1 for all. Raises OperatorError where it does not.
    """
    with _kernel() as netlink:
        if networks is None:
            netlink.ask(_DELETE, _ALL)
            return -1
        known = netlink.dump(_GET, _ALL) if networks else []
        return sum(_delete(netlink, body) for body in known if concerns(body, networks))


def concerns(body: bytes, networks: Collection[Network]) -> bool:
    """Tell whether a connection, as the kernel describes it, has an address in one of networks."""
    found = attributes(body[_FAMILY.size :])
    for direction in (_ORIGINAL, _REPLY):
        inside = attributes(attributes(found.get(direction, b"")).get(_ADDRESSES, b""))
        for kind in _PACKED:
            if len(inside.get(kind, b"")) in (4, 16):
                address = ipaddress.ip_address(inside[kind])
                if any(address.version == each.version and address in each for each in networks):
                    return True
    return False


def _delete(netlink: Netlink, body: bytes) -> int:
    """Forget one connection, and no later one with the same addresses; return how many it was."""
    found = attributes(body[_FAMILY.size :])
    parts = [attribute(_ORIGINAL | _NEST, found[_ORIGINAL])]
    parts += [attribute(kind, found[kind]) for kind in (_ID, _ZONE) if kind in found]
    try:
        netlink.ask(_DELETE, _FAMILY.pack(body[0], 0, 0) + b"".join(parts))
    except OSError as error:
        if error.errno != errno.ENOENT:  # it has ended by itself
            raise
        return 0
    return 1


@contextmanager
def _kernel() -> Iterator[Netlink]:
    """Speak with the kernel's connection tracking; what it refuses is an OperatorError."""
    try:
        netlink = Netlink(_NETLINK_NETFILTER)
        try:
            yield netlink
        finally:
            netlink.close()
    except OSError as error:
        raise OperatorError(
            "connections in the kernel's memory",
            f"cannot be forgotten ({error.strerror})",
            "Run as root, and load the kernel module nf_conntrack_netlink",
        ) from error
