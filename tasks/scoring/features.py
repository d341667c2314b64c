"""Converts the columns of a table to the input of an estimator. Values that would lose precision are rejected.

=========================  ========================================================================================
column                     becomes
=========================  ========================================================================================
float                      its own type
integer                    its own type; float64 if any row of the job has a null
decimal                    the nearest float64; a value with more digits than float64 holds is rejected
boolean                    bool; float64 of 0, 1 and NaN if any row of the job has a null
null                       float64, all NaN
timestamp                  datetime64 in its own unit, with its time zone
date                       datetime64 in whole seconds
string                     pandas' ``str``
dictionary                 a pandas ``Categorical`` in a DataFrame, otherwise what its values become
any other                  what ``to_pandas`` returns: Python objects
=========================  ========================================================================================

A null becomes NaN, or NaT in a column of times. There are two exceptions: if the encoder of a column has the category
None, a null becomes None; if it has the categories True and False, booleans stay booleans even beside nulls. The
estimator receives

- a one-dimensional array, if it expects a single column instead of a table, as text vectorizers do;
- a DataFrame with each column in its own type, if it was fitted with column names. If all columns have the same type
  of number, the DataFrame is a view of one matrix;
- a DataFrame, too, if it does not say how many columns it expects and a feature is not a number;
- a matrix in any other case. If all columns are numbers or booleans, the matrix has their common NumPy type. If this
  type is float64, rows with an integer that float64 cannot represent are rejected. If a column is neither numbers nor
  booleans, the matrix contains Python objects.

The types are the same for the whole job (see `scoreline.tasks.scoring.settled_types`). Therefore the conversion of a
row does not depend on other rows of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.kept_memory import empty_matrix
from scoreline.storage.models.categories import Categories
from scoreline.tasks.scoring.matrices import fill_matrix
from scoreline.tasks.scoring.settled_types import SCORED_AS, missing_anywhere, scored_as_float

Form = Literal["frame", "array", "column"]
"""The kind of container that an estimator expects for its features."""
Stage = Literal["contract", "schema", "predict"]
"""Where a decoded row was rejected: ``contract`` if it breaks a rule of the checks, ``schema`` if the model does not
accept a value of it, ``predict`` if the model failed on it."""

_MAX_EXACT_INTEGER = 2**53
"""Float64 represents every integer up to this one exactly."""
_EXACT_DIGITS = 15
"""Number of significant decimal digits that float64 always preserves: C's DBL_DIG."""
_MAX_EXACT_POWER = 22
"""Float64 represents every power of ten up to this exponent exactly."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why a row was rejected."""

    stage: Stage
    column: str | None
    """The column that caused the rejection, if it is known."""
    message: str

    def __str__(self) -> str:
        return self.message


def to_features(
    batch: pa.RecordBatch,
    features: Sequence[str],
    *,
    form: Form,
    named: bool,
    categories: Mapping[str, Categories] = MappingProxyType({}),
) -> tuple[Any, dict[int, Rejection]]:
    """Convert the features as in the module's table, and reject the rows with a value that cannot be converted.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The columns `features`, and possibly others. May be empty.
    features : sequence of str
        Names of the features, in the model's order.
    form : str
        The container that the estimator expects if some features are not numbers.
    named : bool
        Whether the estimator was fitted with column names.
    categories : mapping of str to Categories
        The categories that the encoders of the estimator were fitted on, by feature name.

    Returns
    -------
    x : DataFrame or ndarray, shape (n_rows, n_features), or ndarray, shape (n_rows,), for one column
        All rows in input order. The values of rejected rows are arbitrary.
    rejected : dict of int to Rejection
        The rejected rows, by row number within the batch.
    """
    if form != "column" and _are_floats(chosen := batch.select(list(features))):
        in_frame = form == "frame" and named
        x = empty_matrix(
            chosen.num_rows, len(features), chosen.schema.types[0].to_pandas_dtype(), "F" if in_frame else "C"
        )
        fill_matrix(x, (column.to_numpy(zero_copy_only=False) for column in chosen.columns))
        return (pd.DataFrame(x, columns=list(features), copy=False) if in_frame else x), {}
    columns = {name: batch.column(name) for name in features}
    fields = {name: batch.schema.field(name) for name in features}
    rejected: dict[int, Rejection] = {}
    in_frame = form == "frame" and (named or not all(_is_number(column.type) for column in columns.values()))
    if not in_frame:
        columns = {name: _decode_dictionary(column) for name, column in columns.items()}
    values = {name: _convert(fields[name], column, categories.get(name), rejected) for name, column in columns.items()}
    if form == "column":
        (value,) = values.values()
        return (value if isinstance(value, np.ndarray) else value.astype(object).to_numpy()), rejected
    if in_frame:
        if len({getattr(value, "dtype", None) for value in values.values()}) > 1 or not _are_numbers(values):
            return pd.DataFrame(values, copy=False), rejected
        x = _matrix(columns, values, rejected, order="F")
        return pd.DataFrame(x, columns=list(features), copy=False), rejected
    if _are_numbers(values):
        return _matrix(columns, values, rejected, order="C"), rejected
    x = np.empty((batch.num_rows, len(values)), dtype=object)
    for number, value in enumerate(values.values()):
        x[:, number] = pd.Series(value).astype(object).to_numpy()
    return x, rejected


