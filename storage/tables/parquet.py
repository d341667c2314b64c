"""Read and write Parquet."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.process_memory import shrink_heap
from scoreline.storage.tables.base import Encoded, Pinned, Rows, Span, Survey
from scoreline.storage.tables.forward import ForwardReader
from scoreline.storage.tables.held_rows import Decoder, held_rows, read_rows
from scoreline.storage.tables.kept_reader import KeptReader
from scoreline.storage.tables.parquet_alike import AlikeFile, AlikeFiles, parquet_footers, usual_footer
from scoreline.storage.tables.parquet_chunks import Leaves
from scoreline.storage.tables.parquet_encoding import Encoding
from scoreline.storage.tables.parquet_held import open_held, read_held
from scoreline.storage.tables.parquet_layout import is_joined, may_be_joined
from scoreline.storage.tables.parquet_opening import open_parquet, refuse_unsound_columns
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.shared_rows import SharedRows
from scoreline.storage.tables.small_objects import held_bytes

GROUP_ROWS = 131_072
"""Number of rows per row group in written files. Query engines process row groups in parallel, and work best with about
100,000 rows in each (https://duckdb.org/docs/stable/guides/performance/file_formats). A typical part is one row
group."""
_TABLE_BATCH_ROWS = 524_288
_NULL_BATCH_ROWS = 65_536
_SURVEY_LIMITS = {"memory_bytes": 24 << 20, "connections": 4}
"""Limits of a reader that counts nulls. They are low, because planning surveys several objects at a time."""
_COUNTED = frozenset(
    kind.id
    for kind in (
        pa.bool_(),
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.uint8(),
        pa.uint16(),
        pa.uint32(),
        pa.uint64(),
    )
)
"""The types of columns whose nulls are counted."""


class ParquetFormat:
    """Reads Parquet objects with ranged GETs. The cached footer of an object serves all its parts.

    A survey has a span for each row group, but any range of rows can be read. The format is thread-safe, but the
    iterators that it returns are not.

    Parameters
    ----------
    footer_bytes : int
        Maximum total size of the cached footers, as encoded. The latest footer is always cached. Decoded footers use
        about ten times as much memory. The limit bounds the memory for footers, whatever the number of objects in a
        job.
    shared : SharedRows, optional
        Rows that processes of this worker share.
    """

    def __init__(self, footer_bytes: int = 512 << 10, shared: SharedRows | None = None) -> None:
        self._shared = shared
        self._footer_bytes = footer_bytes
        self._footers: OrderedDict[tuple[str, str], pq.FileMetaData] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = KeptReader()
        self._keeps_memory = False
        """Whether readers may have left unused memory (see `scoreline.storage.kept_memory`)."""
        self._decoder = Decoder()
        self._began: tuple[tuple[str, str], list[int]] = (("", ""), [])
        """The object that was read last, and the number of the first row of each of its row groups."""
        self._surveyed: tuple[pa.Schema, frozenset[str], pa.Schema] = (pa.schema([]), frozenset(), pa.schema([]))
        """The result of the last survey: the schema of the object, the names of its columns without nulls, and the
        schema in which these columns are not nullable. It is cached, because most objects of a job have the same
        columns."""
        self._alike = AlikeFiles()
        self._counted: tuple[pa.Schema, dict[str, int]] = (pa.schema([]), {})
        """The schema of an object, and the positions of its columns whose nulls are counted."""

    def survey(self, source: Pinned, features: Collection[str] = ()) -> Survey:  # for text formats
        """Read the footer (see `TableFormat.survey`).

        If the footer does not have the null count of an integer or boolean column, this column is read, too.
        """
        data = held_bytes(source)
        footer = usual_footer(data)
        if footer is not None and (found := self._alike.find(footer)) is not None:
            return self._survey_alike(source, found, features)
        raw = RangedFile(source.store, source.key, source.size, source.etag)
        file = self._open(source, raw=raw) if data is None else open_held(source, data)
        metadata = file.metadata
        if footer is not None and footer.columns != metadata.num_columns:
            footer = None
        is_usual = footer is not None and data is not None and not may_be_joined(data)
        if data is not None and not is_usual:
            refuse_unsound_columns(source, metadata)
        if not is_usual and is_joined(raw, source.size, metadata):
            raise UnreadableInput(
                f"{source.uri} consists of several Parquet files joined together, of which only one can be read: write "
                "each to an object of its own, or all rows to one file"
            )
        spans: list[Span] = []
        row = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            stop = row + group.num_rows
            size = group.total_byte_size
            if group.num_rows:
                spans.append(Span(start=row, stop=stop, first_row=row, rows=group.num_rows, size=size, by_rows=True))
            row = stop
        schema = _schema(file, source)
        counted = self._counted_places(metadata, schema)
        without_nulls = frozenset(self._without_nulls(source, metadata, counted, footer))
        settled = self._settled(schema, without_nulls)
        if data is None:
            return Survey(schema=settled, spans=tuple(spans))
        is_known = footer is not None and self._alike.learn(footer, schema, metadata, counted)
        return Survey(
            schema=settled,
            spans=tuple(spans),
            decode=partial(self._decoder.decode, file, schema, features, None if footer is None else footer.bytes_of),
            encoded=self._encoded(footer, schema, features) if footer is not None and is_known else None,
        )

    def _survey_alike(self, source: Pinned, found: AlikeFile, features: Collection[str]) -> Survey:
        """Return the survey of a small object with the columns of an earlier one."""
        footer = found.footer
        return Survey(
            schema=self._settled(found.schema, found.without_nulls),
            spans=(found.span,),
            decode=partial(self._decode_alike, source, found, features),
            encoded=self._encoded(footer, found.schema, features),
        )

    def _decode_alike(self, source: Pinned, found: AlikeFile, features: Collection[str]) -> pa.RecordBatch | None:
        try:
            file = open_held(source, found.footer.data)
        except UnreadableInput:  # a field that the survey skips is damaged: the part explains the error
            return None
        return self._decoder.decode(file, found.schema, features, found.footer.bytes_of)

    def _encoded(self, footer: parquet_footers.Footer, schema: pa.Schema, features: Collection[str]) -> Encoded | None:
        size = self._decoder.measure(schema, features, footer.rows, footer.bytes_of)
        return None if size is None else Encoded(footer=footer, size=size[0], most=size[1])

    def _settled(self, schema: pa.Schema, without_nulls: frozenset[str]) -> pa.Schema:
        """Return a schema in which the columns without nulls are not nullable."""
        before, none_before, found = self._surveyed
        if none_before != without_nulls or not before.equals(schema, check_metadata=True):
            fields = [field.with_nullable(field.name not in without_nulls) for field in schema]
            found = pa.schema(fields, schema.metadata)
            self._surveyed = (schema, without_nulls, found)
        return found

    def _counted_places(self, metadata: pq.FileMetaData, schema: pa.Schema) -> Mapping[str, int]:
        """Return the positions of the columns whose nulls are counted."""
        known, places = self._counted
        if not known.equals(schema):
            places = _counted_columns(metadata, schema)
            self._counted = (schema, places)
        return places

    def _without_nulls(
        self,
        source: Pinned,
        metadata: pq.FileMetaData,
        counted: Mapping[str, int],
        footer: parquet_footers.Footer | None,
    ) -> set[str]:
        """Return the integer and boolean columns without nulls.

        Values are read only if the statistics do not have the null count.

        Parameters
        ----------
        footer : Footer, optional
            The footer, if it is usual. Otherwise, the descriptions of columns in `metadata` must be sound.
        """
        found, unknown = set(), []
        for name, place in counted.items():
            counts = list(_null_counts(metadata, place, footer))
            if None in counts:
                unknown.append(name)
            elif not any(counts):
                found.add(name)
        if unknown:
            nulls: Counter[str] = Counter()
            with contextlib.closing(self._reader(source, unknown, _NULL_BATCH_ROWS, None, **_SURVEY_LIMITS)) as reader:
                for rows in reader.read(0, metadata.num_rows):
                    nulls.update({name: rows.batch.column(name).null_count for name in unknown})
            found |= {name for name in unknown if not nulls[name]}
        return found

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span in order (see `TableFormat.read`).

        If the span ends within a row group, the reader stays open. The reader continues there if the next call reads a
        later span of the same row group, with the same columns and `batch_rows`. Rows before the first and after the
        last needed row are not returned.
        """
        if span.wanted is not None:
            span = replace(
                span, start=max(span.start, span.wanted.start), stop=min(span.stop, span.wanted.stop), wanted=None
            )
        if (held := held_rows(source)) is not None:
            self._release_memory()
            yield from read_rows(held, span, schema.names, batch_rows)
            return
        if (data := held_bytes(source)) is not None:
            self._release_memory()
            yield from read_held(source, data, span, schema, batch_rows)
            return
        self._keeps_memory = True
        reader = self._kept.take((source.uri, source.etag, tuple(schema.names), batch_rows), span.start)
        if reader is None:
            reader = self._reader(source, schema.names, batch_rows, self._shared, schema)
            reader.skip_to(span.start, self._first_rows(source))
        is_done = False
        try:
            yield from reader.read(span.start, span.stop)
            is_done = True
        finally:
            if is_done and reader.can_continue(span.stop):
                self._kept.keep(reader)
            else:
                reader.close()

    def expect_requests(
        self, source: Pinned, columns: Sequence[str], slices: Sequence[tuple[int, int]], batch_rows: int
    ) -> Sequence[int]:
        """Return the sizes of the requests that reading some slices takes, in bytes. Only the footer is read.

        Parameters
        ----------
        columns : sequence of str
            The columns to read.
        slices : sequence of tuple of int
            The first row of each slice, and the row after its last row. One reader reads all slices, in order.
        batch_rows : int
            Number of rows per batch.
        """
        (start, first_stop), (_, stop) = slices[0], slices[-1]
        return self._reader(source, list(columns), batch_rows).expect(start, stop, first_stop)

    def shares_rows(self, source: Pinned, columns: list[str], row: int) -> bool:
        """Return whether the process that plans a job hands the rows of the row group with this row to its worker.

        It samples the first rows of the first object, and can hand on only the row group of these rows.
        """
        is_first = row < self._open(source).metadata.row_group(0).num_rows
        return is_first and self._reader(source, columns, 1).can_share_first_group()

    def knows_footer(self, source: Pinned) -> bool:
        """Return whether the footer of an object is cached."""
        return (source.uri, source.etag) in self._footers

    def release(self) -> None:
        """Release the memory of the open reader. Call this before another object is read."""
        self._kept.take()
        self._release_memory()

    def _release_memory(self) -> None:
        """Release the memory that readers keep, once, before objects are read that do not need it."""
        if self._keeps_memory:
            self._keeps_memory = False
            MEMORY.release()
            shrink_heap()  # decoders of many columns leave a hundred megabytes unused

    def _first_rows(self, source: Pinned) -> list[int]:
        """Return the number of the first row of each row group.

        The result is cached, because each part needs it.
        """
        name = (source.uri, source.etag)
        known, first_rows = self._began
        if known != name:
            metadata = self._open(source).metadata
            counts = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
            first_rows = list(itertools.accumulate(counts, initial=0))[:-1]
            self._began = (name, first_rows)
        return first_rows

    def _reader(
        self,
        source: Pinned,
        columns: list[str],
        batch_rows: int,
        shared: SharedRows | None = None,
        schema: pa.Schema | None = None,
        **limits: int,
    ) -> ForwardReader:
        metadata = self._open(source).metadata

        def open_file(file: RangedFile | pa.NativeFile, buffer_bytes: int) -> pq.ParquetFile:
            return open_parquet(source, file, metadata=metadata, buffer_bytes=buffer_bytes)

        return ForwardReader(
            source, metadata, Leaves(metadata), open_file, columns, batch_rows, shared=shared, schema=schema, **limits
        )

    def _open(self, source: Pinned, *, raw: RangedFile | None = None) -> pq.ParquetFile:
        name = (source.uri, source.etag)
        with self._lock:
            known = self._footers.get(name)
        raw = raw or RangedFile(source.store, source.key, source.size, source.etag)
        file = open_parquet(source, raw, metadata=known)
        if known is None:
            refuse_unsound_columns(source, file.metadata)
            with self._lock:
                self._footers[name] = file.metadata
                while (
                    len(self._footers) > 1
                    and sum(footer.serialized_size for footer in self._footers.values()) > self._footer_bytes
                ):
                    self._footers.popitem(last=False)
        return file


def _counted_columns(metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, int]:
    """Return the positions of the top-level integer and boolean columns, by name."""
    names = {name for name, kind in zip(schema.names, schema.types, strict=True) if kind.id in _COUNTED}
    paths = {metadata.schema.column(number).path: number for number in range(metadata.num_columns)}
    return {name: paths[name] for name in schema.names if name in names and name in paths}


def _null_counts(
    metadata: pq.FileMetaData, column: int, footer: parquet_footers.Footer | None = None
) -> Iterator[int | None]:
    """Yield the null count of a column in each row group; None if the count is unknown."""
    described = metadata.schema.column(column)
    if described.max_definition_level == 0:  # the column is required
        return
    if footer is not None:
        nulls = footer.nulls(column)
        yield None if nulls < 0 else nulls
        return
    physical_type = described.physical_type
    for number in range(metadata.num_row_groups):
        chunk = metadata.row_group(number).column(column)
        if chunk.physical_type != physical_type:
            yield None  # pyarrow would end the process; reading the values explains what is wrong
            continue
        statistics = chunk.statistics
        yield statistics.null_count if statistics is not None and statistics.has_null_count else None


def _schema(file: pq.ParquetFile, source: Pinned) -> pa.Schema:
    try:
        return file.schema_arrow  # the schema from the metadata alone would read INT96 in nanoseconds
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableInput(f"the schema of {source.uri} cannot be read: {one_line(error)}") from error


def write(table: pa.Table, metadata: Mapping[str, str], *, group_rows: int | None = None) -> bytes:
    """Encode a table as Parquet, with the rows in the same order. Equal tables and metadata give the same bytes.

    The file contains statistics for each row group and each page of 20,000 rows, so that readers can skip data that
    they do not need.

    Parameters
    ----------
    table : pyarrow.Table
        The table. The metadata of its schema is not written.
    metadata : mapping of str to str
        Metadata to write to the footer.
    group_rows : int, optional
        Number of rows per row group, by default `GROUP_ROWS`.
    """
    sink = pa.BufferOutputStream()
    described = table.replace_schema_metadata(dict(metadata))
    with open_writer(sink, described.schema, table) as out:
        out.write_table(described, row_group_size=group_rows or GROUP_ROWS)
    return bytes(sink.getvalue())


def open_writer(sink: Any, schema: pa.Schema, rows: pa.Table) -> pq.ParquetWriter:
    """Open a writer that encodes row groups exactly as `write` does.

    Parameters
    ----------
    sink : file or pyarrow.NativeFile
        Destination of the bytes.
    schema : pyarrow.Schema
        Schema of the table. Its metadata is written to the footer.
    rows : pyarrow.Table
        The first rows of the file. Those of the first row group decide how each column is encoded (see
        `parquet_encoding`).
    """
    encoding = Encoding.of(rows.slice(0, GROUP_ROWS))
    return pq.ParquetWriter(
        sink,
        schema,
        compression=encoding.compression,
        use_dictionary=encoding.dictionaries or False,
        write_statistics=True,
        write_page_index=True,
        write_page_checksum=True,
    )


def read_table(source: Pinned) -> pa.Table:
    """Read a whole object. Raise `UnreadableInput` if it cannot be decoded."""
    tables = ParquetFormat()
    survey = tables.survey(source)
    rows = [rows for span in survey.spans for rows in tables.read(source, span, survey.schema, _TABLE_BATCH_ROWS)]
    schema = rows[0].batch.schema if rows else survey.schema
    return pa.Table.from_batches([item.batch for item in rows], schema).replace_schema_metadata(None)


def check_writable(schema: pa.Schema) -> None:
    """Raise `UnreadableInput` if Parquet does not support the type of a column.

    The message names the first such column.
    """
    if _write_error(schema) is None:
        return
    for field in schema:
        if error := _write_error(pa.schema([field])):
            raise UnreadableInput(
                f"the column {field.name!r} is {field.type}, which Parquet cannot hold: leave it out with --keep"
            ) from error


def _write_error(schema: pa.Schema) -> Exception | None:
    try:
        pq.write_table(schema.empty_table(), pa.BufferOutputStream())
    except (pa.ArrowException, OSError) as error:
        return error
    return None
