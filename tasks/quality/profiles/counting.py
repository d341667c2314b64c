"""Counts features, kept columns and scores, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.quality.profiles.histogram_sums import describe_packed
from scoreline.tasks.quality.profiles.number_counts import NumberCounts
from scoreline.tasks.quality.profiles.profile import (
    EMPTY_COLUMN,
    ColumnProfile,
    Kind,
    Profile,
    Type,
    by_key,
)
from scoreline.tasks.quality.profiles.text_counts import TextCounts

_EPOCH_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class ColumnCounts:
    """What is counted of one column.

    Parameters
    ----------
    empty : ColumnProfile
        A column without rows, whose histograms have the limits.
    """

    def __init__(self, name: str, kind: Kind, empty: ColumnProfile = EMPTY_COLUMN) -> None:
        self._name, self._kind, self._empty = name, kind, empty
        self._rows = self._nulls = 0
        self._type: Type = "empty"
        self._arrow_type: pa.DataType | None = None
        self._counted_as: Type = "empty"
        self._numbers: NumberCounts | None = None
        self._texts: TextCounts | None = None

    def add(self, column: pa.Array | pa.ChunkedArray, rows: Any = None) -> None:
        """Count the values of a column.

        Parameters
        ----------
        rows : ndarray of int64, optional
            Positions of the rows that are counted; by default, all of them.
        """
        if column.type != self._arrow_type:
            self._arrow_type, self._counted_as = column.type, type_of(column.type)
        kind = self._counted_as
        if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1:
            column = column.chunk(0)
        elif kind == "number" and self._type == "number" and isinstance(column, pa.Array) and not column.null_count:
            self._rows += len(column) if rows is None else len(rows)
            self._number_counts().add(_numbers(column), rows)
            return
        if rows is not None and (kind != "number" or column.null_count or isinstance(column, pa.ChunkedArray)):
            column, rows = column.take(pa.array(rows)), None
        self._rows += len(column) if rows is None else len(rows)
        if column.null_count:
            self._nulls += column.null_count
            column = column.drop_null()
        if not len(column if rows is None else rows):
            return
        self._type = kind if self._type in ("empty", kind) else "mixed"
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            if kind == "number":
                self._number_counts().add(_numbers(chunk), rows)
            elif kind == "time":
                self._number_counts().add(_seconds(chunk))
            elif kind == "boolean":
                counts = {"true": chunk.true_count, "false": chunk.false_count}
                self._text_counts().values.add({key: count for key, count in counts.items() if count}, len(chunk))
            elif kind == "text":
                self._text_counts().add(chunk)

    def _number_counts(self) -> NumberCounts:
        if self._numbers is None:
            self._numbers = NumberCounts(self._empty.histogram.limit)
        return self._numbers

    def _text_counts(self) -> TextCounts:
        if self._texts is None:
            values = self._empty.values
            self._texts = TextCounts(values.limit, values.limit_bytes, self._empty.lengths.limit)
        return self._texts

    def profile(self) -> ColumnProfile:
        """Return the profile of all rows so far."""
        empty, texts = self._empty, self._texts
        numbers: dict[str, Any] = {"histogram": empty.histogram}
        if self._numbers is not None:
            counter = self._numbers.counter
            numbers = {
                "nan": counter.nan,
                "positive_infinities": counter.positive_infinities,
                "negative_infinities": counter.negative_infinities,
                "minimum": counter.minimum,
                "maximum": counter.maximum,
                "sum": self._numbers.sum,
                "sum_squares": self._numbers.sum_squares,
                "overflows": counter.overflows,
                "histogram": self._numbers.histogram(),
            }
        return ColumnProfile(  # in one call: `replace` would take more time than small batches take to count
            name=self._name,
            kind=self._kind,
            type=self._type,
            rows=self._rows,
            nulls=self._nulls,
            values=empty.values if texts is None else texts.values.values(),
            lengths=empty.lengths if texts is None else texts.lengths.histogram(),
            **numbers,
        )

    def to_json(self, arrays: list[bytes]) -> dict[str, Any]:
        """Return what `ColumnProfile.to_json` returns for the profile of all rows so far, without derived numbers.

        Parameters
        ----------
        arrays : list of bytes
            The arrays of the packed histograms are appended (see `histogram_sums.pack_histogram`).
        """
        document = {"name": self._name, "kind": self._kind, "type": self._type, "rows": self._rows}
        if self._nulls:
            document["nulls"] = self._nulls
        if self._numbers is not None:
            document |= self._numbers.to_json()
            if packed := _pack(self._numbers, arrays):
                document["histogram"] = packed
        if self._texts is not None and self._texts.values.total:
            document["values"] = self._texts.values.values().to_json()
            if packed := _pack(self._texts.lengths, arrays):
                document["lengths"] = packed
        return document


def _pack(numbers: NumberCounts, arrays: list[bytes]) -> dict[str, int] | None:
    """Append the arrays of a histogram, and return what describes them; None if the histogram is empty."""
    counter = numbers.counter
    if counter.minimum is None:
        return None
    packed = counter.packed()
    arrays.append(packed[-1])
    return describe_packed(counter.level, packed, numbers.limit)


class GroupCounts:
    """What is counted of a group of rows and of their scores."""

    def __init__(self, empty: ColumnProfile = EMPTY_COLUMN) -> None:
        self._empty = empty
        self._columns: dict[tuple[Kind, str], ColumnCounts] = {}
        self._schemas: dict[Kind, tuple[pa.Schema, list[ColumnCounts]]] = {}
        """The schema of the batch before, and the counts of its columns in their order."""
        self.rows = 0

    def add(
        self,
        columns: Mapping[Kind, pa.Table | pa.RecordBatch],
        rows: int,
        chosen: Mapping[Kind, Any] | None = None,
    ) -> None:
        """Count rows: their features and kept columns, and the scores of those that are scored.

        Parameters
        ----------
        rows : int
            Number of rows that are counted.
        chosen : mapping, optional
            Positions of the rows that are counted in the columns of each kind: ndarray of int64; by default, all rows.
        """
        self.rows += rows
        for kind, table in columns.items():
            places = None if chosen is None else chosen[kind]
            for counts, column in zip(self._counts_of(kind, table.schema), table.columns, strict=True):
                counts.add(column, places)

    def _counts_of(self, kind: Kind, schema: pa.Schema) -> list[ColumnCounts]:
        known = self._schemas.get(kind)
        if known is None or not known[0].equals(schema):
            for name in schema.names:
                if (kind, name) not in self._columns:
                    self._columns[kind, name] = ColumnCounts(name, kind, self._empty)
            known = self._schemas[kind] = schema, [self._columns[kind, name] for name in schema.names]
        return known[1]

    def profile(self, *, last: bool = False) -> Profile:
        """Return the profile of all rows so far.

        Parameters
        ----------
        last : bool
            Whether nothing more will be counted. The counts of each column are then released when its profile is made,
            because both together would take much memory for thousands of columns.
        """
        counts = self.released() if last else iter(self._columns.values())
        return Profile(rows=self.rows, counted=self.rows, columns=by_key(column.profile() for column in counts))

    def released(self) -> Iterator[ColumnCounts]:
        """Yield the counts of each column, and keep them no longer."""
        self._schemas.clear()
        for key in list(self._columns):
            yield self._columns.pop(key)


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
    table = features if isinstance(features, pa.Table) else pa.Table.from_pandas(features, preserve_index=False)
    kinds: dict[Kind, pa.Table | None] = {"feature": table, "kept": kept, "score": outputs}
    counts = GroupCounts()
    counts.add({kind: part for kind, part in kinds.items() if part is not None}, table.num_rows)
    return counts.profile()


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
