"""Provides memory for matrices of features, and reuses it for the next batch.

The memory is not taken from the heap, because the heap may not shrink after a matrix is freed.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from scoreline.storage.kept_memory import MEMORY

LEAST_BYTES = 1 << 20
"""Minimum size, in bytes, of a matrix that gets reused memory. NumPy allocates smaller matrices."""


def empty_matrix(rows: int, columns: int, dtype: Any, order: Literal["C", "F"]) -> Any:
    """Return an ndarray of shape (rows, columns) with arbitrary values.

    Its memory is reused only when neither the matrix nor a view of it is left. A model may keep a view.
    """
    kind = np.dtype(dtype)
    size = rows * columns * kind.itemsize
    if size < LEAST_BYTES:
        return np.empty((rows, columns), kind, order)
    return MEMORY.array(size).view(kind).reshape((rows, columns), order=order)
