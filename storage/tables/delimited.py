"""CSV and its kin."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.tables import type_inference
from scoreline.storage.tables.base import Broken, Pinned, Rows, Span, Survey
from scoreline.storage.tables.boundaries import Boundaries
from scoreline.storage.tables.convert import no_columns, to_flags, to_numbers, to_texts, whole_numbers, without_nulls
from scoreline.storage.tables.options import NULL_VALUES, ReadOptions, format_of
from scoreline.storage.tables.text import BLOCK_BYTES, BOM, SURVEY_BYTES, Block, blocks, head, part_of, pieces, survey

MAX_HEADER_BYTES = 4 << 20
"""Of the first record; 10,000 columns take some 100 kB."""
_AT_ONCE = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
_HEADERS_KEPT = 256


@dataclass(frozen=True)
class _Header:
    names: tuple[str, ...]
    end: int
    """Where the rows begin, in bytes."""


class DelimitedFormat:
    """Reads CSV. A span is bytes of the text; what is compressed has to be read up to there.

    The header is asked for once an object. Thread-safe, but for what it hands out.
    """

    def __init__(self, options: ReadOptions, block_bytes: int = BLOCK_BYTES) -> None:
        self._options = options
        self._block_bytes = block_bytes
        self._nulls = tuple(NULL_VALUES if options.null_values is None else options.null_values)
        self._headers: OrderedDict[tuple[str, str], _Header] = OrderedDict()
        self._lock = threading.Lock()

    def survey(self, source: Pinned) -> Survey:
        """Read the text once, block by block, and find its records (see `TableFormat.survey`)."""
        header = self._header(source)
        found = self._blocks(source, header.end, None, 0, min(SURVEY_BYTES, self._block_bytes))
        empty = pa.schema([pa.field(name, pa.null()) for name in header.names])
        return survey(found, lambda block: self._guess(source, header, block), empty)

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span (see `TableFormat.read`)."""
        header = self._header(source)
        found = self._blocks(source, span.start, span.stop, span.first_row, self._block_bytes)
        for piece in pieces(found, source, span, batch_rows, "records"):
            yield self._decode(source, header, piece, schema)

    def _blocks(
        self, source: Pinned, start: int, stop: int | None, first_row: int, block_bytes: int
    ) -> Iterator[Block]:
        boundaries = Boundaries(self._delimiter(source), self._options.quote)
        return blocks(
            source,
            format_of(source.key, self._options)[1],
            boundaries,
            start,
            stop,
            first_row=first_row,
            block_bytes=block_bytes,
        )

    def _delimiter(self, source: Pinned) -> str:
        return self._options.delimiter or ("\t" if ".tsv" in source.key.lower()[-8:] else ",")

    def _header(self, source: Pinned) -> _Header:
        name = (source.uri, source.etag)
        with self._lock:
            known = self._headers.get(name)
        if known is None:
            known = self._read_header(source)
            with self._lock:
                self._headers[name] = known
                while len(self._headers) > _HEADERS_KEPT:
                    self._headers.popitem(last=False)
        return known

    def _read_header(self, source: Pinned) -> _Header:
        compression = format_of(source.key, self._options)[1]
        size = 64 << 10
        while True:
            data = head(source, compression, size)
            start = len(BOM) if data.startswith(BOM) else 0
            boundaries = Boundaries(self._delimiter(source), self._options.quote)
            found = boundaries.find(data[start:], last=len(data) < size)
            if len(found):
                break
            if len(data) < size:
                if data[start:].strip():
                    raise UnreadableInput(f"{source.uri}: row 0 has a quotation mark that is not closed")
                return _Header(names=self._options.columns or (), end=start)
            if size >= MAX_HEADER_BYTES:
                raise UnreadableInput(
                    f"{source.uri}: its first record is longer than {MAX_HEADER_BYTES >> 20} MiB: is it CSV, and is "
                    "the delimiter right?"
                )
            size *= 8
        first = data[start:][found.starts[0] : found.ends[0]]
        fields = self._fields(source, first)
        if self._options.columns is not None:
            if len(fields) != len(self._options.columns):
                raise UnreadableInput(
                    f"{source.uri}: its first row has {len(fields)} fields, and {len(self._options.columns)} columns "
                    "are named"
                )
            return _Header(names=self._options.columns, end=start)
        names = tuple(name or f"column_{number}" for number, name in enumerate(fields))
        return _Header(names=names, end=start + int(found.ends[0]))

    def _fields(self, source: Pinned, record: bytes) -> list[str]:
        delimiter = self._delimiter(source)
        most = record.count(delimiter.encode()) + 1
        try:
            table = _parse(
                self._recoded(source, record, 0),
                None,
                delimiter,
                self._options.quote,
                {f"f{number}": pa.binary() for number in range(most)},
                [],
            )
            return [str(column[0].as_py() or b"", "utf-8") for column in table.columns]
        except (UnicodeDecodeError, pa.ArrowException) as error:
            raise UnreadableInput(f"{source.uri}: its header cannot be read: {error}") from error

    def _recoded(self, source: Pinned, data: bytes, start: int) -> bytes:
        if self._options.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
            return data
        try:
            return data.decode(self._options.encoding).encode()
        except UnicodeDecodeError as error:
            raise UnreadableInput(
                f"{source.uri} is not {self._options.encoding}: {error.reason} at byte {start + error.start:,}"
            ) from error

    def _guess(self, source: Pinned, header: _Header, block: Block) -> pa.Schema:
        stop = min(
            type_inference.SAMPLE_ROWS, max(1, int(np.searchsorted(block.records.ends, type_inference.SAMPLE_BYTES)))
        )
        sample = part_of(block, 0, min(stop, len(block.records)))
        ragged: list[Any] = []
        table = self._bytes(source, header, sample, range(len(header.names)), ragged)
        if not table.num_rows:
            raise UnreadableInput(
                f"{source.uri}: the header has {len(header.names)} fields, and none of {len(ragged)} rows looked at "
                f"has; row 0 has {ragged[0].actual_columns}: is the delimiter {self._delimiter(source)!r}?"
            )
        fields = []
        for name, column in zip(header.names, table.columns, strict=True):
            texts = to_texts(column.combine_chunks(), {}).to_pylist()
            values = [None if value is None or value.strip() in self._nulls else value for value in texts]
            fields.append(type_inference.field(name, type_inference.guess_texts(values), self._options.types))
        return pa.schema(fields)

    def _decode(self, source: Pinned, header: _Header, block: Block, schema: pa.Schema) -> Rows:
        if missing := sorted(set(schema.names) - set(header.names)):
            raise UnreadableInput(f"{source.uri} has no column {missing[0]!r}")
        wanted = [header.names.index(name) for name in schema.names]
        ragged: list[Any] = []
        faults: dict[int, tuple[str | None, str]] = {}
        columns = self._at_once(source, header, block, wanted, schema, ragged)
        if columns is None:
            ragged.clear()
            table = self._bytes(source, header, block, wanted, ragged)
            columns = []
            for field, column in zip(schema, table.columns, strict=True):
                told: dict[int, str] = {}
                strict = field.name not in self._options.types
                converted = self._convert(column.combine_chunks(), field.type, told, strict=strict)
                columns.append(self._feature(field, converted))
                for row, message in told.items():
                    faults.setdefault(row, (field.name, f"{field.name!r} {message}"))
        return _rows(source, block, schema, columns, ragged, faults, self._options.encoding)

    def _at_once(
        self, source: Pinned, header: _Header, block: Block, wanted: Sequence[int], schema: pa.Schema, ragged: list[Any]
    ) -> list[pa.Array] | None:
        """Let Arrow convert all values; None where it cannot convert one, without a word of which."""
        if not wanted or any(kind not in _AT_ONCE for kind in schema.types) or any(map(_is_number, self._nulls)):
            return None  # Arrow would take "-999", in quotes, for a number where it is to be none
        data = self._recoded(source, block.data, block.start)
        if not _is_utf8(data):
            return None
        found: dict[str, pa.ChunkedArray] = {}
        try:
            for texts in sorted({kind == pa.string() for kind in schema.types}):  # what is null differs
                types = {
                    str(number): pa.string() if kind == pa.int64() else kind  # Arrow would take 007 for an integer
                    for number, kind in zip(wanted, schema.types, strict=True)
                    if (kind == pa.string()) is texts
                }
                nulls = () if texts else self._nulls
                table = self._table(source, header, data, types, [] if found else ragged, nulls)
                found |= zip(types, table.columns, strict=True)
        except pa.ArrowException:
            return None
        columns = []
        for number, field in zip(wanted, schema, strict=True):
            whole = found[str(number)].combine_chunks()
            converted = whole_numbers(whole) if field.type == pa.int64() else self._nan_is_null(whole)
            if converted is None:
                return None
            columns.append(self._feature(field, converted))
        return columns

    def _nan_is_null(self, column: pa.Array) -> pa.Array:
        """Leave no difference between what is converted at once, and value by value."""
        if pa.types.is_floating(column.type) and any(text.lower() == "nan" for text in self._nulls):
            missing = pc.is_nan(column)
            if pc.any(missing).as_py():
                return pc.if_else(missing, pa.scalar(None, column.type), column)
        return column

    def _bytes(
        self, source: Pinned, header: _Header, block: Block, wanted: Sequence[int], ragged: list[Any]
    ) -> pa.Table:
        types = {str(number): pa.binary() for number in wanted or [0]}
        names = [str(number) for number in wanted]
        data = self._recoded(source, block.data, block.start)
        if not (plain := _is_utf8(data)):
            # Arrow cannot tell of a ragged record that is no UTF-8 either: have its bytes read as characters
            data = data.decode("latin-1").encode()
        try:
            table = self._table(source, header, data, types, ragged).select(names)
        except pa.ArrowException as error:
            raise UnreadableInput(
                f"{source.uri} cannot be read from row {block.first_row}, byte {block.start:,}: {_printable(error)}"
            ) from error
        if plain:
            return table
        return pa.table({name: _as_bytes(column) for name, column in zip(names, table.columns, strict=True)})

    def _table(
        self,
        source: Pinned,
        header: _Header,
        data: bytes,
        types: Mapping[str, pa.DataType],
        ragged: list[Any],
        nulls: Sequence[str] = (),
    ) -> pa.Table:
        names = [str(number) for number in range(len(header.names))]
        return _parse(data, names, self._delimiter(source), self._options.quote, types, ragged, ("", *nulls))

    def _convert(self, column: pa.Array, kind: pa.DataType, faults: dict[int, str], *, strict: bool) -> pa.Array:
        texts = to_texts(column, faults)
        if kind in (pa.int64(), pa.float64()):
            return self._nan_is_null(to_numbers(texts, kind, self._nulls, faults, strict=strict))
        if kind == pa.bool_():
            return to_flags(texts, self._nulls, faults)
        return texts

    def _feature(self, field: pa.Field, column: pa.Array) -> pa.Array:
        """Leave out the texts that stand for no value, in a column that a model sees."""
        seen = b"feature" in (field.metadata or {}) and pa.types.is_string(field.type)
        return without_nulls(column, self._nulls) if seen else column


