"""Convert columns of strings to other types, and report the row of each value that cannot be converted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.storage.tables.notation import Notation

_INTEGER = r"^(0|-?[1-9][0-9]*)$"
_DIGITS = r"^[-+]?[0-9]+$"
_PLAIN = {
    pa.int64(): r"^(0|-?[1-9][0-9]{0,17})$",
    pa.float64(): r"^-?[0-9]{1,40}(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$",
}
"""For each type, the pattern of the texts that Arrow and Python certainly convert to the same number."""
_MAX_SHOWN = 80
"""Maximum number of characters of a value that a message shows."""


def to_strings(column: pa.Array, errors: dict[int, str]) -> pa.Array:
    """Decode a binary column as UTF-8.

    Values that are not UTF-8 become null. For each such value, a message is added to `errors` under its row.
    """
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        values: list[str | None] = []
        for row, value in enumerate(column.to_pylist()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError as error:
                errors[row] = f"is not UTF-8: {error.reason} at byte {error.start}"
                values.append(None)
        return pa.array(values, pa.string())


def reject_invalid_strings(rows: Rows, uri: str) -> Rows:
    """Move rows whose strings are not valid UTF-8 to the malformed rows.

    Parquet and Arrow files may contain any bytes in strings.

    Raises
    ------
    UnreadableInput
        A column of a type other than string is invalid.
    """
    with contextlib.suppress(pa.ArrowException):
        rows.batch.validate(full=True)  # one call for all columns, because there may be thousands
        return rows
    errors: dict[int, tuple[str, str]] = {}
    damaged: set[str] = set()
    for name, column in zip(rows.batch.schema.names, rows.batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            invalid: dict[int, str] = {}
            strings = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            if pa.types.is_string(strings.type) or pa.types.is_large_string(strings.type):
                to_strings(strings.cast(pa.large_binary(), safe=False), invalid)
            if not invalid:
                raise UnreadableInput(f"{uri} cannot be decoded: the column {name!r} is damaged: {error}") from error
            damaged.add(name)
            for row, message in invalid.items():
                errors.setdefault(row, (name, f"{name!r} {message}"))
    if not errors:
        return rows
    sound = rows.batch.select([name for name in rows.batch.schema.names if name not in damaged])
    good = np.ones(rows.batch.num_rows, dtype=bool)
    good[list(errors)] = False
    malformed = (
        MalformedRow(
            row=int(rows.numbers[row]),
            column=name,
            message=message,
            raw=None,
            values=sound.slice(row, 1).to_pylist()[0] if sound.num_columns else {},
        )
        for row, (name, message) in sorted(errors.items())
    )
    return Rows(
        batch=rows.batch.filter(pa.array(good)), numbers=rows.numbers[good], malformed=(*rows.malformed, *malformed)
    )


def to_numbers(
    column: pa.Array,
    kind: pa.DataType,
    nulls: Sequence[str],
    errors: dict[int, str],
    *,
    strict: bool = True,
    notation: Notation | None = None,
) -> pa.Array:
    """Convert strings to int64 or float64.

    Values that are not numbers become null. For each such value, a message is added to `errors` under its row.

    Parameters
    ----------
    column : pyarrow.StringArray
        The strings. White space around a number is ignored.
    kind : pyarrow.DataType
        int64 or float64.
    nulls : sequence of str
        Strings that stand for a missing value.
    errors : dict of int to str
        Mapping from rows of the column to messages. New messages are added here.
    strict : bool
        Whether integers such as ``007`` are errors, because the leading zeros would be lost.
    notation : Notation, optional
        The decimal and thousands separators of the numbers; by default as in Python.
    """
    column = pc.utf8_trim_whitespace(column)
    written = column
    if notation is not None:
        column = notation.to_plain(column)
    column = pc.if_else(pc.is_in(column, pa.array(["", *nulls], pa.string())), pa.scalar(None, pa.string()), column)
    if kind == pa.int64():
        if (integers := to_int64(column, strict=strict)) is not None:
            return integers
    else:
        with contextlib.suppress(pa.ArrowException):
            return column.cast(kind)
    numbers = _convert_each(column, kind, errors, strict)
    if notation is not None and not notation.is_plain:
        for row in errors:
            if column[row].is_valid:
                errors[row] = errors[row].replace(shorten(column[row].as_py()), shorten(written[row].as_py()), 1)
    return numbers


def _convert_each(column: pa.Array, kind: pa.DataType, errors: dict[int, str], strict: bool) -> pa.Array:
    """Convert strings to numbers.

    Strings that Arrow may not convert are converted one by one, because Arrow's errors do not name the row.
    """
    plain = pc.fill_null(pc.match_substring_regex(column, _PLAIN[kind]), True)
    numbers = pc.if_else(plain, column, pa.scalar(None, pa.string())).cast(kind)
    unclear = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    values = column.take(pa.array(unclear)).to_pylist()
    found = [_number(row, value, kind, errors, strict) for row, value in zip(unclear.tolist(), values, strict=True)]
    return pc.replace_with_mask(numbers, pc.invert(plain), pa.array(found, kind))


def to_booleans(column: pa.Array, nulls: Sequence[str], errors: dict[int, str]) -> pa.Array:
    """Convert the strings ``true`` and ``false``, in upper or lower case, to booleans.

    Other strings become null. For each such string that is not in `nulls`, a message is added to `errors` under its
    row.
    """
    known = {"true": True, "false": False}
    values: list[bool | None] = []
    for row, text in enumerate(pc.utf8_trim_whitespace(column).to_pylist()):
        value = None if text is None else known.get(text.lower())
        if value is None and text is not None and text and text not in nulls:
            errors[row] = f"is {shorten(text)}, which is neither true nor false"
        values.append(value)
    return pa.array(values, pa.bool_())


def is_time(kind: pa.DataType) -> bool:
    """Return whether a type is a date or a timestamp."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def to_times(column: pa.Array, kind: pa.DataType, nulls: Sequence[str], errors: dict[int, str]) -> pa.Array:
    """Convert strings in ISO 8601 to timestamps or dates.

    Values that are not times become null. For each such value, a message is added to `errors` under its row.

    Parameters
    ----------
    column : pyarrow.StringArray
        The strings, such as ``2026-01-31``, ``2026-01-31 08:30`` or ``2026-01-31T08:30:00.5+02:00``.
    kind : pyarrow.DataType
        A date or a timestamp. A timestamp in UTC requires an offset or ``Z``; a timestamp without a time zone accepts
        neither.
    nulls : sequence of str
        Strings that stand for a missing value.
    errors : dict of int to str
        Mapping from rows of the column to messages. New messages are added here.
    """
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.is_in(column, pa.array(["", *nulls], pa.string())), pa.scalar(None, pa.string()), column)
    with contextlib.suppress(pa.ArrowException):
        return column.cast(kind)
    return pa.array([_time(row, value, kind, errors) for row, value in enumerate(column.to_pylist())], kind)


