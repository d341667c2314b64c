"""Histograms of numbers, in buckets whose width is a fixed share of the value.

A bucket is the sign, the exponent and the first `level` bits of the mantissa of a float64. Zero has a bucket of its
own. The level is the largest one, of at most `MAX_LEVEL`, at which the histogram has at most `limit` buckets. A subset
of the values has no more buckets than all values, and a lower level joins whole buckets. The level and the counts
therefore depend only on the values, not on their order or on the histograms that were merged.
"""

from __future__ import annotations

import operator
import struct
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

MAX_LEVEL = 20
"""Level of a histogram with few buckets. Integers up to 2**21 have buckets of their own."""
MIN_LEVEL = -11
"""Level at which all positive numbers share one bucket. Below 0, a bucket holds several powers of two."""
MAX_BUCKETS = 512
"""Maximum number of buckets, unless a histogram has another limit."""
_MANTISSA_BITS = 52
_BITS, _FLOATS = struct.Struct("<2Q"), struct.Struct("<2d")
_INFINITY_BITS = 0x7FF << _MANTISSA_BITS


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of finite numbers by bucket.

    >>> ages = Histogram.of([30.0, 30.0, 31.0, -1.5])
    >>> ages.total, [(ages.edges(bucket)[0], count) for bucket, count in ages.counts.items()]
    (4, [(-1.5000009536743164, 1), (30.0, 2), (31.0, 1)])
    """

    level: int = MAX_LEVEL
    counts: Mapping[int, int] = field(default_factory=dict)
    """Number of values by bucket, in ascending order. Bucket 0 is zero, and negative buckets hold negative numbers."""
    limit: int = MAX_BUCKETS
    """Maximum number of buckets."""

    @classmethod
    def of(cls, values: Iterable[float], limit: int = MAX_BUCKETS) -> Histogram:
        """Count finite numbers."""
        counts: dict[int, int] = {}
        for value in values:
            bucket = bucket_of(value)
            counts[bucket] = counts.get(bucket, 0) + 1
        return cls._coarsened(MAX_LEVEL, counts, limit)

    @cached_property
    def total(self) -> int:
        """Number of values."""
        return sum(self.counts.values())

    @property
    def is_exact(self) -> bool:
        """Whether buckets are as narrow as possible. Then each usually holds one value: its edge next to zero."""
        return self.level == MAX_LEVEL

    def edges(self, bucket: int) -> tuple[float, float]:
        """Return the lower and the upper edge of a bucket.

        The edge nearer to zero belongs to the bucket, the other one does not. Both edges of bucket 0 are 0.
        """
        if bucket == 0:
            return 0.0, 0.0
        shift = _MANTISSA_BITS - self.level
        near, far = ((abs(bucket) - 1) << shift, abs(bucket) << shift)
        low, high = _FLOATS.unpack(_BITS.pack(min(near, _INFINITY_BITS), min(far, _INFINITY_BITS)))
        return (low, high) if bucket > 0 else (-high, -low)

    def quantile(self, share: float) -> float | None:
        """Return an estimate of the value below which a share of the values lies; None without values.

        Values are taken as spread evenly over their bucket; a bucket of an exact histogram as its edge next to zero.

        >>> Histogram.of([float(n) for n in range(101)]).quantile(0.5)
        50.0
        """
        buckets, ends = self.ends
        rank = share * max(0, self.total - 1)
        place = bisect_right(ends, rank)
        if place == len(ends):
            return None
        bucket = buckets[place]
        low, high = self.edges(bucket)
        if self.is_exact:
            return low if bucket >= 0 else high
        before = ends[place - 1] if place else 0
        within = (rank - before + 0.5) / (ends[place] - before)
        return low + (high - low) * within if high < float("inf") else low

    @cached_property
    def ends(self) -> tuple[list[int], list[int]]:
        """The buckets in ascending order, and the number of values up to the end of each."""
        return list(self.counts), list(accumulate(self.counts.values()))

    def release_ends(self) -> None:
        """Free `ends`, which takes five times as much memory as arrays of the buckets and their counts."""
        self.__dict__.pop("ends", None)

    @cached_property
    def compared(self) -> dict[int, tuple[weakref.ref[Histogram], Any, Any]]:
        """What was measured between other histograms and this one, by the `id` of the other.

        Each entry has the other histogram, the arguments and the measures. The report of a job needs the same measures
        as its checks (see `drift.drift_of_numbers`). The other is not kept alive, because it may have been compared
        with one before it, and so on.
        """
        return {}

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of the values of both; raises `ValueError` if their limits differ."""
        if self.limit != other.limit:
            raise ValueError(f"histograms with {self.limit} and {other.limit} buckets cannot be merged")
        if not self.counts or not other.counts:
            return other if not self.counts else self
        level = min(self.level, other.level)
        counts = _at_level(self.counts, self.level - level)
        for bucket, count in _at_level(other.counts, other.level - level).items():
            counts[bucket] = counts.get(bucket, 0) + count
        return self._coarsened(level, counts, self.limit)

    def coarsened(self, buckets: int) -> Histogram:
        """Return the histogram of the same values with at most so many buckets, as long as the level can be lowered.

        >>> Histogram.of([1.0, 2.0, 3.0, -4.0]).coarsened(2).counts
        {-1: 1, 1: 3}
        """
        return replace(self._coarsened(self.level, dict(self.counts), buckets), limit=self.limit)

    def at_level(self, level: int) -> Histogram:
        """Return the histogram of the same values at a level, if it is lower than that of the histogram.

        >>> Histogram.of([4.0, 5.0, 6.0]).at_level(0).counts
        {1026: 3}
        """
        return (
            replace(self, level=level, counts=_at_level(self.counts, self.level - level))
            if level < self.level
            else self
        )

    @classmethod
    def _coarsened(cls, level: int, counts: dict[int, int], limit: int) -> Histogram:
        while len(counts) > limit and level > MIN_LEVEL:
            level, counts = level - 1, _at_level(counts, 1)
        return cls(level=level, counts=dict(sorted(counts.items())), limit=limit)

    def to_json(self) -> dict[str, Any]:
        """Return the level, the buckets and their counts."""
        document = {"level": self.level, "buckets": list(self.counts), "counts": list(self.counts.values())}
        return document if self.limit == MAX_BUCKETS else document | {"limit": self.limit}

    @classmethod
    def from_json(cls, raw: Any) -> Histogram:
        """Read what `to_json` returned; raises `ValueError`, `TypeError` or `LookupError`.

        A histogram that takes the place of its JSON object is returned as it is (see `number_counts.in_arrays`).
        """
        if isinstance(raw, Histogram):
            return raw
        level, buckets, counts = raw["level"], raw["buckets"], raw["counts"]
        limit = raw.get("limit", MAX_BUCKETS)
        if type(limit) is not int or not 3 <= limit <= MAX_BUCKETS:
            raise ValueError("the limit of a histogram is out of range")
        if type(level) is not int or not MIN_LEVEL <= level <= MAX_LEVEL:
            raise ValueError("the level of a histogram is out of range")
        if not isinstance(buckets, list) or not isinstance(counts, list) or len(buckets) != len(counts):
            raise ValueError("a histogram has not one count for each bucket")
        if len(buckets) > limit:
            raise ValueError("a histogram has too many buckets")
        most = _INFINITY_BITS >> (_MANTISSA_BITS - level)
        if {*map(type, buckets), *map(type, counts)} - {int} or min(counts, default=1) < 1:
            raise TypeError("a bucket or a count of a histogram is not a whole number")
        if buckets and not -most - 1 <= min(buckets) <= max(buckets) <= most + 1:
            raise ValueError("a bucket of a histogram is out of range")
        if any(map(operator.ge, buckets, buckets[1:])):
            raise ValueError("the buckets of a histogram are not in ascending order")
        return cls(level=level, counts=dict(zip(buckets, counts, strict=True)), limit=limit)


def bucket_of(value: float, level: int = MAX_LEVEL) -> int:
    """Return the bucket of a finite number.

    >>> bucket_of(0.0), bucket_of(1.0, 3), bucket_of(1.124, 3), bucket_of(1.126, 3), bucket_of(-1.0, 3)
    (0, 8185, 8185, 8186, -8185)
    """
    if value == 0:
        return 0
    (bits,) = struct.unpack("<Q", struct.pack("<d", abs(value)))
    bucket = int(bits >> (_MANTISSA_BITS - level)) + 1
    return bucket if value > 0 else -bucket


def coarser(bucket: int, levels: int) -> int:
    """Return the bucket that contains a bucket, so many levels below."""
    if bucket == 0:
        return 0
    within = ((abs(bucket) - 1) >> levels) + 1
    return within if bucket > 0 else -within


def _at_level(counts: Mapping[int, int], levels: int) -> dict[int, int]:
    if not levels:
        return dict(counts)
    joined: dict[int, int] = {}
    for bucket, count in zip(counts, counts.values(), strict=True):  # `items` would make a dictionary of arrays
        within = coarser(bucket, levels)
        joined[within] = joined.get(within, 0) + count
    return joined
