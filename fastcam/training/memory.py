"""Memory of a training process on the CPU: freed gradients are kept for the next step."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_SPARE_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, instead of handing it back to the system.

    A block above 32 MB comes fresh from the system each time, and touching its pages costs more
    than writing it: AlexNet's gradients are 230 MB a step. The setting holds for the whole process
    and until its end, which then keeps its peak of memory; so it is for a program that trains, not
    for a library to do on import.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    wanted = {
        _M_MMAP_MAX: 0,  # every block in the heap, where a freed one is found again
        _M_TRIM_THRESHOLD: 2**31 - 1,
        _M_TOP_PAD: _SPARE_BYTES,
    }
    taken = [libc.mallopt(name, value) == 1 for name, value in wanted.items()]
    return all(taken)
