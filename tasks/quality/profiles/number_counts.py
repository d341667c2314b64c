"""Counts numbers with NumPy: extremes, exact sums and a histogram.

`counts`, the extension in Cython, does the same in one pass. The results of both are equal to the bit.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import replace
from typing import Any

import numpy as np

from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import MAX_BUCKETS, MAX_LEVEL, MIN_LEVEL, Histogram

try:
    from scoreline.tasks.quality.profiles import counts as counts  # tests use it, too
except ImportError:  # the extension was not built
    counts = None  # type: ignore[assignment]

_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_MAGNITUDE = (1 << 63) - 1
_HALF_BITS = 27
_INFINITY = 0x7FF << _MANTISSA_BITS
VERSION = 3
"""The version of the functions of `counts`. Increase it here and there if they change."""
_COUNTED_AS_THEY_ARE = "dfbhilqBHILQ"
"""The characters of the types of NumPy that a counter takes."""
_SQUARE_MAY_OVERFLOW = 1e154
WIDTHS = (1, 2, 4, 8)
"""The numbers of bytes that a packed integer may take."""
_ROWS = 1 << 20
"""Number of values that are counted at a time. Sums of so many halves of mantissas are exact in float64."""


class NumberCounts:
    """Counts of numbers that are added array by array.

    Parameters
    ----------
    limit : int
        Maximum number of buckets of the histogram.
    """

    def __init__(self, limit: int = MAX_BUCKETS) -> None:
        self.limit = limit
        compiled = counts is not None and counts.VERSION == VERSION
        self.counter: counts.Counter | NumpyCounter = counts.Counter(limit) if compiled else NumpyCounter(limit)

    def add(self, values: Any, rows: Any = None) -> None:
        """Count the values of an ndarray of numbers, shape (n,). Values of other types are converted to float64.

        Parameters
        ----------
        rows : ndarray of int64, optional
            Positions of the values that are counted; by default, all of them.
        """
        is_counted = values.dtype.char in _COUNTED_AS_THEY_ARE and values.dtype.isnative
        if not is_counted or not values.flags.aligned:
            values = values.astype(np.float64)
        self.counter.add(values, rows)

    @property
    def sum(self) -> ExactSum:
        """The sum of the finite numbers."""
        return ExactSum(self.counter.sum_units)

    @property
    def sum_squares(self) -> ExactSum:
        """The sum of the squares."""
        return ExactSum(self.counter.square_units)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as `ColumnProfile.to_json` does, without the histogram. Unset fields are left out."""
        counter = self.counter
        named = {name: getattr(counter, name) for name in _OTHERS}
        document = {name: count for name, count in named.items() if count}
        if (low := counter.minimum) is not None:
            one, two = counter.sums()
            document |= {"minimum": low, "maximum": counter.maximum, "sum": one, "sum_squares": two}
        return document

    def histogram(self) -> Histogram:
        """Return the histogram of the finite numbers."""
        buckets, counts = (np.frombuffer(array, np.int64) for array in self.counter.buckets())
        order = np.argsort(buckets)
        return Histogram(level=self.counter.level, counts=ArrayCounts(buckets[order], counts[order]), limit=self.limit)


_OTHERS = ("nan", "positive_infinities", "negative_infinities", "overflows")


class ArrayCounts(Mapping[int, int]):
    """The counts of a histogram as arrays. A dictionary is made when a single bucket is looked up.

    Parameters
    ----------
    buckets, counts : ndarray of int64, shape (n,)
        Buckets in ascending order, and their counts.
    """

    def __init__(self, buckets: Any, counts: Any) -> None:
        self.buckets, self.counts = buckets, counts
        self._by_bucket: dict[int, int] | None = None

    def _dict(self) -> dict[int, int]:
        if self._by_bucket is None:
            self._by_bucket = dict(zip(self.buckets.tolist(), self.counts.tolist(), strict=True))
        return self._by_bucket

    def __getitem__(self, bucket: int) -> int:
        return self._dict()[bucket]

    def __iter__(self) -> Iterator[int]:
        return iter(self.buckets.tolist())

    def __len__(self) -> int:
        return len(self.buckets)

    def values(self) -> ValuesView[int]:
        """Return the counts."""
        return _CountsView(self)

    def items(self) -> ItemsView[int, int]:
        """Return the buckets with their counts."""
        return self._dict().items()

    def __repr__(self) -> str:
        return repr(self._dict())


