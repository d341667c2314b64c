"""Memory that the main process of a worker shares with its forked children.

Remote control commands run in the main process, but the models are in the children. Shared memory passes data between
the main process and the children, without a file or Redis. The memory is freed when the worker ends.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from typing import Any

_EVICTIONS = struct.Struct("<Q")
_HEADER = struct.Struct("<III")  # pid, length, CRC-32 of the text
SLOT_BYTES = 16_384


class Board:
    """Shared memory with an area for each child, and a counter of evictions.

    Each child writes to its area, and the main process reads all areas.

    Parameters
    ----------
    slots : int
        Number of areas, which must be at least the number of processes in the pool.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._memory = mmap.mmap(-1, _EVICTIONS.size + slots * SLOT_BYTES)

    def write(self, slot: int, pid: int, value: Any) -> None:
        """Write a child's value into its area as JSON. A value that does not fit is replaced by an empty list."""
        text = json.dumps(value).encode()
        if len(text) > SLOT_BYTES - _HEADER.size:
            text = b"[]"
        start = _EVICTIONS.size + (slot % self._slots) * SLOT_BYTES
        self._memory[start : start + _HEADER.size + len(text)] = _HEADER.pack(pid, len(text), zlib.crc32(text)) + text

    def read(self) -> dict[int, Any]:
        """Return the value of each child, by pid. A value that a child is just writing is left out."""
        found = {}
        for start in range(_EVICTIONS.size, _EVICTIONS.size + self._slots * SLOT_BYTES, SLOT_BYTES):
            pid, length, checksum = _HEADER.unpack_from(self._memory, start)
            text = self._memory[start + _HEADER.size : start + _HEADER.size + min(length, SLOT_BYTES)]
            if pid and zlib.crc32(text) == checksum:
                found[pid] = json.loads(text)
        return found

    def request_eviction(self) -> None:
        """Request that every child evicts its models. Only the main process calls this."""
        _EVICTIONS.pack_into(self._memory, 0, self.evictions_requested() + 1)

    def evictions_requested(self) -> int:
        """Return the number of requested evictions. If the number has grown, a child must evict its models."""
        return int(_EVICTIONS.unpack_from(self._memory)[0])
