"""A stream of single UDP datagrams one way through a tunnel, and when they arrived.

Nothing goes the other way for it, so that it shows whether a side that only receives is found.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from boxes import wait_for

if TYPE_CHECKING:
    from boxes import Namespace

PORT = "7008"
EVERY = 0.05  # seconds from one datagram to the next

# Prints when each datagram was sent, as it arrives. All namespaces share one clock.
_RECEIVE = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    print(sock.recv(1 << 16).decode(), flush=True)
"""

_SEND = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        data = str(time.monotonic()).encode().ljust(int(sys.argv[4]))
        sock.sendto(data, (sys.argv[1], int(sys.argv[2])))
    except OSError:
        pass  # no way for the moment
    time.sleep(float(sys.argv[3]))
"""


class Stream:
    """What has arrived: the time of sending of the newest datagram, and its time of arrival."""

    def __init__(self) -> None:
        self.sent = 0.0
        self.arrived = 0.0

    def away_since(self, start: float, deadline: float) -> float:
        """Return how long after start a datagram arrived that was sent after start, in seconds."""
        wait_for(lambda: self.sent > start, "a datagram", deadline)
        return max(0.0, self.arrived - start)


@contextmanager
def stream(sender: Namespace, receiver: Namespace, address: str, size: int = 0) -> Iterator[Stream]:
    """Send datagrams to address, which is receiver's, for the length of the block.

    size is how many octets each has at least.
    """
    result = Stream()
    pipe = subprocess.PIPE
    words = (sys.executable, "-u", "-c", _RECEIVE, address, PORT)
    with receiver.popen(*words, stdout=pipe) as sink:
        assert sink.stdout is not None
        assert sink.stdout.readline() == b"ready\n"

        def read() -> None:
            assert sink.stdout is not None
            for line in sink.stdout:
                result.sent, result.arrived = float(line), time.monotonic()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            words = (sys.executable, "-c", _SEND, address, PORT, str(EVERY), str(size))
            with sender.popen(*words) as source:
                try:
                    yield result
                finally:
                    source.kill()
        finally:
            sink.kill()
            reader.join()
