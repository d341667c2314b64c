"""Reads some rows of a record batch in an Arrow IPC file, without reading the whole batch.

Writers put all rows of a table into one batch, which may be larger than memory. The positions of the bytes of any row
follow from the metadata of the batch. This requires that the batch is not compressed, and that its columns are numbers,
times, booleans or texts.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.prefetch import map_ahead

_RECORD_BATCH = 3
"""Type of a message with a record batch."""
_PAIR = struct.Struct("<qq")
"""Format of a pair: the length of a column and its number of nulls, or the offset of a buffer and its length."""
MIN_BYTES = 32 << 20
"""Batches with bodies up to this size are read whole, because a slice takes at least one request per column."""
SLICE_BYTES = 32 << 20
"""Size in bytes of the rows that are read at a time. Up to three slices are in memory: one is scored, the next one
waits, and another one is fetched. Together they are as large as the memory that a process keeps (see
`scoreline.storage.kept_memory`)."""
COLUMNS_AT_ONCE = 8
"""Number of columns of a slice that are read in parallel, each with its own requests."""

Read = Callable[[int, int], bytes | memoryview]
"""Function that returns the bytes of the object from one position to another. It is thread-safe."""


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Says where the buffers of a record batch are in the object."""

    rows: int
    body: int
    """Position of the body in the object."""
    nulls: tuple[int, ...]
    """Number of nulls in each column."""
    buffers: tuple[tuple[int, int], ...]
    """For each buffer, its offset within the body and its length."""


def can_be_sliced(schema: pa.Schema, footer: bytes) -> bool:
    """Return whether the types of all columns allow reading single rows of a file with this schema and footer."""
    try:
        stored = _table(footer, _field(footer, _table(footer, 0), 1))
        place = _field(footer, stored, 0)
        little = not place or struct.unpack_from("<h", footer, place)[0] == 0
    except (struct.error, IndexError):
        return False
    simple = all(_width(field.type) is not None or _offset_type(field.type) is not None for field in schema)
    return little and simple and len(set(schema.names)) == len(schema)


def needs_validation(kind: pa.DataType) -> bool:
    """Return whether a column of this type can contain invalid values, such as text that is not UTF-8."""
    return _width(kind) is None or bool(pa.types.is_decimal(kind))


def layout_of(message: bytes, body: int, body_bytes: int, schema: pa.Schema) -> BatchLayout | None:
    """Return the layout of the batch that a message describes; None if the batch is compressed or otherwise unusual.

    Parameters
    ----------
    message : bytes
        The metadata, after a prefix of eight bytes. The last four bytes of the prefix are the length of the metadata.
    body, body_bytes : int
        Position of the body in the object, and its length.
    """
    try:
        start = 8 if message[:4] == b"\xff\xff\xff\xff" else 4
        flat = message[start:]
        table = _table(flat, 0)
        if flat[_field(flat, table, 1)] != _RECORD_BATCH:
            return None
        batch = _table(flat, _field(flat, table, 2))
        if _field(flat, batch, 3):
            return None
        (rows,) = struct.unpack_from("<q", flat, _field(flat, batch, 0))
        nodes = _pairs(flat, _field(flat, batch, 1))
        buffers = _pairs(flat, _field(flat, batch, 2))
    except (struct.error, IndexError):
        return None
    expected = sum(3 if _offset_type(field.type) is not None else 2 for field in schema)
    if len(nodes) != len(schema) or len(buffers) != expected or any(length != rows for length, _ in nodes):
        return None
    if rows < 0 or any(offset < 0 or length < 0 or offset + length > body_bytes for offset, length in buffers):
        return None
    return BatchLayout(rows=rows, body=body, nulls=tuple(count for _, count in nodes), buffers=tuple(buffers))


def read_rows(
    layout: BatchLayout, schema: pa.Schema, names: Sequence[str], start: int, stop: int, read: Read
) -> pa.RecordBatch | None:
    """Return some rows and columns of a batch; None if its buffers are too short or its offsets are not in order."""
    places = _places(layout, schema)

    def read_column(name: str) -> pa.Array | None:
        kind, nulls, buffers = places[name]
        return _column(kind, nulls, buffers, layout.body, start, stop, read)

    columns: list[pa.Array] = []
    with contextlib.closing(map_ahead(read_column, names, threads=COLUMNS_AT_ONCE, budget=COLUMNS_AT_ONCE)) as found:
        for array in found:
            if array is None:
                return None
            columns.append(array)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([schema.field(name) for name in names]))


