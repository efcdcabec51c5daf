"""Has the C library keep the memory that bursts use, from one burst to the next (mallopt(3))."""

from __future__ import annotations

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT = 16 << 20  # octets at the heap's end that are kept for the next time
LARGE = 1 << 20  # octets from which a piece of memory is the kernel's own, gone as soon as freed


def keep_freed_memory() -> bool:
    """Keep what is freed; return False where the C library is not one that can be told so.

    Otherwise glibc gives a burst's memory back to the kernel after each burst, and has it page by
    page, zeroed, for the next.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_M_TRIM_THRESHOLD, KEPT), mallopt(_M_MMAP_THRESHOLD, LARGE)])
