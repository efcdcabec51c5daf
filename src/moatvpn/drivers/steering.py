"""Queues of the kernel's for one UDP port, so that what fills one of them leaves the others alone.

The kernel picks the socket by a classic BPF program over the datagram's octets (socket(7),
SO_ATTACH_REUSEPORT_CBPF), which needs no privilege. It cannot know which SPIs are ours, but it
tells ESP from IKE, and first requests of IKE have no SPI of the responder's. Everything too short
to be of use counts with those.
"""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Sequence

STRANGERS, ESTABLISHED, ENVELOPES = 0, 1, 2  # the order in which the sockets are bound
_SO_ATTACH_REUSEPORT_CBPF = 51
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: how many, and where
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
_MARKER_LENGTH = 4
_SPI_R = 8  # where the responder's SPI begins in a message


def _program(framed: bool) -> bytes:
    """Return instructions that return the queue's number; a load beyond the end returns 0."""
    pack = _INSTRUCTION.pack
    spi = _SPI_R
    parts = []
    if framed:
        # A first word of zero says IKE, and anything else ESP (RFC 3948, 2.2).
        parts = [
            pack(_LOAD_WORD, 0, 0, 0),
            pack(_JUMP_IF_EQUAL, 1, 0, 0),
            pack(_RETURN, 0, 0, ENVELOPES),
        ]
        spi += _MARKER_LENGTH
    parts += [
        pack(_LOAD_WORD, 0, 0, spi),
        pack(_JUMP_IF_EQUAL, 0, 3, 0),
        pack(_LOAD_WORD, 0, 0, spi + 4),
        pack(_JUMP_IF_EQUAL, 0, 1, 0),
        pack(_RETURN, 0, 0, STRANGERS),
        pack(_RETURN, 0, 0, ESTABLISHED),
    ]
    return b"".join(parts)


def bind_all(queues: Sequence[socket.socket], port: int, framed: bool) -> int:
    """Bind all of them to one port at all addresses, 0 for any; return its number.

    queues stand in the order of STRANGERS, ESTABLISHED and, where framed, ENVELOPES. framed says
    that RFC 3948 rules the port, as it does 4500. Raises OSError where the port is taken, by
    another of our own daemons, too.
    """
    first, *others = queues
    first.bind(("", port))  # not shared yet: so nobody else's can be
    number = int(first.getsockname()[1])
    for sock in queues:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    for sock in others:
        sock.bind(("", number))
    octets = array("B", _program(framed))
    program = _PROGRAM.pack(len(octets) // _INSTRUCTION.size, octets.buffer_info()[0])
    first.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
    return number
