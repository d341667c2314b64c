"""Metrics of predictions on labels that arrived later, each with its standard error.

| metric | interval |
|---|---|
| accuracy, and what happened in a bin or decile | Wilson's score interval of a share |
| AUC of two classes | DeLong's variance (DeLong, DeLong, Clarke-Pearson 1988), with midranks (Sun, Xu 2014) |
| AUC of more classes | the mean over the classes, one against the rest; variance of the influence of each row |
| log loss, Brier, MAE | standard error of the mean over the rows |
| RMSE | from the standard error of the mean square, by the delta method |
| R2 | variance of the influence of each row (the delta method) |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scoreline.tasks.quality.outcomes.estimates import Estimate, Z, estimate, share
from scoreline.tasks.quality.outcomes.run_outcomes import DECILES, Bin

CALIBRATION_BINS = 10
"""Number of bins of equal width in a calibration table, as in the metrics of a baseline."""
_SMALLEST = float(np.finfo(np.float64).eps)
"""The smallest probability in a logarithm, as in scikit-learn."""
_LEAST_SPREAD = 1e-12
"""A variance that is a smaller share of the mean square is a rounding error: the target is constant."""


def auc_of_two(positive: Any, score: Any) -> Estimate | None:
    """Return the area under the ROC curve; None if a class has no row.

    Parameters
    ----------
    positive : ndarray of bool, shape (n_rows,)
    score : ndarray of float64, shape (n_rows,)

    Examples
    --------
    >>> found = auc_of_two(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
    >>> found.value, round(found.error, 4)
    (0.75, 0.3536)
    """
    placements = _placements(positive, score)
    if placements is None:
        return None
    of_positive, of_negative = placements
    pairs = float(len(of_positive)) * len(of_negative)
    value = float(of_positive.mean())
    if min(len(of_positive), len(of_negative)) < 2:
        return Estimate(value=value, low=0.0, high=1.0, error=0.5, weight=pairs)
    variance = of_positive.var(ddof=1) / len(of_positive) + of_negative.var(ddof=1) / len(of_negative)
    return _auc(value, math.sqrt(float(variance)), min(len(of_positive), len(of_negative)), pairs)


def auc_of_many(codes: Any, proba: Any) -> Estimate | None:
    """Return the unweighted mean of the areas of each class against the rest; None if a class has no row.

    Parameters
    ----------
    codes : ndarray of int, shape (n_rows,)
    proba : ndarray of float64, shape (n_rows, n_classes)
    """
    rows, classes = proba.shape
    value, influence, fewest = 0.0, np.zeros(rows), rows
    for number in range(classes):
        positive = codes == number
        placements = _placements(positive, proba[:, number])
        if placements is None:
            return None
        of_positive, of_negative = placements
        area = float(of_positive.mean())
        value += area / classes
        influence[positive] += (of_positive - area) / (len(of_positive) / rows) / classes
        influence[~positive] += (of_negative - area) / (len(of_negative) / rows) / classes
        fewest = min(fewest, len(of_positive), len(of_negative))
    return _auc(value, float(np.sqrt(np.mean(influence**2) / rows)), fewest, float(rows))


def _auc(value: float, error: float, fewest: int, weight: float) -> Estimate:
    if error > 0:
        return estimate("auc", value, error, weight)
    bounds = share(value * fewest, fewest)  # a perfect separation has no variance, but few rows prove little
    return Estimate(value=value, low=bounds.low, high=bounds.high, error=(bounds.high - bounds.low) / 4, weight=weight)


def _placements(positive: Any, score: Any) -> tuple[Any, Any] | None:
    """Return the share of negative rows below each positive row, and of positive rows above each negative row.

    Equal scores count half.
    """
    above, below = np.sort(score[positive]), np.sort(score[~positive])
    if not len(above) or not len(below):
        return None
    of_positive = (
        np.searchsorted(below, score[positive], "left") + np.searchsorted(below, score[positive], "right")
    ) / (2 * len(below))
    of_negative = 1 - (
        np.searchsorted(above, score[~positive], "left") + np.searchsorted(above, score[~positive], "right")
    ) / (2 * len(above))
    return of_positive, of_negative


def log_losses(codes: Any, proba: Any) -> Any:
    """Return the log loss of each row: ndarray of float64, shape (n_rows,)."""
    return -np.log(np.clip(proba[np.arange(len(codes)), codes], _SMALLEST, 1.0))


def brier_scores(codes: Any, proba: Any) -> Any:
    """Return the Brier score of each row, with two classes that of the positive class: ndarray of float64."""
    if proba.shape[1] == 2:
        return (proba[:, 1] - codes) ** 2
    came_true = np.zeros_like(proba)
    came_true[np.arange(len(codes)), codes] = 1.0
    return ((proba - came_true) ** 2).sum(axis=1)


def mean_of(name: str, count: float, total: float, squares: float) -> Estimate:
    """Return a mean with its standard error, from the sums of the values and of their squares.

    >>> found = mean_of("mae", 4, 10.0, 30.0)  # 1, 2, 3, 4
    >>> found.value, round(found.error, 4)
    (2.5, 0.6455)
    """
    mean = total / count
    variance = max(0.0, squares / count - mean * mean) * count / (count - 1) if count > 1 else 0.0
    return estimate(name, mean, math.sqrt(variance / count), count)


def deciles_of(score: Any, observed: Any, *, is_share: bool) -> tuple[Bin, ...]:
    """Return tenths of the rows, the highest scores first.

    Rows with equal scores are divided between two tenths in proportion, so that the tenths do not depend on the order
    of the rows.

    Parameters
    ----------
    score : ndarray of float64, shape (n_rows,)
        There must be at least one row.
    observed : ndarray of float64, shape (n_rows,)
        What happened: 1 or 0, or the target of a regressor.
    is_share : bool
        Whether `observed` is 1 or 0.

    Examples
    --------
    >>> found = deciles_of(np.arange(20.0), np.arange(20.0) > 16, is_share=True)
    >>> [item.observed for item in found][:3], found[0].predicted
    ([1.0, 0.5, 0.0], 18.5)
    """
    order = np.argsort(-score, kind="stable")
    score, observed = score[order], observed[order].astype(float)
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of each group of equal scores
    counts = np.append(0.0, last + 1.0)
    edges = np.linspace(0.0, len(score), DECILES + 1)

    def sums(values: Any) -> Any:
        return np.diff(np.interp(edges, counts, np.append(0.0, np.cumsum(values)[last])))

    rows = len(score) / DECILES
    found = []
    centre = float(observed.mean())
    for predicted, total, square in zip(sums(score), sums(observed), sums((observed - centre) ** 2), strict=True):
        mean = float(total) / rows
        if is_share:
            interval = share(float(total), rows)
            mean, low, high = interval.value, interval.low, interval.high
        else:
            variance = max(0.0, float(square) / rows - (mean - centre) ** 2)
            half = Z * math.sqrt(variance / rows)
            low, high = mean - half, mean + half
        found.append(Bin(rows=rows, predicted=float(predicted) / rows, observed=mean, low=low, high=high))
    return tuple(found)


def calibration_of(counts: Sequence[float], predicted: Sequence[float], came_true: Sequence[float]) -> tuple[Bin, ...]:
    """Return the calibration table from the sums of each bin. Empty bins are left out."""
    found = []
    for number, (rows, total, happened) in enumerate(zip(counts, predicted, came_true, strict=True)):
        if rows:
            interval = share(happened, rows)
            found.append(
                Bin(
                    rows=float(rows),
                    predicted=float(total) / rows,
                    observed=float(happened) / rows,
                    low=interval.low,
                    high=interval.high,
                    start=number / CALIBRATION_BINS,
                    stop=(number + 1) / CALIBRATION_BINS,
                )
            )
    return tuple(found)


def calibration_places(probability: Any) -> Any:
    """Return the bin of each probability, as scikit-learn's `calibration_curve` chooses it: ndarray of int64."""
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    return np.searchsorted(edges[1:-1], np.clip(probability, 0.0, 1.0))


def regression_of(moments: dict[str, float]) -> dict[str, Estimate]:
    """Return RMSE, MAE and R2 from sums over the rows.

    Parameters
    ----------
    moments : dict of str to float
        ``n``; sums of the absolute errors ``abs`` and of their powers ``e2`` and ``e4``; sums of the powers ``u1`` to
        ``u4`` of the target minus a constant near its mean; and ``e2u1``, ``e2u2``, sums of squared errors times those.
    """
    n = moments["n"]
    mean = {name: value / n for name, value in moments.items()}
    mse = mean["e2"]
    rmse = math.sqrt(mse)
    error_of_mse = mean_of("rmse", n, moments["e2"], moments["e4"]).error
    found = {
        "rmse": estimate("rmse", rmse, error_of_mse / (2 * rmse) if rmse else 0.0, n),
        "mae": mean_of("mae", n, moments["abs"], moments["e2"]),
    }
    m = mean["u1"]
    spread = mean["u2"] - m * m
    if n > 1 and spread > _LEAST_SPREAD * mean["u2"]:
        fourth = mean["u4"] - 4 * m * mean["u3"] + 6 * m * m * mean["u2"] - 3 * m**4
        with_errors = mean["e2u2"] - 2 * m * mean["e2u1"] + m * m * mse
        ratio = mse / spread
        # the influence of a row on mse / spread is (e2 - ratio * (y - mean)^2) / spread, whose mean is 0
        variance = (mean["e4"] - 2 * ratio * with_errors + ratio * ratio * fourth) / (spread * spread)
        found["r2"] = estimate("r2", 1 - ratio, math.sqrt(max(0.0, variance) / n), n * spread)
    return found
