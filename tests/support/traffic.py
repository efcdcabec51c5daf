"""Programs for the ends of a tunnel: a TCP transfer and pings, and what they saw."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxes import Box

PORT = "7007"

# Takes one connection, and says how many octets came and their hash.
_RECEIVE = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("ready", flush=True)
sock, _ = listener.accept()
total, hashed = 0, hashlib.sha256()
while data := sock.recv(1 << 16):
    total += len(data)
    hashed.update(data)
print(total, hashed.hexdigest())
"""

# Sends random octets, and says how long the whole took and their hash.
_SEND = """
import hashlib, os, socket, sys, time
block, hashed = os.urandom(1 << 20), hashlib.sha256()
start = time.monotonic()
SO_MAX_PACING_RATE = 47
source = (sys.argv[5], 0) if sys.argv[5] else None
with socket.create_connection((sys.argv[1], int(sys.argv[2])), source_address=source) as sock:
    if pace := int(sys.argv[4]):
        sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
    for _ in range(int(sys.argv[3])):
        sock.sendall(block)
        hashed.update(block)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
print(time.monotonic() - start, hashed.hexdigest())
"""


@dataclass
class Transfer:
    """The result of a transfer, there once it has ended."""

    seconds: float = 0.0
    megabits_a_second: float = 0.0


@contextmanager
def transfer(
    sender: Box, receiver: Box, address: str, mebibytes: int, pace: int = 0, source: str = ""
) -> Iterator[Transfer]:
    """Send mebibytes by TCP while the block runs, and check at its end that they came whole.

    pace is how many octets a second TCP may send, 0 for as many as it can; source is the sender's
    address, empty for the one that routing takes.
    """
    pipe = subprocess.PIPE
    result = Transfer()
    with receiver.popen(sys.executable, "-c", _RECEIVE, address, PORT, stdout=pipe) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            words = (sys.executable, "-c", _SEND, address, PORT, str(mebibytes), str(pace), source)
            with sender.popen(*words, stdout=pipe) as client:
                try:
                    yield result
                    sent, _ = client.communicate(timeout=90)
                finally:
                    client.kill()
            received, _ = server.communicate(timeout=10)
        finally:
            server.kill()
    seconds, sent_hash = sent.split()
    total, received_hash = received.split()
    assert int(total) == mebibytes << 20
    assert received_hash == sent_hash
    result.seconds = float(seconds)
    result.megabits_a_second = int(total) * 8 / result.seconds / 1e6


@dataclass
class Pings:
    """What ping told, there once it has ended."""

    sent: int = 0
    received: int = 0
    duplicates: int = field(default=0)


@contextmanager
def pings(sender: Box, address: str, count: int = 300, source: str = "") -> Iterator[Pings]:
    """Send count echo requests, 100 a second, while the block runs; wait for them at its end."""
    at = ("-I", source) if source else ()
    words = ("ping", "-n", "-i", "0.01", "-W", "2", "-c", str(count), *at, address)
    result = Pings()
    with sender.popen(*words, stdout=subprocess.PIPE) as ping:
        try:
            yield result
            output = ping.communicate(timeout=60)[0].decode()
        finally:
            ping.kill()
    found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
    assert found is not None, output
    result.sent, result.received = int(found[1]), int(found[2])
    result.duplicates = output.count("DUP!")
