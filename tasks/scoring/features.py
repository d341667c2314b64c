"""Columns of a table to what an estimator takes, losslessly or not at all.

=========================  ========================================================================================
column                     becomes
=========================  ========================================================================================
float                      its own type
integer                    its own type; with nulls float64
decimal                    float64, the nearest to each value; a value with more digits than that keeps is rejected
boolean                    bool; with nulls float64 of 0, 1 and NaN
null                       float64, all NaN
timestamp                  datetime64 of its own unit, with its time zone
date                       datetime64 of whole seconds
string                     pandas' ``str``
dictionary                 a pandas ``Categorical`` in a DataFrame, else what its values become
any other                  what pandas makes of it: Python objects
=========================  ========================================================================================

A null becomes NaN, or NaT in times. What is handed over:

- one column, to an estimator that takes no tables (a text vectorizer): a one-dimensional array;
- numbers alone (integers, floats, decimals): a matrix of their common NumPy type. Where that is a float, an integer
  beyond 2**53 that float64 cannot hold is rejected;
- to an estimator that knows column names or says nothing of its columns: a DataFrame, each column of its own type;
- to any other: a matrix, booleans counted among the numbers, of Python objects where a column holds no numbers.

Numbers alone are handed to an estimator that knows names as a DataFrame around that matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Form = Literal["frame", "array", "column"]
"""What the estimator takes."""

_EXACT = 2**53
"""Up to here float64 holds every integer."""
_DIGITS = 15
"""Significant decimal digits that float64 always gives back, C's DBL_DIG."""
_EXACT_POWER = 22
"""Up to here float64 holds every power of ten."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why a row was rejected."""

    stage: Literal["schema", "predict"]
    """``schema`` where a value is at fault before the model computes, ``predict`` where the model failed."""
    column: str | None
    """The feature at fault, where it is known."""
    message: str

    def __str__(self) -> str:
        return self.message


def to_features(
    batch: pa.RecordBatch, features: Sequence[str], *, form: Form, named: bool
) -> tuple[Any, dict[int, Rejection]]:
    """Return the features as the table above says, and the rows with a value that cannot be handed over.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Holds `features`. May be empty.
    features : sequence of str
        In the model's order.
    form : str
        What the estimator takes where the features are not numbers alone.
    named : bool
        Whether it knows the names of its columns.

    Returns
    -------
    x : DataFrame or ndarray, shape (n_rows, n_features), or ndarray, shape (n_rows,), for one column
        With something in the place of rejected rows.
    rejected : dict of int to Reason
        By row number within the batch.
    """
    columns = {name: batch.column(name) for name in features}
    rejected: dict[int, Rejection] = {}
    if form == "column":
        (name,) = features
        value = _value(name, _decode_nested_types(columns[name]), rejected)
        return (value if isinstance(value, np.ndarray) else value.astype(object).to_numpy()), rejected
    if all(_is_number(column.type) for column in columns.values()):
        values = {name: _value(name, column, rejected) for name, column in columns.items()}
        x = _matrix(columns, values, rejected, order="F" if named else "C")
        return (pd.DataFrame(x, columns=list(features), copy=False) if named else x), rejected
    if form == "frame":
        values = {name: _value(name, column, rejected) for name, column in columns.items()}
        return pd.DataFrame(values, copy=False), rejected
    columns = {name: _decode_nested_types(column) for name, column in columns.items()}
    values = {name: _value(name, column, rejected) for name, column in columns.items()}
    if all(isinstance(value, np.ndarray) and value.dtype.kind in "biuf" for value in values.values()):
        return _matrix(columns, values, rejected, order="C"), rejected
    x = np.empty((batch.num_rows, len(values)), dtype=object)
    for number, value in enumerate(values.values()):
        x[:, number] = pd.Series(value).astype(object).to_numpy()
    return x, rejected


def take(x: Any, rows: Any) -> Any:
    """Rows of features by their numbers; all of them uncopied."""
    if len(rows) == len(x):
        return x
    return x.iloc[rows] if isinstance(x, pd.DataFrame) else x[rows]


def suspects(batch: pa.RecordBatch, features: Sequence[str]) -> dict[tuple[str, str], Any]:
    """Rows with no finite value, by feature and by what it is instead.

    That is ``null or NaN``, ``infinite``, or ``minus infinity``: of the infinities an estimator may take one alone, as
    an exponential before a regression does.

    Returns
    -------
    dict of (str, str) to ndarray of bool, shape (n_rows,)
        Without those that no row has.
    """
    found = {}
    for name in features:
        column = _decode_nested_types(batch.column(name))
        found[name, "null or NaN"] = pc.is_null(column, nan_is_null=True)
        if pa.types.is_floating(column.type):
            infinite = pc.fill_null(pc.is_inf(column), False)
            below = pc.fill_null(pc.less(column.cast(pa.float64()), 0.0), False)
            found[name, "infinite"] = pc.and_not(infinite, below)
            found[name, "minus infinity"] = pc.and_(infinite, below)
    masks = {key: mask.to_numpy(zero_copy_only=False) for key, mask in found.items()}
    return {key: mask for key, mask in masks.items() if mask.any()}


