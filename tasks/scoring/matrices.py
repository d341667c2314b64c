"""Provides the memory for matrices of features, which is used again for the next batch of a part.

The first use of a page of memory takes longer than to copy numbers to it. In the heap, which does not shrink below what
is in use, the memory of a matrix would stay with the process.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from scoreline.storage.reused_memory import ReusedMemory

LEAST_BYTES = 1 << 20
"""Smaller matrices are left to NumPy."""
MEMORY = ReusedMemory(most_blocks=1)
"""The memory of the last matrix."""


def empty_matrix(rows: int, columns: int, dtype: Any, order: Literal["C", "F"]) -> Any:
    """Return an ndarray of shape (rows, columns) with arbitrary values.

    Nothing else uses its memory, not even when a model has kept a view of it.
    """
    kind = np.dtype(dtype)
    size = rows * columns * kind.itemsize
    if size < LEAST_BYTES:
        return np.empty((rows, columns), kind, order)
    memory = MEMORY.array(size, size + size // 4)  # the next batch may be larger; what is not used takes no memory
    return memory.view(kind).reshape((rows, columns), order=order)
