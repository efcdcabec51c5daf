"""Memory that a burst needs again and again is asked of the kernel once."""

from __future__ import annotations

import subprocess
import sys

BURSTS, OCTETS = 200, 300_000
PAGE = 4096

PROGRAM = f"""
import resource, sys
from moatvpn.drivers.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytes(1) + bytearray({OCTETS})
before = faults()
for _ in range({BURSTS}):
    bytearray({OCTETS})[:] = b"x" * {OCTETS}
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        (sys.executable, "-c", PROGRAM, how), capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


def test_bursts_use_the_same_pages_again() -> None:
    # Two pieces of memory for the first burst, and for no other.
    assert faults("keep") < 10 * OCTETS // PAGE
