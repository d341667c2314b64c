"""Packs histograms for the footers of parts, and adds packed histograms up.

A packed histogram is a description, which is JSON, and two arrays of integers of the fewest bytes: the distances
between its buckets, and their counts. `sums`, the extension in Cython, does the adding where it is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scoreline.tasks.quality.profiles.histograms import MAX_BUCKETS, MAX_LEVEL, MIN_LEVEL, Histogram
from scoreline.tasks.quality.profiles.number_counts import (
    WIDTHS,
    ArrayCounts,
    arrays_of,
    coarsened,
    join_buckets,
    pack_buckets,
)

try:
    from scoreline.tasks.quality.profiles import sums as sums  # tests use it, too
except ImportError:  # the extension was not built
    sums = None  # type: ignore[assignment]

VERSION = 2
"""The version of the functions of `sums`. Increase it here and there if they change."""
_FURTHEST = 1 << (MAX_LEVEL + 12)
"""No bucket of `MAX_LEVEL` is further away from 0."""

type Packed = tuple[bytes, int, int, int, int, int, int]
"""The arguments of `HistogramSum.add_packed`."""


def describe_packed(level: int, packed: tuple[int, int, int, int, bytes], limit: int) -> dict[str, int]:
    """Return what describes a histogram whose arrays are packed (see `pack_buckets`)."""
    size, first, distance_bytes, count_bytes, _ = packed
    described = {"level": level, "size": size, "first": first}
    described |= {"distance_bytes": distance_bytes, "count_bytes": count_bytes}
    return described if limit == MAX_BUCKETS else described | {"limit": limit}


def pack_histogram(arrays: list[bytes], histogram: Histogram) -> dict[str, int]:
    """Append the packed arrays of a histogram that is not empty. Return what describes them."""
    packed = pack_buckets(*arrays_of(histogram.counts))
    arrays.append(packed[-1])
    return describe_packed(histogram.level, packed, histogram.limit)


def read_packed(raw: Mapping[str, Any], data: bytes, at: int, limit: int) -> tuple[Packed, int]:
    """Check a packed histogram whose arrays begin at `at`. Return the histogram, and where its arrays end.

    Raises
    ------
    ValueError, TypeError, LookupError
        The histogram is damaged, or has another limit.
    """
    level, size, first, *widths = numbers = [
        raw[name] for name in ("level", "size", "first", "distance_bytes", "count_bytes")
    ]
    numbers.append(found := raw.get("limit", MAX_BUCKETS))
    if {*map(type, numbers)} != {int}:
        raise TypeError("what describes a histogram is not a whole number")
    if found != limit:
        raise ValueError("a histogram has another limit")
    if not (MIN_LEVEL <= level <= MAX_LEVEL and 1 <= size <= limit <= MAX_BUCKETS and {*widths} <= {*WIDTHS}):
        raise ValueError("what describes a histogram is out of range")
    packed = (data, at, level, size, first, *widths)
    return packed, check_packed(*packed)


def check_with_numpy(
    data: bytes, at: int, level: int, size: int, first: int, distance_bytes: int, count_bytes: int
) -> int:
    """Do what `sums.check_packed` does, with NumPy."""
    buckets, counts = _unpacked(data, at, size, first, distance_bytes, count_bytes)
    furthest, distances = _FURTHEST >> (MAX_LEVEL - level), np.diff(buckets)  # the distances may have overflowed
    far = distances.max(initial=0) > 2 * furthest or distances.min(initial=1) < 1
    if far or not -furthest <= first <= buckets[-1] <= furthest:
        raise ValueError("the buckets of a histogram are out of range")
    if counts.min() <= 0:
        raise ValueError("the counts of a histogram are out of range")
    return at + (size - 1) * distance_bytes + size * count_bytes


def _unpacked(data: bytes, at: int, size: int, first: int, distance_bytes: int, count_bytes: int) -> tuple[Any, Any]:
    """Return the buckets and the counts of a packed histogram: ndarrays of int64."""
    buckets = np.empty(size, np.int64)
    buckets[0] = first
    buckets[1:] = np.frombuffer(data, f"<u{distance_bytes}", size - 1, at)
    np.cumsum(buckets, out=buckets)
    counts = np.frombuffer(data, f"<u{count_bytes}", size, at + (size - 1) * distance_bytes)
    return buckets, counts.astype(np.int64)


class NumpyHistogramSum:
    """Does what `sums.HistogramSum` does, with NumPy."""

    def __init__(self, limit: int) -> None:
        self.limit, self.level = limit, MAX_LEVEL
        self._buckets = self._counts = np.empty(0, np.int64)

    @property
    def size(self) -> int:
        """Number of buckets of the sum."""
        return len(self._buckets)

    def add_packed(
        self, data: bytes, at: int, level: int, size: int, first: int, distance_bytes: int, count_bytes: int
    ) -> None:
        """Add a packed histogram."""
        self._add(level, *_unpacked(data, at, size, first, distance_bytes, count_bytes))

    def add_sum(self, other: NumpyHistogramSum) -> None:
        """Add the histograms that another sum has added."""
        if other.size:
            self._add(other.level, other._buckets, other._counts)

    def _add(self, level: int, buckets: Any, counts: Any) -> None:
        if not self.size:
            self.level, self._buckets, self._counts = level, buckets, counts
            return
        joint = min(level, self.level)
        runs = (coarsened(self._buckets, self.level - joint), coarsened(buckets, level - joint))
        self.level, self._buckets, self._counts = join_buckets(
            joint, np.concatenate(runs), np.concatenate([self._counts, counts]), self.limit
        )

    def arrays(self) -> tuple[bytes, bytes]:
        """Return the buckets of the sum in ascending order, and their counts, as arrays of int64."""
        return self._buckets.tobytes(), self._counts.tobytes()


_is_compiled = sums is not None and sums.VERSION == VERSION
check_packed = sums.check_packed if _is_compiled else check_with_numpy
HistogramSum = sums.HistogramSum if _is_compiled else NumpyHistogramSum


def histogram_of(added: Any) -> Histogram:
    """Return the sum of histograms: `added` is a `HistogramSum`."""
    buckets, counts = (np.frombuffer(array, np.int64) for array in added.arrays())
    return Histogram(level=added.level, counts=ArrayCounts(buckets, counts), limit=added.limit)
