"""Stores a block of rows that is decoded column by column, and returns it as record batches."""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.process_memory import give_back, own_memory

_ALIGNMENT = 64


class PackedWindow:
    """Consecutive rows in several batches. Columns can be added in any order.

    Numbers and times are copied to memory that is mapped for these rows. The memory of each batch is contiguous, and is
    returned to the system when the batch is no longer used. Thousands of small arrays in the heap would fragment the
    heap.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns.
    sizes : sequence of int
        The number of rows of each batch. All batches have the same number of rows, except that the first batch and the
        last batch may have fewer rows.
    """

    def __init__(self, schema: pa.Schema, sizes: Sequence[int]) -> None:
        self._schema = schema
        self._sizes = sizes
        self._rows = sum(sizes)
        self._kinds: dict[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))
        self._places: dict[str, tuple[int, int, int]] = {}
        self._null_counts: dict[str, list[int]] = {}
        self._arrays: dict[str, list[pa.Array]] = {}
        most = max(sizes)
        size = 0
        for name, kind in self._kinds.items():
            if (width := _byte_width(kind)) is not None:
                values, size = size, size + _aligned(most * width)
                self._places[name] = values, size, width
                size += _aligned(-(-most // 8))  # validity bits; pages of memory that are never written take no space
        self._batch_bytes = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = own_memory(self._batch_bytes * len(sizes))
        self._bytes = np.frombuffer(memory, np.uint8).reshape(len(sizes), self._batch_bytes)
        self._regions = deque(
            _Region(memory, number * self._batch_bytes, self._batch_bytes) for number in range(len(sizes))
        )
        self._alive = weakref.WeakSet(self._regions)
        self._groups = _alike(sizes)
        self._taken = 0

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Copy the values of a column, one for each row of the window."""
        array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        place = self._places.get(name)
        if place is None or array.type != self._kinds[name]:
            self._arrays[name] = self._divide(array)
            return
        values, valid, width = place
        _, data = array.buffers()
        of_rows = np.frombuffer(data, np.uint8, len(array) * width, array.offset * width)
        self._copy(of_rows, values, width)
        if array.null_count:
            self._null_counts[name] = self._add_validity(array, valid)

    def add_batch(self, name: str, number: int, array: pa.Array) -> None:
        """Copy the values of a column for the rows of one batch. Batches are added in order."""
        place = self._places.get(name)
        if place is None or array.type != self._kinds[name]:
            self._arrays.setdefault(name, []).append(copied([array]))
            return
        values, valid, width = place
        of_rows = np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width)
        self._bytes[number, values : values + len(of_rows)] = of_rows
        if array.null_count:
            bits = np.packbits(_unpack_validity(array), bitorder="little")
            self._bytes[number, valid : valid + len(bits)] = bits
            self._null_counts.setdefault(name, [0] * len(self._sizes))[number] = array.null_count

    def _copy(self, of_rows: Any, place: int, width: int) -> None:
        """Copy a column of fixed-width values to a position in each batch."""
        done = 0
        for first, count, rows in self._groups:
            size = rows * width
            of_batches = of_rows[done : done + count * size].reshape(count, size)
            self._bytes[first : first + count, place : place + size] = of_batches
            done += count * size

    def _add_validity(self, array: pa.Array, place: int) -> list[int]:
        """Copy the validity bits of a column, and return the number of nulls in each batch."""
        bits = _unpack_validity(array)
        null_counts: list[int] = []
        done = 0
        for first, count, rows in self._groups:
            of_batches = bits[done : done + count * rows].reshape(count, rows)
            packed = np.packbits(of_batches, axis=1, bitorder="little")
            self._bytes[first : first + count, place : place + packed.shape[1]] = packed
            null_counts += (rows - of_batches.sum(axis=1, dtype=np.int64)).tolist()
            done += count * rows
        return null_counts

    def _divide(self, array: pa.Array) -> list[pa.Array]:
        """Return the values of each batch, copied to separate memory."""
        starts = np.cumsum([0, *self._sizes]).tolist()
        return [copied([array.slice(start, rows)]) for start, rows in zip(starts, self._sizes, strict=False)]

    @property
    def rows_left(self) -> int:
        """Number of rows in the batches that `take` has not yet returned."""
        return sum(self._sizes[self._taken :])

    @property
    def held_bytes(self) -> int:
        """Memory of the batches that are still to be taken, or are in use."""
        return len(self._alive) * self._batch_bytes

    def take(self) -> pa.RecordBatch:
        """Return the next batch. All columns must have been added."""
        number, self._taken = self._taken, self._taken + 1
        region, rows = self._regions.popleft(), self._sizes[number]
        memory = pa.foreign_buffer(self._bytes[number].ctypes.data, self._batch_bytes, region)
        arrays = []
        for name, kind in self._kinds.items():
            if name in self._arrays:
                arrays.append(self._arrays[name][number])
                continue
            values, valid, width = self._places[name]
            null_count = self._null_counts[name][number] if name in self._null_counts else 0
            validity = memory.slice(valid, -(-rows // 8)) if null_count else None
            data = memory.slice(values, rows * width)
            arrays.append(pa.Array.from_buffers(kind, rows, [validity, data], null_count))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


class _Region:
    """The memory of one batch. It is returned to the system when no buffer refers to it any more."""

    __slots__ = ("__weakref__", "_memory", "_size", "_start")

    def __init__(self, memory: mmap.mmap, start: int, size: int) -> None:
        self._memory = memory
        self._start = start
        self._size = size

    def __del__(self) -> None:
        give_back(self._memory, self._start, self._start + self._size)


def copied(chunks: Sequence[pa.Array]) -> pa.Array:
    """Copy arrays of the same type into one new array."""
    return pa.concat_arrays([*chunks, chunks[0].slice(0, 0)])  # Arrow does not copy a single array, so add an empty one


def _unpack_validity(array: pa.Array) -> Any:
    """Return for each value whether it is not null: ndarray of uint8. The array must have validity bits."""
    bits = np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)]


def _alike(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Group consecutive batches of equal size.

    For each group, return the number of its first batch, how many batches it has, and their size.

    >>> _alike([3, 8, 8, 8, 1])
    [(0, 1, 3), (1, 3, 8), (4, 1, 1)]
    """
    found: list[tuple[int, int, int]] = []
    for number, rows in enumerate(sizes):
        if found and found[-1][2] == rows:
            found[-1] = (found[-1][0], found[-1][1] + 1, rows)
        else:
            found.append((number, 1, rows))
    return found


def _byte_width(kind: pa.DataType) -> int | None:
    """Return the size of a value in bytes; None if values do not consist of whole bytes in a single buffer."""
    if pa.types.is_boolean(kind) or not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind)):
        return None
    return int(kind.bit_width) // 8


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
