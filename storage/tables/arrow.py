"""Arrow IPC: files (including Feather) and streams."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.tables.arrow_layout import unlisted_bytes
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey
from scoreline.storage.tables.contents import explain_format
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.views import schema_without_views, without_views

_MAGIC = b"ARROW1"
_BUFFER_BYTES = 4 << 20


class ArrowFormat:
    """Reads Arrow IPC. A span is a range of record batches. In a stream, all earlier batches must be read, too."""

    def survey(self, source: Pinned, features: Collection[str] = ()) -> Survey:  # for text formats
        """Read every record batch, because Arrow does not store the number of rows (see `TableFormat.survey`)."""
        spans: list[Span] = []
        row = 0
        reader = _Reader(source)
        nulls: Counter[str] = Counter()
        for number, batch in enumerate(reader.batches(0, None, None)):
            spans.append(Span(start=number, stop=number + 1, first_row=row, rows=batch.num_rows, size=batch.nbytes))
            row += batch.num_rows
            nulls.update(dict(zip(batch.schema.names, (column.null_count for column in batch.columns), strict=True)))
        schema = _with_wide_dictionaries(schema_without_views(reader.schema))
        fields = [field.with_nullable(nulls[field.name] > 0) for field in schema]
        return Survey(schema=pa.schema(fields, schema.metadata), spans=tuple(spans))

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span in order (see `TableFormat.read`)."""
        row = span.first_row
        for batch in _Reader(source).batches(span.start, span.stop, schema.names):
            for start in range(0, batch.num_rows, batch_rows):
                piece = batch.slice(start, batch_rows)
                yield Rows(batch=piece, numbers=np.arange(row, row + piece.num_rows, dtype=np.int64))
                row += piece.num_rows


class _Bounded(io.BufferedReader):
    """Never reads beyond the end of the object. Otherwise Arrow might allocate gigabytes if a length is damaged."""

    def __init__(self, raw: io.RawIOBase, size: int) -> None:
        super().__init__(raw, _BUFFER_BYTES)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, but never more than remain in the object."""
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


class _Reader:
    """Reads the record batches of an object, which are numbered from 0."""

    def __init__(self, source: Pinned) -> None:
        self._source = source
        raw = RangedFile(source.store, source.key, source.size, source.etag)
        self._file = _Bounded(raw, source.size)
        self._seekable = self._file.read(len(_MAGIC)) == _MAGIC
        try:
            self.schema: pa.Schema = self._open(None).schema
        except (pa.ArrowException, OSError, ValueError) as error:
            raise explain_format(source, "Arrow IPC", error) from error

    def batches(self, start: int, stop: int | None, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        reader = self._open(columns)
        number = start if self._seekable else 0
        while stop is None or number < stop:
            if self._seekable and number >= reader.num_record_batches:
                return
            what = f"cannot be decoded in record batch {number}"
            batch = self._try(what, lambda n=number: self._next(reader, n))
            if batch is None:
                return
            if number >= start:
                yield batch if columns is None else batch.select(columns)
            number += 1

    def _open(self, columns: list[str] | None) -> Any:
        included = None if columns is None else sorted({self.schema.get_field_index(name) for name in columns})
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=included)
        self._file.seek(0)
        if self._seekable:
            reader = pa.ipc.open_file(self._file, options=options)
            if columns is None and (unlisted := unlisted_bytes(self._file, self._source.size)):
                raise UnreadableInput(
                    f"{self._source.uri} has {unlisted:,} bytes that its footer does not list: it may be several files "
                    "joined together. Write each to an object of its own, or all rows to one file"
                )
            return reader
        return pa.ipc.open_stream(self._file, options=options)

    def _next(self, reader: Any, number: int) -> pa.RecordBatch | None:
        if self._seekable:
            batch = reader.get_batch(number)
        else:
            begun = self._file.tell()
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                self._check_end(begun)
                return None
        for column in batch.columns:  # the data are not trusted, and an invalid offset would crash the process
            _as_bytes(column).validate(full=True)
        batch = without_views(batch)  # a dictionary of views cannot be cast
        wide = _with_wide_dictionaries(batch.schema)
        return batch if wide == batch.schema else batch.cast(wide)

    def _check_end(self, begun: int) -> None:
        """Check that a stream ends with its marker, and the object with the stream, given where the reader stopped."""
        end = self._file.tell()
        if end == begun:
            raise UnreadableInput(
                f"{self._source.uri} ends without the end marker of an Arrow stream: it may have been cut off. "
                "Close the writer of the stream, and upload it again"
            )
        if end < self._source.size:
            raise UnreadableInput(
                f"{self._source.uri} has {self._source.size - end:,} bytes after the end of its Arrow stream: "
                "write each stream to an object of its own"
            )

    def _try(self, what: str, call: Any) -> Any:
        try:
            return call()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableInput(f"{self._source.uri} {what}: {one_line(error)}") from error


def _as_bytes(column: pa.Array) -> pa.Array:
    """Return strings as bytes, so that invalid UTF-8 does not fail the whole batch here but rejects one row later."""
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _as_bytes(column.dictionary), safe=False)
    if pa.types.is_string(column.type):
        return column.view(pa.binary())
    if pa.types.is_string_view(column.type):
        return column.view(pa.binary_view())
    return column.view(pa.large_binary()) if pa.types.is_large_string(column.type) else column


def _with_wide_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Return the schema with 32-bit indices for dictionaries, as in Parquet.

    For 100 categories, pandas writes 8-bit indices. These are too small when the categories of several such objects are
    combined.
    """
    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind) and kind.index_type.bit_width < 32:
            field = field.with_type(pa.dictionary(pa.int32(), kind.value_type, kind.ordered))
        fields.append(field)
    return pa.schema(fields, schema.metadata)