def take(x: Any, rows: Any) -> Any:
    """Return the rows of `x` with the given numbers; return `x` itself if all rows are selected."""
    if len(rows) == len(x):
        return x
    return x.iloc[rows] if isinstance(x, pd.DataFrame) else x[rows]


def non_finite_masks(batch: pa.RecordBatch, features: Sequence[str]) -> dict[tuple[str, str], Any]:
    """Find the rows in which a feature is missing or infinite.

    There are three kinds: ``null or NaN``, ``infinite`` and ``minus infinity``. The two infinities are separate kinds,
    because an estimator may accept only one of them. For example, a regression on the exponential of a feature accepts
    minus infinity.

    Returns
    -------
    dict of (str, str) to ndarray of bool, shape (n_rows,)
        Masks by feature and kind. Masks without any row are left out.
    """
    masks: dict[tuple[str, str], Any] = {}
    for name in features:
        column = batch.column(name)
        column = column if pa.types.is_floating(column.type) else _decode_dictionary(column)
        floats = pa.types.is_floating(column.type)
        if not floats and not column.null_count and not pa.types.is_null(column.type):
            continue
        if floats:
            values = column.to_numpy(zero_copy_only=False)  # nulls become NaN
            if np.isfinite(values).all():
                continue
            masks[name, "null or NaN"] = np.isnan(values)
            masks[name, "infinite"] = np.isposinf(values)
            masks[name, "minus infinity"] = np.isneginf(values)
        else:
            masks[name, "null or NaN"] = pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False)
    return {key: mask for key, mask in masks.items() if mask.any()}


def _are_floats(batch: pa.RecordBatch) -> bool:
    """Return whether all columns are floats of one type, and the job also scores them in this type."""
    kinds = batch.schema.types
    if not kinds or not batch.num_rows or kinds[0] not in (pa.float32(), pa.float64()):
        return False
    if kinds.count(kinds[0]) < len(kinds):
        return False
    return not any(field.metadata and SCORED_AS in field.metadata for field in batch.schema)


def _matrix(
    columns: Mapping[str, pa.Array], values: Mapping[str, Any], rejected: dict[int, Rejection], order: Literal["C", "F"]
) -> Any:
    """Put columns of numbers into a matrix of their common type.

    The memory order is that of pandas ("F") or NumPy ("C"), because the order affects rounding in linear algebra.
    """
    dtype = np.result_type(*values.values())
    x = empty_matrix(len(next(iter(values.values()))), len(values), dtype, order)
    for name, value in values.items():
        if dtype.kind == "f" and value.dtype.kind in "iu":
            _reject_inexact(name, columns[name], rejected)
    fill_matrix(x, values.values())
    return x


def _convert(field: pa.Field, column: pa.Array, categories: Categories | None, rejected: dict[int, Rejection]) -> Any:
    """Convert one column as in the module's table. Add the rows that cannot be converted to `rejected`."""
    name, kind = field.name, column.type
    said = missing_anywhere(field)
    has_nulls = bool(column.null_count) if said is None else said or bool(column.null_count)
    if pa.types.is_floating(kind):
        x = column.to_numpy(zero_copy_only=False)
        return x.astype(np.float64) if SCORED_AS in (field.metadata or {}) else x
    if pa.types.is_integer(kind):
        if not has_nulls and not scored_as_float(field):
            return column.to_numpy(zero_copy_only=False)
        _reject_inexact(name, column, rejected)
        return column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    if pa.types.is_boolean(kind):
        return _from_booleans(column, has_nulls or scored_as_float(field), categories)
    if pa.types.is_decimal(kind):
        return _from_decimal(name, column, rejected)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_time64(kind) and kind.unit == "ns":
        column = _without_nanoseconds(name, column, rejected)
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(kind) else "ms")).cast(pa.timestamp("s"))
    if categories is not None and categories.has_none and not pa.types.is_temporal(kind):
        decoded = _decode_dictionary(column)
        return pd.Series(np.array([*decoded.to_pylist(), None], dtype=object)[:-1], dtype=object)
    return (_make_categories_unique(column) if pa.types.is_dictionary(kind) else column).to_pandas()


