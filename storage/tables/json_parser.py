"""Parse lines of JSON with Arrow, and describe the fault in a malformed line with Python."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from scoreline.storage.tables.boundaries import JSON_SPACE
from scoreline.storage.tables.convert import shorten
from scoreline.storage.tables.text import (
    Block,
)

_MAX_INFERRED_DEPTH = 1_000
"""Maximum nesting depth for which Arrow infers types. Arrow needs stack memory for each level, and crashes at about
100,000 levels."""


_BRACKETS = np.zeros(256, dtype=np.int8)


_BRACKETS[list(b"[{")], _BRACKETS[list(b"]}")] = 1, -1


_TYPE_NAMES = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def parse_block(block: Block, schema: pa.Schema | None = None) -> pa.Table | None:
    """Parse the lines of a block with Arrow.

    Return None if a line is malformed, or if the values of a key have different kinds.

    Parameters
    ----------
    schema : pyarrow.Schema, optional
        The keys to read and their types; by default all keys, in types that Arrow infers.
    """
    data, records = block.data, block.records
    if not _are_objects(block) or (schema is None and _depth(data) > _MAX_INFERRED_DEPTH):
        return None
    try:
        table = pajson.read_json(
            pa.py_buffer(data),
            read_options=pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pajson.ParseOptions(
                explicit_schema=schema,
                unexpected_field_behavior="infer" if schema is None else "ignore",
                newlines_in_values=False,
            ),
        )
        table.validate(full=True)  # Arrow does not check strings for valid UTF-8
    except (pa.ArrowException, ValueError):
        return None
    if table.num_rows != len(records):  # one line contains several values
        return None
    return table if schema is None else table.select(schema.names)


def _depth(data: bytes) -> int:
    """Estimate how deeply values are nested. Brackets inside strings are counted, too."""
    steps = _BRACKETS[np.frombuffer(data, dtype=np.uint8)]
    return int(np.max(np.cumsum(steps, dtype=np.int64), initial=0))


def _are_objects(block: Block) -> bool:
    """Return whether each line begins with { and ends with }.

    Arrow reads objects across line ends. If one line contains two objects and another object takes two lines, there are
    still as many objects as lines. This check excludes that case, because a line end between } and { cannot be inside
    an object. If the check passes and the two numbers are equal, each line is one object.
    """
    array = np.frombuffer(block.data, dtype=np.uint8)
    starts, stops = block.records.starts, block.records.ends
    for line_end in b"\n\r":
        stops = stops - (array[stops - 1] == line_end)
    others = np.flatnonzero((array[starts] != ord("{")) | (array[stops - 1] != ord("}")))
    lines = (block.data[starts[number] : stops[number]].strip(JSON_SPACE) for number in others)
    return all(line.startswith(b"{") and line.endswith(b"}") for line in lines)


def line_of(block: Block, number: int) -> bytes:
    """Return one line of a block, with its line end."""
    return block.data[block.records.starts[number] : block.records.ends[number]]


class InvalidLine(Exception):
    """Raised when a line is not a JSON object. The message is a full sentence."""


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        duplicate = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise InvalidLine(f"the key {duplicate!r} occurs more than once")
    return unique


def _is_unicode(value: Any) -> bool:
    """Return whether all texts in a value can be encoded as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


_DECODER = json.JSONDecoder(object_pairs_hook=_reject_duplicates)


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the object on a line, or raise `InvalidLine`."""
    try:
        value = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise InvalidLine(f"the line is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError:
        raise InvalidLine("the line is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidLine(f"the line is not JSON: {error.msg} at character {error.pos}") from error
    except ValueError:  # Python limits the digits of integers, because converting a long integer takes minutes
        raise InvalidLine(f"the line has an integer of more than {sys.get_int_max_str_digits():,} digits") from None
    if b"\\u" in line and not _is_unicode(value):
        raise InvalidLine("the line has half of a surrogate pair, which is no character")
    if not isinstance(value, dict):
        raise InvalidLine(f"the line is {_TYPE_NAMES.get(type(value), 'null')}, not an object")
    return value


@dataclass(frozen=True)
class Fault:
    """A fault in a line, and the column at fault if the fault concerns a single column."""

    column: str | None
    message: str
    certain: bool
    """Whether Arrow certainly rejects the line, too."""


def find_fault(line: bytes, schema: pa.Schema) -> Fault | None:
    """Return the fault in a line and its column, or None if Python finds no fault."""
    try:
        row = parse_object(line)
    except InvalidLine as error:
        return Fault(None, str(error), certain=False)
    for field in schema:
        value = row.get(field.name)
        if value is not None and not fits(value, field.type):
            what = _TYPE_NAMES.get(type(value), "null")
            text = f" {shorten(str(value))}" if isinstance(value, str | int | float) else ""
            message = f"{field.name!r} is {what}{text}, but the column is read as {field.type}"
            return Fault(field.name, message, certain=_has_other_kind(value, field.type))
    return None


def _has_other_kind(value: Any, kind: pa.DataType) -> bool:
    """Return whether a value has another kind than its column, such as a string in a column of numbers.

    A value of the right kind may still be too large, or nested differently.
    """
    number = type(value) in (int, float)
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return True
    return (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not number


def fits(value: Any, kind: pa.DataType) -> bool:
    """Return whether Arrow reads a value of JSON as a type."""
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