def _rows(
    source: Pinned,
    block: Block,
    schema: pa.Schema,
    columns: Sequence[pa.Array],
    ragged: Sequence[Any],
    faults: Mapping[int, tuple[str | None, str]],
    encoding: str,
) -> Rows:
    """Put a block's rows together, those that are broken apart.

    Parameters
    ----------
    faults : mapping of int to (str or None, str)
        Column and message, by row of the columns: the ragged ones are in none.
    """
    count = len(block.records)
    broken: dict[int, tuple[str | None, str]] = {
        row.number - 1: (None, f"{row.actual_columns} fields where the header has {row.expected_columns}")
        for row in ragged
    }
    whole = np.delete(np.arange(count, dtype=np.int64), sorted(broken))
    if columns and len(columns[0]) != len(whole):
        raise UnreadableInput(
            f"{source.uri} has {len(columns[0]) + len(ragged)} rows from row {block.first_row}, byte {block.start:,}, "
            f"where {count} were counted"
        )
    batch = pa.RecordBatch.from_arrays(list(columns), names=schema.names) if columns else no_columns(len(whole))
    if faults:
        broken |= {int(whole[row]): told for row, told in faults.items()}
        good = np.ones(len(whole), dtype=bool)
        good[list(faults)] = False
        batch, whole = batch.filter(pa.array(good)), whole[good]
    return Rows(
        batch=batch,
        numbers=block.first_row + whole,
        broken=tuple(
            Broken(row=block.first_row + row, column=column, message=message, record=block.text(row, encoding))
            for row, (column, message) in sorted(broken.items())
        ),
    )


