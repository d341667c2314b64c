"""Adds up the counts of a column, in the form in which footers contain them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from scoreline.tasks.quality.profiles.column_profile import COUNTS, ColumnProfile, Kind, Type, common_type, extreme
from scoreline.tasks.quality.profiles.exact_sums import ExactSum, read_units
from scoreline.tasks.quality.profiles.histogram_sums import HistogramSum, Packed, histogram_of, read_packed
from scoreline.tasks.quality.profiles.values import SHOWN, Values

_KINDS, _TYPES = frozenset(get_args(Kind)), frozenset(get_args(Type))


class ReadColumn(NamedTuple):
    """What was read and checked of a column, before it is added."""

    type: Type
    numbers: tuple[int, ...]
    """The number of rows, and the counts that are named in `COUNTS`."""
    minimum: float | None
    maximum: float | None
    sum: int
    sum_squares: int
    """The sums, in the units of `ExactSum`."""
    values: Values | None
    """The values of the sum and of the column; None if the column has none."""
    histogram: Packed | None
    lengths: Packed | None


class ColumnSum:
    """Adds up a column.

    Parameters
    ----------
    empty : ColumnProfile
        A column without rows, whose histograms have the limits.
    """

    def __init__(self, kind: Kind, name: str, empty: ColumnProfile) -> None:
        self._kind, self._name, self._empty = kind, name, empty
        self._type: Type = "empty"
        self._numbers = (0,) * (1 + len(COUNTS))
        self._minimum: float | None = None
        self._maximum: float | None = None
        self._sum = self._sum_squares = 0
        self._histogram: Any = HistogramSum(empty.histogram.limit)
        self._lengths: Any = HistogramSum(empty.lengths.limit)
        self._values: Values | None = None

    def add(self, read: ReadColumn) -> None:
        """Add a column that was read. Nothing was added meanwhile."""
        if read.values is not None:
            self._values = read.values
        self._add(read.type, read.numbers, read.minimum, read.maximum, read.sum, read.sum_squares)
        if read.histogram is not None:
            self._histogram.add_packed(*read.histogram)
        if read.lengths is not None:
            self._lengths.add_packed(*read.lengths)

    def add_sum(self, other: ColumnSum) -> None:
        """Add the columns that another sum has added."""
        if other._values is not None:
            self._values = self.merged(other._values)
        self._add(other._type, other._numbers, other._minimum, other._maximum, other._sum, other._sum_squares)
        self._histogram.add_sum(other._histogram)
        self._lengths.add_sum(other._lengths)

    def _add(
        self,
        type_: Type,
        numbers: tuple[int, ...],
        minimum: float | None,
        maximum: float | None,
        sum_: int,
        sum_squares: int,
    ) -> None:
        self._type = common_type(self._type, type_)
        self._numbers = tuple(map(operator.add, self._numbers, numbers))
        if minimum is not None:
            self._minimum = minimum if self._minimum is None else min(self._minimum, minimum)
        if maximum is not None:
            self._maximum = maximum if self._maximum is None else max(self._maximum, maximum)
        self._sum += sum_
        self._sum_squares += sum_squares

    def merged(self, values: Values) -> Values:
        """Return the values so far with further ones; raises `ValueError` as `Values.merge` does."""
        return values if self._values is None else self._values.merge(values)

    def profile(self) -> ColumnProfile:
        """Return the sum so far."""
        rows, *counts = self._numbers
        return ColumnProfile(
            name=self._name,
            kind=self._kind,
            type=self._type,
            rows=rows,
            **dict(zip(COUNTS, counts, strict=True)),
            minimum=self._minimum,
            maximum=self._maximum,
            sum=ExactSum(self._sum),
            sum_squares=ExactSum(self._sum_squares),
            histogram=histogram_of(self._histogram),
            values=self._empty.values if self._values is None else self._values,
            lengths=histogram_of(self._lengths),
        )


def read_column(
    raw: Mapping[str, Any], data: bytes, at: int, empty: ColumnProfile, known: ColumnSum | None
) -> tuple[ReadColumn, int]:
    """Read and check a column whose arrays begin at `at`. Return the column, and where its arrays end.

    Parameters
    ----------
    known : ColumnSum, optional
        The sum of the column so far.

    Raises
    ------
    ValueError, TypeError, LookupError
        The column is damaged, or does not fit to the sum.
    """
    get = raw.get
    numbers = (raw["rows"], *[get(name, 0) for name in COUNTS])
    if {*map(type, numbers)} != {int} or min(numbers) < 0:
        raise TypeError("a count is not a whole number")
    if not isinstance(raw["name"], str) or raw["kind"] not in _KINDS or raw["type"] not in _TYPES:
        raise ValueError("the name, kind or type of a column is unknown")
    values = histogram = lengths = None
    if "histogram" in raw:
        histogram, at = read_packed(raw["histogram"], data, at, empty.histogram.limit)
    if "lengths" in raw:
        lengths, at = read_packed(raw["lengths"], data, at, empty.lengths.limit)
    if "values" in raw:
        values = _checked(Values.from_json(raw["values"]), empty.values)
        values = values if known is None else known.merged(values)
    one = read_units(raw["sum"]) if "sum" in raw else 0
    two = read_units(raw["sum_squares"]) if "sum_squares" in raw else 0
    low, high = extreme(get("minimum")), extreme(get("maximum"))
    return ReadColumn(raw["type"], numbers, low, high, one, two, values, histogram, lengths), at


def _checked(values: Values, empty: Values) -> Values:
    """Return values if they can be merged with those of the same column in any other segment."""
    if (values.limit, values.limit_bytes) != (empty.limit, empty.limit_bytes):
        raise ValueError("values have other limits")
    if values.unlisted and values.limit <= SHOWN:
        raise ValueError("values of a segment are left out, although documents list that many")
    return values
