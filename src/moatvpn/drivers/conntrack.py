"""Connection tracking's memory, through netlink: connections that the kernel is to forget."""

from __future__ import annotations

import socket
import struct

from moatvpn.drivers.netlink_codec import attribute
from moatvpn.drivers.xfrm_socket import Netlink
from moatvpn.errors import OperatorError

# linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_FAMILY = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
_MARK, _MARK_MASK = 8, 21


def forget_marked(mark: int) -> None:
    """Have the kernel forget all connections of this namespace that carry mark.

    Raises OperatorError where it does not.
    """
    body = _FAMILY.pack(socket.AF_UNSPEC, 0, 0)
    body += attribute(_MARK, struct.pack("!I", mark))
    body += attribute(_MARK_MASK, struct.pack("!I", 0xFFFFFFFF))
    try:
        netlink = Netlink(_NETLINK_NETFILTER)
        try:
            netlink.ask(_DELETE, body)
        finally:
            netlink.close()
    except OSError as error:
        raise OperatorError(
            "connections in the kernel's memory",
            f"cannot be forgotten ({error.strerror})",
            "Run as root, and load the kernel module nf_conntrack_netlink",
        ) from error