def _as_bytes(column: pa.ChunkedArray) -> pa.Array:
    values = (value.as_py() for value in column)
    return pa.array([None if value is None else value.decode().encode("latin-1") for value in values], pa.binary())


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _printable(error: Exception) -> str:
    return ascii(one_line(error))[1:200]


def _parse(
    data: bytes,
    names: Sequence[str] | None,
    delimiter: str,
    quote: str,
    types: Mapping[str, pa.DataType],
    ragged: list[Any],
    nulls: Sequence[str] = ("",),
) -> pa.Table:
    """Parse records into the columns that `types` names; an empty field without quotes is null.

    Parameters
    ----------
    names : sequence of str, optional
        Of all columns; by default ``f0``, ``f1`` and so on, as many as the first record has.
    ragged : list
        Receives what Arrow says of each record with another number of fields.
    """
    if not data.strip(b"\r\n"):
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})

    if not data.endswith((b"\n", b"\r")):  # Arrow sees no record in one alone that has no end
        data += b"\n"
    if data.startswith(BOM):  # Arrow drops one wherever it begins to read, and not where the text begins alone
        data = BOM + data

    def keep(row: Any) -> str:
        ragged.append(row)
        return "skip"

    named: dict[str, Any] = {"autogenerate_column_names": True} if names is None else {"column_names": list(names)}
    return pacsv.read_csv(
        pa.py_buffer(data),
        read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, **named),
        parse_options=pacsv.ParseOptions(
            delimiter=delimiter, quote_char=quote or False, newlines_in_values=True, invalid_row_handler=keep
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            include_columns=None if names is None else list(types),
            null_values=list(nulls),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
        ),
    )
