"""Arrow IPC: files (including Feather) and streams."""

from __future__ import annotations

import contextlib
import io
import struct
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables.arrow_layout import read_footer, record_batches, unlisted_bytes
from scoreline.storage.tables.arrow_slices import (
    MIN_BYTES,
    SLICE_BYTES,
    BatchLayout,
    can_be_sliced,
    layout_of,
    needs_validation,
    read_rows,
    request_sizes,
)
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey
from scoreline.storage.tables.contents import explain_format
from scoreline.storage.tables.ranged import Ends, RangedFile
from scoreline.storage.tables.read_ahead import PIECE_BYTES, ReadAheadFile, divide
from scoreline.storage.tables.views import schema_without_views, without_views

_MAGIC = b"ARROW1"
_BUFFER_BYTES = 4 << 20
_LEAST_KEPT_BYTES = 256 << 10
"""Fewer bytes than this are on the heap, because a block of memory takes whole pages."""


class ArrowFormat:
    """Reads Arrow IPC.

    A span, which can be read without the rest of the object, is a range of record batches. To read a batch of a stream,
    the reader must read all batches before it.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[str, str], Ends] = (("", ""), Ends())
        """Name and ends of the object that was opened last. Planning opens an object twice, and each part opens it once
        more."""
        self._keeps_memory = False
        """Whether slices may have left unused memory (see `scoreline.storage.kept_memory`)."""

    def release(self) -> None:
        """Release the memory that slices keep. Call this before an object of another format is read."""
        if self._keeps_memory:
            self._keeps_memory = False
            MEMORY.release()

    def _open(self, source: Pinned) -> _Reader:
        name, ends = self._last
        if name != (source.uri, source.etag):
            ends = Ends()
            self._last = ((source.uri, source.etag), ends)
        return _Reader(source, ends)

    def survey(self, source: Pinned, features: Collection[str] = ()) -> Survey:  # for text formats
        """Read every record batch, because Arrow does not store the number of rows (see `TableFormat.survey`)."""
        spans: list[Span] = []
        row = 0
        self._keeps_memory = True  # texts of large batches are validated in slices
        reader = self._open(source)
        nulls: Counter[str] = Counter()
        for number, found in enumerate(reader.surveyed()):
            spans.append(Span(start=number, stop=number + 1, first_row=row, rows=found.rows, size=found.size))
            row += found.rows
            nulls.update(found.nulls)
        schema = _with_wide_dictionaries(schema_without_views(reader.schema))
        fields = [field.with_nullable(nulls[field.name] > 0) for field in schema]
        return Survey(schema=pa.schema(fields, schema.metadata), spans=tuple(spans))

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span in order (see `TableFormat.read`).

        If a batch is large, only its needed rows are read.
        """
        row = span.first_row
        reader = self._open(source)
        number = span.start
        while number < span.stop:
            layout = reader.layout(number)
            if layout is None:
                stop = min(reader.next_layout(number) or span.stop, span.stop)
                pieces: Iterable[tuple[int, pa.RecordBatch]] = reader.whole(number, stop, schema.names)
                number = stop
            else:
                self._keeps_memory = True
                wanted = span.wanted or range(row, row + layout.rows)
                low, high = max(wanted.start - row, 0), min(wanted.stop - row, layout.rows)
                pieces = reader.slices(number, layout, schema.names, low, high)
                number += 1
            end = row
            for before, batch in pieces:
                for start in range(0, batch.num_rows, batch_rows):
                    piece = batch.slice(start, batch_rows)
                    first = row + before + start
                    yield Rows(batch=piece, numbers=np.arange(first, first + piece.num_rows, dtype=np.int64))
                end = max(end, row + before + batch.num_rows)
            row = end if layout is None else row + layout.rows

    def expect_requests(
        self, source: Pinned, spans: Sequence[Span], known: Sequence[Span], names: list[str]
    ) -> list[int]:
        """Return the sizes of the requests with which one process reads some spans, without those for the ends.

        Parameters
        ----------
        known : sequence of Span
            All spans of the object.
        names : list of str
            The columns to read.
        """
        reader = self._open(source)
        total = max(1, sum(span.size for span in known))
        return [
            size
            for span in spans
            for size in reader.expect(span, sum(item.size for item in known[: span.stop]) / total, names)
        ]

    def head_requests(self, source: Pinned) -> tuple[int, bool]:
        """Return how many requests the ends of an object take, and whether they are in memory."""
        name, ends = self._last
        if name != (source.uri, source.etag):
            return 2, False
        return 2 if ends.head.startswith(_MAGIC) else 1, True


