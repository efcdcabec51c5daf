"""A bulk transfer of one client, and pings of another through the same tunnel, with real daemons.

clients 10.201.1.1, .2 -- lo -- moat --- 192.0.2.0/24 --- portal -- lo -- server 10.50.0.1
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from boxes import MOAT, PATIENCE, PORTAL, Box, wait_for
from pair import Pair

OTHER = "10.201.1.2"  # the client that pings
PORT = "7010"
PINGS, INTERVAL = 100, 0.02
BOUND = 0.020  # seconds: what a bulk transfer may raise another's round trip to
LATE = 2 * BOUND  # the same of 95 % of them, where programs beside this one take turns with moatd
TRIES = 5  # of which one has to be good: others use this machine, too
STEPS = 4  # programs that a round trip waits for: each daemon works on it twice
BULK = 4 << 20  # octets that are more than any transfer that is not going on

_TAKE = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
    print("ready", flush=True)
    sock, _ = listener.accept()
    while sock.recv(1 << 18):
        pass
"""
_GIVE = """
import socket, sys
own = sys.argv[3], 0
with socket.create_connection((sys.argv[1], int(sys.argv[2])), source_address=own) as sock:
    block = bytes(1 << 18)
    while True:
        sock.sendall(block)
"""


@contextmanager
def bulk(sender: Box, source: str, receiver: Box, target: str) -> Iterator[None]:
    """Send as much as TCP can during the block."""
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        taker = receiver.popen(sys.executable, "-c", _TAKE, target, PORT, stdout=pipe)
        stack.enter_context(taker)
        stack.callback(taker.kill)
        assert taker.stdout is not None
        assert taker.stdout.readline() == b"ready\n"
        giver = sender.popen(sys.executable, "-c", _GIVE, target, PORT, source)
        stack.enter_context(giver)
        stack.callback(giver.kill)
        before = carried(sender)
        wait_for(lambda: carried(sender) > before + BULK, "a bulk transfer", 10)
        yield


def carried(box: Box) -> int:
    """Return how many octets the box's kernel has given to its tunnel."""
    lines = box.run("cat", "/proc/net/dev").stdout.splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("moat0:"))


def stall() -> float:
    """Return how much later than it asked for a program of this machine runs, 95 % of times."""
    late = []
    for _ in range(200):
        began = time.monotonic()
        time.sleep(0.001)
        late.append(time.monotonic() - began - 0.001)
    return sorted(late)[-len(late) // 20]


def round_trips(box: Box) -> list[float]:
    """Return the seconds of each ping of the other client that was answered, in rising order."""
    words = ("-n", "-i", str(INTERVAL), "-c", str(PINGS), "-W", "2", "-I", OTHER)
    told = box.run("ping", *words, PORTAL.inside, check=False).stdout
    return sorted(float(took) / 1000 for took in re.findall(r"time=([\d.]+)", told))


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bulk_transfer_leaves_another_clients_pings_alone(pair: Pair, way: str) -> None:
    moat, portal = pair.moat, pair.portal
    moat.ip("address", "replace", f"{OTHER}/32", "dev", "lo")
    ends = (moat, MOAT.inside, portal, PORTAL.inside)
    for _ in range(TRIES):
        with bulk(*(ends if way == "up" else ends[2:] + ends[:2])):
            took = round_trips(moat)
            bound = (LATE + STEPS * stall()) * PATIENCE
        median, late = statistics.median(took), took[len(took) * 95 // 100]
        print(f"{way}: {len(took)} pings, median {median * 1000:.1f} ms, 95 % within "
              f"{late * 1000:.1f} ms; to be below {bound * 1000:.1f} ms")  # fmt: skip
        if len(took) >= 0.95 * PINGS and median < BOUND * PATIENCE and late < bound:
            return
    pytest.fail(f"pings take too long beside a bulk transfer {way}")
