"""Choose the format for reading an object."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.arrow import ArrowFormat
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey, TableFormat
from scoreline.storage.tables.convert import reject_invalid_strings
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.expected_text import expect_compressed, expect_plain
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.options import FORMATS, SUFFIXES, ReadOptions, format_of
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.shared_rows import SharedRows
from scoreline.storage.tables.views import has_plain_types, schema_without_views, without_views

_RECORDS = "records"


class Tables:
    """Reads objects in any supported format.

    It is thread-safe. Each instance caches footers and headers, so a process should have only one instance.

    Parameters
    ----------
    records : TableFormat, optional
        Reads the records that applications submit. Only jobs read such objects, and only their own.
    shared : SharedRows, optional
        Rows that processes of this worker share.
    """

    def __init__(self, records: TableFormat | None = None, shared: SharedRows | None = None) -> None:
        self._formats: dict[str, TableFormat] = {"parquet": ParquetFormat(shared=shared)}
        if records is not None:
            self._formats[_RECORDS] = records
        self._shared = shared
        self._lock = threading.Lock()
        self._last_schema = (pa.schema([]), pa.schema([]))
        """The schema of the last survey, and the same schema without views. Both are cached, because most objects of a
        job have the same columns."""
        self._plain: pa.Schema | None = None
        """The last schema without views that was read."""

    def survey(self, source: Pinned, options: ReadOptions, features: Collection[str] = ()) -> Survey:
        """Find the columns and spans of an object (see `TableFormat.survey`).

        An empty object has no columns and no spans.
        """
        if source.size == 0:
            return Survey(schema=pa.schema([]), spans=())
        found = self._format(source, options).survey(source, features)
        given, plain = self._last_schema
        if not given.equals(found.schema, check_metadata=True):
            given, plain = self._last_schema = found.schema, schema_without_views(found.schema)
        return found if plain is given else replace(found, schema=plain)

    def expect_requests(
        self,
        source: Pinned,
        columns: list[str],
        spans: Sequence[Span],
        known: Sequence[Span],
        batch_rows: int,
        options: ReadOptions,
    ) -> Sequence[int]:
        """Return the sizes of the requests with which one process reads some spans, one after another.

        The requests for the beginning or the end of the object are not included (see `head_requests`). Of compressed
        texts, sizes and number are approximate.

        Parameters
        ----------
        columns : list of str
            The columns to read.
        spans : sequence of Span
            What the process reads. For Parquet, all spans are in the same row group.
        known : sequence of Span
            All spans of the object.
        """
        found = self._format(source, options)
        if isinstance(found, ParquetFormat):
            return found.expect_requests(source, columns, [(span.start, span.stop) for span in spans], batch_rows)
        if isinstance(found, ArrowFormat):
            return found.expect_requests(source, spans, known, columns)
        if format_of(source.key, options)[1] is None:
            return expect_plain(spans)
        return expect_compressed(source.size, spans, known)

    def shares_rows(self, source: Pinned, columns: list[str], spans: Sequence[Span], options: ReadOptions) -> bool:
        """Return whether processes of a worker share the rows of the row group with these spans (see `SharedRows`)."""
        found = self._format(source, options)
        return isinstance(found, ParquetFormat) and found.shares_rows(source, columns, spans[0].start)

    def head_requests(self, source: Pinned, options: ReadOptions) -> tuple[int, bool]:
        """Return how many requests a process sends for the beginning or the end of an object before it reads rows.

        Return also whether this process needs no such requests, because it has read them before.
        """
        found = self._format(source, options)
        if isinstance(found, ParquetFormat):
            return 1, found.knows_footer(source)
        if isinstance(found, ArrowFormat):
            return found.head_requests(source)
        return (1, found.knows_header(source)) if isinstance(found, DelimitedFormat) else (0, True)

    def read(
        self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int, options: ReadOptions
    ) -> Iterator[Rows]:
        """Yield the rows of a span (see `TableFormat.read`)."""
        found = self._format(source, options)
        for other in list(self._formats.values()):
            if other is not found and isinstance(other, ArrowFormat | ParquetFormat):
                other.release()
        batches = found.read(source, span, schema, batch_rows)
        if is_text(kind_of(source.key, options)):
            yield from batches
        else:
            for rows in batches:
                if self._plain is None or not rows.batch.schema.equals(self._plain):
                    if has_plain_types(rows.batch.schema):
                        self._plain = rows.batch.schema
                    else:
                        rows = replace(rows, batch=without_views(rows.batch))
                yield reject_invalid_strings(rows, source.uri)

    def planning(self) -> AbstractContextManager[None]:
        """Return a block in which rows are read to plan a job, so that processes of this worker need them next."""
        return contextlib.nullcontext() if self._shared is None else self._shared.planning()

    def _format(self, source: Pinned, options: ReadOptions) -> TableFormat:
        if _RECORDS in self._formats and kind_of(source.key, options) == _RECORDS:
            return self._formats[_RECORDS]
        kind, compression = format_of(source.key, options)
        if kind is None:
            raise UnreadableInput(
                f"{source.uri} has none of the suffixes {', '.join(SUFFIXES)}: give its format with --format "
                f"({', '.join(FORMATS)}), or leave it out of the input"
            )
        if compression is not None and not is_text(kind):
            raise UnreadableInput(
                f"{source.uri} is {kind} compressed with {compression}: decompress it, because {kind} has its own "
                "compression"
            )
        name = repr((kind, options)) if is_text(kind) else kind
        with self._lock:
            if name not in self._formats:
                self._formats[name] = _make(kind, options)
            return self._formats[name]


def kind_of(key: str, options: ReadOptions) -> str | None:
    """Return the format of an object: one of `FORMATS`, ``records`` for records of a job, or None if it is unknown."""
    return _RECORDS if keys.is_records(key) else format_of(key, options)[0]


def is_text(kind: str | None) -> bool:
    """Return whether a format is text. In text formats, types are inferred, and single rows may be malformed."""
    return kind in ("csv", "jsonl")


def _make(kind: str, options: ReadOptions) -> TableFormat:
    match kind:
        case "parquet":
            return ParquetFormat()
        case "arrow":
            return ArrowFormat()
        case "csv":
            return DelimitedFormat(options)
        case _:
            return JsonLinesFormat(options)
