"""Allocates memory directly from the operating system, and releases unused memory to it.

This module does not import NumPy, because NumPy starts threads. The process of a trial load imports this module before
it is confined, and a process with several threads cannot be confined.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""


def own_memory(size: int) -> mmap.mmap:
    """Return memory that is freed as soon as nothing refers to it; raise `MemoryError` if the system has none left."""
    try:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:  # callers would mistake an OSError for a damaged object
        raise MemoryError(f"there is no memory for {size:,} bytes") from error


def shrink_heap() -> None:
    """Release unused heap memory of the C library to the operating system."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks() -> None:
    """From now on, let the C library return each freed block of more than a MiB to the operating system at once.

    By default, it keeps such blocks in a heap for each thread, which takes several times as much memory if several
    threads pass large pieces on.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)


def release_memory() -> None:
    """Collect garbage, and release unused memory to the operating system."""
    gc.collect()
    shrink_heap()
