"""Decode small Parquet objects once, and hold their rows in memory for later reads.

Opening and decoding a small object takes a third of a millisecond, which is as long as fetching it. A planner has the
bytes of such an object in memory. It therefore decodes the object at once, and hands the rows to the parts of the job
(see `scoreline.storage.tables.spool`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.forwarding import ForwardingStore
from scoreline.storage.tables.base import Pinned, Rows, Span

_MOST_BYTES = 1 << 20
"""Maximum size of the rows of an object that are decoded in advance."""
_MOST_TEXT_BYTES = 8 << 20
"""Maximum size of the texts of an object in the worst case: if each is as long as all encoded texts together."""
_OTHER_COLUMNS = 8
"""An object is decoded in advance if it has at most twice as many columns as features, and this many more. Of a wider
object, parts decode only the columns that they need."""


class _RowsStore(ForwardingStore):
    """Wraps the store of an object whose rows are in memory."""

    def __init__(self, store: ObjectStore, rows: pa.RecordBatch) -> None:
        super().__init__(store)
        self.rows = rows


def hold_rows(source: Pinned, rows: pa.RecordBatch) -> Pinned:
    """Return an object with a store that has all of its rows in memory."""
    return replace(source, store=_RowsStore(source.store, rows))


def held_rows(source: Pinned) -> pa.RecordBatch | None:
    """Return the rows of an object if they are in memory; otherwise None."""
    return source.store.rows if isinstance(source.store, _RowsStore) else None


class Decoder:
    """Decodes small objects in advance. It is thread-safe."""

    def __init__(self) -> None:
        self._last: tuple[pa.Schema, _Layout | None] = (pa.schema([]), None)
        """The columns of the last object, and how they take memory, because most objects have the same columns."""

    def decode(
        self,
        file: pq.ParquetFile,
        schema: pa.Schema,
        features: Collection[str],
        bytes_of: Callable[[int], int] | None = None,
    ) -> pa.RecordBatch | None:
        """Decode all rows of a small object as a single batch, with all columns.

        Return None if the object has several row groups, nested or categorical columns, or many other columns than
        `features`, if its rows may take much more memory than its bytes, or if it is damaged. Parts then read the
        bytes.

        Parameters
        ----------
        schema : pyarrow.Schema
            The schema of the file.
        features : collection of str
            Columns that are known to be features; empty if no feature is known yet.
        bytes_of : callable, optional
            As for `measure`. By default, the footer says it, which must be sound (see `refuse_unsound_columns`).
        """
        metadata = file.metadata
        rows: int = metadata.num_rows
        if metadata.num_row_groups != 1:
            return None
        group = metadata.row_group(0)
        bytes_of = bytes_of or (lambda place: group.column(place).total_uncompressed_size)
        if self.measure(schema, features, rows, bytes_of) is None:
            return None
        try:
            batches = list(file.iter_batches(max(1, rows), use_threads=False))
        except (pa.ArrowException, OSError, ValueError):  # the part that reads the object explains the error
            return None
        return batches[0] if len(batches) == 1 and batches[0].num_rows == rows else None

    def measure(
        self, schema: pa.Schema, features: Collection[str], rows: int, bytes_of: Callable[[int], int]
    ) -> tuple[int, int] | None:
        """Return how many bytes the rows of an object take when they are decoded, probably and at most.

        Return None if parts should decode them.

        Parameters
        ----------
        bytes_of : callable
            Returns the uncompressed size of a column by its position, as encoded.
        """
        known, layout = self._last
        if not known.equals(schema):
            layout = _layout(schema)
            self._last = schema, layout
        if layout is None or layout.row_bytes * rows > _MOST_BYTES:
            return None
        if features and len(schema) > 2 * len(features) + _OTHER_COLUMNS:
            return None
        numbers, texts = layout.row_bytes * rows, sum(map(bytes_of, layout.texts))
        if texts * rows > _MOST_TEXT_BYTES:  # a dictionary has a text once, however many rows have it
            return None
        return numbers + texts, numbers + texts * rows


def read_rows(rows: pa.RecordBatch, span: Span, columns: list[str], batch_rows: int) -> Iterator[Rows]:
    """Yield the rows of a span in order (see `TableFormat.read`), in the same batches as from the bytes."""
    selected = rows if rows.schema.names == columns else rows.select(columns)
    for first in range(0, rows.num_rows, batch_rows):
        low, high = max(span.start, first), min(span.stop, first + batch_rows, rows.num_rows)
        if low < high:
            yield Rows(batch=selected.slice(low, high - low), numbers=np.arange(low, high, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the columns of an object take memory."""

    row_bytes: int
    """Size of a row without its texts."""
    texts: tuple[int, ...]
    """Positions of the columns with texts."""


def _layout(schema: pa.Schema) -> _Layout | None:
    """Return how columns take memory. Return None if one cannot be decoded in advance, or if two have the same name."""
    row_bytes, texts = 0, []
    for place, kind in enumerate(schema.types):
        if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
            row_bytes += max(1, kind.bit_width // 8)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
            row_bytes += 8
            texts.append(place)
        else:
            return None
    return _Layout(row_bytes, tuple(texts)) if len(set(schema.names)) == len(schema) else None
