"""Provides the memory for matrices of features, which is used again for the next batch of a part.

The first use of a page of memory takes longer than to copy numbers to it. In the heap, which does not shrink below what
is in use, the memory of a matrix would stay with the process.
"""

from __future__ import annotations

import weakref
from typing import Any, Literal

import numpy as np

from scoreline.storage.tables.fetching import own_memory

LEAST_BYTES = 1 << 20
"""Smaller matrices are left to NumPy."""
_free: list[Any] = []
"""The memory of the last matrix, if it is not in use."""
_releases = 0
"""Number of times that the memory was released. What was in use then is not kept afterwards."""


def empty_matrix(rows: int, columns: int, dtype: Any, order: Literal["C", "F"]) -> Any:
    """Return an ndarray of shape (rows, columns) with arbitrary values.

    Nothing else uses its memory, not even when a model has kept a view of it.
    """
    kind = np.dtype(dtype)
    size = rows * columns * kind.itemsize
    if size < LEAST_BYTES:
        return np.empty((rows, columns), kind, order)
    try:
        block = _free.pop()
    except IndexError:
        block = None
    if block is None or len(block) < size:
        block = own_memory(size + size // 4)  # the next batch may be larger; what is not used takes no memory
    memory = np.frombuffer(block, np.uint8, size)
    weakref.finalize(memory, _give_back, block, _releases).atexit = False
    return memory.view(kind).reshape((rows, columns), order=order)


def release_memory() -> None:
    """Give the memory that is not in use back to the system. It is called after each part and each plan."""
    global _releases
    _releases += 1
    _free.clear()


def _give_back(block: Any, releases: int) -> None:
    """Keep memory that nothing refers to any more, unless there is some already, or the part that used it has ended."""
    if not _free and releases == _releases:
        _free.append(block)
