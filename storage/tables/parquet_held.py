"""Read small Parquet objects from memory. Arrow then seeks in them without requests and without calling Python."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.contents import explain_row_group
from scoreline.storage.tables.parquet_opening import open_parquet


def open_held(source: Pinned, data: bytes) -> pq.ParquetFile:
    """Open an object whose bytes are in memory. Raise `UnreadableInput` if it is damaged.

    The descriptions of its columns may be unsound (see `refuse_unsound_columns`).
    """
    return open_parquet(source, pa.BufferReader(data))


def read_held(source: Pinned, data: bytes, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
    """Yield the rows of a span in order (see `TableFormat.read`)."""
    file = open_held(source, data)
    columns = schema.names
    first = 0
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        start, stop = max(span.start, first), min(span.stop, first + rows)
        if start < stop:
            batches = _read_group(source, file, number, columns, batch_rows)
            yield from rows_between(batches, first, start, stop)
        first += rows


def _read_group(
    source: Pinned, file: pq.ParquetFile, number: int, columns: list[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    try:
        for batch in file.iter_batches(batch_rows, row_groups=[number], columns=columns, use_threads=False):
            yield batch if batch.schema.names == columns else batch.select(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise explain_row_group(source, number, error) from error


def rows_between(batches: Iterator[pa.RecordBatch], row: int, start: int, stop: int) -> Iterator[Rows]:
    """Yield the rows from `start` to `stop` of consecutive batches.

    `row` is the number of the first row of the first batch.
    """
    for batch in batches:
        low, high = max(start - row, 0), min(stop - row, batch.num_rows)
        if low < high:
            yield Rows(batch=batch.slice(low, high - low), numbers=np.arange(row + low, row + high, dtype=np.int64))
        row += batch.num_rows
        if row >= stop:  # stop before the next batch is decoded
            return