def _without_nanoseconds(name: str, column: pa.Array, rejected: dict[int, Rejection]) -> pa.Array:
    """Convert times of day to microseconds, the precision of Python. Reject times with a higher precision."""
    microseconds = column.cast(pa.time64("us"), safe=False)
    changed = pc.fill_null(pc.not_equal(microseconds.cast(pa.time64("ns")), column), False)
    for row in np.flatnonzero(changed.to_numpy(zero_copy_only=False)):
        _reject(rejected, int(row), name, f"{name!r} has nanoseconds, and Python's times hold microseconds")
    return microseconds


def _from_booleans(column: pa.Array, as_numbers: bool, categories: Categories | None) -> Any:
    """Return booleans unchanged if no row of the job has a null, or if an encoder has boolean categories."""
    if not as_numbers:
        return column.to_numpy(zero_copy_only=False)
    if categories is None or not categories.has_booleans:
        return column.cast(pa.int8()).to_numpy(zero_copy_only=False).astype(np.float64)
    x = np.empty(len(column), dtype=object)
    x[:] = [np.nan if value is None and categories.has_nan else value for value in column.to_pylist()]
    return pd.Series(x, dtype=object)


def _are_numbers(values: Mapping[str, Any]) -> bool:
    return all(isinstance(value, np.ndarray) and value.dtype.kind in "biuf" for value in values.values())


def _make_categories_unique(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Re-encode a column if its dictionary has nulls, NaN or duplicates. Arrow allows these, but pandas does not."""
    values = column.dictionary
    if len(values.unique()) == len(values) and not pc.any(pc.is_null(values, nan_is_null=True)).as_py():
        return column
    decoded = _decode_dictionary(column)
    decoded = pc.if_else(pc.is_null(decoded, nan_is_null=True), pa.scalar(None, decoded.type), decoded)
    encoded = decoded.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary, ordered=column.type.ordered)


def _decode_dictionary(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _reject_inexact(name: str, column: pa.Array, rejected: dict[int, Rejection]) -> None:
    """Reject the rows with an integer that float64 cannot represent.

    Values are checked one by one only if some of them exceed 2**53.
    """
    if column.type.bit_width < 64 or len(column) == column.null_count:
        return
    bounds = pc.min_max(column)
    limit = _MAX_EXACT_INTEGER
    if bounds["min"].as_py() >= -limit and bounds["max"].as_py() <= limit:
        return
    values = pc.fill_null(column, 0).to_numpy()
    for row in np.flatnonzero((values > limit) | (values < -limit) if values.dtype.kind == "i" else values > limit):
        exact = int(values[row])
        if int(float(exact)) != exact:
            _reject(rejected, int(row), name, f"{name!r} is {exact}, which float64 cannot hold exactly")


def _from_decimal(name: str, column: pa.Array, rejected: dict[int, Rejection]) -> Any:
    """Return the float64 nearest to each decimal.

    The conversion of Arrow does not always return the nearest float64.
    """
    if not 0 <= column.type.scale <= _MAX_EXACT_POWER or column.type.precision > 38:
        digits, short = np.zeros(len(column)), np.zeros(len(column), dtype=bool)
    else:
        digits, short = _unscaled(column.cast(pa.decimal128(38, column.type.scale)))
    x = digits / 10.0 ** max(column.type.scale, 0)  # both operands are exact, so only the quotient is rounded
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
    """Return the unscaled values of a decimal128 column as float64, and a mask of the values that are exact."""
    words = np.frombuffer(column.buffers()[1], dtype="<i8")[2 * column.offset : 2 * (column.offset + len(column))]
    low, high = words[0::2], words[1::2]
    return low.astype(np.float64), (high == low >> 63) & (low > -(10**_EXACT_DIGITS)) & (low < 10**_EXACT_DIGITS)


def _reject(rejected: dict[int, Rejection], row: int, name: str, message: str) -> None:
    rejected.setdefault(row, Rejection(stage="schema", column=name, message=message))