def _time(row: int, value: str | None, kind: pa.DataType, errors: dict[int, str]) -> Any:
    if value is None:
        return None
    try:
        return pa.array([value]).cast(kind)[0].as_py()
    except pa.ArrowException:
        offset = "" if pa.types.is_date(kind) else " without offset" if kind.tz is None else " with offset"
        what = f"a {'date' if pa.types.is_date(kind) else 'time'}{offset}"
        errors[row] = f"is {shorten(value)}, which is not {what} in ISO 8601: set its type with --types"
        return None


def replace_nulls(column: pa.Array, nulls: Sequence[str]) -> pa.Array:
    """Replace the strings that stand for a missing value with null."""
    return pc.if_else(pc.is_in(column, pa.array(nulls, pa.string())), pa.scalar(None, pa.string()), column)


def to_int64(column: pa.Array, *, strict: bool = True) -> pa.Array | None:
    """Convert strings to int64; return None if one of them is not an integer.

    If `strict`, leading zeros are not accepted.
    """
    if pc.all(pc.match_substring_regex(column, _INTEGER)).as_py() is False:
        if strict or pc.all(pc.match_substring_regex(column, _DIGITS)).as_py() is False:
            return None
        column = pc.replace_substring_regex(column, r"^\+", "")
    try:
        return column.cast(pa.int64())
    except pa.ArrowException:
        return None


def _number(row: int, value: str | None, kind: pa.DataType, errors: dict[int, str], strict: bool) -> Any:
    if value is None:
        return None
    try:
        plain = value.isascii() and "_" not in value
        if kind == pa.int64():
            number: Any = int(value) if plain and (not strict or re.match(_INTEGER, value)) else None
            if number is not None and -(1 << 63) <= number < 1 << 63:
                return number
        elif plain:
            return float(value)
    except ValueError:
        pass
    expected = "a 64-bit integer like the first rows: set its type with --types" if kind == pa.int64() else "a number"
    errors[row] = f"is {shorten(value)}, which is not {expected}"
    return None


def shorten(value: str) -> str:
    """Return a value in quotation marks. A long value is cut, and an ellipsis is added."""
    return repr(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "…")


def batch_without_columns(rows: int) -> pa.RecordBatch:
    """Return a record batch that has rows but no columns."""
    return pa.record_batch({"": pa.nulls(rows)}).select([])  # a batch without columns would have 0 rows
