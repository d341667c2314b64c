"""Parquet in and out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey
from scoreline.storage.tables.ranged import RangedFile

COMPRESSION = "zstd"
GROUP_ROWS = 131_072
"""Rows of a row group of what is written: engines share out row groups, and want some 100,000 rows in one
(https://duckdb.org/docs/stable/guides/performance/file_formats). A part of ordinary size is one."""
_SAMPLE_ROWS = 8_192
_REPEATS = 4
"""A column is written with a dictionary where its first rows hold each value so often, on average. For others it costs:
131,072 rows of ids, names and scores take a fifth less without, and a quarter of the time."""
MAX_SPAN_ROWS = 524_288
MAX_SPAN_BYTES = 256 << 20
"""Row groups beyond these are read in several spans, so that a worker's memory does not grow with them. Each has to
decode what is before it in its group, which costs a tenth of what scoring it does."""
_STREAM_BYTES = 1 << 20
"""Read at a time of each column of such a row group."""


class ParquetFormat:
    """Reads Parquet objects by ranges; the footer of an object is asked for once, however many parts read it.

    A span is rows. Thread-safe, but for what it hands out.

    Parameters
    ----------
    footer_bytes : int
        Encoded size of the footers to remember, the last one whatever its size; decoded they take some ten times that,
        which must not grow with the objects of a job.
    """

    def __init__(self, footer_bytes: int = 512 << 10) -> None:
        self._room = footer_bytes
        self._footers: OrderedDict[tuple[str, str], pq.FileMetaData] = OrderedDict()
        self._lock = threading.Lock()

    def survey(self, source: Pinned) -> Survey:
        """Read the footer alone (see `TableFormat.survey`)."""
        metadata = self._open(source).metadata
        spans: list[Span] = []
        row = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            spans += _spans(row, group.num_rows, group.total_byte_size)
            row += group.num_rows
        return Survey(schema=_schema(metadata, source), spans=tuple(spans))

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span in order (see `TableFormat.read`)."""
        metadata = self._open(source).metadata
        first = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            start, stop = max(span.start, first), min(span.stop, first + group.num_rows)
            if start < stop:
                large = _is_large(group.num_rows, group.total_byte_size)
                batches = self._group(source, number, schema.names, batch_rows, stream=large)
                yield from _between(batches, first, start, stop)
            first += group.num_rows

    def _group(
        self, source: Pinned, number: int, columns: list[str], batch_rows: int, *, stream: bool
    ) -> Iterator[pa.RecordBatch]:
        file = self._open(source, stream=stream)
        try:
            for batch in file.iter_batches(batch_rows, row_groups=[number], columns=columns, use_threads=False):
                yield batch.select(columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableInput(f"{source.uri} cannot be decoded in row group {number}: {one_line(error)}") from error

    def _open(self, source: Pinned, *, stream: bool = False) -> pq.ParquetFile:
        name = (source.uri, source.etag)
        with self._lock:
            known = self._footers.get(name)
        try:
            file = pq.ParquetFile(
                RangedFile(source.store, source.key, source.size, source.etag),
                metadata=known,
                pre_buffer=not stream,
                buffer_size=_STREAM_BYTES if stream else 0,
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError, ValueError) as error:  # names of columns that are no UTF-8 among them
            raise UnreadableInput(f"{source.uri} is not a Parquet file: {one_line(error)}") from error
        if known is None:
            with self._lock:
                self._footers[name] = file.metadata
                while (
                    len(self._footers) > 1
                    and sum(footer.serialized_size for footer in self._footers.values()) > self._room
                ):
                    self._footers.popitem(last=False)
        return file


def _schema(metadata: pq.FileMetaData, source: Pinned) -> pa.Schema:
    try:
        return metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableInput(f"{source.uri} has columns that cannot be read: {one_line(error)}") from error


def _is_large(rows: int, size: int) -> bool:
    return rows > MAX_SPAN_ROWS or size > MAX_SPAN_BYTES


def _spans(row: int, rows: int, size: int) -> Iterator[Span]:
    """Cut a row group where it is large, into runs of about half what is large."""
    count = max(-(-2 * rows // MAX_SPAN_ROWS), -(-2 * size // MAX_SPAN_BYTES)) if _is_large(rows, size) else 1
    count = min(count, max(rows, 1))
    for number in range(count):
        start, stop = row + rows * number // count, row + rows * (number + 1) // count
        if start < stop:
            yield Span(start=start, stop=stop, first_row=start, rows=stop - start, size=size // count)


def _between(batches: Iterator[pa.RecordBatch], row: int, start: int, stop: int) -> Iterator[Rows]:
    """Rows `start` to `stop` of batches of which the first begins at `row`."""
    for batch in batches:
        low, high = max(start - row, 0), min(stop - row, batch.num_rows)
        if low < high:
            yield Rows(batch=batch.slice(low, high - low), numbers=np.arange(row + low, row + high, dtype=np.int64))
        row += batch.num_rows
        if row >= stop:  # before the next one is decoded
            return


def write(table: pa.Table, metadata: Mapping[str, str], *, group_rows: int | None = None) -> bytes:
    """Encode a table in the order of its rows; the same table and metadata give the same bytes.

    Statistics of row groups and of pages of 20,000 rows let a reader pass over what it does not look for.

    Parameters
    ----------
    table : pyarrow.Table
        What to write, without metadata of its own.
    metadata : mapping of str to str
        Goes into the footer.
    group_rows : int, optional
        Rows of a row group; `GROUP_ROWS` by default.
    """
    sink = pa.BufferOutputStream()
    described = table.replace_schema_metadata(dict(metadata))
    with writer(sink, described.schema, repeated(table)) as out:
        out.write_table(described, row_group_size=group_rows or GROUP_ROWS)
    return bytes(sink.getvalue())


def writer(sink: Any, schema: pa.Schema, dictionaries: Sequence[str]) -> pq.ParquetWriter:
    """Open a file to be written by row groups, all of them as `write` writes its own.

    Parameters
    ----------
    sink : file or pyarrow.NativeFile
        Where the bytes go.
    schema : pyarrow.Schema
        Its metadata goes into the footer.
    dictionaries : sequence of str
        Columns to write with a dictionary, as `repeated` names them.
    """
    return pq.ParquetWriter(
        sink,
        schema,
        compression=COMPRESSION,
        use_dictionary=list(dictionaries) or False,
        write_statistics=True,
        write_page_index=True,
        write_page_checksum=True,
    )


def repeated(table: pa.Table) -> list[str]:
    """Name the columns whose first rows hold few values again and again."""
    sample = table.slice(0, _SAMPLE_ROWS)
    return [name for name in sample.column_names if _repeats(sample.column(name))]


def _repeats(column: pa.ChunkedArray) -> bool:
    if pa.types.is_dictionary(column.type):
        return True
    try:
        return bool(_REPEATS * pc.count_distinct(column).as_py() <= len(column))
    except pa.ArrowNotImplementedError:  # lists, structs and the like
        return False


def read_table(source: Pinned) -> pa.Table:
    """Read an object whole (raises `UnreadableInput`)."""
    tables = ParquetFormat()
    survey = tables.survey(source)
    rows = [rows for span in survey.spans for rows in tables.read(source, span, survey.schema, MAX_SPAN_ROWS)]
    return pa.Table.from_batches([item.batch for item in rows], survey.schema.remove_metadata())


def check_writable(schema: pa.Schema) -> None:
    """Raise `UnreadableInput` that names the first column of a type that Parquet has no form for."""
    if _refusal(schema) is None:
        return
    for field in schema:
        if error := _refusal(pa.schema([field])):
            raise UnreadableInput(
                f"the column {field.name!r} is {field.type}, which Parquet cannot hold: leave it out with --keep"
            ) from error


def _refusal(schema: pa.Schema) -> Exception | None:
    try:
        pq.write_table(schema.empty_table(), pa.BufferOutputStream())
    except (pa.ArrowException, OSError) as error:
        return error
    return None
