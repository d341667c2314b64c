"""Which format an object is read with."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.arrow import ArrowFormat
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey, TableFormat
from scoreline.storage.tables.convert import without_invalid
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.options import FORMATS, SUFFIXES, ReadOptions, format_of
from scoreline.storage.tables.parquet import ParquetFormat


class Tables:
    """Reads objects of any format; one for a process, since it remembers footers and headers. Thread-safe."""

    def __init__(self) -> None:
        self._formats: dict[str, TableFormat] = {}
        self._lock = threading.Lock()

    def survey(self, source: Pinned, options: ReadOptions) -> Survey:
        """Look at a whole object (see `TableFormat.survey`); one of no bytes holds no rows and no columns."""
        if source.size == 0:
            return Survey(schema=pa.schema([]), spans=())
        return self._of(source, options).survey(source)

    def read(
        self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int, options: ReadOptions
    ) -> Iterator[Rows]:
        """Yield the rows of a span (see `TableFormat.read`)."""
        found = self._of(source, options).read(source, span, schema, batch_rows)
        if is_text(format_of(source.key, options)[0]):
            yield from found
        else:
            yield from (without_invalid(rows, source.uri) for rows in found)

    def _of(self, source: Pinned, options: ReadOptions) -> TableFormat:
        kind, compression = format_of(source.key, options)
        if kind is None:
            raise UnreadableInput(
                f"{source.uri} is not named as any of {', '.join(SUFFIXES)}: say with --format which of "
                f"{', '.join(FORMATS)} it is, or name the others alone"
            )
        if compression is not None and not is_text(kind):
            raise UnreadableInput(
                f"{source.uri} is {kind} in {compression}: it has to be decompressed, {kind} compresses by itself"
            )
        name = repr((kind, options if is_text(kind) else None))
        with self._lock:
            if name not in self._formats:
                self._formats[name] = _make(kind, options)
            return self._formats[name]


def is_text(kind: str | None) -> bool:
    """Whether a format is text, whose types are guessed and whose rows may be broken."""
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
