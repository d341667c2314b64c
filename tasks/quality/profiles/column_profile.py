"""The profile of a column: counts, exact sums and histograms of its values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from scoreline.tasks.quality.profiles.exact_sums import SCALE_BITS, ExactSum
from scoreline.tasks.quality.profiles.histograms import Histogram
from scoreline.tasks.quality.profiles.values import Values

Kind = Literal["feature", "kept", "score"]
Type = Literal["empty", "number", "text", "boolean", "time", "other", "mixed"]
"""What a column holds. ``empty`` is a column without values, ``time`` is counted in seconds since 1970 or since
midnight, and of ``other`` only nulls are counted. ``mixed`` is a column whose type differs from part to part."""


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """What is counted of one column."""

    name: str
    kind: Kind
    type: Type = "empty"
    rows: int = 0
    """Number of rows that are counted."""
    nulls: int = 0
    nan: int = 0
    positive_infinities: int = 0
    negative_infinities: int = 0
    minimum: float | None = None
    """Smallest finite number; None without one."""
    maximum: float | None = None
    sum: ExactSum = field(default_factory=ExactSum)
    """Sum of all finite numbers."""
    sum_squares: ExactSum = field(default_factory=ExactSum)
    """Sum of the squares of all finite numbers. Each square is rounded to float64 first."""
    overflows: int = 0
    """Number of finite numbers whose square is too large for float64. They are not in `sum_squares`."""
    histogram: Histogram = field(default_factory=Histogram)
    """Finite numbers."""
    values: Values = field(default_factory=Values)
    """Texts, categories and booleans (``true`` and ``false``)."""
    lengths: Histogram = field(default_factory=Histogram)
    """Numbers of characters of texts."""

    @property
    def numbers(self) -> int:
        """Number of finite numbers."""
        return self.histogram.total

    @property
    def null_share(self) -> float | None:
        """Share of rows in which the value is null or NaN; None without rows."""
        return (self.nulls + self.nan) / self.rows if self.rows else None

    @property
    def mean(self) -> float | None:
        """Mean of the finite numbers, rounded once; None without one, or if float64 cannot hold it."""
        return rounded_quotient(self.sum.units, self.numbers << SCALE_BITS) if self.numbers else None

    @property
    def std(self) -> float | None:
        """Standard deviation of the finite numbers (of a sample, as in pandas); None if there are fewer than two."""
        count = self.numbers
        if count < 2 or self.overflows:
            return None
        squares = ((self.sum_squares.units * count) << SCALE_BITS) - self.sum.units**2
        variance = rounded_quotient(max(squares, 0), (count * (count - 1)) << (2 * SCALE_BITS))
        return None if variance is None else math.sqrt(variance)

    def quantile(self, share: float) -> float | None:
        """Return an estimate of a quantile of the finite numbers (see `Histogram.quantile`), within their range."""
        found = self.histogram.quantile(share)
        if found is None or self.minimum is None or self.maximum is None:
            return None
        return min(max(found, self.minimum), self.maximum)

    def merge(self, other: ColumnProfile) -> ColumnProfile:
        """Return the profile of the rows of both; raises `ValueError` if the columns or limits differ."""
        if (self.name, self.kind) != (other.name, other.kind):
            raise ValueError(f"the profiles of {self.kind} {self.name!r} and {other.kind} {other.name!r} do not match")
        return ColumnProfile(
            name=self.name,
            kind=self.kind,
            type=common_type(self.type, other.type),
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            nan=self.nan + other.nan,
            positive_infinities=self.positive_infinities + other.positive_infinities,
            negative_infinities=self.negative_infinities + other.negative_infinities,
            minimum=min((x for x in (self.minimum, other.minimum) if x is not None), default=None),
            maximum=max((x for x in (self.maximum, other.maximum) if x is not None), default=None),
            sum=self.sum + other.sum,
            sum_squares=self.sum_squares + other.sum_squares,
            overflows=self.overflows + other.overflows,
            histogram=self.histogram.merge(other.histogram),
            values=self.values.merge(other.values),
            lengths=self.lengths.merge(other.lengths),
        )

    def to_json(self, derived: bool = True, describe: Callable[[Histogram], Any] = Histogram.to_json) -> dict[str, Any]:
        """Return the counts, and if `derived`, the mean and the standard deviation. Unset fields are left out.

        Parameters
        ----------
        describe : callable
            Returns what stands for a histogram.
        """
        document: dict[str, Any] = {"name": self.name, "kind": self.kind, "type": self.type, "rows": self.rows}
        plain = {name: getattr(self, name) for name in COUNTS}
        document |= {name: count for name, count in plain.items() if count}
        if self.histogram.counts:
            document |= {"minimum": self.minimum, "maximum": self.maximum}
            if derived:
                document |= {"mean": self.mean, "std": self.std}
            document |= {"sum": self.sum.to_json(), "sum_squares": self.sum_squares.to_json()}
            document["histogram"] = describe(self.histogram)
        if self.values.total:
            document["values"] = self.values.to_json()
        if self.lengths.counts:
            document["lengths"] = describe(self.lengths)
        return {name: value for name, value in document.items() if value is not None}

    @classmethod
    def from_json(cls, raw: Any, empty: ColumnProfile) -> ColumnProfile:
        """Read what `to_json` returned; raises one of `MALFORMED`. `empty` has the limits of missing histograms."""
        numbers = {name: raw.get(name, 0) for name in ("rows", *COUNTS)}
        if any(type(number) is not int or number < 0 for number in numbers.values()):
            raise TypeError("a count is not a whole number")
        name, kind, type_ = raw["name"], raw["kind"], raw["type"]
        if not isinstance(name, str) or kind not in get_args(Kind) or type_ not in get_args(Type):
            raise ValueError("the name, kind or type of a column is unknown")
        return cls(
            name=name,
            kind=kind,
            type=type_,
            **numbers,
            minimum=extreme(raw.get("minimum")),
            maximum=extreme(raw.get("maximum")),
            sum=ExactSum.from_json(raw["sum"]) if "sum" in raw else ExactSum(),
            sum_squares=ExactSum.from_json(raw["sum_squares"]) if "sum_squares" in raw else ExactSum(),
            histogram=Histogram.from_json(raw["histogram"]) if "histogram" in raw else empty.histogram,
            values=Values.from_json(raw["values"]) if "values" in raw else empty.values,
            lengths=Histogram.from_json(raw["lengths"]) if "lengths" in raw else empty.lengths,
        )


COUNTS = ("nulls", "nan", "positive_infinities", "negative_infinities", "overflows")
"""The counts that `ColumnProfile.to_json` leaves out if they are 0."""


SEGMENT_BUCKETS = 64
SEGMENT_VALUES = 200
SEGMENT_VALUES_BYTES = 4 << 10
"""The limits in the profile of a segment. They are lower, because a part has up to 51 of these profiles."""
EMPTY_COLUMN = ColumnProfile(name="", kind="feature")
"""A column without rows."""
EMPTY_SEGMENT_COLUMN = replace(
    EMPTY_COLUMN,
    histogram=Histogram(limit=SEGMENT_BUCKETS),
    values=Values(limit=SEGMENT_VALUES, limit_bytes=SEGMENT_VALUES_BYTES),
    lengths=Histogram(limit=SEGMENT_BUCKETS),
)
"""A column without rows in the profile of a segment."""


def common_type(one: Type, other: Type) -> Type:
    """Return the type of a column that has one type in some rows, and another one in others."""
    if one == other or other == "empty":
        return one
    return other if one == "empty" else "mixed"


def rounded_quotient(numerator: int, denominator: int) -> float | None:
    """Return the nearest float64, as Python's division of integers does; None if the quotient is too large."""
    try:
        return numerator / denominator
    except OverflowError:
        return None


def extreme(raw: Any) -> float | None:
    """Read the minimum or the maximum of a document; raises `TypeError`."""
    if raw is not None and (type(raw) not in (int, float) or not math.isfinite(raw)):
        raise TypeError("the minimum or the maximum is not a finite number")
    return None if raw is None else float(raw)
