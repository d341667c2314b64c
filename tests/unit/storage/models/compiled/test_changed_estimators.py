"""An estimator that is changed after it was compiled has the results of scikit-learn, within a batch and after it."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

pytest.importorskip("scoreline.storage.models.compiled._walk", reason="there was no compiler to build the extension")

from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators, Uses
from scoreline.storage.models.compiled.extension import compile_estimators

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(120, 4))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
OTHER_X, OTHER_Y = X[::-1] * 3 + 1, (X[::-1, 2] > 0).astype(int)
TEXTS = ["new york city", "york is a city", "a city of words", "new words"] * 30
OTHER_TEXTS = ["york new york", "words of texts", "other texts", "no city"] * 30
SEED = {"random_state": 0}
FEW = {"random_state": 0, "n_estimators": 5}

NUMERIC: dict[str, Any] = {
    "forest": RandomForestClassifier(**FEW),
    "regression forest": ExtraTreesRegressor(**FEW),
    "boosting": GradientBoostingClassifier(**FEW),
    "histograms": HistGradientBoostingClassifier(max_iter=5, **SEED),
    "isolation forest": IsolationForest(**FEW),
    "tree": DecisionTreeClassifier(max_depth=3, **SEED),
    "regression tree": DecisionTreeRegressor(max_depth=3, **SEED),
    "bagging": BaggingClassifier(**FEW),
    "AdaBoost": AdaBoostClassifier(DecisionTreeClassifier(max_depth=2), **FEW),
    "AdaBoost of numbers": AdaBoostRegressor(**FEW),
    "scaler": StandardScaler(),
    "range": MinMaxScaler(),
}
TEXTUAL: dict[str, Any] = {
    "counts": CountVectorizer(stop_words=["is", "of"]),
    "weights": TfidfVectorizer(),
    "hashes": HashingVectorizer(n_features=16, stop_words=["is", "of"]),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let scikit-learn use one thread, as a worker does."""
    with threadpool_limits(1):
        yield


def fitted(name: str) -> Any:
    if name in TEXTUAL:
        return clone(TEXTUAL[name]).fit(TEXTS)
    return clone(NUMERIC[name]).fit(X, Y)


def refit(model: Any) -> Any:
    if hasattr(model, "build_analyzer"):
        return model.fit(OTHER_TEXTS)
    return model.fit(OTHER_X, OTHER_Y)


def result(model: Any) -> tuple[Any, ...]:
    """Return the bytes of what a model computes."""
    x = TEXTS if hasattr(model, "build_analyzer") else X
    method = next(name for name in ("predict_proba", "score_samples", "predict", "transform") if hasattr(model, name))
    found = getattr(model, method)(x)
    arrays = [found.indptr, found.indices, found.data] if method == "transform" and x is TEXTS else [found]
    if hasattr(model, "predict"):
        arrays.append(model.predict(x))
    return tuple(array.tobytes() for array in arrays)


def compiled_of(model: Any) -> CompiledEstimators:
    compiled = compile_estimators([("model", model)])
    assert [one.reason for one in compiled.found] == [None]
    return compiled


def check_change(model: Any, change: Callable[[Any], Any], between_batches: bool) -> tuple[Any, Any]:
    """Change a compiled model, and compare it with scikit-learn. Return its results before and after the change."""
    compiled = compiled_of(model)
    with compiled.in_use() as used:
        before = result(model)
        assert used
        if not between_batches:
            change(model)
            uses = Uses()
            found = result(model)
            assert not uses
    if between_batches:
        change(model)
        with compiled.in_use() as used:
            found = result(model)
            assert not used
    assert found == result(model)
    with compiled.in_use() as used:
        assert result(model) == found
        assert not used
    return before, found


@pytest.mark.parametrize("between_batches", [False, True])
@pytest.mark.parametrize("name", [*NUMERIC, *(name for name in TEXTUAL if name != "hashes")])
def test_an_estimator_that_is_fitted_again_has_its_new_results(name: str, between_batches: bool) -> None:
    model = fitted(name)
    before, found = check_change(model, refit, between_batches)
    assert found == result(refit(clone(model)))
    assert found != before


def grow(model: Any) -> None:
    """Add trees to those that a model has, often in the same list."""
    name = "n_estimators" if hasattr(model, "n_estimators") else "max_iter"
    model.set_params(warm_start=True, **{name: 8}).fit(X, Y)


def grow_and_restore(model: Any) -> None:
    """Add trees, and give the model the parameters that it had before."""
    grow(model)
    model.set_params(warm_start=False, n_estimators=5)


def replace_tree(model: Any) -> None:
    model.estimators_[3] = model.estimators_[1]


def replace_stage(model: Any) -> None:
    model.estimators_[3, 0] = model.estimators_[1, 0]


def fit_one_tree(model: Any) -> None:
    tree = np.ravel(model.estimators_)[2]
    tree.fit(X, X[:, 3] if isinstance(tree, DecisionTreeRegressor) else OTHER_Y)


