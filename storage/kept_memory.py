"""Keeps the memory of a process that reads rows: what one object no longer needs serves the next one.

The first access to a page of new memory takes several times as long as copying numbers to it.
"""

from __future__ import annotations

import mmap
import threading
import time
import weakref
from typing import Any, Literal

import numpy as np

from scoreline.storage.process_memory import own_memory

KEPT_S = 20.0
"""Seconds for which unused memory is kept. A process that has more parts to score begins the next part within a
second."""
_MOST_BYTES = 96 << 20
"""Maximum number of unused bytes: as many as a reader of Parquet may fetch ahead of a block of rows
(`blocks.FETCH_BYTES`), and two matrices. Three slices of an Arrow file are as large (`arrow_slices.SLICE_BYTES`)."""
_LEAST_BYTES = 12 << 20
"""Number of unused bytes that are kept although a new block is mapped. Otherwise, a matrix and fetched bytes would take
turns."""
_MATRIX_BYTES = 1 << 20
"""Minimum size, in bytes, of a matrix that gets kept memory. NumPy allocates smaller matrices."""
_STEPS = 4
"""Number of block sizes from one power of two to the next, so that most blocks fit for other arrays, too."""


class KeptMemory:
    """Blocks of memory for arrays. Unused blocks are kept for other arrays until none is needed for some time.

    A new block is mapped only if no unused block fits. Then as many unused bytes are released as the new block takes,
    so that unused blocks do not raise the peak of memory.

    All methods are thread-safe without locks, because single operations of a list are atomic. A signal handler or the
    garbage collector may interrupt them at any moment.

    Parameters
    ----------
    most_bytes : int
        Maximum number of unused bytes to keep.
    kept_s : float
        Seconds after which unused blocks are released if no array was requested meanwhile.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES, kept_s: float = KEPT_S) -> None:
        self._most_bytes = most_bytes
        self._kept_s = kept_s
        self._unused: dict[int, list[mmap.mmap]] = {}
        """The unused blocks by their size."""
        self._releases = 0
        self._arrays = 0
        self._due_bytes = 0
        """Size of new blocks for which no unused block of another size was released, because all were larger."""
        self._watcher: threading.Thread | None = None

    @property
    def unused_bytes(self) -> int:
        """Size of all unused blocks."""
        return sum(size * len(blocks) for size, blocks in list(self._unused.items()))

    def array(self, size: int) -> Any:
        """Return an ndarray of `size` bytes with arbitrary values: ndarray of uint8.

        Its memory is used again only when neither the array nor a view of it is left.
        """
        releases = self._releases  # as of now, because the watcher may end before this method does
        self._arrays += 1
        watcher = self._watcher
        if watcher is None or not watcher.is_alive():  # a forked process does not have its parent's threads
            watcher = self._watcher = threading.Thread(target=self._watch, name="kept-memory", daemon=True)
            watcher.start()
        block = self._take(_block_bytes(size))
        memory = np.frombuffer(block, np.uint8, size)
        weakref.finalize(memory, self._keep, block, releases).atexit = False
        return memory

    def release(self) -> None:
        """Release all unused blocks to the operating system, and those in use as soon as they become unused."""
        self._releases += 1
        self._unused.clear()

    def _take(self, size: int) -> mmap.mmap:
        for larger in sorted(self._unused):
            if size <= larger <= 2 * size and (block := self._pop(larger)) is not None:
                return block
        self._make_room(size)
        return own_memory(size)

    def _make_room(self, size: int) -> None:
        """Release as many unused bytes as new blocks take, but not the last ones.

        A large block is released only for as many small ones. Otherwise, each small block would cost a large one, which
        is soon needed again.
        """
        self._due_bytes = max(min(self._due_bytes + size, self.unused_bytes - _LEAST_BYTES), 0)
        sizes = {other: other * len(blocks) for other, blocks in list(self._unused.items())}
        for other in sorted(sizes, key=sizes.__getitem__, reverse=True):  # first those that earlier objects needed
            while other <= self._due_bytes and self._pop(other) is not None:
                self._due_bytes -= other

    def _pop(self, size: int) -> mmap.mmap | None:
        try:
            return self._unused[size].pop()
        except LookupError:
            return None

    def _keep(self, block: mmap.mmap, releases: int) -> None:
        """Keep a block that is now unused, unless `release` was called meanwhile or enough bytes are kept."""
        if releases == self._releases and self.unused_bytes + len(block) <= self._most_bytes:
            self._unused.setdefault(len(block), []).append(block)

    def _watch(self) -> None:
        before = -1
        while before != (before := self._arrays):
            time.sleep(self._kept_s)
        self._watcher = None
        self.release()


def _block_bytes(size: int) -> int:
    """Round a size up to the size of a block.

    >>> [_block_bytes(size) for size in (1, 5_000, 1 << 20, 8_400_000)]
    [4096, 8192, 1048576, 10485760]
    """
    step = max((1 << max(size - 1, 0).bit_length()) // 2 // _STEPS, mmap.PAGESIZE)
    return max(-(-size // step), 1) * step


MEMORY = KeptMemory()
"""The memory of this process for fetched bytes, for blocks of rows, and for matrices of features, scaled or not."""


def empty_matrix(rows: int, columns: int, dtype: Any, order: Literal["C", "F"]) -> Any:
    """Return an ndarray of shape (rows, columns) with arbitrary values.

    Its memory is not taken from the heap, because the heap may not shrink after a matrix is freed. The memory is reused
    only when neither the matrix nor a view of it is left. A model may keep a view.
    """
    kind = np.dtype(dtype)
    size = rows * columns * kind.itemsize
    if size < _MATRIX_BYTES:
        return np.empty((rows, columns), kind, order)
    return MEMORY.array(size).view(kind).reshape((rows, columns), order=order)
