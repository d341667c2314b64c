"""Builds a record batch column by column in one stretch of memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from scoreline.storage.tables.fetching import own_memory

_ALIGNMENT = 64


class PackedBatch:
    """A batch whose columns are added in any order.

    All numbers and times are copied to memory that is mapped for this batch, and given back as a whole. Thousands of
    small arrays would leave gaps in the heap.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns.
    rows : int
        Number of rows.
    """

    def __init__(self, schema: pa.Schema, rows: int) -> None:
        self._schema = schema
        self.rows = rows
        self._places: dict[str, tuple[int, int]] = {}
        self._arrays: dict[str, pa.Array] = {}
        self._null_counts: dict[str, int] = {}
        size = 0
        for field in schema:
            if (width := _byte_width(field.type)) is not None:
                values, size = size, size + _aligned(rows * width)
                self._places[field.name] = values, size
                size += _aligned(-(-rows // 8))  # whether each value is there; pages that are not used take no memory
        memory = own_memory(max(size, 1))
        self._buffer = pa.py_buffer(memory)
        self._bytes = np.frombuffer(memory, np.uint8)

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Copy the values of a column, one for each row of the batch."""
        place = self._places.get(name)
        kind = column.type
        if place is None or kind != self._schema.field(name).type:
            self._arrays[name] = pa.concat_arrays(column.chunks)
            return
        values, valid = place
        has_nulls = column.null_count > 0
        is_plain = column.num_chunks == 1 and not has_nulls
        array = column.chunk(0) if is_plain else pa.concat_arrays(column.chunks)  # begins at a whole byte
        width = _byte_width(kind) or 0
        buffers = array.buffers()
        begin = array.offset * width
        size = self.rows * width
        self._bytes[values : values + size] = np.frombuffer(buffers[1], np.uint8, size, begin)
        if has_nulls:
            length = -(-self.rows // 8)
            self._bytes[valid : valid + length] = np.frombuffer(buffers[0], np.uint8, length)
        self._null_counts[name] = array.null_count

    def finish(self) -> pa.RecordBatch:
        """Return the batch. Each column must have been added."""
        names = self._schema.names
        arrays = [self._arrays[name] if name in self._arrays else self._array(name) for name in names]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _array(self, name: str) -> pa.Array:
        # Only now: if these small objects came between those of the decoder, the heap could not shrink.
        kind = self._schema.field(name).type
        values, valid = self._places[name]
        null_count = self._null_counts[name]
        validity = self._buffer.slice(valid, -(-self.rows // 8)) if null_count else None
        data = self._buffer.slice(values, self.rows * (_byte_width(kind) or 0))
        return pa.Array.from_buffers(kind, self.rows, [validity, data], null_count)


def _byte_width(kind: pa.DataType) -> int | None:
    """Return the size of a value in bytes; None if values do not consist of whole bytes in a single buffer."""
    if pa.types.is_boolean(kind) or not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind)):
        return None
    return int(kind.bit_width) // 8


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
