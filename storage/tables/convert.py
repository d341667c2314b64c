"""Columns of texts into columns of numbers; what is none is told by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_SHOWN = 80
"""Characters of a value in a message."""


def to_texts(column: pa.Array, faults: dict[int, str]) -> pa.Array:
    """Return bytes as text; those that are no UTF-8 are null, and told."""
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        values: list[str | None] = []
        for row, value in enumerate(column.to_pylist()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError as error:
                faults[row] = f"is not UTF-8: {error.reason} at its byte {error.start}"
                values.append(None)
        return pa.array(values, pa.string())


def to_numbers(column: pa.Array, kind: pa.DataType, nulls: Sequence[str], faults: dict[int, str]) -> pa.Array:
    """Return texts as int64 or float64; those that are no number are null, and told.

    Parameters
    ----------
    column : pyarrow.StringArray
        White space around a number is no fault.
    nulls : sequence of str
        Texts that stand for no value.
    """
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.is_in(column, pa.array(nulls, pa.string())), pa.scalar(None, pa.string()), column)
    try:
        return column.cast(kind)
    except pa.ArrowException:
        return pa.array([_number(row, value, kind, faults) for row, value in enumerate(column.to_pylist())], kind)


def _number(row: int, value: str | None, kind: pa.DataType, faults: dict[int, str]) -> Any:
    if value is None:
        return None
    try:
        plain = value.isascii() and "_" not in value
        if kind == pa.int64():
            number: Any = int(value) if plain else None
            if number is not None and -(1 << 63) <= number < 1 << 63:
                return number
        elif plain:
            return float(value)
    except ValueError:
        pass
    what = "a whole number of 64 bits" if kind == pa.int64() else "a number"
    faults[row] = f"is {shown(value)}, which is not {what}"
    return None


def shown(value: str) -> str:
    """Return a value as messages show it."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
