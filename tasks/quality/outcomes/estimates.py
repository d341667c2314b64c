"""Numbers that are computed from a sample of rows, with their intervals of 95%. Works with ``requirements.txt`` alone.

Shares have Wilson's score interval (Wilson 1927; Newcombe 1998), other numbers the interval of the normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Z = 1.959963984540054
"""Quantile of the normal distribution for intervals of 95%."""

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "auc": True,
    "accuracy": True,
    "log_loss": False,
    "brier": False,
    "rmse": False,
    "mae": False,
    "r2": True,
}
"""The metrics in the order in which people read them, and whether more is better."""
_OTHER_WEIGHTS = ("auc", "r2")
"""The metrics whose weight is not the number of rows."""
_FEW = 10
_RANGES: Mapping[str, tuple[float, float]] = {"auc": (0.0, 1.0), "accuracy": (0.0, 1.0), "r2": (-math.inf, 1.0)}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number that was computed from a sample of rows, with its interval of 95%."""

    value: float
    low: float
    high: float
    error: float
    """Standard error of the value."""
    weight: float
    """Weight of the value among those of other jobs: its rows, its pairs of rows (AUC), or the spread of its targets
    (R2)."""


def share(count: float, of: float) -> Estimate:
    """Return a share with Wilson's score interval.

    >>> found = share(8, 10)
    >>> found.value, round(found.low, 4), round(found.high, 4)
    (0.8, 0.4902, 0.9433)
    >>> share(0, 0).value, share(0, 0).high
    (0.0, 1.0)
    >>> share(3.0000000000000004, 3).value
    1.0
    """
    if of <= 0:
        return Estimate(value=0.0, low=0.0, high=1.0, error=0.0, weight=0.0)
    value = min(1.0, max(0.0, count / of))  # sums of fractions may miss 0 and 1 by a rounding error
    middle = (value + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z / (1 + Z * Z / of) * math.sqrt(value * (1 - value) / of + Z * Z / (4 * of * of))
    error = math.sqrt(value * (1 - value) / of)
    return Estimate(value=value, low=max(0.0, middle - half), high=min(1.0, middle + half), error=error, weight=of)


def estimate(name: str, value: float, error: float, weight: float) -> Estimate:
    """Return a metric with the interval that the normal distribution gives, within the range of the metric.

    >>> found = estimate("auc", 0.99, 0.01, 100.0)
    >>> round(found.low, 4), found.high
    (0.9704, 1.0)
    """
    low, high = _RANGES.get(name, (0.0, math.inf))
    return Estimate(
        value=value, low=max(low, value - Z * error), high=min(high, value + Z * error), error=error, weight=weight
    )


def change(name: str, before: Estimate, after: Estimate) -> float | None:
    """Return by how much a metric changed, or None if the change may be chance.

    The two estimates are held against each other by the z-test at 5%, as for independent rows. The error of a share is
    taken from its interval, because the standard error of a share of 0 or 1 is 0. Fewer than `_FEW` rows prove nothing:
    the standard error of a single row is 0, too.

    >>> before, after = estimate("auc", 0.8, 0.01, 1.0), estimate("auc", 0.7, 0.01, 1.0)
    >>> round(change("auc", before, after), 2), change("auc", before, before)
    (-0.1, None)
    """
    if name not in _OTHER_WEIGHTS and min(before.weight, after.weight) < _FEW:
        return None
    difference = after.value - before.value
    error = math.hypot(*(max(item.error, (item.high - item.low) / (2 * Z)) for item in (before, after)))
    return difference if abs(difference) > Z * error and difference else None


def is_worse(name: str, difference: float) -> bool:
    """Return whether a change of a metric is for the worse.

    >>> is_worse("auc", -0.1), is_worse("rmse", -0.1)
    (True, False)
    """
    return (difference < 0) == HIGHER_IS_BETTER[name]
