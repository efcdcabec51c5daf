"""Datagrams of 64 octets, as many as go, and a program that takes them.

iperf3 sends one datagram with each system call, which is 250,000 a second on a core that nobody
else needs: no more than a fast tunnel carries. So here one call hands over a burst, which the pc's
interface cuts (see street.py).
"""

from __future__ import annotations

import socket
import sys

SIZE = 64
PORT = 7009
_BURST = 32  # datagrams with each system call
_SO_RCVBUFFORCE, _UDP_SEGMENT = 33, 103  # asm-generic/socket.h, linux/udp.h
_BUFFER = 8 << 20


def send(address: str) -> None:
    """Send for as long as we live."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT))
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, SIZE)
        burst = bytes(SIZE * _BURST)
        while True:
            try:
                sock.send(burst)
            except OSError:  # what a router has answered to an earlier one
                continue


def receive(address: str) -> None:
    """Take what arrives for as long as we live; the kernel counts it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        sock.bind((address, PORT))
        print("ready", flush=True)
        buffer = bytearray(SIZE)
        while True:
            sock.recv_into(buffer)


if __name__ == "__main__":
    {"send": send, "receive": receive}[sys.argv[1]](sys.argv[2])
