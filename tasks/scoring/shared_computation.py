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
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import Pipeline

_SHARED_METHODS: dict[type, str] = {
    RandomForestClassifier: "predict_proba",
    ExtraTreesClassifier: "predict_proba",
    HistGradientBoostingClassifier: "_raw_predict",
    LogisticRegression: "decision_function",
    SGDClassifier: "decision_function",
}
"""The method that both `predict` and `predict_proba` of an estimator call first. If another version of scikit-learn
calls a different method, no time is saved, but the results stay correct."""


def last_step(model: Any, x: Any) -> tuple[Any, Any]:
    """Run all steps of a pipeline except the last, and return the last step and its input.

    Parameters
    ----------
    model : Any
        An estimator, which may be a pipeline.
    x : DataFrame or ndarray, shape (n_rows, n_features)
        The features of the model.

    Returns
    -------
    estimator, x : Any
        The last step and its input. If the model is not a pipeline, the arguments are returned unchanged.
    """
    while type(model) is Pipeline and _is_estimator(model.steps[-1][1]):
        for _, step in model.steps[:-1]:
            if _is_estimator(step):
                x = step.transform(x)
        model = model.steps[-1][1]
    return model, x


@contextlib.contextmanager
def computed_once(model: Any, x: Any) -> Iterator[None]:
    """Within the block, cache what the shared method of an estimator returns for `x`.

    This context manager is not thread-safe.
    """
    name = _SHARED_METHODS.get(type(model))
    if name is None:
        yield
        return
    compute = getattr(model, name)
    results: list[Any] = []

    def cached(argument: Any, *arguments: Any, **options: Any) -> Any:
        if argument is not x or arguments or options:
            return compute(argument, *arguments, **options)
        if not results:
            results.append(compute(x))
        return np.copy(results[0]) if isinstance(results[0], np.ndarray) else results[0]  # softmax works in place

    vars(model)[name] = cached
    try:
        yield
    finally:
        del vars(model)[name]


def _is_estimator(step: Any) -> bool:
    return step is not None and not isinstance(step, str)