class _CountsView(ValuesView[int]):
    """The counts of a histogram, without the dictionary: those of 10,000 columns would take 350 MB."""

    _mapping: ArrayCounts

    def __iter__(self) -> Iterator[int]:
        return iter(self._mapping.counts.tolist())


def arrays_of(counts: Mapping[int, int]) -> tuple[Any, Any]:
    """Return the buckets and counts of a histogram as ndarrays of int64."""
    if isinstance(counts, ArrayCounts):
        return counts.buckets, counts.counts
    return np.fromiter(counts, np.int64, len(counts)), np.fromiter(counts.values(), np.int64, len(counts))


def in_arrays(raw: dict[str, Any]) -> Any:
    """Return a histogram with arrays in place of its JSON object; return any other object as it is.

    The numbers of all columns of a wide table, as Python objects, take ten times as much memory.
    """
    if not (isinstance(raw.get("buckets"), list) and isinstance(raw.get("counts"), list) and "level" in raw):
        return raw
    try:
        found = Histogram.from_json(raw)
        return replace(found, counts=ArrayCounts(*arrays_of(found.counts)))
    except (ValueError, TypeError, LookupError, OverflowError):  # reading the profile explains what is wrong
        return raw


class NumpyCounter:
    """Does what `counts.Counter` does, with NumPy."""

    def __init__(self, limit: int) -> None:
        self._limit, self.level = limit, MAX_LEVEL
        self._buckets = self._counts = np.empty(0, np.int64)
        self.sum_units = self.square_units = 0
        self.nan = self.positive_infinities = self.negative_infinities = self.overflows = 0
        self.minimum: float | None = None
        self.maximum: float | None = None

    def add(self, values: Any, rows: Any = None) -> None:
        """Count the values of an ndarray of floats or integers, shape (n,), or only those at the positions `rows`."""
        values = values if rows is None else values[rows]
        for start in range(0, len(values), _ROWS):
            self._add(np.asarray(values[start : start + _ROWS], np.float64))

    def _add(self, x: Any) -> None:
        finite = np.isfinite(x)
        if not finite.all():
            self.nan += int(np.isnan(x).sum())
            self.positive_infinities += int(np.isposinf(x).sum())
            self.negative_infinities += int(np.isneginf(x).sum())
            x = x[finite]
        if not len(x):
            return
        x = x + 0.0  # makes the negative zero positive
        low, high = float(x.min()), float(x.max())
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)
        self.sum_units += _sum_units(x)
        with np.errstate(over="ignore", under="ignore"):
            squares = x * x
        if high >= _SQUARE_MAY_OVERFLOW or low <= -_SQUARE_MAY_OVERFLOW:
            fits = np.isfinite(squares)
            self.overflows += int(len(fits) - fits.sum())
            squares = squares[fits]
        self.square_units += _sum_units(squares)
        buckets, numbers = np.unique(buckets_of(x, self.level), return_counts=True)
        self.level, self._buckets, self._counts = join_buckets(
            self.level,
            np.concatenate([self._buckets, buckets]),
            np.concatenate([self._counts, numbers]),
            self._limit,
        )

    def buckets(self) -> tuple[Any, Any]:
        """Return the buckets of the histogram in ascending order, and their counts: ndarrays of int64."""
        return self._buckets, self._counts

    def packed(self) -> tuple[int, int, int, int, bytes]:
        """Return the histogram packed (see `pack_buckets`)."""
        return pack_buckets(self._buckets, self._counts)

    def sums(self) -> tuple[list[str | int], list[str | int]]:
        """Return the sum and the sum of the squares as `ExactSum.to_json` does."""
        return ExactSum(self.sum_units).to_json(), ExactSum(self.square_units).to_json()


