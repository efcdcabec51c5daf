"""Two queues of the kernel's for one UDP port: strangers fill theirs, and not the other.

The kernel picks the socket by a classic BPF program over the datagram's octets (socket(7),
SO_ATTACH_REUSEPORT_CBPF), which needs no privilege. It cannot know which SPIs are ours, but first
requests of IKE have none, and everything too short to be of use counts with them.
"""

from __future__ import annotations

import socket
import struct
from array import array

STRANGERS, ESTABLISHED = 0, 1  # the order in which the sockets are bound
_SO_ATTACH_REUSEPORT_CBPF = 51
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: how many, and where
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
_MARKER_LENGTH = 4
_SPI_R = 8  # where the responder's SPI begins in a message


def _program(framed: bool) -> bytes:
    """Return instructions that return the queue's number; a load beyond the end returns 0."""
    marker = _MARKER_LENGTH if framed else 0
    # On a framed port a first word of zero says IKE, and anything else ESP.
    words = ([0] if framed else []) + [marker + _SPI_R, marker + _SPI_R + 4]
    parts = []
    for left, offset in zip(range(len(words) - 1, -1, -1), words, strict=True):
        parts.append(_INSTRUCTION.pack(_LOAD_WORD, 0, 0, offset))
        # On to the next word if this one is zero; else to the last instruction.
        parts.append(_INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 2 * left + 1, 0))
    parts.append(_INSTRUCTION.pack(_RETURN, 0, 0, STRANGERS))
    parts.append(_INSTRUCTION.pack(_RETURN, 0, 0, ESTABLISHED))
    return b"".join(parts)


def bind_both(strangers: socket.socket, established: socket.socket, port: int, framed: bool) -> int:
    """Bind both to one port at all addresses, 0 for any; return its number.

    framed says that RFC 3948 rules the port, as it does 4500. Raises OSError where the port is
    taken, by another of our own daemons, too.
    """
    strangers.bind(("", port))  # not shared yet: so nobody else's can be
    number = int(strangers.getsockname()[1])
    for sock in (strangers, established):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    established.bind(("", number))
    octets = array("B", _program(framed))
    program = _PROGRAM.pack(len(octets) // _INSTRUCTION.size, octets.buffer_info()[0])
    established.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
    return number