def _matrix(
    columns: Mapping[str, pa.Array], values: Mapping[str, Any], rejected: dict[int, Rejection], order: Literal["C", "F"]
) -> Any:
    """Numbers side by side, in their common type, laid out as pandas or NumPy does: linear algebra rounds by that."""
    dtype = np.result_type(*values.values())
    x = np.empty((len(next(iter(values.values()))), len(values)), dtype=dtype, order=order)
    for number, (name, value) in enumerate(values.items()):
        if dtype.kind == "f" and value.dtype.kind in "iu":
            _reject_inexact(name, columns[name], rejected)
        x[:, number] = value
    return x


def _value(name: str, column: pa.Array, rejected: dict[int, Rejection]) -> Any:
    kind = column.type
    if pa.types.is_floating(kind) or (pa.types.is_boolean(kind) and not column.null_count):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(kind):
        if column.null_count:
            _reject_inexact(name, column, rejected)
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).to_numpy(zero_copy_only=False).astype(np.float64)
    if pa.types.is_decimal(kind):
        return _from_decimal(name, column, rejected)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(kind) else "ms")).cast(pa.timestamp("s"))
    return (_distinct(column) if pa.types.is_dictionary(kind) else column).to_pandas()


def _distinct(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Encode anew where the dictionary has nulls, NaN or a value twice: Arrow may, and pandas takes none of these."""
    values = column.dictionary
    if len(values.unique()) == len(values) and not pc.any(pc.is_null(values, nan_is_null=True)).as_py():
        return column
    plain = _decode_nested_types(column)
    plain = pc.if_else(pc.is_null(plain, nan_is_null=True), pa.scalar(None, plain.type), plain)
    encoded = plain.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary, ordered=column.type.ordered)


def _decode_nested_types(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _reject_inexact(name: str, column: pa.Array, rejected: dict[int, Rejection]) -> None:
    """Reject integers that float64 cannot hold; looks at single values only where there are some beyond 2**53."""
    if column.type.bit_width < 64 or len(column) == column.null_count:
        return
    bounds = pc.min_max(column)
    if bounds["min"].as_py() >= -_EXACT and bounds["max"].as_py() <= _EXACT:
        return
    values = pc.fill_null(column, 0).to_numpy()
    for row in np.flatnonzero((values > _EXACT) | (values < -_EXACT) if values.dtype.kind == "i" else values > _EXACT):
        exact = int(values[row])
        if int(float(exact)) != exact:
            _reject(rejected, int(row), name, f"{name!r} is {exact}, which float64 cannot hold exactly")


def _from_decimal(name: str, column: pa.Array, rejected: dict[int, Rejection]) -> Any:
    """Return the float64 nearest to each decimal, which Arrow's own conversion misses at times."""
    if not 0 <= column.type.scale <= _EXACT_POWER or column.type.precision > 38:
        digits, short = np.zeros(len(column)), np.zeros(len(column), dtype=bool)
    else:
        digits, short = _unscaled(column.cast(pa.decimal128(38, column.type.scale)))
    x = digits / 10.0 ** max(column.type.scale, 0)  # both exact, so their quotient is rounded once
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        x[missing], short = np.nan, short | missing
    context = Context(prec=100)
    for row in np.flatnonzero(~short):
        exact = column[int(row)].as_py()
        x[row] = float(exact)
        if context.quantize(Decimal(x[row]), exact) != exact:
            _reject(rejected, int(row), name, f"{name!r} is {exact}, more digits than float64 holds")
    return x


def _unscaled(column: pa.Array) -> tuple[Any, Any]:
    """Digits of a decimal128 column as float64, and where they are few enough to be exact."""
    words = np.frombuffer(column.buffers()[1], dtype="<i8")[2 * column.offset : 2 * (column.offset + len(column))]
    low, high = words[0::2], words[1::2]
    return low.astype(np.float64), (high == low >> 63) & (low > -(10**_DIGITS)) & (low < 10**_DIGITS)


def _reject(rejected: dict[int, Rejection], row: int, name: str, message: str) -> None:
    rejected.setdefault(row, Rejection(stage="schema", column=name, message=message))