def pack_buckets(buckets: Any, counts: Any) -> tuple[int, int, int, int, bytes]:
    """Pack a histogram that is not empty.

    Parameters
    ----------
    buckets, counts : ndarray of int64, shape (n,)
        Buckets in ascending order, and their counts.

    Returns
    -------
    tuple of int, int, int, int and bytes
        The number of buckets, the first bucket, the number of bytes of each distance and of each count, and both
        arrays: the distance of each bucket but the first to the one before it, then the counts.
    """
    arrays = buckets[1:] - buckets[:-1], counts
    one, two = (next(width for width in WIDTHS if array.max(initial=0) >> (8 * width) == 0) for array in arrays)
    data = arrays[0].astype(f"<u{one}").tobytes() + arrays[1].astype(f"<u{two}").tobytes()
    return len(buckets), int(buckets[0]), one, two, data


def buckets_of(x: Any, level: int) -> Any:
    """Return the bucket of each finite number (see `histograms.bucket_of`): ndarray of int64."""
    bits = x.view(np.int64)
    buckets = ((bits & _MAGNITUDE) >> (_MANTISSA_BITS - level)) + 1
    buckets = np.where(bits < 0, -buckets, buckets)
    buckets[x == 0] = 0
    return buckets


def edges_of(buckets: Any, level: int) -> tuple[Any, Any]:
    """Return the lower and the upper edge of each bucket (see `Histogram.edges`): ndarrays of float64."""
    shift = np.uint64(_MANTISSA_BITS - level)
    sizes = np.abs(buckets).astype(np.uint64)
    near, far = (
        np.minimum(bits << shift, np.uint64(_INFINITY)).view(np.float64)
        for bits in (np.maximum(sizes, np.uint64(1)) - np.uint64(1), sizes)
    )
    return np.where(buckets < 0, -far, near), np.where(buckets < 0, -near, far)


def middles_of(buckets: Any, level: int) -> Any:
    """Return the middle of each bucket; if one of its edges is infinite, the other one: ndarray of float64."""
    sizes, shift = np.abs(buckets), _MANTISSA_BITS - level
    if level >= 0 and int(sizes.max()) < _INFINITY >> shift:  # all edges are finite, as usual
        far = sizes << shift
        near = np.maximum(far - (1 << shift), 0)
        return np.copysign(near.view(np.float64) / 2 + far.view(np.float64) / 2, buckets)
    near, far = edges_of(sizes, level)
    far = np.where(np.isfinite(far), far, near)
    middles = near / 2 + far / 2
    return np.where(buckets < 0, -middles, middles)


def join_buckets(level: int, buckets: Any, counts: Any, limit: int) -> tuple[int, Any, Any]:
    """Add the counts of equal buckets, and lower the level until there are at most `limit` buckets.

    Parameters
    ----------
    buckets, counts : ndarray of int64, shape (n,)
        Buckets of one level in any order, and their counts.
    """
    buckets, counts = _added(buckets, counts)
    while len(buckets) > limit and level > MIN_LEVEL:
        level, buckets = level - 1, coarsened(buckets, 1)
        buckets, counts = _added(buckets, counts)
    return level, buckets, counts


def coarsened(buckets: Any, levels: Any) -> Any:
    """Return the buckets that contain buckets, so many levels below (see `histograms.coarser`)."""
    return np.sign(buckets) * (((np.abs(buckets) - 1) >> levels) + 1)


def _added(buckets: Any, counts: Any) -> tuple[Any, Any]:
    order = np.argsort(buckets, kind="stable")
    buckets, counts = buckets[order], counts[order]
    if not len(buckets):
        return buckets, counts
    starts = np.flatnonzero(np.concatenate([[True], buckets[1:] != buckets[:-1]]))
    return buckets[starts], np.add.reduceat(counts, starts)


def _sum_units(x: Any) -> int:
    """Return the sum of finite numbers as a multiple of 2**-1074, from the sums of their mantissas by exponent."""
    bits = x.view(np.int64)
    exponents = (bits >> _MANTISSA_BITS) & 0x7FF
    mantissas = bits & _MANTISSA
    mantissas[exponents > 0] |= 1 << _MANTISSA_BITS
    np.negative(mantissas, where=bits < 0, out=mantissas)
    high = np.bincount(exponents, weights=mantissas >> _HALF_BITS)
    low = np.bincount(exponents, weights=mantissas & ((1 << _HALF_BITS) - 1))
    units = 0
    for exponent in np.flatnonzero((high != 0) | (low != 0)).tolist():
        sum_ = (int(high[exponent]) << _HALF_BITS) + int(low[exponent])
        units += sum_ << max(exponent - 1, 0)
    return units
