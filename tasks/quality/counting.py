"""Counts features, kept columns and scores, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.quality.number_counts import NumberCounts
from scoreline.tasks.quality.profile import (
    EMPTY_COLUMN,
    ColumnProfile,
    Kind,
    Profile,
    Type,
    by_key,
)
from scoreline.tasks.quality.text_counts import TextCounts

_EPOCH_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class ColumnCounts:
    """What is counted of one column.

    Parameters
    ----------
    empty : ColumnProfile
        A column without rows, whose histograms have the limits.
    """

    def __init__(self, name: str, kind: Kind, empty: ColumnProfile = EMPTY_COLUMN) -> None:
        self._empty = replace(empty, name=name, kind=kind)
        self._rows = self._nulls = 0
        self._type: Type = "empty"
        self._numbers = NumberCounts(empty.histogram.limit)
        self._texts: TextCounts | None = None
        self._lengths: NumberCounts | None = None

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Count the values of a column."""
        self._rows += len(column)
        self._nulls += column.null_count
        if column.null_count:
            column = column.drop_null()
        if not len(column):
            return
        kind = type_of(column.type)
        self._type = kind if self._type in ("empty", kind) else "mixed"
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            if kind == "number":
                self._numbers.add(_numbers(chunk))
            elif kind == "time":
                self._numbers.add(_seconds(chunk))
            elif kind == "boolean":
                self._add_booleans(chunk)
            elif kind == "text":
                self._add_texts(chunk)

    def _add_booleans(self, column: pa.Array) -> None:
        true = column.true_count
        counts = {"true": true, "false": len(column) - true}
        self._values().add_counts({key: count for key, count in counts.items() if count}, len(column))

    def _add_texts(self, column: pa.Array) -> None:
        texts = pc.cast(column, pa.large_string())
        self._values().add(texts)
        if self._lengths is None:
            self._lengths = NumberCounts(self._empty.lengths.limit)
        self._lengths.add(pc.utf8_length(texts).to_numpy())

    def _values(self) -> TextCounts:
        if self._texts is None:
            self._texts = TextCounts(self._empty.values.limit, self._empty.values.limit_bytes)
        return self._texts

    def profile(self) -> ColumnProfile:
        """Return the profile of all rows so far."""
        numbers = self._numbers
        return replace(
            self._empty,
            type=self._type,
            rows=self._rows,
            nulls=self._nulls,
            nan=numbers.counter.nan,
            positive_infinities=numbers.counter.positive_infinities,
            negative_infinities=numbers.counter.negative_infinities,
            minimum=numbers.counter.minimum,
            maximum=numbers.counter.maximum,
            sum=numbers.sum,
            sum_squares=numbers.sum_squares,
            overflows=numbers.counter.overflows,
            histogram=numbers.histogram(),
            values=self._empty.values if self._texts is None else self._texts.values(),
            lengths=self._empty.lengths if self._lengths is None else self._lengths.histogram(),
        )


def profile_of(
    features: pa.Table | pd.DataFrame, outputs: pa.Table | None = None, kept: pa.Table | None = None
) -> Profile:
    """Return the profile of a table at hand.

    Parameters
    ----------
    features : Table or DataFrame
        The columns that the model scores.
    outputs : Table, optional
        The scores, of all rows or of those that could be scored.
    kept : Table, optional
        Further columns to count.

    Examples
    --------
    >>> profile = profile_of(pa.table({"age": [30, 41, None]}), pa.table({"prediction": [0, 1]}))
    >>> profile.rows, profile.columns["age"].mean, profile.columns["prediction"].histogram.total
    (3, 35.5, 2)
    """
    table = _table(features)
    columns: list[ColumnProfile] = []
    kinds: Mapping[Kind, pa.Table | None] = {"feature": table, "kept": kept, "score": outputs}
    for kind, part in kinds.items():
        if part is None:
            continue
        for name in part.column_names:
            counts = ColumnCounts(name, kind)
            counts.add(part[name])
            columns.append(counts.profile())
    return Profile(rows=table.num_rows, counted=table.num_rows, columns=by_key(columns))


def type_of(kind: pa.DataType) -> Type:
    """Return how a column of an Arrow type is counted."""
    if pa.types.is_dictionary(kind):
        return type_of(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return "time"
    return "empty" if pa.types.is_null(kind) else "other"


def _numbers(column: pa.Array) -> Any:
    """Return numbers without nulls as an ndarray."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_decimal(column.type):
        column = pc.cast(column, pa.float64())
    return column.to_numpy(zero_copy_only=False)


def _seconds(column: pa.Array) -> Any:
    """Return times as seconds since 1970 or since midnight: ndarray of float64.

    The whole seconds and the fraction are converted apart, so that the result does not depend on the column's unit.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_date32(kind):
        return column.cast(pa.int32()).to_numpy(zero_copy_only=False) * 86_400.0
    if pa.types.is_time32(kind):
        units = column.cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        units = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    per_second = _EPOCH_UNITS["ms" if pa.types.is_date64(kind) else kind.unit]
    whole, rest = np.divmod(units, per_second)
    return whole + rest / per_second


def _table(features: pa.Table | pd.DataFrame) -> pa.Table:
    return features if isinstance(features, pa.Table) else pa.Table.from_pandas(features, preserve_index=False)
