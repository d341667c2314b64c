"""What two methods of an estimator have in common, computed once.

`predict` of a forest asks its own `predict_proba` and takes the largest; both of a linear model begin with its decision
function. Called one after the other, all of it is done twice. Here the estimator's own methods are called as ever, but
for the time of one batch what they ask of themselves is remembered: whatever they make of it, they make the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import Pipeline

_ASKED: dict[type, str] = {
    RandomForestClassifier: "predict_proba",
    ExtraTreesClassifier: "predict_proba",
    HistGradientBoostingClassifier: "_raw_predict",
    LogisticRegression: "decision_function",
    SGDClassifier: "decision_function",
}
"""Method of its own that both `predict` and `predict_proba` of an estimator begin with. Where another version of
scikit-learn begins otherwise, nothing is saved and nothing is wrong."""


def last_step(model: Any, x: Any) -> tuple[Any, Any]:
    """Run all steps of a pipeline but the last; returns that, and what it takes.

    Each method of a pipeline does so before it calls the same method of its last step.

    Parameters
    ----------
    x : DataFrame or ndarray, shape (n_rows, n_features)

    Returns
    -------
    estimator, x : Any
        As they were where the model is no pipeline.
    """
    while type(model) is Pipeline and _is_estimator(model.steps[-1][1]):
        for _, step in model.steps[:-1]:
            if _is_estimator(step):
                x = step.transform(x)
        model = model.steps[-1][1]
    return model, x


@contextlib.contextmanager
def computed_once(model: Any, x: Any) -> Iterator[None]:
    """Have the estimator remember, while the block runs, what its methods ask of it about `x`. Not thread-safe."""
    name = _ASKED.get(type(model))
    if name is None:
        yield
        return
    ask = getattr(model, name)
    answers: list[Any] = []

    def remembered(asked: Any, *arguments: Any, **options: Any) -> Any:
        if asked is not x or arguments or options:
            return ask(asked, *arguments, **options)
        if not answers:
            answers.append(ask(x))
        return np.copy(answers[0]) if isinstance(answers[0], np.ndarray) else answers[0]  # softmax works in place

    vars(model)[name] = remembered
    try:
        yield
    finally:
        del vars(model)[name]


def _is_estimator(step: Any) -> bool:
    return step is not None and not isinstance(step, str)
