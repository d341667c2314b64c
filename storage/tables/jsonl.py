"""JSON Lines: an object a line."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables import type_inference
from scoreline.storage.tables.base import Broken, Pinned, Rows, Span, Survey
from scoreline.storage.tables.boundaries import JSON_SPACE, Boundaries, Records
from scoreline.storage.tables.convert import no_columns, shown
from scoreline.storage.tables.options import ReadOptions, format_of
from scoreline.storage.tables.text import BLOCK_BYTES, BOM, SURVEY_BYTES, Block, blocks, head, pieces, survey

_WORDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}


class JsonLinesFormat:
    """Reads JSON Lines. A span is bytes of the text; what is compressed has to be read up to there.

    A key that is missing is null. Numbers that are ``NaN``, ``Infinity`` or ``-Infinity``, which Python's json writes,
    are taken. Thread-safe, but for what it hands out.
    """

    def __init__(self, options: ReadOptions, block_bytes: int = BLOCK_BYTES) -> None:
        self._options = options
        self._block_bytes = block_bytes

    def survey(self, source: Pinned) -> Survey:
        """Read the text once, block by block, and find its lines (see `TableFormat.survey`)."""
        first = head(source, format_of(source.key, self._options)[1], 64)
        start = len(BOM) if first.startswith(BOM) else 0
        if first[start:].lstrip().startswith(b"["):
            raise UnreadableInput(f"{source.uri} is one JSON array: JSON Lines has an object a line, without [ and ]")
        found = self._blocks(source, start, None, 0, min(SURVEY_BYTES, self._block_bytes))
        return survey(found, lambda block: self._guess(source, block), pa.schema([]))

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span (see `TableFormat.read`)."""
        found = self._blocks(source, span.start, span.stop, span.first_row, self._block_bytes)
        for piece in pieces(found, source, span, batch_rows, "lines"):
            yield _decode(piece, schema)

    def _blocks(
        self, source: Pinned, start: int, stop: int | None, first_row: int, block_bytes: int
    ) -> Iterator[Block]:
        return blocks(
            source,
            format_of(source.key, self._options)[1],
            Boundaries(json=True),
            start,
            stop,
            first_row=first_row,
            block_bytes=block_bytes,
        )

    def _guess(self, source: Pinned, block: Block) -> pa.Schema:
        values: dict[str, list[Any]] = {}
        reason, sampled = "", 0
        for number in range(min(type_inference.SAMPLE_ROWS, len(block.records))):
            if block.records.ends[number] > type_inference.SAMPLE_BYTES and sampled:
                break
            try:
                row = _object(_line(block, number))
            except _NoRow as error:
                reason = reason or f"row {number}: {error}"
                continue
            for name, value in row.items():
                values.setdefault(name, []).append(value)
            sampled += 1
        if not sampled:
            raise UnreadableInput(f"{source.uri} is not JSON Lines, an object a line: {reason}")
        return pa.schema(
            [
                type_inference.field(name, type_inference.guess_values(v), self._options.types)
                for name, v in values.items()
            ]
        )


def _decode(block: Block, schema: pa.Schema) -> Rows:
    """Decode a block at once where all of it can be; else look at its lines one by one."""
    every = list(range(len(block.records)))
    broken: dict[int, _Fault] = {}
    found: list[tuple[list[int], pa.Table]] = []
    pending = [every] if every else []
    if not len(schema):  # Arrow counts no rows where it is asked for no column
        told = {number: _fault(_line(block, number), schema) for number in every}
        broken = {number: fault for number, fault in told.items() if fault is not None}
        pending, found = [], [([number for number in every if number not in broken], schema.empty_table())]
    elif every and (table := _table(block, schema)) is not None:
        pending, found = [], [(every, table)]
    elif every:
        pending, broken = _doubtful(block, schema)
    while pending:
        numbers = pending.pop()
        table = _table(_picked(block, numbers), schema)
        if table is not None:
            found.append((numbers, table))
        elif len(numbers) > 1:
            middle = len(numbers) // 2
            pending += [numbers[:middle], numbers[middle:]]
        else:
            broken[numbers[0]] = _fault(_line(block, numbers[0]), schema) or _Fault(
                None, "the line cannot be read as JSON with these columns", sure=True
            )
    rows = np.array([number for numbers, _ in found for number in numbers], dtype=np.int64)
    return Rows(
        batch=_in_order([table for _, table in found], rows, schema),
        numbers=block.first_row + np.sort(rows),
        broken=tuple(
            Broken(row=block.first_row + row, column=fault.column, message=fault.message, record=block.text(row))
            for row, fault in sorted(broken.items())
        ),
    )


