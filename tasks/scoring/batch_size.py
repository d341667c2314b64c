"""Limits the memory that a batch takes while it is scored, with an estimate before reading and a measurement after.

The estimate is the sum of the columns as read, the features as converted for the model, a copy of the kept columns
without rejected rows, and the results. Memory that the model itself allocates is unknown, and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from scoreline.storage.tables.base import Rows, align

_ASSUMED_VALUE_BYTES = 32
"""Assumed size of a text or a nested value, in bytes, until the first values are read."""
_UNKNOWN_ROWS = 8_192
"""Maximum number of rows to read at a time while the size of their values is unknown."""


class BatchSize:
    """The limits of a batch, for the columns of one job.

    Parameters
    ----------
    reads : pyarrow.Schema
        The columns that are read.
    features : sequence of str
        Names of the columns that are scored.
    results : pyarrow.Schema
        The columns of the results, including the kept columns.
    rows : int
        Maximum number of rows.
    limit_bytes : int
        Maximum number of bytes. A single row may exceed this limit.
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
        row_bytes = self.row_bytes(batch.schema)
        if row_bytes is not None:
            return int(batch.num_rows * row_bytes)
        return int(batch.num_rows * self._added_bytes) + 2 * sum(map(_measure_column, batch.columns))

    def row_bytes(self, schema: pa.Schema) -> int | None:
        """Return the number of bytes that each row takes while it is scored; None if it differs from row to row."""
        known, fixed = self._measured  # one tuple, so that threads read and replace both values together
        if not schema.equals(known):  # hashing a schema takes longer than comparing it
            fixed = _count_fixed(schema)
            self._measured = schema, fixed
        return None if fixed is None else self._added_bytes + 2 * fixed

    def split(self, rows: Rows) -> Iterator[tuple[Rows, int]]:
        """Divide the rows into groups within the limit, and yield each group with its size in bytes."""
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


def _measure_column(column: pa.Array) -> int:
    """Return the size of a column in bytes. A dictionary column counts as if it were decoded."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    value_bytes = column.dictionary.nbytes / max(1, len(column.dictionary))
    return int(column.indices.nbytes + value_bytes * len(column))


def _count_added(reads: pa.Schema, features: Sequence[str], results: pa.Schema) -> int:
    """Return the size of a result row, plus the growth of the features if all are converted to the widest type."""
    own = set(reads.names)
    widths = [width for name in features if (width := _fixed_width(reads.field(name).type))]
    scores: int = sum(_width(field.type) for field in results if field.name not in own)
    return scores + max(widths, default=0) * len(widths) - sum(widths)


def _count_fixed(schema: pa.Schema) -> int | None:
    """Return the size of a row in bytes; None if it differs from row to row."""
    widths = [_fixed_width(kind) for kind in schema.types]
    return sum(widths) if all(widths) else None


def _fixed_width(kind: pa.DataType) -> int:
    """Return the size of a value in bytes, at least 1; 0 if it differs from value to value."""
    if pa.types.is_null(kind):
        return 1
    if pa.types.is_dictionary(kind) or pa.types.is_nested(kind):
        return 0
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 0


def _width(kind: pa.DataType) -> int:
    """Return the assumed size of a value in bytes."""
    if pa.types.is_nested(kind):
        return _ASSUMED_VALUE_BYTES + sum(_width(kind.field(number).type) for number in range(kind.num_fields))
    return _fixed_width(kind) or _ASSUMED_VALUE_BYTES
