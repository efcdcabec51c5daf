"""Watching the wild side while the pc chatters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import lab
import sentry

# See files/pc/usr/local/bin/lab-chatter.
MARKER = b"moat-chatter-9d2"
MOAT, ROUTER, ATTACKER = "02:00:00:00:02:10", "02:00:00:00:02:01", "02:00:00:00:02:66"
INSIDE = sentry.Inside(
    frozenset({"02:00:00:00:01:01", "02:00:00:00:01:10"}),
    tuple(ip_network(n) for n in ("10.201.0.0/16", "10.50.0.0/16", "fd00::/8")),
    MARKER,
)
# Whatever wakes the kernel's IPv6 before the box's own settings are there: the lab sets a
# container's interfaces up before anything of the box runs, which no real machine does.
BOOT = frozenset({"IPv6 link-local"})


def rounds() -> int:
    """Return how often the pc has said everything that it says."""
    return int(lab.host("pc").run("cat /run/lab-chatter").stdout.strip() or 0)


def wait_for_chatter(number: int = 5) -> None:
    """Wait until the pc has gone through so many rounds more."""
    until = rounds() + number
    lab.wait_for(lambda: rounds() >= until, f"{number} rounds of the pc's chatter", 15)


@contextmanager
def watch(also: frozenset[str] = frozenset()) -> Iterator[lab.Capture]:
    """Hold that nothing but the moat's envelopes is on the wild side until the block has ended.

    also names descriptions of frames that pass besides. The capture is the attacker's, who hears
    everything. The pc chatters all the time, and the tunnel is there again at the end.
    """
    with lab.capture("attacker", "access0") as seen:
        wait_for_chatter()
        yield seen
        lab.wait_for_tunnel(60)
        wait_for_chatter()
    known = frozenset({ROUTER, ATTACKER})
    found = sentry.findings(seen.frames, MOAT, INSIDE, known, also)
    assert not found, "\n".join([f"{len(found)} frames in clear", *found[:20]])
    assert {frame.source_mac for frame in seen.frames} >= {MOAT, ROUTER}