def _doubtful(block: Block, schema: pa.Schema) -> tuple[list[list[int]], dict[int, _Fault]]:
    """Return what Arrow has to be asked about, as one, and the lines that are broken for sure.

    Halving alone takes some 30 parses a broken line: where one in a hundred is, it took a hundred times as long. Where
    Python and Arrow may differ, Arrow is asked about the line alone, so that no line's fate depends on its neighbours.
    """
    sure: dict[int, _Fault] = {}
    alone, together = [], []
    places = zip(block.records.starts.tolist(), block.records.ends.tolist(), strict=True)
    for number, (start, stop) in enumerate(places):
        fault = _fault(block.data[start:stop], schema)
        if fault is None:
            together.append(number)
        elif fault.sure:
            sure[number] = fault
        else:
            alone.append([number])
    return [*alone, together] if together else alone, sure


def _picked(block: Block, numbers: Sequence[int]) -> Block:
    """Return some lines of a block as one."""
    lines = [_line(block, number) for number in numbers]
    if not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    records = Records(starts=np.concatenate([[0], ends[:-1]]).astype(np.int64), ends=ends, rest=int(ends[-1]))
    return Block(data=b"".join(lines), records=records, start=block.start, first_row=block.first_row)


def _in_order(tables: Sequence[pa.Table], rows: Any, schema: pa.Schema) -> pa.RecordBatch:
    """Put tables together, of which the rows have these numbers."""
    if not len(schema):
        return no_columns(len(rows))
    if len(tables) == 1:
        return _one_batch(tables[0], schema)
    whole = pa.concat_tables(tables) if tables else schema.empty_table()
    return _one_batch(whole.take(pa.array(np.argsort(rows))), schema)


def _one_batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def _table(block: Block, schema: pa.Schema) -> pa.Table | None:
    """Parse lines; None where one of them cannot be."""
    data, records = block.data, block.records
    if not _are_objects(block):
        return None
    try:
        table = pajson.read_json(
            pa.py_buffer(data),
            read_options=pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pajson.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore", newlines_in_values=False
            ),
        )
        table.validate(full=True)  # Arrow takes texts as they are, UTF-8 or not
    except (pa.ArrowException, ValueError):
        return None
    if table.num_rows != len(records):  # several values on a line
        return None
    return table.select(schema.names)


def _are_objects(block: Block) -> bool:
    """Whether each line begins with { and ends with }.

    Arrow reads on over line ends. No line end between } and { can be within an object, though: where lines are like
    this, and as many as objects were read, each is one. Else two on a line would make up for one on two lines.
    """
    array = np.frombuffer(block.data, dtype=np.uint8)
    starts, stops = block.records.starts, block.records.ends
    for line_end in b"\n\r":
        stops = stops - (array[stops - 1] == line_end)
    others = np.flatnonzero((array[starts] != ord("{")) | (array[stops - 1] != ord("}")))
    lines = (block.data[starts[number] : stops[number]].strip(JSON_SPACE) for number in others)
    return all(line.startswith(b"{") and line.endswith(b"}") for line in lines)


def _line(block: Block, number: int) -> bytes:
    return block.data[block.records.starts[number] : block.records.ends[number]]


class _NoRow(Exception):
    """A line is not what it should be."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _NoRow(f"{twice!r} is there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _object(line: bytes) -> dict[str, Any]:
    """Parse a line; raises `_NoRow` that says what is wrong with it."""
    try:
        value = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise _NoRow(f"is not UTF-8: {error.reason} at its byte {error.start}") from error
    except RecursionError:
        raise _NoRow("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _NoRow(f"is no JSON: {error.msg} at its character {error.pos}") from error
    except ValueError:  # Python's limit, against conversions that take minutes
        raise _NoRow(
            f"is no JSON for Python: an integer of more than {sys.get_int_max_str_digits():,} digits"
        ) from None
    if not isinstance(value, dict):
        raise _NoRow(f"is {_WORDS.get(type(value), 'null')}, not an object")
    return value


@dataclass(frozen=True)
class _Fault:
    column: str | None
    message: str
    sure: bool
    """Whether Arrow refuses the line too."""


def _fault(line: bytes, schema: pa.Schema) -> _Fault | None:
    """Return which column of a line is at fault, where one is, and what the fault is; None where Python sees none."""
    try:
        row = _object(line)
    except _NoRow as error:
        return _Fault(None, f"the line {error}" if str(error).startswith("is ") else str(error), sure=False)
    for field in schema:
        value = row.get(field.name)
        if value is not None and not _suits(value, field.type):
            what = _WORDS.get(type(value), "null")
            text = f" {shown(str(value))}" if isinstance(value, str | int | float) else ""
            message = f"{field.name!r} is {what}{text}, read as {field.type}"
            return _Fault(field.name, message, sure=_differs(value, field.type))
    return None


def _differs(value: Any, kind: pa.DataType) -> bool:
    """Whether a value that does not suit is of another kind: of numbers too large, and nested ones, Arrow has a say."""
    number = type(value) in (int, float)
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return True
    return (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not number


def _suits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind):
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if pa.types.is_integer(kind):
        return type(value) is int and -(1 << 63) <= value < 1 << 63
    if pa.types.is_boolean(kind):
        return type(value) is bool
    if pa.types.is_string(kind):
        return isinstance(value, str)
    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError):
        return False
    return True
