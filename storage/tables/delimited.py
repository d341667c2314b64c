"""CSV and other delimited text."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.compressed import TextFiles
from scoreline.storage.tables.convert import (
    is_time,
    replace_nulls,
    to_booleans,
    to_int64,
    to_numbers,
    to_strings,
    to_times,
)
from scoreline.storage.tables.csv_checks import check_quotation_marks
from scoreline.storage.tables.csv_header import Header, read_header
from scoreline.storage.tables.csv_parser import Dialect, is_number, is_utf8, parse, parse_as_bytes, printable
from scoreline.storage.tables.csv_rows import to_rows
from scoreline.storage.tables.known_rows import delimited_scanner
from scoreline.storage.tables.notation import Notation
from scoreline.storage.tables.options import NULL_VALUES, ReadOptions, format_of
from scoreline.storage.tables.plain_values import decode_delimited
from scoreline.storage.tables.row_patterns import RowPattern, delimited_row
from scoreline.storage.tables.seek_points import SeekPoints
from scoreline.storage.tables.text import (
    BLOCK_BYTES,
    SURVEY_BYTES,
    Block,
    pick_records,
    read_blocks,
    split_blocks,
    survey_blocks,
    with_points,
)
from scoreline.storage.tables.type_inference import DelimitedColumn

_ARROW_CONVERTS = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
"""Types to which Arrow can convert a whole column."""
_CACHED_HEADERS = 256
_UNTRIED_BLOCKS = 15
"""Number of blocks that Arrow decodes after a block in which some values are no plain numbers."""
_FEW = 0.25
"""If at most this fraction of the rows may change the inferred types, only these rows are parsed."""


class DelimitedFormat:
    """Reads CSV. A span, which can be read without the rest of the object, is a range of bytes in the text.

    The header of an object is read only once. The format is thread-safe, but the iterators that it returns are not.
    """

    def __init__(self, options: ReadOptions, block_bytes: int = BLOCK_BYTES) -> None:
        self._options = options
        self._block_bytes = block_bytes
        self._files = TextFiles()
        self._nulls = tuple(NULL_VALUES if options.null_values is None else options.null_values)
        self._headers: OrderedDict[tuple[str, str], Header] = OrderedDict()
        self._lock = threading.Lock()
        self._notation = Notation(self._options.decimal, self._options.thousands)
        self._words_for_missing = any(text.lower() in ("true", "false") for text in self._nulls)
        """Whether words have been found that stand for missing numbers."""
        self._blocks_until_plain = 0
        """Number of blocks that Arrow decodes before the scanner is tried again."""

    def survey(self, source: Pinned, features: Collection[str] = ()) -> Survey:
        """Read the text once, block by block, to find its records and their types (see `TableFormat.survey`)."""
        header = self._header(source)
        points = SeekPoints()
        open_text = partial(self._files.to_survey, source, format_of(source.key, self._options)[1], header.end, points)
        finder = self._finder(source)
        size = min(SURVEY_BYTES, self._block_bytes)
        blocks = read_blocks(source, open_text, finder, header.end, None, first_row=0, block_bytes=size)
        names = _surveyed_names(header, features)
        known = {*features, *self._options.types}
        columns = [
            DelimitedColumn(scored=name in known or re.sub(r"\s", "_", name) in known)  # LightGBM names them so
            for name in names
        ]
        pattern = RowPattern()

        def parse(block: Block) -> Mapping[int, pa.ChunkedArray]:
            return self._parse_new(source, header, block, columns, pattern)

        def infer(parsed: Mapping[int, pa.ChunkedArray]) -> None:
            self._infer(parsed, columns)
            if parsed:
                known = self._describe_known(source, columns)
                pattern.expect(known and delimited_row(*known))
                finder.expect(known and delimited_scanner(*known))

        spans = survey_blocks(blocks, parse, infer)
        fields = (column.field(name, self._options.types) for name, column in zip(names, columns, strict=True))
        return Survey(schema=pa.schema(fields), spans=with_points(spans, points.found))

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span (see `TableFormat.read`)."""
        header = self._header(source)
        open_text = partial(self._files.to_read, source, format_of(source.key, self._options)[1], span)
        blocks = read_blocks(
            source,
            open_text,
            self._finder(source),
            span.start,
            span.stop,
            first_row=span.first_row,
            block_bytes=self._block_bytes,
        )
        for block in split_blocks(blocks, source, span, batch_rows, "records"):
            yield self._decode(source, header, block, schema)

    def knows_header(self, source: Pinned) -> bool:
        """Return whether the header of an object is cached."""
        return (source.uri, source.etag) in self._headers

    def _finder(self, source: Pinned) -> RecordFinder:
        dialect = self._dialect(source)
        return RecordFinder(dialect.delimiter, dialect.quote, dialect.escape)

    def _dialect(self, source: Pinned) -> Dialect:
        delimiter = self._options.delimiter or ("\t" if ".tsv" in source.key.lower()[-8:] else ",")
        return Dialect(delimiter, self._options.quote, self._options.encoding, self._options.escape or "")

    def _header(self, source: Pinned) -> Header:
        name = (source.uri, source.etag)
        with self._lock:
            header = self._headers.get(name)
        if header is None:
            compression = format_of(source.key, self._options)[1]
            header = read_header(source, compression, self._dialect(source), self._options.columns)
            with self._lock:
                self._headers[name] = header
                while len(self._headers) > _CACHED_HEADERS:
                    self._headers.popitem(last=False)
        return header

    def _describe_known(
        self, source: Pinned, columns: Sequence[DelimitedColumn]
    ) -> tuple[Sequence[DelimitedColumn], str, str, str, Collection[str]] | None:
        """Return the parameters of `delimited_row` and `delimited_scanner`; None if all rows must be parsed."""
        dialect = self._dialect(source)
        ambiguous = any(is_number(text) or text.lower() in ("true", "false") for text in self._nulls)
        if ambiguous or dialect.escape or self._notation.thousands or not dialect.is_utf8:
            return None
        return columns, dialect.delimiter, dialect.quote, self._notation.decimal, self._nulls

    def _parse_new(
        self, source: Pinned, header: Header, block: Block, columns: Sequence[DelimitedColumn], pattern: RowPattern
    ) -> Mapping[int, pa.ChunkedArray]:
        """Parse only the rows of a block that may change the type of a column (see `_parse_unsettled`)."""
        others = pattern.others(block)
        if others is not None and not len(others):
            return {}
        if others is not None and len(others) <= _FEW * len(block.records):
            with contextlib.suppress(UnreadableInput):  # the call below raises the error with the right position
                check_quotation_marks(source.uri, block, self._dialect(source), len(header.names), self._options.escape)
                return self._parse_unsettled(source, header, pick_records(block, others), columns)
        return self._parse_unsettled(source, header, block, columns)

    def _parse_unsettled(
        self, source: Pinned, header: Header, block: Block, columns: Sequence[DelimitedColumn]
    ) -> Mapping[int, pa.ChunkedArray]:
        """Parse the columns of a block whose types may still change. Return them by number."""
        check_quotation_marks(source.uri, block, self._dialect(source), len(header.names), self._options.escape)
        first = block.first_row == 0
        wanted = [number for number, column in enumerate(columns) if not column.is_settled]
        if not wanted and not first:
            return {}
        ragged: list[Any] = []
        table = self._as_bytes(source, header, block, wanted, ragged)
        if first and len(ragged) == len(block.records):
            raise UnreadableInput(
                f"{source.uri}: the header has {len(header.names)} fields, but none of the first {len(ragged)} rows "
                f"has (row 0 has {ragged[0].actual_columns}): check the delimiter, which is "
                f"{self._dialect(source).delimiter!r}"
            )
        return dict(zip(wanted, table.columns, strict=True))

    def _infer(self, parsed: Mapping[int, pa.ChunkedArray], columns: Sequence[DelimitedColumn]) -> None:
        """Widen the types of the columns to fit the values of a block."""
        for number, column in parsed.items():
            invalid: dict[int, str] = {}
            strings = to_strings(column.combine_chunks(), invalid)
            if invalid:  # rows with invalid values will be rejected, so their values do not count
                strings = strings.filter(pa.array([row not in invalid for row in range(len(strings))]))
            columns[number].add(self._notation.to_plain(strings), self._nulls)

    def _decode(self, source: Pinned, header: Header, block: Block, schema: pa.Schema) -> Rows:
        if missing := sorted(set(schema.names) - {*header.names, *header.pandas_names}):
            raise UnreadableInput(f"{source.uri} has no column {missing[0]!r}")
        wanted = [(header.names if name in header.names else header.pandas_names).index(name) for name in schema.names]
        ragged: list[Any] = []
        invalid: dict[int, tuple[str | None, str]] = {}
        columns = self._convert_with_arrow(source, header, block, wanted, schema, ragged)
        if columns is None:
            ragged.clear()
            table = self._as_bytes(source, header, block, wanted, ragged)
            columns = []
            for field, column in zip(schema, table.columns, strict=True):
                errors: dict[int, str] = {}
                strict = self._is_strict(field)
                converted = self._convert_values(column.combine_chunks(), field.type, errors, strict=strict)
                columns.append(self._replace_nulls(field, converted))
                for row, message in errors.items():
                    invalid.setdefault(row, (field.name, f"{field.name!r} {message}"))
        return to_rows(source, block, schema, columns, ragged, invalid, self._options.encoding)

    def _convert_with_arrow(
        self, source: Pinned, header: Header, block: Block, wanted: Sequence[int], schema: pa.Schema, ragged: list[Any]
    ) -> list[pa.Array] | None:
        """Let Arrow convert all values. Return None if Arrow fails, because it does not report the value at fault."""
        if (
            not wanted
            or not all(kind in _ARROW_CONVERTS or is_time(kind) for kind in schema.types)
            or any(map(is_number, self._nulls))
            or not self._notation.is_plain
        ):
            return None  # if "-999" stands for a missing value, Arrow would read a quoted -999 as a number
        dialect = self._dialect(source)
        data = dialect.to_utf8(block.data, source.uri, block.start)
        if not is_utf8(data):
            return None
        if (plain := self._decode_plain(dialect, header, block, wanted, schema)) is not None:
            return plain
        numbered = list(zip(map(str, wanted), schema, strict=True))
        for words in (False, True):
            if words or not self._words_for_missing:
                ragged.clear()
                columns = self._convert_parsed(data, _numbered(header), dialect, numbered, ragged, words=words)
                if columns is not None:
                    self._words_for_missing = words
                    return columns
        return None

    def _decode_plain(
        self, dialect: Dialect, header: Header, block: Block, wanted: Sequence[int], schema: pa.Schema
    ) -> list[pa.Array] | None:
        """Return the columns if all values are plain numbers.

        Otherwise, return None, also for some blocks after this block.
        """
        if self._blocks_until_plain:
            self._blocks_until_plain -= 1
            return None
        columns = decode_delimited(block, dialect, len(header.names), wanted, schema.types)
        if columns is None:
            self._blocks_until_plain = _UNTRIED_BLOCKS
        return columns

    def _convert_parsed(
        self,
        data: bytes,
        names: Sequence[str],
        dialect: Dialect,
        fields: Sequence[tuple[str, pa.Field]],
        ragged: list[Any],
        *,
        words: bool,
    ) -> list[pa.Array] | None:
        """Parse a block and convert some of its columns. Return None if Arrow cannot convert a value.

        In columns of strings, only empty fields are missing values. In columns of numbers, words such as ``n/a`` are
        missing values, too. Most blocks contain no such `words`, and it is faster to parse all their columns in one
        call. In other blocks, the columns of strings are parsed in a second call.
        """
        found: dict[str, pa.ChunkedArray] = {}
        try:
            for strings in (False, True) if words else (None,):
                types = {  # Arrow reads 007 as an integer, and its time formats differ from ISO 8601
                    number: pa.string() if field.type == pa.int64() or is_time(field.type) else field.type
                    for number, field in fields
                    if strings is None or (field.type == pa.string()) is strings
                }
                nulls = ("", *self._nulls) if strings is False else ("",)
                if types:
                    table = parse(data, names, dialect, types, [] if found else ragged, nulls)
                    found |= zip(types, table.columns, strict=True)
        except pa.ArrowException:
            return None
        columns = []
        for number, field in fields:
            column = found[number].combine_chunks()
            errors: dict[int, str] = {}
            if field.type == pa.int64():
                converted = to_int64(column, strict=self._is_strict(field))
            elif is_time(field.type):
                converted = to_times(column, field.type, self._nulls, errors)
            else:
                converted = self._replace_nan(column)
            if converted is None or errors:
                return None
            columns.append(self._replace_nulls(field, converted))
        return columns

    def _as_bytes(
        self, source: Pinned, header: Header, block: Block, wanted: Sequence[int], ragged: list[Any]
    ) -> pa.Table:
        dialect = self._dialect(source)
        data = dialect.to_utf8(block.data, source.uri, block.start)
        try:
            return parse_as_bytes(data, _numbered(header), dialect, [str(number) for number in wanted], ragged)
        except pa.ArrowException as error:
            raise UnreadableInput(
                f"{source.uri} cannot be read from row {block.first_row}, byte {block.start:,}: {printable(error)}"
            ) from error

    def _convert_values(self, column: pa.Array, kind: pa.DataType, errors: dict[int, str], *, strict: bool) -> pa.Array:
        """Convert the values of a column one by one.

        This is slower than Arrow, but reports each value that cannot be converted.
        """
        strings = to_strings(column, errors)
        if kind in (pa.int64(), pa.float64()):
            numbers = to_numbers(strings, kind, self._nulls, errors, strict=strict, notation=self._notation)
            return self._replace_nan(numbers)
        if kind == pa.bool_():
            return to_booleans(strings, self._nulls, errors)
        if is_time(kind):
            return to_times(strings, kind, self._nulls, errors)
        return strings

    def _is_strict(self, field: pa.Field) -> bool:
        """Return whether leading zeros make an integer malformed. Features may have leading zeros, as in pandas."""
        return field.name not in self._options.types and b"feature" not in (field.metadata or {})

    def _replace_nan(self, column: pa.Array) -> pa.Array:
        """Replace NaN with null if ``nan`` is one of the null values, so that both conversion methods agree."""
        if pa.types.is_floating(column.type) and any(text.lower() == "nan" for text in self._nulls):
            missing = pc.is_nan(column)
            if pc.any(missing).as_py():
                return pc.if_else(missing, pa.scalar(None, column.type), column)
        return column

    def _replace_nulls(self, field: pa.Field, column: pa.Array) -> pa.Array:
        """If the column is a string feature, replace the strings that stand for a missing value with null."""
        is_feature = b"feature" in (field.metadata or {}) and pa.types.is_string(field.type)
        return replace_nulls(column, self._nulls) if is_feature else column


def _surveyed_names(header: Header, features: Collection[str]) -> tuple[str, ...]:
    """Return the names of the columns.

    A column has its pandas name if a feature needs it, or if the header name is a duplicate.

    If the name of a feature occurs twice, both columns keep the name, and the job is refused. There is one exception:
    if the pandas name of the second column is also a feature, the second column has its pandas name.
    """
    names = []
    for number, (name, other) in enumerate(zip(header.names, header.pandas_names, strict=True)):
        is_second = name in header.names[:number] and (name not in features or other in features)
        names.append(other if is_second or (other in features and other not in header.names) else name)
    return tuple(names)


def _numbered(header: Header) -> list[str]:
    """Return distinct names for all columns, even if the header contains duplicates."""
    return [str(number) for number in range(len(header.names))]
