"""Takes memory for this process from the system, and gives it back.

It imports no NumPy, which starts threads: the process of a trial load uses it, and can be confined only before that.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap


def own_memory(size: int) -> mmap.mmap:
    """Return memory that goes back to the system when it is no longer used, or raise `MemoryError`."""
    try:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:  # an OSError would look like a damaged object
        raise MemoryError(f"there is no memory for {size:,} bytes") from error


def give_back(memory: mmap.mmap, start: int, stop: int) -> None:
    """Give the whole pages between two positions back to the system. Their content is lost."""
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = stop // mmap.PAGESIZE * mmap.PAGESIZE
    if start < stop and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED, start, stop - start)


def shrink_heap() -> None:
    """Give memory that the C library keeps, though it is free, back to the system."""
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)


def release_memory() -> None:
    """Collect garbage, and give memory that is not in use back to the system."""
    gc.collect()
    shrink_heap()
