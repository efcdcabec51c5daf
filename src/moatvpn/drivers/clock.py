"""The clocks of the daemon."""

from __future__ import annotations

import time

# Time spent asleep does not count (that would be CLOCK_BOOTTIME): a gateway does not sleep, and
# one that did would find its peer's silence out by itself when it wakes.
monotonic = time.monotonic

# Seconds since the epoch, which go on over a restart; only for what is valid until a certain time,
# such as certificates and tickets: it may be set at any time.
wall_clock = time.time
