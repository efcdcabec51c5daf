"""A program between a moat and a portal that loses, overtakes and doubles the moat's envelopes.

    python lossy_relay.py OWN_TO_MOAT OWN_TO_PORTAL PORTAL

It takes UDP 500 and 4500 to the first address and sends on from the second, as a NAT does; IKE, and
all that the portal sends, passes as it is. Each line that comes in is a JSON object with the
keywords of lossy_path.LossyPath, by which envelopes fare from then on; before it takes that, it
lets go of what it holds back, and answers with a line of what it did to them since the last.
"""

from __future__ import annotations

import json
import select
import socket
import sys

from lossy_path import LossyPath

QUEUE = 64 << 20  # octets
NAT_PORT, NON_ESP_MARKER = 4500, bytes(4)


class Relay:
    """Two ports, each with a socket to the moat and one to the portal."""

    def __init__(self, to_moat: str, to_portal: str, portal: str) -> None:
        self.path = LossyPath[bytes](0)
        self.ports = (500, NAT_PORT)
        self.near = {port: _socket(to_moat, port) for port in self.ports}
        self.far = {port: _socket(to_portal, 0) for port in self.ports}
        for port, sock in self.far.items():
            sock.connect((portal, port))
        self.moat: dict[int, tuple[str, int]] = {}

    def run(self) -> None:
        """Carry packets until standard input ends."""
        sockets = {sock: (port, True) for port, sock in self.near.items()}
        sockets |= {sock: (port, False) for port, sock in self.far.items()}
        while True:
            ready = select.select([sys.stdin, *sockets], [], [])[0]
            for sock in ready:
                if sock is not sys.stdin:
                    self.carry(sock, *sockets[sock])
            if ready == [sys.stdin]:  # all that came before the command has been carried
                if not (line := sys.stdin.readline()):
                    return
                self.command(json.loads(line))

    def command(self, keywords: dict[str, float]) -> None:
        """Tell what the path has done, and take another."""
        for packet in self.path.flush():
            self.far[NAT_PORT].send(packet)
        path, self.path = self.path, LossyPath(**keywords)
        done = {"carried": path.carried, "lost": path.lost, "reordered": path.reordered}
        print(json.dumps(done), flush=True)

    def carry(self, sock: socket.socket, port: int, from_moat: bool) -> None:
        """Carry one packet."""
        try:
            packet, source = sock.recvfrom(1 << 16)
        except OSError:
            return  # the other side does not listen yet
        if not from_moat:
            if port in self.moat:
                self.near[port].sendto(packet, self.moat[port])
            return
        self.moat[port] = source
        esp = port == NAT_PORT and len(packet) > 1 and packet[:4] != NON_ESP_MARKER
        for each in self.path(packet) if esp else (packet,):
            self.far[port].send(each)


def _socket(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33)):
        sock.setsockopt(socket.SOL_SOCKET, option, QUEUE)
    sock.bind((address, port))
    return sock


if __name__ == "__main__":
    Relay(*sys.argv[1:]).run()
