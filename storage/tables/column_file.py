"""Keeps the rows of a wide row group in a file, column after column, and returns any of them as record batches.

Such rows may take more memory than a process has. The file is written once, and then read while it is in the memory of
the operating system, which takes it back when it is needed. This costs less than the first access to new memory of the
process would.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from scoreline.storage.reused_memory import ReusedMemory

MARK_AT = 16
_ALIGNMENT = 64


class ColumnFile:
    """Consecutive rows. Columns can be added in any order, and all must be added before rows are read.

    Numbers, times and booleans are written to the file. Columns of other types stay in memory.

    Parameters
    ----------
    file : BinaryIO
        A file, opened for reading and writing. A file without a `mark` is closed with this object.
    schema : pyarrow.Schema
        The columns.
    memory : ReusedMemory
        Memory for batches.
    begin : int
        Position in the file at which columns begin.
    mark : bytes
        Bytes that the file has at `MARK_AT` until it is used for other rows.
    """

    def __init__(
        self, file: BinaryIO, schema: pa.Schema, memory: ReusedMemory, *, begin: int = 0, mark: bytes = b""
    ) -> None:
        self._file = file
        if not mark:
            weakref.finalize(self, file.close)
        self.mark = mark
        self._schema = schema
        self._memory = memory
        self._end = begin
        self._kinds: dict[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))
        self.places: dict[str, tuple[int, int | None]] = {}
        """For each column in the file, the position of its values, and that of its validity bits if it has nulls."""
        self.arrays: dict[str, pa.Array] = {}
        """The columns that are in memory."""

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Add the values of a column, one for each row. Raise `OSError` if the disk is full."""
        array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        bits = bit_width(array.type)
        if bits is None or array.type != self._kinds[name]:
            self.arrays[name] = pa.concat_arrays([array, array.slice(0, 0)])  # without the rows before
            return
        validity, data = array.buffers()
        values = self.write(_from_row(data, array.offset, len(array), bits))
        valid = self.write(_from_row(validity, array.offset, len(array), 1)) if array.null_count else None
        self.places[name] = values, valid

    def read(self, start: int, stop: int) -> pa.RecordBatch:
        """Return the rows from `start` to `stop`. Raise `OSError` if the disk cannot be read."""
        first = start - start % 8  # at a whole byte of bits
        rows = stop - first
        sizes = {name: _size(rows, bit_width(self._kinds[name]) or 0) for name in self.places}
        validity = _aligned(_size(rows, 1))
        with_nulls = sum(valid is not None for _, valid in self.places.values())
        total = sum(map(_aligned, sizes.values())) + with_nulls * validity
        block = self._memory.array(max(total, 1), max(total, 1))
        buffer = pa.foreign_buffer(block.ctypes.data, max(total, 1), block)
        end = 0

        def take(position: int, size: int) -> pa.Buffer:
            nonlocal end
            begin, end = end, end + _aligned(size)
            self._read(block[begin : begin + size], position)
            return buffer.slice(begin, size)

        arrays: list[pa.Array] = []
        for name, kind in self._kinds.items():
            if name not in self.places:
                arrays.append(self.arrays[name].slice(first, rows))
                continue
            values, valid = self.places[name]
            bits = bit_width(kind) or 0
            data = take(values + first * bits // 8, sizes[name])
            nulls = None if valid is None else take(valid + first // 8, _size(rows, 1))
            arrays.append(pa.Array.from_buffers(kind, rows, [nulls, data], -1 if valid is not None else 0))
        self.check_mark()
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema).slice(start - first)

    def write(self, data: Any) -> int:
        """Append bytes to the file, and return their position."""
        position, view = self._end, memoryview(data)
        while len(view):
            written = os.pwrite(self._file.fileno(), view, self._end)
            view, self._end = view[written:], self._end + written
        return position

    def check_mark(self) -> None:
        """Raise `OSError` if the rows were deleted. If not, note the time of use."""
        if self.mark:
            if os.pread(self._file.fileno(), len(self.mark), MARK_AT) != self.mark:
                raise OSError("the process that shared the rows has deleted them")
            os.utime(self._file.fileno())

    def _read(self, into: Any, position: int) -> None:
        view = memoryview(into)
        while len(view):
            count = os.preadv(self._file.fileno(), [view], position)
            if not count:
                raise OSError("a file for temporary data ends early")
            view, position = view[count:], position + count


def bit_width(kind: pa.DataType) -> int | None:
    """Return the size of a value in bits; None if the values are not in a single buffer of values of one size."""
    if pa.types.is_boolean(kind) or pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        return int(kind.bit_width)
    return None


def memory_bytes(schema: pa.Schema, column_bytes: Mapping[str, int]) -> int:
    """Return how many bytes of some columns stay in memory, from the number of bytes of each column."""
    kinds = dict(zip(schema.names, schema.types, strict=True))
    return sum(size for name, size in column_bytes.items() if name not in kinds or bit_width(kinds[name]) is None)


def _from_row(data: pa.Buffer, row: int, rows: int, bits: int) -> Any:
    """Return the values from a row on: ndarray of uint8. Values of one bit begin at a whole byte."""
    if bits >= 8:
        return np.frombuffer(data, np.uint8, rows * bits // 8, row * bits // 8)
    found = np.frombuffer(data, np.uint8, _size(row % 8 + rows, bits), row // 8)
    if row % 8 == 0:
        return found
    return np.packbits(np.unpackbits(found, bitorder="little")[row % 8 : row % 8 + rows], bitorder="little")


def _size(rows: int, bits: int) -> int:
    return -(-rows * bits // 8)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