@dataclass(frozen=True, kw_only=True)
class _Surveyed:
    """The number of rows, the size and the null counts of a record batch, for a survey."""

    rows: int
    size: int
    nulls: Mapping[str, int]


class _Bounded(io.BufferedReader):
    """A file that never reads beyond the end of the object.

    Without this limit, Arrow might allocate gigabytes for a damaged length.
    """

    def __init__(self, raw: io.RawIOBase, size: int) -> None:
        super().__init__(raw, _BUFFER_BYTES)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, but never more than remain in the object."""
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


class _Reader:
    """Reads the record batches of an object. Batches are numbered from 0."""

    def __init__(self, source: Pinned, ends: Ends) -> None:
        self._source = source
        self._raw = RangedFile(source.store, source.key, source.size, source.etag, ends)
        self._ahead = ReadAheadFile(source, ends, stops=True)
        self._file = _Bounded(self._ahead, source.size)
        self._layouts: dict[int, BatchLayout | None] = {}
        self._places: list[tuple[int, int, int]] | None = None
        """For each batch of a file, its position and the lengths of its metadata and its body."""
        self._can_be_sliced = False
        self._seekable = self._raw.read(len(_MAGIC)) == _MAGIC
        try:
            self.schema: pa.Schema = self._open(None).schema
            _ = self.schema.names  # raises an error if a name is not UTF-8
        except (pa.ArrowException, OSError, ValueError) as error:
            raise explain_format(source, "Arrow IPC", error) from error

    def surveyed(self) -> Iterator[_Surveyed]:
        """Validate each batch and describe it. If a batch is large, read only its columns that may be invalid."""
        number, stop = 0, None
        while stop is not None or number == 0 or self._has_layouts(number):
            layout = self.layout(number)
            if layout is not None and self._is_valid(layout):
                counts = dict(zip(self.schema.names, layout.nulls, strict=True))
                yield _Surveyed(rows=layout.rows, size=sum(size for _, size in layout.buffers), nulls=counts)
                number, stop = number + 1, None
                continue
            stop = self.next_layout(number)
            for batch in self.batches(number, stop, None):
                counts = dict(zip(batch.schema.names, (column.null_count for column in batch.columns), strict=True))
                yield _Surveyed(rows=batch.num_rows, size=batch.nbytes, nulls=counts)
            if stop is None:
                return
            number = stop

    def next_layout(self, number: int) -> int | None:
        """Return the number of the first batch after `number` that has a layout; None if there is no such batch."""
        later = range(number + 1, len(self._places or ()))
        return next((other for other in later if self.layout(other) is not None), None)

    def layout(self, number: int) -> BatchLayout | None:
        """Return the layout of a batch if it is large and its rows can be read separately."""
        if number not in self._layouts:
            self._layouts[number] = self._find_layout(number)
        return self._layouts[number]

    def whole(self, start: int, stop: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each batch with the number of rows before it."""
        before = 0
        for batch in self.batches(start, stop, names):
            yield before, batch
            before += batch.num_rows

    def slices(
        self, number: int, layout: BatchLayout, names: list[str], low: int, high: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows of a batch from `low` to `high` in slices, each with the number of its first row."""
        step = _rows_of_slice(layout)

        def read() -> Generator[tuple[int, pa.RecordBatch | None]]:
            for start in range(low, high, step):
                yield start, read_rows(layout, self.schema, names, start, min(start + step, high), self._fetch)

        with contextlib.closing(prefetched(read())) as found:
            for start, piece in found:
                if piece is None:  # the slice is damaged: Arrow raises an error that describes the damage
                    for batch in self.batches(number, number + 1, names):
                        yield start, batch.slice(start, high - start)
                    return
                yield start, piece

    def _fetch(self, start: int, stop: int) -> bytes | memoryview:
        """Fetch bytes of a slice. When the slice is no longer used, its memory serves the next one."""
        if stop - start < _LEAST_KEPT_BYTES:
            return self._raw.fetch(start, stop)
        data = memoryview(MEMORY.array(stop - start))
        self._raw.get_into(start, [data])
        return data

    def expect(self, span: Span, share: float, names: list[str]) -> Iterator[int]:
        """Yield the sizes of the requests for a span.

        Parameters
        ----------
        share : float
            The fraction of a stream that ends with the span. All of it must be read.
        """
        if not (places := self._batch_places()):
            until, size = share * self._source.size, self._source.size
            yield min(_BUFFER_BYTES, size)  # to read the schema
            if size > _BUFFER_BYTES:
                until += PIECE_BYTES  # which is fetched meanwhile
                yield from (stop - start for start, stop in divide(_BUFFER_BYTES, size) if start < until)
            return
        row, number = span.first_row, span.start
        while number < span.stop:
            if (layout := self.layout(number)) is None:
                stop = min(self.next_layout(number) or span.stop, span.stop)
                yield from (end - start for start, end in divide(places[number][0], sum(places[stop - 1])))
                number = stop
                continue
            wanted = span.wanted or range(row, row + layout.rows)
            low, high = max(wanted.start - row, 0), min(wanted.stop - row, layout.rows)
            step = _rows_of_slice(layout)
            yield places[number][1]
            for start in range(low, high, step):
                yield from request_sizes(layout, self.schema, names, start, min(start + step, high))
            number, row = number + 1, row + layout.rows

    def _is_valid(self, layout: BatchLayout) -> bool:
        """Return whether a large batch is valid. Only columns that can be invalid are read."""
        names = [field.name for field in self.schema if needs_validation(field.type)]
        try:
            step = max(1, layout.rows * SLICE_BYTES // max(1, sum(length for _, length in layout.buffers)))
            for start in range(0, layout.rows, step) if names else ():
                stop = min(start + step, layout.rows)
                piece = read_rows(layout, self.schema, names, start, stop, self._fetch)
                if piece is None:
                    return False
                for column in piece.columns:
                    _as_bytes(column).validate(full=True)
        except (pa.ArrowException, ValueError):
            return False
        return True

    def _find_layout(self, number: int) -> BatchLayout | None:
        if not self._has_layouts(number):
            return None
        assert self._places is not None
        start, metadata, body_bytes = self._places[number]
        if body_bytes <= MIN_BYTES or start + metadata + body_bytes > self._source.size:
            return None
        self._raw.seek(start)
        return layout_of(self._raw.read(metadata), start + metadata, body_bytes, self.schema)

    def _has_layouts(self, number: int) -> bool:
        """Return whether the object has a batch with this number, and the schema allows reading single rows."""
        return number < len(self._batch_places()) and self._can_be_sliced

    def _batch_places(self) -> list[tuple[int, int, int]]:
        if self._places is None:
            self._places = []
            if self._seekable:
                with contextlib.suppress(struct.error, IndexError):  # Arrow reports a damaged footer later
                    footer = read_footer(self._raw, self._source.size)
                    places = record_batches(footer)
                    if all(start >= 0 and metadata > 0 and body >= 0 for start, metadata, body in places):
                        self._places, self._can_be_sliced = places, can_be_sliced(self.schema, footer)
        return self._places

    def _read_ahead(self, start: int, stop: int | None, columns: list[str] | None) -> None:
        """Prefetch batches, unless Arrow reads only some of their columns."""
        if columns is not None and not set(self.schema.names) <= set(columns):
            return
        if not self._seekable:
            self._ahead.read_ahead(self._ahead.tell(), self._source.size)
        elif places := self._batch_places()[start:stop]:
            self._ahead.read_ahead(places[0][0], sum(places[-1]))

    def batches(self, start: int, stop: int | None, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        reader = self._open(columns)
        self._read_ahead(start, stop, columns)
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
        for column in batch.columns:  # an invalid offset would crash the process
            _as_bytes(column).validate(full=True)
        batch = without_views(batch)  # Arrow cannot cast a dictionary of string views
        wide = _with_wide_dictionaries(batch.schema)
        return batch if wide == batch.schema else batch.cast(wide)

    def _check_end(self, begun: int) -> None:
        """Check that a stream ends with its end marker, and that no bytes follow the marker."""
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


def _rows_of_slice(layout: BatchLayout) -> int:
    """Return the number of rows that are read at a time."""
    bytes_of_row = max(1, sum(length for _, length in layout.buffers) // max(layout.rows, 1))
    return max(1, SLICE_BYTES // bytes_of_row)


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

    For 100 categories, pandas writes 8-bit indices. 8 bits are too few when the categories of several such objects are
    combined.
    """
    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind) and kind.index_type.bit_width < 32:
            field = field.with_type(pa.dictionary(pa.int32(), kind.value_type, kind.ordered))
        fields.append(field)
    return pa.schema(fields, schema.metadata)
