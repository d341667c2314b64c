"""Decode blocks of JSON Lines with Arrow, and separate the malformed lines."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.storage.tables.convert import batch_without_columns
from scoreline.storage.tables.json_parser import (
    Fault,
    InvalidLine,
    find_fault,
    line_of,
    parse_block,
    parse_object,
)
from scoreline.storage.tables.plain_values import decode_lines
from scoreline.storage.tables.row_patterns import JSON_SCALAR, RowPattern, json_field, json_row
from scoreline.storage.tables.text import Block, pick_records

_MAX_TRIED = 10
"""Number of lines that are searched for a valid line."""


def decode_block(block: Block, schema: pa.Schema) -> Rows:
    """Decode a block in one step if all its lines are valid. Otherwise, find the malformed lines first."""
    plain = decode_lines(block, schema)
    if plain is not None:
        return Rows(batch=plain, numbers=np.arange(block.first_row, block.first_row + len(block.records)))
    every = list(range(len(block.records)))
    malformed: dict[int, Fault] = {}
    decoded: list[tuple[list[int], pa.Table]] = []
    pending = [every] if every else []
    if not len(schema):  # without a column, Arrow cannot count rows
        faults = {number: find_fault(line_of(block, number), schema) for number in every}
        malformed = {number: fault for number, fault in faults.items() if fault is not None}
        pending, decoded = [], [([number for number in every if number not in malformed], schema.empty_table())]
    elif every and (table := parse_block(block, schema)) is not None:
        pending, decoded = [], [(every, table)]
    elif every:
        pending, malformed = _separate(block, schema)
    while pending:
        numbers = pending.pop()
        table = parse_block(pick_records(block, numbers), schema)
        if table is not None:
            decoded.append((numbers, table))
        elif len(numbers) > 1:
            middle = len(numbers) // 2
            pending += [numbers[:middle], numbers[middle:]]
        else:
            malformed[numbers[0]] = find_fault(line_of(block, numbers[0]), schema) or Fault(
                None, "the line cannot be decoded to the types of the columns", certain=True
            )
    rows = np.array([number for numbers, _ in decoded for number in numbers], dtype=np.int64)
    return Rows(
        batch=_in_order([table for _, table in decoded], rows, schema),
        numbers=block.first_row + np.sort(rows),
        malformed=tuple(
            MalformedRow(row=block.first_row + row, column=fault.column, message=fault.message, raw=block.text(row))
            for row, fault in sorted(malformed.items())
        ),
    )


def _separate(block: Block, schema: pa.Schema) -> tuple[list[list[int]], dict[int, Fault]]:
    """Return groups of lines for Arrow to parse, and the lines that are certainly malformed.

    Bisection alone would parse about 30 times to find one malformed line. A text with 1% malformed lines would take a
    hundred times as long as a valid text. If Python and Arrow may disagree about a line, Arrow parses this line alone,
    so that the result for a line never depends on its neighbours.
    """
    certain: dict[int, Fault] = {}
    others = _unlike_first(block, schema)
    together = np.delete(np.arange(len(block.records)), others).tolist()
    alone = []
    for number in others.tolist():
        fault = find_fault(line_of(block, number), schema)
        if fault is None:
            together.append(number)
        elif fault.certain:
            certain[number] = fault
        else:
            alone.append([number])
    return [*alone, sorted(together)] if together else alone, certain


def _unlike_first(block: Block, schema: pa.Schema) -> Any:
    """Return the numbers of the lines that may be malformed, as an ndarray.

    All other lines are valid: they have the keys of the first valid line, in the same order, and values that fit their
    columns. Arrow recognizes these lines with a regular expression, because a loop in Python would be slower.
    """
    pattern = RowPattern()
    for number in range(min(len(block.records), _MAX_TRIED)):
        with contextlib.suppress(InvalidLine):
            keys = parse_object(line_of(block, number))
            kinds = {field.name: json_field(field.type) for field in schema}
            pattern.expect(json_row({key: kinds.get(key, JSON_SCALAR) for key in keys}))
            break
    others = pattern.others(block)
    return np.arange(len(block.records)) if others is None else others


def _in_order(tables: Sequence[pa.Table], rows: Any, schema: pa.Schema) -> pa.RecordBatch:
    """Concatenate tables and sort their rows by number."""
    if not len(schema):
        return batch_without_columns(len(rows))
    if len(tables) == 1:
        return _one_batch(tables[0], schema)
    whole = pa.concat_tables(tables) if tables else schema.empty_table()
    return _one_batch(whole.take(pa.array(np.argsort(rows))), schema)


def _one_batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, names=schema.names)
