"""What children and their parent tell each other, through memory that they share since the fork.

Control commands run in the parent, models are in the children. Anonymous shared memory needs no file and no Redis,
and cannot outlive the worker.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from typing import Any

_ORDERS = struct.Struct("<Q")
_HEADER = struct.Struct("<III")  # pid, length, CRC-32 of the text
SLOT_BYTES = 16_384


class Board:
    """One slot a child; each child writes its own, the parent reads all, and gives orders by a counter.

    Parameters
    ----------
    slots : int
        At least as many as the pool has processes.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._memory = mmap.mmap(-1, _ORDERS.size + slots * SLOT_BYTES)

    def write(self, slot: int, pid: int, value: Any) -> None:
        """Put a child's value into its slot; one that does not fit is cut to an empty list."""
        text = json.dumps(value).encode()
        if len(text) > SLOT_BYTES - _HEADER.size:
            text = b"[]"
        start = _ORDERS.size + (slot % self._slots) * SLOT_BYTES
        self._memory[start : start + _HEADER.size + len(text)] = _HEADER.pack(pid, len(text), zlib.crc32(text)) + text

    def read(self) -> dict[int, Any]:
        """Return the value of each child by pid; one that is just being written is left out."""
        found = {}
        for start in range(_ORDERS.size, _ORDERS.size + self._slots * SLOT_BYTES, SLOT_BYTES):
            pid, length, checksum = _HEADER.unpack_from(self._memory, start)
            text = self._memory[start + _HEADER.size : start + _HEADER.size + min(length, SLOT_BYTES)]
            if pid and zlib.crc32(text) == checksum:
                found[pid] = json.loads(text)
        return found

    def order_eviction(self) -> None:
        """Tell every child to let go of its models; for the parent."""
        _ORDERS.pack_into(self._memory, 0, self.evictions_ordered() + 1)

    def evictions_ordered(self) -> int:
        """Return how often an eviction was ordered: a child that knows a smaller number has one to carry out."""
        return int(_ORDERS.unpack_from(self._memory)[0])
