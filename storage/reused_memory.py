"""Memory for arrays that is used again, because the first use of a page of memory takes time."""

from __future__ import annotations

import mmap
import weakref
from typing import Any

import numpy as np

from scoreline.storage.process_memory import own_memory


class ReusedMemory:
    """Memory for arrays that is used again for later arrays.

    It is thread-safe.

    Parameters
    ----------
    most_blocks : int, optional
        Maximum number of blocks to keep while they are not in use. By default, all are kept.
    """

    def __init__(self, most_blocks: int | None = None) -> None:
        self.blocks: list[mmap.mmap] = []
        """What is not in use."""
        self._most_blocks = most_blocks
        self._releases = 0

    def array(self, size: int, block_bytes: int) -> Any:
        """Return an ndarray of `size` bytes. Nothing else uses its memory, not even if only a view of it is left.

        Parameters
        ----------
        block_bytes : int
            The size of a new block, if none of those that are not in use is large enough.
        """
        try:
            block = self.blocks.pop()
        except IndexError:
            block = None
        if block is None or len(block) < size:
            block = own_memory(block_bytes)
        memory = np.frombuffer(block, np.uint8, size)
        weakref.finalize(memory, self._keep, block, self._releases).atexit = False
        return memory

    def release(self) -> None:
        """Give the memory that is not in use back to the system. What is in use is not kept afterwards."""
        self._releases += 1
        self.blocks.clear()

    def _keep(self, block: mmap.mmap, releases: int) -> None:
        """Keep memory that nothing refers to any more, unless it was released meanwhile, or enough is kept."""
        has_room = self._most_blocks is None or len(self.blocks) < self._most_blocks
        if has_room and releases == self._releases:
            self.blocks.append(block)
