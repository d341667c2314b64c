"""`predict` and `predict_proba` of one batch share the computation that both need."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.tasks.scoring.shared_computation import _SHARED_METHODS, computed_once
from tests.support.bundles import scored

RANDOM = np.random.default_rng(3)
X = RANDOM.random((90, 4))
Y = np.digitize(X[:, 0] + 0.2 * RANDOM.normal(size=90), [0.3, 0.7])
SOME = [("a", LogisticRegression()), ("b", GaussianNB())]
MODELS: list[Any] = [
    RandomForestClassifier(5),
    ExtraTreesClassifier(5),
    GradientBoostingClassifier(n_estimators=5),
    HistGradientBoostingClassifier(max_iter=5),
    BaggingClassifier(n_estimators=3),
    CalibratedClassifierCV(GaussianNB(), cv=2),
    VotingClassifier(SOME, voting="soft"),
    AdaBoostClassifier(n_estimators=3),
    StackingClassifier(SOME, cv=2),
    GaussianNB(),
    MultinomialNB(),
    ComplementNB(),
    BernoulliNB(),
    LogisticRegression(),
    SGDClassifier(loss="log_loss"),
]


def fitted(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, Y)


def counted(model: Any) -> list[int]:
    """Count the calls of the method that is shared, in the class and below what is replaced in the instance."""
    calls = [0]
    name = _SHARED_METHODS[type(model)]
    compute: Callable[..., Any] = getattr(model, name)

    def count(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        return compute(*arguments, **options)

    setattr(model, name, count)
    return calls


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_labels_and_probabilities_are_computed_once(model: Any, frame: bool) -> None:
    x = pd.DataFrame(X) if frame else X
    model = fitted(model)
    expected = model.predict(x), model.predict_proba(x)
    calls = counted(model)
    own = vars(model)[_SHARED_METHODS[type(model)]]
    with computed_once(model, x):
        found = model.predict(x), model.predict_proba(x)
        assert calls == [1]
        again = model.predict_proba(x[:50])  # other rows are computed anew
    assert calls == [2]
    for got, wanted in zip((*found, again), (*expected, expected[1][:50]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    # And the attribute that the estimator had before is in its place
    assert vars(model)[_SHARED_METHODS[type(model)]] is own


@pytest.mark.parametrize("search", [GridSearchCV, RandomizedSearchCV])
def test_the_steps_of_the_best_estimator_of_a_search_run_once(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    transform, predict_proba = StandardScaler.transform, RandomForestClassifier.predict_proba

    def counted_transform(self: StandardScaler, *arguments: Any, **options: Any) -> Any:
        calls["transform"] += 1
        return transform(self, *arguments, **options)

    def counted_proba(self: RandomForestClassifier, x: Any) -> Any:
        calls["predict_proba"] += 1
        return predict_proba(self, x)

    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0))
    options = {"n_iter": 1} if search is RandomizedSearchCV else {}
    model = fitted(search(pipeline, {"randomforestclassifier__max_depth": [3]}, cv=2, **options))
    monkeypatch.setattr(StandardScaler, "transform", counted_transform)
    monkeypatch.setattr(RandomForestClassifier, "predict_proba", counted_proba)
    table = scored(model, **{f"x{number}": column for number, column in enumerate(X.T)}).table
    assert calls == {"transform": 1, "predict_proba": 1}
    np.testing.assert_array_equal(table["prediction"], model.predict(X))
    np.testing.assert_array_equal(np.column_stack(table.columns[1:]), model.predict_proba(X))


def test_every_shared_method_is_tried() -> None:
    assert {type(model) for model in MODELS} == _SHARED_METHODS.keys()


def test_compiled_trees_are_still_in_use_after_a_shared_computation() -> None:
    model = fitted(RandomForestClassifier(5))
    compiled = compile_estimators([("model", model)])
    with compiled.in_use():
        before = dict(vars(model))
        with computed_once(model, X):
            model.predict(X)
        assert vars(model) == before
    assert "predict_proba" not in vars(model)
