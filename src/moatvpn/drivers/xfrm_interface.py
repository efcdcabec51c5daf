"""The interface that the kernel's IPsec sends and receives through (xfrm_device, RFC 4301, 4.4.1).

Policies and SAs that have its id concern what is routed to it, and nothing else. What no policy
of that id is for, it drops: so it fails closed, moatd or not.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from moatvpn.drivers.netlink_codec import CREATE, EXCLUSIVE, attribute, attributes
from moatvpn.drivers.xfrm_socket import Netlink, no_kernel_ipsec
from moatvpn.errors import OperatorError

_NEW_LINK, _GET_LINK = 16, 18
_IFINFO = struct.Struct("=BxHiII")
_IFLA_IFNAME, _IFLA_LINKINFO = 3, 18
_INFO_KIND, _INFO_DATA = 1, 2
_XFRM_IF_ID = 2
KIND = "xfrm"

# The id of an interface that we make ourselves; any but 0 would do.
OUR_ID = int.from_bytes(b"moat", "big")


def kind_of(name: str) -> tuple[str, int] | None:
    """Return the kind of an interface, and its id where it is one for IPsec.

    None where there is no interface of that name.
    """
    link = Netlink(socket.NETLINK_ROUTE)
    try:
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        answers = link.ask(_GET_LINK, body)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    finally:
        link.close()
    for kind, content in answers:
        if kind == _NEW_LINK:
            info = attributes(attributes(content[_IFINFO.size :]).get(_IFLA_LINKINFO, b""))
            data = attributes(info.get(_INFO_DATA, b""))
            if_id = struct.unpack("=I", data.get(_XFRM_IF_ID, bytes(4)))[0]
            return info.get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"), if_id
    return None


def open_interface(name: str) -> int:
    """Return the id of the interface of that name, which is made where there is none.

    Raises OperatorError where the kernel has no such interfaces, or name is one of another kind.
    """
    try:
        found = kind_of(name)
        if found is None:
            _make(name)
            return OUR_ID
    except OSError as error:
        raise no_kernel_ipsec(error) from error
    kind, if_id = found
    if kind != KIND:
        raise OperatorError(
            f"interface {name}",
            f"is of the kind {kind or 'device'!r}, where the kernel's IPsec needs {KIND!r}",
            "Make it anew (systemd.netdev, Kind=xfrm), or set data_plane to python",
        )
    if not if_id:
        why = "has the id 0, under which the kernel's IPsec keeps what is no interface's"
        raise OperatorError(f"interface {name}", why, "Give it another (InterfaceId=)")
    return if_id


def _make(name: str) -> None:
    data = attribute(_XFRM_IF_ID, struct.pack("=I", OUR_ID))
    info = attribute(_INFO_KIND, KIND.encode()) + attribute(_INFO_DATA, data)
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
    body += attribute(_IFLA_LINKINFO, info)
    link = Netlink(socket.NETLINK_ROUTE)
    try:
        link.ask(_NEW_LINK, body, CREATE | EXCLUSIVE)
    except FileExistsError as error:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from error
    finally:
        link.close()
