"""Metrics of a model on rows whose target is known, computed by scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

CALIBRATION_BINS = 10
"""Number of bins of equal width in a calibration table."""


def classifier_metrics(target: Any, predicted: Any, proba: Any, classes: Sequence[Any]) -> dict[str, Any]:
    """Return the metrics of a classifier.

    Parameters
    ----------
    target, predicted : ndarray of int, shape (n_rows,)
        The true and the predicted class of each row, as positions in `classes`. There must be at least one row.
    proba : ndarray of float64, shape (n_rows, n_classes), or None
        The probability of each class; None if the model gives none.
    classes : sequence
        The classes of the model, two or more. With two classes, the second one is the positive class.

    Returns
    -------
    dict
        ``accuracy``, and with probabilities ``auc`` (one-vs-rest and unweighted with more than two classes),
        ``log_loss``, ``brier`` and ``calibration``. A metric that is not defined for the rows is left out.

    Examples
    --------
    >>> found = classifier_metrics(
    ...     np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), ["no", "yes"]
    ... )
    >>> round(found["accuracy"], 3), found["auc"], round(found["brier"], 3)
    (0.667, 1.0, 0.137)
    """
    labels = np.arange(len(classes))
    found: dict[str, Any] = {"accuracy": float(accuracy_score(target, predicted))}
    if proba is None or len(labels) < 2:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # probabilities that do not sum to 1 exactly, classes without a row
        if len(labels) == 2:
            if len(np.unique(target)) == 2:
                found["auc"] = float(roc_auc_score(target, proba[:, 1]))
        elif len(np.unique(target)) == len(labels):
            found["auc"] = float(roc_auc_score(target, proba, multi_class="ovr", labels=labels))
        found["log_loss"] = float(log_loss(target, proba, labels=labels))
        found["brier"] = float(
            brier_score_loss(target, proba[:, 1], pos_label=1)
            if len(labels) == 2
            else brier_score_loss(target, proba, labels=labels)
        )
        found["calibration"] = _calibration(target, proba)
    return {name: value for name, value in found.items() if not isinstance(value, float) or math.isfinite(value)}


def regressor_metrics(target: Any, predicted: Any) -> dict[str, Any]:
    """Return the metrics of a regressor: ``r2``, if it is defined, and ``mae``.

    Parameters
    ----------
    target, predicted : ndarray of float64, shape (n_rows,)
        The true and the predicted values, all of them finite. There must be at least one row.
    """
    found = {"mae": float(mean_absolute_error(target, predicted))}
    if len(target) > 1:
        found["r2"] = float(r2_score(target, predicted))
    return {name: value for name, value in sorted(found.items(), reverse=True) if math.isfinite(value)}


def _calibration(target: Any, proba: Any) -> list[Mapping[str, float]]:
    """Return how often the predicted probabilities come true, by bins of equal width. Empty bins are left out.

    With two classes, the probability is that of the positive class. With more, it is that of the most probable class,
    which comes true if the prediction is right.
    """
    if proba.shape[1] == 2:
        shares, came_true = proba[:, 1], target == 1
    else:
        shares, came_true = proba.max(axis=1), target == proba.argmax(axis=1)
    shares = np.clip(shares, 0.0, 1.0)
    observed, mean = calibration_curve(came_true, shares, n_bins=CALIBRATION_BINS, strategy="uniform")
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    places = np.searchsorted(edges[1:-1], shares)  # as calibration_curve does
    counts = np.bincount(places, minlength=CALIBRATION_BINS)
    return [
        {
            "from": round(float(edges[place]), 6),
            "to": round(float(edges[place + 1]), 6),
            "rows": int(counts[place]),
            "predicted": float(mean[number]),
            "observed": float(observed[number]),
        }
        for number, place in enumerate(np.flatnonzero(counts))
    ]
