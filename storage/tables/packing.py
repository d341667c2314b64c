"""Stores a block of rows that is decoded column by column, and returns it as record batches."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.kept_memory import MEMORY

SLAB_BYTES = 512 << 10
"""Size of a block: 65,536 values of float64, which is a column of a usual batch."""
_VALIDITY_BYTES = 64 << 10
"""Size of a block for validity bits, which is enough for eight columns of a usual batch."""
_ALIGNMENT = 64


class PackedWindow:
    """Consecutive rows in several batches. Columns can be added in any order.

    Numbers and times are copied to blocks of memory, each for some columns of one batch. The blocks are allocated when
    columns are added, so that they can take the memory of fetched bytes that are no longer needed. When a batch is no
    longer used, its blocks serve other rows or bytes. Thousands of small arrays in the heap would fragment the heap.

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
        self._kinds: dict[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))
        self._places: dict[str, _Place] = {}
        """Where the values of a column are in the memory of each batch."""
        self._valid_places: dict[str, _Place] = {}
        """The same for the validity bits of columns with nulls."""
        self._null_counts: dict[str, list[int]] = {}
        self._arrays: dict[str, list[pa.Array]] = {}
        self._most_rows = max(sizes)
        self._values = _Layout(SLAB_BYTES)
        self._valid = _Layout(_VALIDITY_BYTES)
        self._regions = deque(_Region(self._values, self._valid) for _ in sizes)
        self._alive = weakref.WeakSet(self._regions)
        self._taken = 0

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Copy the values of a column, one for each row of the window."""
        array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        if self._width(name, array) is None:
            self._arrays[name] = self._divide(array)
            return
        start = 0
        for number, rows in enumerate(self._sizes):
            self._copy(name, number, array.slice(start, rows))
            start += rows

    def add_batch(self, name: str, number: int, array: pa.Array) -> None:
        """Copy the values of a column for the rows of one batch. Batches are added in order."""
        if self._width(name, array) is None:
            self._arrays.setdefault(name, []).append(copied([array]))
        else:
            self._copy(name, number, array)

    def _width(self, name: str, array: pa.Array) -> int | None:
        """Return the size of a value in bytes; None if the values are not copied to blocks."""
        return _byte_width(array.type) if array.type == self._kinds[name] else None

    def _copy(self, name: str, number: int, array: pa.Array) -> None:
        """Copy values of a fixed width, and their validity bits, to the memory of a batch."""
        width = _byte_width(array.type) or 0
        if name not in self._places:
            self._places[name] = self._values.reserve(self._most_rows * width)
        of_rows = np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width)
        region = self._regions[number]
        region.values.write(self._places[name], of_rows)
        if array.null_count:
            if name not in self._valid_places:
                self._valid_places[name] = self._valid.reserve(-(-self._most_rows // 8))
                self._null_counts[name] = [0] * len(self._sizes)
            region.valid.write(self._valid_places[name], np.packbits(_unpack_validity(array), bitorder="little"))
            self._null_counts[name][number] = array.null_count

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
        return sum(region.values.size + region.valid.size for region in self._alive)

    def take(self) -> pa.RecordBatch:
        """Return the next batch. All columns must have been added."""
        number, self._taken = self._taken, self._taken + 1
        region, rows = self._regions.popleft(), self._sizes[number]
        arrays = []
        for name, kind in self._kinds.items():
            if name in self._arrays:
                arrays.append(self._arrays[name][number])
                continue
            null_count = self._null_counts[name][number] if name in self._null_counts else 0
            validity = None
            if null_count:
                validity = pa.foreign_buffer(region.valid.address(self._valid_places[name]), -(-rows // 8), region)
            size = rows * int(kind.bit_width) // 8
            values = pa.foreign_buffer(region.values.address(self._places[name]), size, region)
            arrays.append(pa.Array.from_buffers(kind, rows, [validity, values], null_count))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


type _Place = tuple[int, int]
"""The number of a block, and the position in it."""


class _Layout:
    """Divides blocks of memory between columns. The blocks of all batches of a window are divided alike.

    Parameters
    ----------
    block_bytes : int
        Size of a block. A column that takes more has a larger block of its own.
    """

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._end = 0
        self.sizes: list[int] = []
        """The size of each block."""

    def reserve(self, size: int) -> _Place:
        """Return the place for a column that takes `size` bytes of each batch."""
        if not self.sizes or self._end + size > self.sizes[-1]:
            self.sizes.append(max(self._block_bytes, size))
            self._end = 0
        place = len(self.sizes) - 1, self._end
        self._end += _aligned(size)
        return place


class _Blocks:
    """Blocks of one batch. They are allocated when they are written."""

    __slots__ = ("_arrays", "_layout", "size")

    def __init__(self, layout: _Layout) -> None:
        self._layout = layout
        self._arrays: dict[int, Any] = {}
        self.size = 0
        """Number of allocated bytes."""

    def write(self, place: _Place, data: Any) -> None:
        """Write an ndarray of uint8 to a place."""
        number, position = place
        if number not in self._arrays:
            size = self._layout.sizes[number]
            self._arrays[number] = MEMORY.array(size)
            self.size += size
        self._arrays[number][position : position + len(data)] = data

    def address(self, place: _Place) -> int:
        """Return the address of a place."""
        number, position = place
        return int(self._arrays[number].ctypes.data) + position


class _Region:
    """The memory of one batch. Its blocks are unused when no buffer refers to it any more."""

    __slots__ = ("__weakref__", "valid", "values")

    def __init__(self, values: _Layout, valid: _Layout) -> None:
        self.values = _Blocks(values)
        self.valid = _Blocks(valid)


def copied(chunks: Sequence[pa.Array]) -> pa.Array:
    """Copy arrays of the same type into one new array."""
    return pa.concat_arrays([*chunks, chunks[0].slice(0, 0)])  # Arrow does not copy a single array, so add an empty one


def _unpack_validity(array: pa.Array) -> Any:
    """Return for each value whether it is not null: ndarray of uint8. The array must have validity bits."""
    bits = np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)]


def _byte_width(kind: pa.DataType) -> int | None:
    """Return the size of a value in bytes; None if values do not consist of whole bytes in a single buffer."""
    if pa.types.is_boolean(kind) or not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind)):
        return None
    return int(kind.bit_width) // 8


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
