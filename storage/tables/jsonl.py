"""JSON Lines: one JSON object per line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import MalformedRow, Pinned, Rows, Span, Survey
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.compressed import TextFiles
from scoreline.storage.tables.contents import check_text
from scoreline.storage.tables.convert import is_time, to_times
from scoreline.storage.tables.json_decoder import decode_block
from scoreline.storage.tables.json_parser import (
    InvalidLine,
    fits,
    line_of,
    parse_block,
    parse_object,
)
from scoreline.storage.tables.known_rows import json_scanner
from scoreline.storage.tables.options import ReadOptions, format_of
from scoreline.storage.tables.row_patterns import RowPattern, json_row, json_value
from scoreline.storage.tables.seek_points import SeekPoints
from scoreline.storage.tables.text import (
    BLOCK_BYTES,
    BOM,
    SURVEY_BYTES,
    Block,
    pick_records,
    read_blocks,
    read_head,
    split_blocks,
    survey_blocks,
    with_points,
)
from scoreline.storage.tables.type_inference import CARRIED, JsonColumn


class JsonLinesFormat:
    """Reads JSON Lines. A span, which can be read without the rest of the object, is a range of bytes in the text.

    A missing key is null. The numbers ``NaN``, ``Infinity`` and ``-Infinity``, which Python writes, are accepted. The
    format is thread-safe, but the iterators that it returns are not.
    """

    def __init__(self, options: ReadOptions, block_bytes: int = BLOCK_BYTES) -> None:
        self._options = options
        self._block_bytes = block_bytes
        self._files = TextFiles()

    def survey(self, source: Pinned, features: Collection[str] = ()) -> Survey:  # for the other formats
        """Read the text once, block by block, to find its lines and their keys (see `TableFormat.survey`)."""
        compression = format_of(source.key, self._options)[1]
        head = read_head(source, compression, 64)
        check_text(source, head, compression)
        start = len(BOM) if head.startswith(BOM) else 0
        if head[start:].lstrip().startswith(b"["):
            raise UnreadableInput(f"{source.uri} is one JSON array: convert it to JSON Lines, one object per line")
        points = SeekPoints()
        open_text = partial(self._files.to_survey, source, compression, start, points)
        finder = RecordFinder(json=True)
        size = min(SURVEY_BYTES, self._block_bytes)
        blocks = read_blocks(source, open_text, finder, start, None, first_row=0, block_bytes=size)
        keys = _Keys(source, finder)
        spans = survey_blocks(blocks, keys.parse, keys.add)
        return Survey(schema=keys.schema(self._options.types), spans=with_points(spans, points.found))

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span (see `TableFormat.read`)."""
        open_text = partial(self._files.to_read, source, format_of(source.key, self._options)[1], span)
        blocks = read_blocks(
            source,
            open_text,
            RecordFinder(json=True),
            span.start,
            span.stop,
            first_row=span.first_row,
            block_bytes=self._block_bytes,
        )
        for block in split_blocks(blocks, source, span, batch_rows, "lines"):
            yield _with_readable(block, _decode(block, schema), schema)


class _Keys:
    """The keys of an object's lines, in the order in which they first occur, and their types.

    Parameters
    ----------
    source : Pinned
        The object, for error messages.
    finder : RecordFinder
        Finds the lines, and recognizes lines that need not be parsed.
    """

    def __init__(self, source: Pinned, finder: RecordFinder) -> None:
        self._finder = finder
        self._source = source
        self._columns: dict[str, JsonColumn] = {}
        self._rows = 0
        self._pattern = RowPattern()

    def schema(self, types: Mapping[str, str]) -> pa.Schema:
        """Return the keys with their types. `types` contains the types that the user has set."""
        return pa.schema([column.field(name, types) for name, column in self._columns.items()])

    def parse(self, block: Block) -> tuple[Block | None, pa.Table | None, int]:
        """Parse the lines of a block that may change the type of a key. Arrow parses them and infers types.

        Returns a block of these lines, their table, and the number of the other lines. The block is None if there are
        no such lines. The table is None if Arrow cannot parse the lines.
        """
        others = self._pattern.others(block)
        known = 0 if others is None else len(block.records) - len(others)
        if not known:
            return block, parse_block(block), 0
        if not len(others):
            return None, None, known
        lines = pick_records(block, others)
        return lines, parse_block(lines), known

    def add(self, parsed: tuple[Block | None, pa.Table | None, int]) -> None:
        """Add the keys of a block."""
        block, table, known = parsed
        self._rows += known
        if block is None:
            return
        if table is None:
            self._add_lines(block, None)
        else:
            self._add_table(block, table)
        optional = [name for name, column in self._columns.items() if column.missing]
        self._pattern.expect(json_row({name: json_value(item) for name, item in self._columns.items()}, optional))
        self._finder.expect(json_scanner(self._columns))

    def _add_table(self, block: Block, table: pa.Table) -> None:
        unclear = {name for name in table.column_names if not self._column(name).add_array(table.column(name))}
        for name in self._columns.keys() - set(table.column_names):
            self._columns[name].missing = True
        self._rows += table.num_rows
        if unclear:
            self._add_lines(block, unclear)

    def _add_lines(self, block: Block, names: Collection[str] | None) -> None:
        """Add the values of some keys, or of all, line by line.

        Malformed lines are ignored, because they will be rejected.
        """
        values: dict[str, list[Any]] = {}
        reason, count = "", 0
        for number in range(len(block.records)):
            try:
                row = parse_object(line_of(block, number))
            except InvalidLine as error:
                reason = reason or f"row {block.first_row + number}: {error}"  # used only for the first block
                continue
            for name, value in row.items():
                if names is None or name in names:
                    values.setdefault(name, []).append(value)
            count += 1
        if not count and not self._rows:
            raise UnreadableInput(f"{self._source.uri} is not JSON Lines, which has one object per line: {reason}")
        for name, found in values.items():
            self._column(name).add_values([*found, *([None] * (len(found) < count))])
        if names is None:
            for name in self._columns.keys() - values.keys():
                self._columns[name].missing = self._columns[name].missing or count > 0
            self._rows += count

    def _column(self, name: str) -> JsonColumn:
        """Return the column of a key. If the key is new, its values are missing in all earlier rows."""
        if name not in self._columns:
            self._columns[name] = JsonColumn(missing=self._rows > 0)
        return self._columns[name]


