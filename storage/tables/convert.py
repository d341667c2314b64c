"""Columns of texts into columns of numbers; what is none is told by row."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import Broken, Rows

_WHOLE = r"^(0|-?[1-9][0-9]*)$"
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


def without_invalid(rows: Rows, uri: str) -> Rows:
    """Set rows apart that have a text which is no UTF-8: Parquet and Arrow hold whatever was written as one.

    Raises
    ------
    UnreadableInput
        Values of another type lead nowhere.
    """
    faults: dict[int, tuple[str, str]] = {}
    for name, column in zip(rows.batch.schema.names, rows.batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            told: dict[int, str] = {}
            text = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            if pa.types.is_string(text.type) or pa.types.is_large_string(text.type):
                to_texts(text.cast(pa.large_binary(), safe=False), told)
            if not told:
                raise UnreadableInput(f"{uri} cannot be decoded: the column {name!r} is damaged: {error}") from error
            for row, message in told.items():
                faults.setdefault(row, (name, f"{name!r} {message}"))
    if not faults:
        return rows
    good = np.ones(rows.batch.num_rows, dtype=bool)
    good[list(faults)] = False
    broken = (
        Broken(row=int(rows.numbers[row]), column=name, message=message, record=None)
        for row, (name, message) in sorted(faults.items())
    )
    return Rows(batch=rows.batch.filter(pa.array(good)), numbers=rows.numbers[good], broken=(*rows.broken, *broken))


def to_numbers(
    column: pa.Array, kind: pa.DataType, nulls: Sequence[str], faults: dict[int, str], *, strict: bool = True
) -> pa.Array:
    """Return texts as int64 or float64; those that are no number are null, and told.

    Parameters
    ----------
    column : pyarrow.StringArray
        White space around a number is no fault.
    nulls : sequence of str
        Texts that stand for no value.
    strict : bool
        Whether ``007`` is no integer: the zeros would be lost.
    """
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.is_in(column, pa.array(["", *nulls], pa.string())), pa.scalar(None, pa.string()), column)
    if kind == pa.int64():
        if (whole := whole_numbers(column)) is not None:
            return whole
    else:
        with contextlib.suppress(pa.ArrowException):
            return column.cast(kind)
    return pa.array([_number(row, value, kind, faults, strict) for row, value in enumerate(column.to_pylist())], kind)


def to_flags(column: pa.Array, nulls: Sequence[str], faults: dict[int, str]) -> pa.Array:
    """Return ``true`` and ``false`` as truth values; other texts are null, and told."""
    known = {"true": True, "false": False}
    values: list[bool | None] = []
    for row, text in enumerate(pc.utf8_trim_whitespace(column).to_pylist()):
        value = None if text is None else known.get(text.lower())
        if value is None and text is not None and text and text not in nulls:
            faults[row] = f"is {shown(text)}, neither true nor false"
        values.append(value)
    return pa.array(values, pa.bool_())


def without_nulls(column: pa.Array, nulls: Sequence[str]) -> pa.Array:
    """Return texts with those that stand for no value as null."""
    return pc.if_else(pc.is_in(column, pa.array(nulls, pa.string())), pa.scalar(None, pa.string()), column)


def whole_numbers(column: pa.Array) -> pa.Array | None:
    """Return texts as int64 where each is one, written as people write them; else None."""
    if pc.all(pc.match_substring_regex(column, _WHOLE)).as_py() is False:
        return None
    try:
        return column.cast(pa.int64())
    except pa.ArrowException:
        return None


def _number(row: int, value: str | None, kind: pa.DataType, faults: dict[int, str], strict: bool) -> Any:
    if value is None:
        return None
    try:
        plain = value.isascii() and "_" not in value
        if kind == pa.int64():
            number: Any = int(value) if plain and (not strict or re.match(_WHOLE, value)) else None
            if number is not None and -(1 << 63) <= number < 1 << 63:
                return number
        elif plain:
            return float(value)
    except ValueError:
        pass
    what = "a whole number of 64 bits, as the first rows are: tell its type" if kind == pa.int64() else "a number"
    faults[row] = f"is {shown(value)}, which is not {what}"
    return None


def shown(value: str) -> str:
    """Return a value as messages show it."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def no_columns(rows: int) -> pa.RecordBatch:
    """Return rows without columns."""
    return pa.record_batch({"": pa.nulls(rows)}).select([])  # made without columns, it would have no rows
