"""Bounds a batch by the memory that it takes while it is scored: estimates it before reading, and measures it after.

The estimate counts the columns as they are read, the features again in the form that the model takes, the kept columns
again, because they are copied without rejected rows, and the results. The memory that a model allocates itself is not
known, and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from scoreline.storage.tables.base import Rows, align

_ASSUMED_VALUE_BYTES = 32
"""Bytes that a text or a nested value is assumed to take before any is read."""
_UNKNOWN_ROWS = 8_192
"""Maximum number of rows to read at a time if the size of their values is not known before."""


class BatchSize:
    """The limits of a batch, for the columns of one job.

    Parameters
    ----------
    reads : pyarrow.Schema
        The columns that are read.
    features : sequence of str
        Names of the columns that are scored.
    results : pyarrow.Schema
        The columns of the results, kept ones included.
    rows : int
        Maximum number of rows.
    limit_bytes : int
        Maximum number of bytes. A single row may take more.
    """

    def __init__(
        self,
        reads: pa.Schema,
        features: Sequence[str],
        results: pa.Schema,
        *,
        rows: int,
        limit_bytes: int,
    ) -> None:
        self.rows = rows
        self.limit_bytes = limit_bytes
        self._added_bytes = _count_added(reads, features, results)
        row_bytes = self._added_bytes + 2 * sum(_width(kind) for kind in reads.types)
        most = min(rows, align(max(1, limit_bytes // max(1, row_bytes))))
        self.rows_to_read = most if all(map(_fixed_width, reads.types)) else min(most, _UNKNOWN_ROWS)
        """Number of rows to read at a time, as estimated from the types of the columns."""
        self._measured = reads, _count_fixed(reads)

    def measure(self, batch: pa.RecordBatch) -> int:
        """Return the number of bytes that a batch takes while it is scored."""
        return int(batch.num_rows * self._added_bytes) + 2 * self._measure_columns(batch)

    def split(self, rows: Rows) -> Iterator[tuple[Rows, int]]:
        """Yield rows in pieces within the limit, each with the bytes that it takes."""
        size, count = self.measure(rows.batch), rows.batch.num_rows
        if size <= self.limit_bytes or count < 2:
            yield rows, size
            return
        half = align(count // 2)
        first = int(rows.numbers[half])
        before = tuple(item for item in rows.malformed if item.row < first)
        for start, stop, malformed in ((0, half, before), (half, count, rows.malformed[len(before) :])):
            batch = rows.batch.slice(start, stop - start)
            yield from self.split(replace(rows, batch=batch, numbers=rows.numbers[start:stop], malformed=malformed))

    def _measure_columns(self, batch: pa.RecordBatch) -> int:
        schema, row_bytes = self._measured  # read and replaced at once, because threads may share it
        if not batch.schema.equals(schema):  # a schema takes longer to hash than to compare
            row_bytes = _count_fixed(batch.schema)
            self._measured = batch.schema, row_bytes
        if row_bytes is not None:
            return int(batch.num_rows * row_bytes)
        return sum(map(_measure_column, batch.columns))


def _measure_column(column: pa.Array) -> int:
    """Return the number of bytes of a column. A dictionary counts as if it were decoded to values."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    value_bytes = column.dictionary.nbytes / max(1, len(column.dictionary))
    return int(column.indices.nbytes + value_bytes * len(column))


def _count_added(reads: pa.Schema, features: Sequence[str], results: pa.Schema) -> int:
    """Return the bytes of a row of scores, plus those that the features take in addition if all get the widest type."""
    own = set(reads.names)
    widths = [width for name in features if (width := _fixed_width(reads.field(name).type))]
    scores: int = sum(_width(field.type) for field in results if field.name not in own)
    return scores + sum(max(widths) - width for width in widths)


def _count_fixed(schema: pa.Schema) -> int | None:
    """Return the bytes of a row; None if they differ from row to row."""
    widths = [_fixed_width(kind) for kind in schema.types]
    return sum(widths) if all(widths) else None


def _fixed_width(kind: pa.DataType) -> int:
    """Return the bytes of a value, at least one; 0 if they differ from value to value."""
    if pa.types.is_null(kind):
        return 1
    if pa.types.is_dictionary(kind) or pa.types.is_nested(kind):
        return 0
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 0


def _width(kind: pa.DataType) -> int:
    """Return the bytes that a value is assumed to take."""
    if pa.types.is_nested(kind):
        return _ASSUMED_VALUE_BYTES + sum(_width(kind.field(number).type) for number in range(kind.num_fields))
    return _fixed_width(kind) or _ASSUMED_VALUE_BYTES