def _decode(block: Block, schema: pa.Schema) -> Rows:
    """Decode a block with `decode_block`. Columns that are copied to the results as JSON become texts."""
    carried = [field.name for field in schema if (field.metadata or {}).get(CARRIED) == b"json"]
    times = {field.name: field.type for field in schema if is_time(field.type)}
    if not carried:
        read = pa.schema([field.with_type(pa.string()) if field.name in times else field for field in schema])
        return _with_times(block, decode_block(block, read), times)
    others = [field.with_type(pa.string()) if field.name in times else field for field in schema]
    rows = decode_block(block, pa.schema([field for field in others if field.name not in carried]))
    texts: dict[str, list[str | None]] = {name: [] for name in carried}
    faults: dict[int, MalformedRow] = {}
    for row, number in enumerate(rows.numbers.tolist()):
        data = line_of(block, number - block.first_row)
        found: dict[str, str | None] = {}
        try:
            line = json.loads(data, parse_int=_Digits, parse_float=_Digits, parse_constant=_Digits)
            found = {name: _carried_text(line.get(name)) for name in carried}
        except RecursionError:
            raw = block.text(number - block.first_row)
            faults[row] = MalformedRow(row=number, column=None, message="the line is nested too deeply", raw=raw)
        for name in carried:
            texts[name].append(found.get(name))
    columns = [
        pa.array(texts[field.name], pa.string()) if field.name in texts else rows.batch.column(field.name)
        for field in schema
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=schema.names)
    return _with_times(block, _without(replace(rows, batch=batch), faults), times)


def _without(rows: Rows, faults: Mapping[int, MalformedRow]) -> Rows:
    """Move rows to the malformed rows. The rows are identified by their position in the batch."""
    if not faults:
        return rows
    good = np.ones(rows.batch.num_rows, dtype=bool)
    good[list(faults)] = False
    malformed = sorted((*rows.malformed, *faults.values()), key=lambda item: item.row)
    return Rows(batch=rows.batch.filter(pa.array(good)), numbers=rows.numbers[good], malformed=tuple(malformed))


def _with_times(block: Block, rows: Rows, times: Mapping[str, pa.DataType]) -> Rows:
    """Convert columns of texts to times. Rows with a text that is not a time become malformed."""
    if not times:
        return rows
    faults: dict[int, MalformedRow] = {}
    columns = []
    for name, column in zip(rows.batch.schema.names, rows.batch.columns, strict=True):
        errors: dict[int, str] = {}
        columns.append(to_times(column, times[name], (), errors) if name in times else column)
        for row, message in errors.items():
            number = int(rows.numbers[row])
            raw = block.text(number - block.first_row)
            faults.setdefault(row, MalformedRow(row=number, column=name, message=f"{name!r} {message}", raw=raw))
    batch = pa.RecordBatch.from_arrays(columns, names=rows.batch.schema.names)
    return _without(replace(rows, batch=batch), faults)


def _with_readable(block: Block, rows: Rows, schema: pa.Schema) -> Rows:
    """Add to each malformed row the values of the columns that could be read."""
    if not rows.malformed:
        return rows
    lines = (line_of(block, item.row - block.first_row) for item in rows.malformed)
    found = (replace(item, values=_readable(line, schema)) for item, line in zip(rows.malformed, lines, strict=True))
    return replace(rows, malformed=tuple(found))


def _readable(line: bytes, schema: pa.Schema) -> dict[str, Any]:
    try:
        row = parse_object(line)
    except InvalidLine:
        return {}
    values: dict[str, Any] = {}
    for field in schema:
        value = row.get(field.name)
        if value is None:
            continue
        if (field.metadata or {}).get(CARRIED) == b"json":
            with contextlib.suppress(RecursionError):
                written = json.loads(line, parse_int=_Digits, parse_float=_Digits, parse_constant=_Digits)
                values[field.name] = _carried_text(written[field.name])
        elif is_time(field.type) and isinstance(value, str):
            values[field.name] = to_times(pa.array([value]), field.type, (), {})[0].as_py()
        elif not is_time(field.type) and fits(value, field.type):
            values[field.name] = value
    return values


class _Digits(str):
    """The digits of a number, exactly as in the input."""

    __slots__ = ()


def _carried_text(value: Any) -> str | None:
    """Return a value as it is copied to the results: a text unchanged, and any other value as JSON."""
    if value is None or (isinstance(value, str) and not isinstance(value, _Digits)):
        return value
    return _to_json(value)


def _to_json(value: Any) -> str:
    """Return a value as JSON, with its numbers as they were written."""
    if isinstance(value, _Digits):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_to_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_to_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
