"""Writes record batches as the text that COPY reads, and says which type of PostgreSQL a column has."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from scoreline.storage.errors import DatabaseError

ROW = "scoreline_row"
"""Column of the temporary table with the number of a row within its file."""
_OPTIONS = pa_csv.WriteOptions(include_header=False, quoting_style="needed")
_TYPES: tuple[tuple[Any, str], ...] = (
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_int8, "smallint"),
    (pa.types.is_int16, "smallint"),
    (pa.types.is_int32, "integer"),
    (pa.types.is_int64, "bigint"),
    (pa.types.is_uint8, "smallint"),
    (pa.types.is_uint16, "integer"),
    (pa.types.is_uint32, "bigint"),
    (pa.types.is_uint64, "numeric(20)"),
    (pa.types.is_float16, "real"),
    (pa.types.is_float32, "real"),
    (pa.types.is_float64, "double precision"),
    (pa.types.is_string, "text"),
    (pa.types.is_large_string, "text"),
    (pa.types.is_null, "text"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time"),
    (pa.types.is_duration, "interval"),
    (pa.types.is_binary, "bytea"),
    (pa.types.is_large_binary, "bytea"),
    (pa.types.is_fixed_size_binary, "bytea"),
    (pa.types.is_nested, "jsonb"),
)


def sql_type(kind: pa.DataType, column: str) -> str:
    """Return the type of a column of a table that is created for results.

    >>> sql_type(pa.int64(), "a"), sql_type(pa.timestamp("us", "UTC"), "a"), sql_type(pa.decimal128(10, 2), "a")
    ('bigint', 'timestamptz', 'numeric(10,2)')
    """
    if pa.types.is_dictionary(kind):
        return sql_type(kind.value_type, column)
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    for is_kind, name in _TYPES:
        if is_kind(kind):
            return name
    raise DatabaseError(f"column {column!r} of type {kind} has no type in PostgreSQL: leave it out with --columns")


def encode(batch: pa.RecordBatch, numbers: NDArray[np.int64] | None = None) -> memoryview:
    """Return rows as CSV for COPY, in which a missing value is empty and an empty text is ``""``.

    Parameters
    ----------
    numbers : ndarray of int64, shape (n_rows,), optional
        The number of each row within its file. If given, the numbers are the first column.
    """
    columns = [_as_text(column) for column in batch.columns]
    if numbers is not None:
        columns.insert(0, pa.array(numbers))
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(pa.RecordBatch.from_arrays(columns, [str(n) for n in range(len(columns))]), sink, _OPTIONS)
    return memoryview(sink.getvalue())


def _as_text(column: pa.Array) -> pa.Array:
    """Return a column in a type that Arrow writes to CSV as PostgreSQL reads it."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_text(column.dictionary_decode())
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_time(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_duration(kind):
        return _each(column.cast(pa.duration("us"), safe=False).cast(pa.int64()), lambda us: f"{us} microseconds")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _each(column, lambda data: f"\\x{data.hex()}")
    if pa.types.is_nested(kind):
        return _each(column, lambda value: json.dumps(value, ensure_ascii=False, default=str))
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pc.cast(column, pa.timestamp("us", kind.tz), safe=False)
    return column


def _each(column: pa.Array, write: Any) -> pa.Array:
    return pa.array([None if value is None else write(value) for value in column.to_pylist()], pa.string())
