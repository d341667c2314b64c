"""Avoids repeating a computation that two methods of an estimator share.

For example, `predict` of a forest calls `predict_proba`, and both methods of a linear model call `decision_function`.
If `predict` and `predict_proba` are called one after the other, the shared method runs twice. This module caches the
result of the shared method for one batch. The estimator's own methods are still called, so that the results do not
change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.pipeline import Pipeline

from scoreline.storage.models.compiled.replacing import replaced

_SHARED_METHODS: dict[type, str] = {
    RandomForestClassifier: "predict_proba",
    ExtraTreesClassifier: "predict_proba",
    GradientBoostingClassifier: "decision_function",
    HistGradientBoostingClassifier: "_raw_predict",
    BaggingClassifier: "predict_proba",
    CalibratedClassifierCV: "predict_proba",
    VotingClassifier: "predict_proba",
    AdaBoostClassifier: "decision_function",
    StackingClassifier: "transform",
    GaussianNB: "_joint_log_likelihood",
    MultinomialNB: "_joint_log_likelihood",
    ComplementNB: "_joint_log_likelihood",
    BernoulliNB: "_joint_log_likelihood",
    LogisticRegression: "decision_function",
    SGDClassifier: "decision_function",
}
"""The method that both `predict` and `predict_proba` of an estimator call first. If another version of scikit-learn
calls a different method, no time is saved, but the results stay correct."""
_SEARCHES = (GridSearchCV, RandomizedSearchCV)


def last_step(model: Any, x: Any) -> tuple[Any, Any]:
    """Run all steps of a pipeline except the last, and return the last step and its input.

    A search passes its input on to the best estimator that it found, which stands for the search.

    Parameters
    ----------
    model : Any
        An estimator, which may be a pipeline or a search.
    x : DataFrame or ndarray, shape (n_rows, n_features)
        The features of the model.

    Returns
    -------
    estimator, x : Any
        The last step and its input. If the model is neither, the arguments are returned unchanged.
    """
    while True:
        if type(model) in _SEARCHES and hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif type(model) is Pipeline and _is_estimator(model.steps[-1][1]):
            for _, step in model.steps[:-1]:
                if _is_estimator(step):
                    x = step.transform(x)
            model = model.steps[-1][1]
        else:
            return model, x


@contextlib.contextmanager
def computed_once(model: Any, x: Any) -> Iterator[None]:
    """Within the block, cache what the shared method of an estimator returns for `x`.

    Some methods convert `x` before they call the shared method. The result is therefore also used for an array with the
    same content. This context manager is not thread-safe.
    """
    name = _SHARED_METHODS.get(type(model))
    compute = getattr(model, name, None) if name is not None else None
    if name is None or compute is None:
        yield
        return
    cache: list[tuple[Any, Any, Any]] = []

    def cached(argument: Any, *arguments: Any, **options: Any) -> Any:
        asked = (arguments, options)
        for known, known_asked, result in cache:
            if asked == known_asked and _is_same(argument, known):
                return _copy(result)
        result = compute(argument, *arguments, **options)
        if not cache and (argument is x or isinstance(argument, np.ndarray)):
            cache.append((argument, asked, result))
            return _copy(result)
        return result

    with replaced(model, {name: cached}):
        yield


def _is_same(x: Any, other: Any) -> bool:
    """Return whether two inputs are the same object, or arrays of equal numbers in the same layout."""
    if x is other:
        return True
    return (
        type(x) is type(other) is np.ndarray
        and x.dtype == other.dtype
        and x.dtype.kind in "iuf"
        and x.shape == other.shape
        and x.strides == other.strides
        and np.array_equal(x, other, equal_nan=x.dtype.kind == "f")
    )


def _copy(result: Any) -> Any:
    return np.copy(result, order="K") if isinstance(result, np.ndarray) else result  # softmax works in place


def _is_estimator(step: Any) -> bool:
    return step is not None and not isinstance(step, str)
