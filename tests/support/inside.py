"""Being in another network namespace for a while: what is opened there stays there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(namespace: str) -> Iterator[None]:
    """Have this thread in a namespace for a while."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert setns(there, 0) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert setns(home, 0) == 0, os.strerror(ctypes.get_errno())
        os.close(there)
        os.close(home)