def request_sizes(layout: BatchLayout, schema: pa.Schema, names: Sequence[str], start: int, stop: int) -> Iterator[int]:
    """Yield the sizes of the requests with which `read_rows` reads some rows. Texts are taken to be equally long."""
    places, first = _places(layout, schema), start // 8 * 8
    for name in names:
        kind, nulls, buffers = places[name]
        if nulls:
            yield -(-stop // 8) - first // 8
        bits = _width(kind)
        if bits is not None:
            yield -(-stop * bits // 8) - first * bits // 8
            continue
        yield (stop + 1 - first) * np.dtype(_offset_type(kind)).itemsize
        yield buffers[2][1] * (stop - first) // max(1, layout.rows)


def _places(layout: BatchLayout, schema: pa.Schema) -> dict[str, Any]:
    """Return the type, the number of nulls and the buffers of each column."""
    places: dict[str, Any] = {}
    number = 0
    for column, field in enumerate(schema):
        texts = _offset_type(field.type) is not None
        places[field.name] = (field.type, layout.nulls[column], layout.buffers[number : number + 2 + texts])
        number += 2 + texts
    return places


def _column(
    kind: pa.DataType, nulls: int, buffers: Sequence[tuple[int, int]], body: int, start: int, stop: int, read: Read
) -> pa.Array | None:
    def part(number: int, low: int, high: int) -> pa.Buffer | None:
        offset, length = buffers[number]
        return pa.py_buffer(read(body + offset + low, body + offset + high)) if high <= length else None

    first = start // 8 * 8
    """The last row, at or before `start`, whose bit is the first bit of a byte."""
    valid = part(0, first // 8, -(-stop // 8)) if nulls else None
    if nulls and valid is None:
        return None
    bits = _width(kind)
    if bits is not None:
        data = part(1, first * bits // 8, -(-stop * bits // 8))
        if data is None:
            return None
        return pa.Array.from_buffers(kind, stop - first, [valid, data]).slice(start - first)
    integer = np.dtype(_offset_type(kind))
    raw = part(1, first * integer.itemsize, (stop + 1) * integer.itemsize)
    if raw is None:
        return None
    offsets = np.frombuffer(raw, integer)
    if offsets[0] < 0 or (np.diff(offsets) < 0).any():
        return None
    data = part(2, int(offsets[0]), int(offsets[-1]))
    if data is None:
        return None
    moved = pa.py_buffer(offsets - offsets[0])
    return pa.Array.from_buffers(kind, stop - first, [valid, moved, data]).slice(start - first)


def _width(kind: pa.DataType) -> int | None:
    """Return the number of bits of a value; None if values of this type differ in size."""
    types = pa.types
    fixed = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_temporal(kind)
    return kind.bit_width if fixed or types.is_decimal(kind) else None


def _offset_type(kind: pa.DataType) -> Any:
    """Return the type of the offsets in a column of texts or bytes; None for other types."""
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return np.int32
    return np.int64 if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) else None


def _table(flat: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", flat, at)[0])


def _field(flat: bytes, table: int, number: int) -> int:
    """Return the position of a field in a flatbuffer table; 0 if the field is absent."""
    vtable = table - struct.unpack_from("<i", flat, table)[0]
    (size,) = struct.unpack_from("<H", flat, vtable)
    entry = 4 + 2 * number
    offset = struct.unpack_from("<H", flat, vtable + entry)[0] if entry < size else 0
    return table + int(offset) if offset else 0


def _pairs(flat: bytes, at: int) -> list[tuple[int, int]]:
    vector = _table(flat, at)
    (count,) = struct.unpack_from("<I", flat, vector)
    if count > len(flat) // _PAIR.size:
        raise IndexError("a list is longer than the message")
    return [_PAIR.unpack_from(flat, vector + 4 + number * _PAIR.size) for number in range(count)]
