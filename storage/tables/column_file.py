"""Keeps the rows of a wide row group in a file, column after column, and returns any of them as record batches.

Such rows may take more memory than a process has. The file is written once, and then read while it is in the memory of
the operating system, which takes it back when it is needed. This costs less than the first access to new memory of the
process would.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

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
        self._pieces: _Pieces | None = None
        """How the memory of the last batch was divided."""

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
        if self._pieces is None or self._pieces.rows != rows:
            self._pieces = self._divide(rows)
        total = max(self._pieces.size, 1)
        block = self._memory.array(total, total)
        buffer, view = pa.foreign_buffer(block.ctypes.data, total, block), memoryview(block)
        if self._pieces.head is not None:
            return self._read_message(self._pieces, self._pieces.head, first, buffer, view).slice(start - first)
        arrays: list[pa.Array] = []
        for kind, values, valid in self._pieces.of_columns:
            if values is None:
                arrays.append(self.arrays[self._schema.names[len(arrays)]].slice(first, rows))
                continue
            buffers: list[pa.Buffer | None] = [None]
            if valid is not None:
                self._read(view[valid.begin : valid.end], valid.position + first * valid.bits // 8)
                buffers = [buffer.slice(valid.begin, valid.end - valid.begin)]
            self._read(view[values.begin : values.end], values.position + first * values.bits // 8)
            buffers.append(buffer.slice(values.begin, values.end - values.begin))
            arrays.append(pa.Array.from_buffers(kind, rows, buffers, 0 if valid is None else -1))
        self.check_mark()
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema).slice(start - first)

    def _read_message(self, pieces: _Pieces, head: bytes, first: int, buffer: pa.Buffer, view: memoryview) -> Any:
        """Return rows without nulls from `first` on. Arrow makes all columns in one call, in a tenth of the time."""
        begin = pieces.begin - len(head)
        view[begin : pieces.begin] = head
        for _, values, _ in pieces.of_columns:
            assert values is not None
            self._read(view[values.begin : values.end], values.position + first * values.bits // 8)
        self.check_mark()
        return pa.ipc.read_record_batch(buffer.slice(begin), self._schema)

    def _divide(self, rows: int) -> _Pieces:
        """Divide the memory of a batch between the columns. All batches with as many rows are divided alike."""
        if not self.arrays and all(valid is None for _, valid in self.places.values()):
            return self._divide_message(rows)
        end = 0

        def take(position: int, bits: int) -> _Piece:
            nonlocal end
            begin, end = end, end + _aligned(_size(rows, bits))
            return _Piece(position, bits, begin, begin + _size(rows, bits))

        found: list[tuple[pa.DataType, _Piece | None, _Piece | None]] = []
        for name, kind in self._kinds.items():
            values, valid = self.places.get(name, (None, None))
            found.append(
                (
                    kind,
                    None if values is None else take(values, bit_width(kind) or 0),
                    None if valid is None else take(valid, 1),
                )
            )
        return _Pieces(rows, end, found)

    def _divide_message(self, rows: int) -> _Pieces:
        """Divide the memory of a batch whose columns are all in the file without nulls, as a message of Arrow's IPC."""
        kinds = self._kinds.values()
        none = pa.py_buffer(bytes(max((_size(rows, bit_width(kind) or 0) for kind in kinds), default=0)))
        arrays = [pa.Array.from_buffers(kind, rows, [None, none], 0) for kind in kinds]
        example = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        schema_bytes = self._schema.serialize().size
        total = schema_bytes + pa.ipc.get_record_batch_size(example) + _ALIGNMENT
        block = self._memory.array(total, total)  # which the first batch takes afterwards
        with pa.ipc.new_stream(pa.FixedSizeBufferWriter(pa.py_buffer(memoryview(block))), self._schema) as out:
            out.write_batch(example)
        message = pa.py_buffer(memoryview(block)).slice(schema_bytes)
        columns = pa.ipc.read_record_batch(message, self._schema).columns
        offsets = [column.buffers()[1].address - message.address for column in columns]
        begin = min(offsets, default=message.size)
        shift = _aligned(begin) - begin  # so that the first column is aligned
        found: list[tuple[pa.DataType, _Piece | None, _Piece | None]] = []
        for (name, kind), offset in zip(self._kinds.items(), offsets, strict=True):
            bits = bit_width(kind) or 0
            place = shift + offset
            found.append((kind, _Piece(self.places[name][0], bits, place, place + _size(rows, bits)), None))
        return _Pieces(rows, shift + message.size, found, bytes(message.slice(0, begin)), shift + begin)

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

    def _read(self, view: memoryview, position: int) -> None:
        while len(view):
            count = os.preadv(self._file.fileno(), [view], position)
            if not count:
                raise OSError("a file for temporary data ends early")
            view, position = view[count:], position + count


class _Piece(NamedTuple):
    """Values of one size in the memory of a batch."""

    position: int
    """Position in the file of the value of the first row."""
    bits: int
    """Size of a value."""
    begin: int
    """Position in the memory."""
    end: int


class _Pieces(NamedTuple):
    """How the memory of a batch is divided."""

    rows: int
    size: int
    of_columns: list[tuple[pa.DataType, _Piece | None, _Piece | None]]
    """For each column its type, its values if they are in the file, and its validity bits if it has nulls."""
    head: bytes | None = None
    """What describes the columns in a message of Arrow's IPC; None if they are not read as such."""
    begin: int = 0
    """Position in the memory at which the columns of a message begin."""


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
