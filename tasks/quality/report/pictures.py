"""Pictures of columns, as data: the values of a job and those of its baseline, on the same bins.

The buckets of a profile are shares of the value, so they are put onto some 30 bins of equal width first. Values in a
bucket count as spread evenly over it. Both histograms are first brought to the coarser one of their levels, because
otherwise equal distributions would look different.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from scoreline.tasks.quality.profiles.column_profile import ColumnProfile
from scoreline.tasks.quality.profiles.histograms import MAX_LEVEL, Histogram, bucket_of

Scale = Literal["linear", "log", "whole"]
"""``whole``: each bin holds so many whole numbers. ``log``: the bins have a fixed relative width."""

MAX_BINS = 36
MAX_BARS = 8
"""Maximum number of categories that are drawn. The others are one bar."""
_EDGE_SHARE = 0.005
_TAIL = 1.0
"""If the range of all values reaches beyond the middle 99% of them by more than its width, the rest is not drawn."""
_LOG_RATIO = 20.0
"""If the medians of positive values differ by this factor, for example because a unit has changed, bins are relative.
Otherwise, one of the histograms would be a single bar."""
_LOG_TAIL = 200.0
"""If the middle 99% of positive values reach this many times beyond their median, bins are relative, too."""
_FREE_TEXT_SHARE = 0.2
"""If texts have more than `_MANY` values, and on average fewer than five rows have the same one, their lengths are
drawn."""
_MANY = 50
_FEW = 5
_LARGEST_WHOLE = 2**21
"""Up to here, each whole number has a bucket of its own in an exact histogram."""
_LARGEST, _LEAST_STEP = sys.float_info.max, 1e-300
_LEAST_LEVEL = -4
"""Below this level, the buckets of a histogram are too wide for a picture."""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """The values beyond one end of a picture."""

    side: Literal["below", "above"]
    limit: float
    """Where the picture ends."""
    farthest: float
    """The value that is the farthest away."""
    now: float
    """Share of the job's values that lie there."""
    before: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bins:
    """A histogram of numbers, times or lengths of texts."""

    of: Literal["values", "lengths"] = "values"
    scale: Scale
    edges: tuple[float, ...]
    """Edges of the bins: one more than there are bins."""
    now: tuple[float, ...]
    """Share of the job's values in each bin."""
    before: tuple[float, ...] | None = None
    """Share of the baseline's values in each bin; None if there is no baseline."""
    outside: tuple[Outside, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A category."""

    value: str
    now: float
    """Share of the job's values."""
    before: float | None = None
    """Share of the baseline's values; None if it is not known."""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """The most frequent categories of a column, the most frequent first."""

    bars: tuple[Bar, ...]
    others: Bar | None = None
    """All other categories together; None if there are none."""
    others_count: int = 0
    """Number of other categories; an estimate if there are very many."""


type Picture = Bins | Bars


def picture_of(now: ColumnProfile, before: ColumnProfile | None = None) -> Picture | None:
    """Return the picture of a column; None if the column has no values that can be drawn.

    Parameters
    ----------
    before : ColumnProfile, optional
        The same column of the baseline. If the column has no values there, or values of another type, it is left out.
    """
    if now.values.total:
        if _is_free_text(now):
            return _bins(now, before, of="lengths")
        return _bars(now, before)
    return _bins(now, before, of="values")


def _is_free_text(column: ColumnProfile) -> bool:
    distinct = column.values.distinct
    return distinct > _MANY and distinct > _FREE_TEXT_SHARE * column.values.total and bool(column.lengths.counts)


def _bars(now: ColumnProfile, before: ColumnProfile | None) -> Bars:
    old = before.values if before is not None and before.values.counts else None
    listed: dict[str, Bar] = {}
    for value in (*now.values.counts, *(old.counts if old else ())):
        share, known = now.values.counts.get(value, 0) / now.values.total, None
        if old is not None and (value in old.counts or old.is_exact):
            known = old.counts.get(value, 0) / old.total
        if share or now.values.is_exact:
            listed[value] = Bar(value=value, now=share, before=known)
    ordered = sorted(listed.values(), key=lambda bar: (-bar.now, -(bar.before or 0), bar.value))
    moved = sorted(ordered, key=lambda bar: -abs(bar.now - (bar.before or 0)))[: MAX_BARS // 4] if old else []
    if len(ordered) <= MAX_BARS + 1:  # one bar of others would take as much room
        chosen = ordered
    else:
        first = [bar for bar in ordered if bar not in moved][: MAX_BARS - len(moved)]
        chosen = [bar for bar in ordered if bar in first or bar in moved]
    count = max(0, max(now.values.distinct, old.distinct if old else 0) - len(chosen))
    rest = None
    if (count and len(chosen) < len(ordered)) or not now.values.is_exact:
        left = max(0.0, 1 - sum(bar.now for bar in chosen))
        left_before = None if old is None else max(0.0, 1 - sum(bar.before or 0 for bar in chosen))
        rest = Bar(value="", now=left, before=left_before)
    return Bars(bars=tuple(chosen), others=rest, others_count=count if rest else 0)


@dataclass(frozen=True)
class _Series:
    """Numbers as spans of their histogram, each with the number of values in it."""

    histogram: Histogram
    low: float
    high: float

    def span(self, bucket: int) -> tuple[float, float]:
        """Return the edges of a bucket, within the range. A bucket of an exact histogram is its edge next to zero."""
        low, high = self.histogram.edges(bucket)
        if self.histogram.is_exact:
            low = high = low if bucket >= 0 else high
        low = min(max(low, self.low), self.high)
        return low, max(low, min(high, self.high))

    def below(self, limit: float) -> float:
        """Return the number of values below a limit. Only the bucket that contains the limit is divided."""
        buckets, ends = self.histogram.ends
        own = bucket_of(limit, self.histogram.level)
        place = bisect_left(buckets, own)
        before = ends[place - 1] if place else 0
        if place == len(buckets) or buckets[place] != own:
            return before
        low, high = self.span(own)
        if limit <= low:
            return before
        within = 1.0 if limit >= high else (limit - low) / (high - low)
        return before + (ends[place] - before) * within

    def at_level(self, level: int) -> _Series:
        return replace(self, histogram=self.histogram.at_level(level))

    def core(self) -> tuple[float, float]:
        """Return the range of the middle 99% of the values; of few values, that of all."""
        if self.histogram.total * _EDGE_SHARE < 1:
            return self.low, self.high
        return self.quantile(_EDGE_SHARE), self.quantile(1 - _EDGE_SHARE)

    def quantile(self, share: float) -> float:
        found = self.histogram.quantile(share)
        return self.low if found is None else min(max(found, self.low), self.high)


def _series(column: ColumnProfile | None, of: Literal["values", "lengths"]) -> _Series | None:
    if column is None:
        return None
    if of == "lengths":
        return _whole_range(column.lengths)
    if column.histogram.level < _LEAST_LEVEL or column.minimum is None or column.maximum is None:
        return None
    return _Series(column.histogram, column.minimum, column.maximum)


def _whole_range(histogram: Histogram) -> _Series | None:
    """Return a histogram whose extremes are not known: they are the edges of its buckets."""
    buckets = list(histogram.counts)
    if not buckets or histogram.level < _LEAST_LEVEL:
        return None
    low, high = histogram.edges(buckets[0])[0], histogram.edges(buckets[-1])[1]
    if histogram.is_exact:
        low = histogram.edges(buckets[0])[0 if buckets[0] >= 0 else 1]
        high = histogram.edges(buckets[-1])[0 if buckets[-1] >= 0 else 1]
    return _Series(histogram, low, high) if math.isfinite(low) and math.isfinite(high) else None


def picture_of_histograms(now: Histogram, before: Histogram) -> Bins | None:
    """Return the picture of two histograms; None if one has no values or no finite range."""
    new, old = _whole_range(now), _whole_range(before)
    return None if new is None or old is None else _binned(new, old)


def _bins(now: ColumnProfile, before: ColumnProfile | None, of: Literal["values", "lengths"]) -> Bins | None:
    new = _series(now, of)
    old = _series(before, of) if before is not None and before.type == now.type else None
    return None if new is None else _binned(new, old, of, even=now.type == "time")


def _binned(new: _Series, old: _Series | None, of: Literal["values", "lengths"] = "values", even: bool = False) -> Bins:
    """Put two series on the same bins.

    Parameters
    ----------
    even : bool
        Whether the bins divide the whole range evenly, so that their edges are no round numbers.
    """
    if old is not None:
        level = min(new.histogram.level, old.histogram.level)
        new, old = new.at_level(level), old.at_level(level)
    both = [series for series in (new, old) if series is not None]
    scale, edges = _edges(both, even=even)
    counted = [_counted(series, edges) for series in both]
    shares, *others = [[count / sum(counts) for count in counts] for counts in counted]
    past = others[0] if others else None
    outside = []
    for side, place, limit, far in (
        ("below", 0, edges[0], min(series.low for series in both)),
        ("above", -1, edges[-1], max(series.high for series in both)),
    ):
        if counted[0][place] or (past is not None and past[place]):
            known = None if past is None else past[place]
            outside.append(Outside(side=side, limit=limit, farthest=far, now=shares[place], before=known))  # type: ignore[arg-type]
    return Bins(
        of=of,
        scale=scale,
        edges=tuple(edges),
        now=tuple(shares[1:-1]),
        before=None if past is None else tuple(past[1:-1]),
        outside=tuple(outside),
    )


def _counted(series: _Series, edges: list[float]) -> list[float]:
    """Return the number of values below the first edge, in each bin, and above the last edge.

    An edge belongs to the bin above it; the last edge belongs to the last bin.
    """
    last = math.nextafter(edges[-1], math.inf)
    rest = series.below(last) if math.isfinite(last) else series.histogram.total
    below = [0, *map(series.below, edges[:-1]), rest, series.histogram.total]
    return [end - start for start, end in pairwise(below)]


def _edges(both: list[_Series], even: bool) -> tuple[Scale, list[float]]:
    low, high = min(series.low for series in both), max(series.high for series in both)
    core = [series.core() for series in both]
    from_, to = min(start for start, _ in core), max(stop for _, stop in core)
    if even:
        return "linear", _evenly(low, high)
    medians = [series.quantile(0.5) for series in both]
    far_apart = max(medians) > _LOG_RATIO * min(medians) or to > _LOG_TAIL * min(medians)
    if low > 0 and high > 1 and far_apart:  # probabilities are better seen from 0 to 1
        first, last = _clipped(math.log10(low), math.log10(high), math.log10(from_), math.log10(to))
        edges = [_power_of_ten(edge) for edge in _evenly(first, last)]
        if first == math.log10(low):
            edges[0] = low
        if last == math.log10(high):
            edges[-1] = high
        return "log", edges
    low, high = _clipped(low, high, from_, to)
    if all(series.histogram.level == MAX_LEVEL and _is_whole(series) for series in both):
        return "whole", _whole(math.floor(low), math.ceil(high))
    return "linear", _nice(low, high)


def _clipped(low: float, high: float, from_: float, to: float) -> tuple[float, float]:
    """Return the range to draw: without the tails, if these would squeeze all other values into few bars."""
    width = to - from_
    if width > 0:
        low = from_ if low < from_ - _TAIL * width else low
        high = to if high > to + _TAIL * width else high
    return low, high


def _is_whole(series: _Series) -> bool:
    lows = (series.span(bucket)[0] for bucket in series.histogram.counts)
    return all(low == round(low) and abs(low) <= _LARGEST_WHOLE for low in lows)


def _whole(low: int, high: int) -> list[float]:
    least = math.ceil((high - low + 1) / MAX_BINS)
    step = least if least <= _FEW else math.ceil(_nice_step(least))
    start = low // step * step if step > 1 else low
    count = (high - start) // step + 1
    return [start + step * number - 0.5 for number in range(count + 1)]


def _nice(low: float, high: float) -> list[float]:
    """Return edges at round numbers around a range."""
    step = _nice_step((high - low) / (MAX_BINS - 2))
    if not high > low or not math.isfinite(high - low) or step < _LEAST_STEP:
        return _evenly(low, high)
    first, last = math.floor(low / step), math.ceil(high / step)
    edges = [number * step for number in range(first, last + 1)]
    if not all(map(math.isfinite, edges)) or any(a >= b for a, b in pairwise(edges)):
        return _evenly(low, high)  # the range is too narrow for its magnitude, or too wide for float64
    return edges


def _power_of_ten(exponent: float) -> float:
    """Return a power of ten, or the largest float if the power is larger because its exponent was rounded."""
    try:
        return float(10**exponent)
    except OverflowError:
        return _LARGEST


def _nice_step(least: float) -> float:
    """Return 1, 2, 2.5 or 5 times a power of ten that is at least so large.

    >>> [_nice_step(value) for value in (0.7, 1.0, 2.2, 30)]
    [1.0, 1.0, 2.5, 50.0]
    """
    if not least > 0 or not math.isfinite(least):
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next((f * power for f in (1, 2, 2.5, 5) if f * power >= least * (1 - 1e-9)), 10 * power)


def _evenly(low: float, high: float) -> list[float]:
    """Return edges of equally wide bins; of one bin around a single value."""
    if not high > low:
        half = abs(low) * 0.05 or 0.5
        return [max(low - half, -_LARGEST), min(low + half, _LARGEST)]
    bins = MAX_BINS - 6
    edges = [low + (high / bins - low / bins) * number for number in range(bins)]
    distinct = [edge for place, edge in enumerate(edges) if place == 0 or edge > edges[place - 1]]
    return [edge for edge in distinct if edge < high] + [high]