def multiply_weights(model: Any) -> None:
    model.estimator_weights_ *= [1, 2, 3, 4, 5]


def shift(model: Any) -> None:
    model.mean_ += 1


def init(model: Any) -> None:
    model.init_ = LogisticRegression().fit(X, Y)


CHANGES: list[tuple[str, Callable[[Any], Any]]] = [
    ("forest", grow),
    ("forest", grow_and_restore),
    ("forest", replace_tree),
    ("forest", fit_one_tree),
    ("forest", lambda model: model.estimators_.pop()),
    ("forest", lambda model: setattr(model, "estimators_", model.estimators_[:3])),
    ("forest", lambda model: setattr(model, "classes_", model.classes_[::-1])),
    ("forest", lambda model: model.set_params(warm_start=True)),
    ("regression forest", grow),
    ("boosting", grow),
    ("boosting", init),
    ("boosting", replace_stage),
    ("boosting", fit_one_tree),
    ("boosting", lambda model: model.set_params(learning_rate=0.5)),
    ("histograms", grow),
    ("histograms", lambda model: model._predictors.pop()),
    ("isolation forest", grow),
    ("isolation forest", grow_and_restore),
    ("tree", lambda model: setattr(model, "tree_", DecisionTreeClassifier(**SEED).fit(X, Y).tree_)),
    ("regression tree", lambda model: setattr(model, "tree_", DecisionTreeRegressor(**SEED).fit(X, X[:, 3]).tree_)),
    ("bagging", grow),
    ("bagging", replace_tree),
    ("AdaBoost", multiply_weights),
    ("AdaBoost of numbers", multiply_weights),
    ("scaler", shift),
    ("scaler", lambda model: model.partial_fit(OTHER_X)),
    ("range", lambda model: setattr(model, "feature_range", (0, 2))),
    ("counts", lambda model: setattr(model, "vocabulary_", {"york": 1, "city": 0})),
    ("counts", lambda model: model.stop_words.append("york")),
    ("counts", lambda model: model.set_params(binary=True, lowercase=False)),
    ("weights", lambda model: model.set_params(ngram_range=(2, 2))),
    ("hashes", lambda model: model.set_params(analyzer="char")),
    ("hashes", lambda model: model.stop_words.append("york")),
]


@pytest.mark.filterwarnings("ignore:Upper case characters found")
@pytest.mark.parametrize("between_batches", [False, True])
@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_an_estimator_of_which_a_part_is_changed_has_its_new_results(
    name: str, change: Callable[[Any], Any], between_batches: bool
) -> None:
    check_change(fitted(name), change, between_batches)


def test_a_tree_whose_labels_are_changed_has_the_new_labels() -> None:
    model = fitted("tree")
    with compiled_of(model).in_use():
        before = model.predict(X)
        model.classes_ = model.classes_[::-1]
        assert np.array_equal(model.predict(X), 1 - before)


@pytest.mark.parametrize("name", [*NUMERIC, *TEXTUAL])
def test_an_estimator_that_is_not_changed_is_used_again_and_after_a_fork(name: str) -> None:
    model = fitted(name)
    compiled = compiled_of(model)
    for _ in range(2):
        expected = result(model)
        with compiled.in_use() as used:
            assert result(model) == expected
            assert used
    child = os.fork()
    if not child:
        with compiled.in_use() as used:
            same = result(model) == expected
        os._exit(0 if same and used else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("between_batches", [False, True])
def test_a_method_that_the_user_sets_is_called_and_stays(between_batches: bool) -> None:
    model = fitted("forest")
    compiled = compiled_of(model)

    def own(x: Any) -> Any:
        return np.ones((len(x), 2))

    if between_batches:
        model.predict_proba = own
    with compiled.in_use() as used:
        model.predict_proba = own
        assert model.predict_proba(X).sum() == 2 * len(X)
        assert not used
    assert model.predict_proba is own
    (one,) = compile_estimators([("model", model)]).found
    assert one.reason == "its method predict_proba was replaced"


@pytest.mark.parametrize("name", [*NUMERIC, *(name for name in TEXTUAL if name != "hashes")])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_that_is_made_within_a_batch_and_fitted_has_its_own_results(
    name: str, copied: Callable[[Any], Any]
) -> None:
    model = fitted(name)
    expected = result(model)
    with compiled_of(model).in_use():
        other = copied(model)
        refit(other)
        found = result(other)
    assert found == result(other)
    assert result(model) == expected or copied is copy.copy  # a copy that is not deep has the same list of trees


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method))])
def test_a_method_that_is_copied_within_a_batch_is_that_of_scikit_learn(copied: Callable[[Any], Any]) -> None:
    model = fitted("forest")
    expected = model.predict_proba(X)
    with compiled_of(model).in_use():
        method = copied(model.predict_proba)
        uses = Uses()
        assert np.array_equal(method(X), expected)
        assert not uses
