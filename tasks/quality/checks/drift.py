"""Measures how far the values of a column have moved from those of a baseline.

================  ====================================================================================================
measure           meaning
================  ====================================================================================================
``psi``           population stability index over ten groups of the baseline, each with about a tenth of its values
``js``            Jensen-Shannon distance: the root of the divergence in bits, from 0 to 1
``ks``            Kolmogorov-Smirnov statistic: the largest difference of the shares below any value, from 0 to 1
``wasserstein``   mean distance that values have moved, in standard deviations of the baseline
================  ====================================================================================================

Numbers are compared on the buckets of their histograms, which are coarsened to the same level first. Texts and booleans
have only ``psi`` and ``js``, over the most frequent values of the baseline; all others are one group.

Even two samples of the same values differ. Each measure comes with its `noise`: the value that samples of these sizes
without any drift exceed once in a million times. Drift is found if a measure exceeds both its threshold and its noise.
The noise matters for a few thousand rows or fewer; beyond, thresholds decide.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from scoreline.tasks.quality.checks.measures import Measure
from scoreline.tasks.quality.profiles.histograms import Histogram
from scoreline.tasks.quality.profiles.number_counts import arrays_of, coarsened, join_buckets, middles_of
from scoreline.tasks.quality.profiles.values import Values

PSI_GROUPS = 10
"""Groups of the population stability index: deciles, as in credit scoring (Siddiqi, Credit Risk Scorecards, 2006)."""
JS_GROUPS = 32
"""Maximum number of groups of numbers for Jensen-Shannon. With single buckets, chance alone would give a large
distance."""
MAX_CATEGORIES = 50
"""Maximum number of values of texts that are groups of their own."""
MIN_EXPECTED = 5.0
"""A value is a group of its own if at least so many are expected, as usual for tests of counts."""
_Z = 4.75
"""Quantile of the normal distribution that is exceeded once in a million times."""
_KOLMOGOROV = 2.69
"""Quantile of the Kolmogorov distribution that is exceeded once in a million times: sqrt(-log(1e-6 / 2) / 2)."""
_HALF = 0.5
_TRUE = np.array([True])
_TINY = 1e-300
"""Takes the place of a share of 0, whose logarithm is infinite. Its product with the logarithm is still 0."""


def drift_of_numbers(
    baseline: Histogram, current: Histogram, std: float | None, current_std: float | None = None
) -> list[Measure]:
    """Return the measures of two histograms; empty if one has no values.

    Parameters
    ----------
    std : float or None
        Standard deviation of the baseline. Without it, or if it is 0, ``wasserstein`` is left out.
    current_std : float, optional
        Standard deviation of the current values; by default, that of the baseline.
    """
    if not baseline.total or not current.total:
        return []
    found = current.compared.get(id(baseline))
    if found is None or found[0]() is not baseline or found[1] != (std, current_std):
        measured = _measured(baseline, current, std, current_std)
        found = current.compared[id(baseline)] = weakref.ref(baseline), (std, current_std), measured
    return list(found[2])


def _measured(baseline: Histogram, current: Histogram, std: float | None, current_std: float | None) -> list[Measure]:
    n, m = baseline.total, current.total
    rate = 1 / n + 1 / m
    level = min(baseline.level, current.level)
    (old, old_counts), (new, new_counts) = _at(baseline, level), _at(current, level)
    both = np.concatenate([old, new])
    both.sort(kind="stable")
    buckets = both[np.concatenate([_TRUE, both[1:] != both[:-1]])]
    counts = np.zeros((2, len(buckets)), np.int64)
    places = buckets.searchsorted(old)
    counts[0, places] = old_counts
    counts[1, buckets.searchsorted(new)] = new_counts
    before, now = counts.cumsum(axis=1)
    inside = int(places[0]), int(places[-1])
    measures = [
        _psi(_grouped(counts, before, inside, PSI_GROUPS), rate),
        _js(_grouped(counts, before, inside, JS_GROUPS), rate),
    ]
    apart = np.abs(before / n - now / m)
    ks = float(apart.max())
    measures.append(Measure(name="ks", value=ks, noise=_KOLMOGOROV * math.sqrt(rate)))
    if std:
        middles = middles_of(buckets, level)
        moved = float((apart[:-1] * (middles[1:] - middles[:-1])).sum())
        noise = noise_of_mean(n, std, m, std if current_std is None else current_std)
        measures.append(Measure(name="wasserstein", value=moved / std, noise=noise))
    return measures


def noise_of_mean(n: int, std: float, m: int, current_std: float) -> float:
    """Return the difference of two means that chance exceeds once in a million times, in deviations of the baseline.

    Each sample counts with its own deviation (Welch, 1947), because the few largest ones of values with a long tail,
    such as amounts of money, decide about both the mean and the deviation of a sample. The current values count with at
    least the deviation of the baseline: a sample without any of the rare values has a deviation of 0.
    """
    return _Z * math.sqrt(1 / n + max(1.0, current_std / std) ** 2 / m)


def drift_of_values(baseline: Values, current: Values) -> list[Measure]:
    """Return the measures of the counts of two columns of texts or booleans; empty if one has no values.

    If not all values of a column are held, their counts are those of the sample of values, so both columns are compared
    on the values that both samples hold.
    """
    if not baseline.total or not current.total:
        return []
    rate = current.total / baseline.total
    named = [
        value
        for value, count in baseline.top(MAX_CATEGORIES)
        if count >= MIN_EXPECTED and count * rate >= MIN_EXPECTED and _is_known(value, current)
    ]
    before = [baseline.counts[value] for value in named]
    now = [current.counts.get(value, 0) for value in named]
    before.append(baseline.total - sum(before))
    now.append(current.total - sum(now))
    counts, rate = np.array([before, now], np.int64), 1 / baseline.total + 1 / current.total
    return [_psi(counts, rate), _js(counts, rate)]


def _is_known(value: str, values: Values) -> bool:
    """Return whether the count of a value is known: it is held, or its absence from exact counts says 0."""
    return value in values.counts or values.is_exact


def _at(histogram: Histogram, level: int) -> tuple[Any, Any]:
    """Return the buckets of a lower level in ascending order, and their counts."""
    buckets, counts = arrays_of(histogram.counts)
    if level == histogram.level:
        return buckets, counts
    return join_buckets(level, coarsened(buckets, histogram.level - level), counts, len(buckets))[1:]


def _grouped(counts: Any, before: Any, inside: tuple[int, int], groups: int) -> Any:
    """Join buckets into groups with about equal shares of the baseline.

    A bucket with many values, such as 0, is a group of its own. So are the buckets below and above the baseline's
    range, if they have values.

    Parameters
    ----------
    counts : ndarray of int64, shape (2, n)
        Counts of the baseline and of the current values, by bucket.
    before : ndarray of int64, shape (n,)
        Number of values of the baseline up to the end of each bucket.
    inside : tuple of int
        The first and the last bucket with values of the baseline.

    Returns
    -------
    ndarray of int64, shape (2, n_groups)
        The counts by group. No group is empty.
    """
    cuts = before.searchsorted(before[-1] * np.arange(1, groups) / groups) + 1
    starts = sorted({0, inside[0], *cuts.tolist(), inside[1] + 1} - {len(before)})
    grouped = np.add.reduceat(counts, starts, axis=1)
    return grouped.compress(grouped.any(axis=0), axis=1)


def _psi(counts: Any, rate: float) -> Measure:
    """Return the population stability index. Half a value is added to each count, so that an empty group is finite.

    Without drift, the index is distributed as chi-squared with one degree of freedom less than there are groups, times
    ``1 / n + 1 / m`` (Yurdakul, Statistical Properties of Population Stability Index, 2018), which is `rate`.
    """
    shares = counts + _HALF
    a, b = shares / shares.sum(axis=1, keepdims=True)
    value = float(((b - a) * np.log(b / a)).sum())
    return Measure(name="psi", value=value, noise=_chi_squared(counts.shape[1] - 1) * rate)


def _js(counts: Any, rate: float) -> Measure:
    """Return the Jensen-Shannon distance. Without drift, eight times its divergence is distributed as the index is."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    shares, middles = np.maximum(shares, _TINY), np.maximum((shares[0] + shares[1]) / 2, _TINY)
    bits = _HALF * float((shares * np.log2(shares / middles)).sum())
    noise = _chi_squared(counts.shape[1] - 1) * rate / 8 / math.log(2)
    return Measure(name="js", value=math.sqrt(max(0.0, bits)), noise=math.sqrt(noise))


def _chi_squared(degrees: int) -> float:
    """Return the value of chi-squared that is exceeded once in a million times, by Wilson and Hilferty (1931).

    >>> round(_chi_squared(9), 1)  # a little more than the exact 44.8
    45.9
    """
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    return degrees * (1 - part + _Z * math.sqrt(part)) ** 3
