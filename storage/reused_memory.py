"""Reuses the memory of arrays, because the first access to a new page of memory takes time."""

from __future__ import annotations

import mmap
import weakref
from typing import Any

import numpy as np

from scoreline.storage.process_memory import own_memory


class ReusedMemory:
    """A pool of memory blocks for arrays.

    The pool is thread-safe.

    Parameters
    ----------
    most_blocks : int, optional
        Maximum number of unused blocks to keep. By default, all blocks are kept.
    """

    def __init__(self, most_blocks: int | None = None) -> None:
        self._blocks: list[mmap.mmap] = []
        """The unused blocks."""
        self._most_blocks = most_blocks
        self._releases = 0

    def array(self, size: int, block_bytes: int) -> Any:
        """Return an ndarray of `size` bytes. Its memory is reused only when neither the array nor a view of it is left.

        Parameters
        ----------
        block_bytes : int
            The size of the new block that is allocated if the next unused block is too small.
        """
        try:
            block = self._blocks.pop()
        except IndexError:
            block = None
        if block is None or len(block) < size:
            block = own_memory(block_bytes)
        memory = np.frombuffer(block, np.uint8, size)
        weakref.finalize(memory, self._keep, block, self._releases).atexit = False
        return memory

    def release(self) -> None:
        """Release all unused blocks to the operating system.

        Blocks in use are released as soon as they become unused.
        """
        self._releases += 1
        self._blocks.clear()

    def _keep(self, block: mmap.mmap, releases: int) -> None:
        """Keep a block that is now unused, unless `release` was called meanwhile or enough blocks are kept."""
        has_room = self._most_blocks is None or len(self._blocks) < self._most_blocks
        if has_room and releases == self._releases:
            self._blocks.append(block)
