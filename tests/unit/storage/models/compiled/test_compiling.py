"""Compiled ensembles give the results of scikit-learn to the last bit, or are not used."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import pickle
import re
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from billiard.exceptions import SoftTimeLimitExceeded
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
from sklearn.tree._tree import Tree
from threadpoolctl import threadpool_limits

pytest.importorskip("scoreline.storage.models.compiled._walk", reason="there was no compiler to build the extension")

from scoreline.storage.models.compiled import (
    _pack,
    _select,
    _single,
    _walk,
    extension,
    nodes,
    probes,
    single_trees,
    tree_ensembles,
    wholes,
)
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.compiled.nodes import PackedTrees
from scoreline.storage.models.compiled.probes import MAX_CELLS, MAX_FEATURES, probe_rows

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples")
OTHER_METHODS = ("staged_predict", "staged_predict_proba", "staged_decision_function", "apply", "decision_path")
N_FEATURES = 6
NAMES = "abcdef"
RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(300, N_FEATURES))
SIGNAL = X[:, 0] + X[:, 1] * X[:, 2] + RANDOM.normal(size=300)
TWO, THREE = (SIGNAL > 0).astype(int), np.digitize(SIGNAL, [-1, 1])
RANKS = np.argsort(SIGNAL) // 3
TENTHS = np.argsort(np.argsort(SIGNAL)) // 30
SEVERAL = np.stack([TWO, THREE], axis=1)
NUMBERS = np.stack([SIGNAL, -(SIGNAL**2)], axis=1)
GAPS = np.where(RANDOM.random(X.shape) < 0.1, np.nan, X)
MIXED = GAPS.copy()
MIXED[:, 0] = RANDOM.integers(0, 12, 300)
MIXED[:, 3] = RANDOM.integers(0, 100, 300)
WEIGHTS = RANDOM.random(300)
UP_AND_DOWN = [1, 0, 0, 0, 0, -1]
ONE = {"random_state": 0}
FEW = {"random_state": 0, "n_estimators": 12}
BOOSTED = {"random_state": 0, "max_iter": 12}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let scikit-learn use one thread, as a worker does."""
    with threadpool_limits(1):
        yield


class OwnInit(BaseEstimator):
    """An initial estimator that only knows the rows with which it was fitted."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> OwnInit:
        self.known_ = np.array(X)
        return self

    def predict(self, X: Any) -> Any:
        if self.error is not None and not np.array_equal(X, self.known_):
            raise self.error
        return np.zeros(len(X))


class OwnForest(RandomForestClassifier):
    """A subclass."""


def warm_started() -> RandomForestClassifier:
    model = RandomForestClassifier(warm_start=True, n_estimators=5, random_state=0).fit(X, TWO)
    return model.set_params(n_estimators=9).fit(X, TWO)


def bagging_with_a_tree_of_fewer_classes() -> BaggingClassifier:
    model = BaggingClassifier(**FEW).fit(X, THREE)
    model.estimators_[3] = DecisionTreeClassifier(**ONE).fit(X, TWO)
    return model


ENSEMBLES: dict[str, Callable[[], Any]] = {
    "decision tree": lambda: DecisionTreeClassifier(**ONE).fit(X, THREE),
    "decision tree, missing values": lambda: DecisionTreeClassifier(**ONE).fit(GAPS, THREE),
    "decision tree, outputs": lambda: DecisionTreeClassifier(**ONE).fit(X, SEVERAL),
    "decision tree, one leaf": lambda: DecisionTreeRegressor(**ONE).fit(X, np.ones(300)),
    "decision tree, values of -0.0": lambda: DecisionTreeRegressor(**ONE).fit(X, np.where(SIGNAL > 0, 1.0, -0.0)),
    "regression tree": lambda: DecisionTreeRegressor(**ONE).fit(X, NUMBERS),
    "extra tree": lambda: ExtraTreeClassifier(**ONE).fit(X, TWO),
    "extra regression tree": lambda: ExtraTreeRegressor(**ONE).fit(GAPS, SIGNAL),
    "forest": lambda: RandomForestClassifier(**FEW).fit(X, TWO, sample_weight=WEIGHTS),
    "forest, depth": lambda: RandomForestClassifier(max_depth=4, **FEW).fit(X, THREE),
    "forest, names": lambda: RandomForestClassifier(**FEW).fit(X, np.array(["a", "b", "c"])[THREE]),
    "forest, outputs": lambda: RandomForestClassifier(**FEW).fit(X, SEVERAL),
    "forest, missing values": lambda: RandomForestClassifier(**FEW).fit(GAPS, TWO),
    "forest, monotonic": lambda: RandomForestClassifier(monotonic_cst=UP_AND_DOWN, **FEW).fit(X, TWO),
    "forest, warm start": warm_started,
    "extra trees": lambda: ExtraTreesClassifier(**FEW).fit(GAPS, THREE),
    "large forest": lambda: RandomForestClassifier(**FEW).fit(X, RANKS),
    "regression forest": lambda: RandomForestRegressor(**FEW).fit(X, SIGNAL),
    "regression forest, outputs": lambda: RandomForestRegressor(**FEW).fit(GAPS, NUMBERS),
    "extra trees of numbers": lambda: ExtraTreesRegressor(**FEW).fit(X, SIGNAL),
    "gradient boosting": lambda: GradientBoostingClassifier(**FEW).fit(X, TWO),
    "gradient boosting, three": lambda: GradientBoostingClassifier(subsample=0.5, **FEW).fit(X, THREE),
    "gradient boosting, init": lambda: GradientBoostingClassifier(init=LogisticRegression(), **FEW).fit(X, TWO),
    "gradient boosting of numbers": lambda: GradientBoostingRegressor(loss="huber", **FEW).fit(X, SIGNAL),
    "histograms": lambda: HistGradientBoostingClassifier(**BOOSTED).fit(X, TWO),
    "histograms, three": lambda: HistGradientBoostingClassifier(early_stopping=True, **BOOSTED).fit(GAPS, THREE),
    "histograms, monotonic": lambda: HistGradientBoostingRegressor(monotonic_cst=UP_AND_DOWN, **BOOSTED).fit(
        GAPS, SIGNAL
    ),
    "histograms, categories": lambda: HistGradientBoostingClassifier(categorical_features=[0, 3], **BOOSTED).fit(
        MIXED, THREE
    ),
    "isolation forest": lambda: IsolationForest(**FEW).fit(X),
    "isolation forest, features": lambda: IsolationForest(max_features=3, **FEW).fit(X),
}
WITHIN: dict[str, tuple[int, Callable[[], Any]]] = {
    "pipeline": (2, lambda: make_pipeline(StandardScaler(), RandomForestClassifier(**FEW)).fit(X, TWO)),
    "calibrated": (3, lambda: CalibratedClassifierCV(RandomForestClassifier(**FEW), cv=3).fit(X, TWO)),
    "voting": (
        2,
        lambda: VotingClassifier(
            [("a", RandomForestClassifier(**FEW)), ("b", HistGradientBoostingClassifier(**BOOSTED))], voting="soft"
        ).fit(X, TWO),
    ),
    "stacking": (
        2,
        lambda: StackingClassifier([("a", RandomForestClassifier(**FEW))], ExtraTreesClassifier(**FEW), cv=2).fit(
            X, TWO
        ),
    ),
    "voting by labels": (
        2,
        lambda: VotingClassifier([("a", RandomForestClassifier(**FEW)), ("b", DecisionTreeClassifier(**ONE))]).fit(
            X, THREE
        ),
    ),
    "voting of numbers": (
        2,
        lambda: VotingRegressor(
            [("a", RandomForestRegressor(**FEW)), ("b", HistGradientBoostingRegressor(**BOOSTED))]
        ).fit(X, SIGNAL),
    ),
    "stacking of numbers": (
        2,
        lambda: StackingRegressor(
            [("a", GradientBoostingRegressor(**FEW))], HistGradientBoostingRegressor(**BOOSTED), cv=2
        ).fit(X, SIGNAL),
    ),
    "bagging": (1, lambda: BaggingClassifier(DecisionTreeClassifier(), n_estimators=6, **ONE).fit(X, TWO)),
    "bagging of some features": (1, lambda: BaggingRegressor(n_estimators=6, max_features=0.5, **ONE).fit(X, SIGNAL)),
    "bagging of extra trees": (1, lambda: BaggingClassifier(ExtraTreeClassifier(), **FEW).fit(GAPS, THREE)),
    "bagging of drawn features": (
        1,
        lambda: BaggingClassifier(max_features=4, bootstrap_features=True, **FEW).fit(GAPS, THREE),
    ),
    "bagging of outputs": (1, lambda: BaggingRegressor(n_estimators=6, **ONE).fit(X, NUMBERS)),
    "bagging of monotonic trees": (
        1,
        lambda: BaggingClassifier(DecisionTreeClassifier(monotonic_cst=UP_AND_DOWN), **FEW).fit(X, TWO),
    ),
    "bagging, names": (1, lambda: BaggingClassifier(**FEW).fit(pd.DataFrame(X, columns=list(NAMES)), TWO)),
    "bagging of forests": (3, lambda: BaggingClassifier(RandomForestClassifier(**FEW), 3, **ONE).fit(X, TWO)),
    "bagging, trees of fewer classes": (12, lambda: bagging_with_a_tree_of_fewer_classes()),
    "AdaBoost": (1, lambda: AdaBoostClassifier(DecisionTreeClassifier(max_depth=3), **FEW).fit(X, THREE)),
    "AdaBoost, ten classes": (1, lambda: AdaBoostClassifier(DecisionTreeClassifier(max_depth=3), **FEW).fit(X, TENTHS)),
    "AdaBoost, two": (1, lambda: AdaBoostClassifier(**FEW).fit(pd.DataFrame(X, columns=list(NAMES)), TWO)),
    "AdaBoost of numbers": (1, lambda: AdaBoostRegressor(**FEW).fit(X, SIGNAL)),
    "outputs": (2, lambda: MultiOutputClassifier(RandomForestClassifier(**FEW)).fit(X, SEVERAL)),
    "numbers": (2, lambda: MultiOutputRegressor(GradientBoostingRegressor(**FEW)).fit(X, NUMBERS)),
    "one against the rest": (3, lambda: OneVsRestClassifier(RandomForestClassifier(**FEW)).fit(X, THREE)),
    "search": (1, lambda: GridSearchCV(RandomForestClassifier(**FEW), {"max_depth": [3, 5]}, cv=2).fit(X, TWO)),
    "random search": (
        1,
        lambda: RandomizedSearchCV(
            HistGradientBoostingClassifier(**BOOSTED), {"max_depth": [3, 5]}, n_iter=1, cv=2, **ONE
        ).fit(GAPS, THREE),
    ),
    "transformed target": (1, lambda: TransformedTargetRegressor(RandomForestRegressor(**FEW)).fit(X, SIGNAL)),
}


def results(model: Any, x: Any) -> dict[str, Any]:
    """Return the result of each method as bytes, or its error."""
    found: dict[str, Any] = {}
    for method in METHODS:
        if (call := getattr(model, method, None)) is None:
            continue
        try:
            result = call(x)
        except ValueError as error:
            found[method] = str(error)
            continue
        arrays = result if isinstance(result, list) else [result]
        found[method] = [
            (array.dtype, array.shape, array.tolist() if array.dtype.kind == "U" else array.tobytes())
            for array in arrays
        ]
    return found


def tables(model: Any) -> Iterator[Any]:
    """Yield rows in each form that a job or an application may use."""
    random = np.random.default_rng(11)
    rows = random.normal(size=(211, N_FEATURES)) * random.choice([0.1, 1, 10], (211, 1))
    rows[:40] = random.permutation(MIXED)[:40]
    numbers = np.nan_to_num(rows)
    yield from (numbers, numbers.astype(np.float32), np.asfortranarray(numbers), numbers.astype(np.int64), numbers[:1])
    yield from (
        numbers[:0],
        pd.DataFrame(numbers),
        np.where(numbers > 2, 1e300, numbers),
        numbers * 1e-310,
        -0.0 * numbers,
    )
    yield from (rows, np.where(rows > 1, np.inf, rows), numbers[:, :3], np.where(rows > 0, np.nan, -1e30))
    compiled = compile_estimators([("model", model)])
    assert compiled
    for thresholds in thresholds_of(model):
        yield random.choice(thresholds, (333, N_FEATURES)).astype(np.float32)
        yield random.choice(thresholds, (333, N_FEATURES))


def thresholds_of(model: Any) -> Iterator[np.ndarray]:
    if tree_ensembles.is_tree_ensemble(model) and not isinstance(model, BaggingClassifier):
        trees = tree_ensembles.compile_ensemble(model).trees
        yield np.concatenate([tree.threshold[tree.left >= 0] for tree in trees] + [np.zeros(1)])


def test_the_medians_of_ada_boost_are_the_same_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AdaBoostRegressor(**FEW).fit(X, SIGNAL)
    expected = model.predict(X)
    monkeypatch.setattr(wholes, "_PREDICTIONS_BYTES", 8 * 7 * len(model.estimators_))  # 7 rows at a time
    compiled = compile_estimators([("model", model)])
    assert compiled.summary() == "1 of 1 tree ensembles compiled"
    with compiled.in_use():
        assert model.predict(X).tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("most_leaves", [64, 0], ids=["small", "walked"])
@pytest.mark.parametrize("name", ENSEMBLES)
def test_each_method_returns_the_bits_of_scikit_learn(
    name: str, most_leaves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "MAX_LEAVES", most_leaves)
    model = ENSEMBLES[name]()
    compiled = compile_estimators([("model", model)])
    assert [one.reason for one in compiled.found] == [None]
    before = dict(vars(model))
    for x in tables(model):
        expected = results(model, x)
        with compiled.in_use():
            assert results(model, x) == expected
    assert vars(model) == before


def outcomes(model: Any, x: Any) -> dict[str, list[np.ndarray]]:
    """Return the results of the methods that walk through the trees in another way, for example stage by stage."""
    found = {}
    for method in OTHER_METHODS:
        if (call := getattr(model, method, None)) is None:
            continue
        result = call(x)
        if method.startswith("staged"):
            found[method] = [array for stage in result for array in (stage if isinstance(stage, list) else [stage])]
        elif method == "decision_path":
            path = result[0] if isinstance(result, tuple) else result
            found[method] = [path.indptr, path.indices, path.data]
        else:
            found[method] = [result]
    return found


def made(name: str) -> Any:
    return ENSEMBLES[name]() if name in ENSEMBLES else WITHIN[name][1]()


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("gradient boosting", {"staged_predict", "staged_predict_proba", "staged_decision_function", "apply"}),
        ("gradient boosting, three", {"staged_predict", "staged_predict_proba", "staged_decision_function", "apply"}),
        ("gradient boosting, init", {"staged_predict", "staged_predict_proba", "staged_decision_function", "apply"}),
        ("gradient boosting of numbers", {"staged_predict", "apply"}),
        ("histograms", {"staged_predict", "staged_predict_proba", "staged_decision_function"}),
        ("histograms, categories", {"staged_predict", "staged_predict_proba", "staged_decision_function"}),
        ("histograms, monotonic", {"staged_predict"}),
        ("AdaBoost", {"staged_predict", "staged_predict_proba", "staged_decision_function"}),
        ("decision tree", {"apply", "decision_path"}),
        ("extra regression tree", {"apply", "decision_path"}),
        ("forest", {"apply", "decision_path"}),
        ("regression forest", {"apply", "decision_path"}),
    ],
)
def test_methods_that_are_not_compiled_have_the_results_of_scikit_learn(name: str, methods: set[str]) -> None:
    model = made(name)
    compiled = compile_estimators([("model", model)])
    assert compiled
    x = MIXED if name == "histograms, categories" else X
    expected = outcomes(model, x)
    assert expected.keys() == methods
    with compiled.in_use():
        found = outcomes(model, x)
    assert found.keys() == methods
    for method in methods:
        assert len(found[method]) == len(expected[method]) > 0
        for one, other in zip(found[method], expected[method], strict=True):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize(("category", "walks"), [(254.0, 1), (255.0, 0), (300.0, 0), (1e6, 0)])
def test_categories_for_which_a_split_has_no_bit_are_left_to_scikit_learn(
    category: float, walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_to(self: PackedTrees, sums: np.ndarray, x: Any, **options: Any) -> None:
        walked.append(len(x))
        walk(self, sums, x, **options)

    # Given encoded rows with a number that scikit-learn's encoding does not give today
    model = ENSEMBLES["histograms, categories"]()
    compiled = compile_estimators([("model", model)])
    walked: list[int] = []
    walk = PackedTrees.add_to
    monkeypatch.setattr(PackedTrees, "add_to", add_to)
    (place,) = np.flatnonzero(model._bin_mapper.is_categorical_)[:1]
    x = np.nan_to_num(X)
    x[5, place] = category
    expected, found = np.zeros((len(x), 3), order="F"), np.zeros((len(x), 3), order="F")
    model._predict_iterations(x, model._predictors, expected, False, 1)
    with compiled.in_use():
        model._predict_iterations(x, model._predictors, found, False, 1)
    assert len(walked) == walks
    assert found.tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WITHIN)
def test_ensembles_within_other_estimators_are_compiled(name: str) -> None:
    number, make = WITHIN[name]
    model = make()
    compiled = compile_estimators([("model", model)])
    assert [one.reason for one in compiled.found if "different classes" not in str(one.reason)] == [None] * number
    for x in tables(model):
        expected = results(model, x)
        with compiled.in_use():
            assert results(model, x) == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bagging", "bagging of some features", "AdaBoost", "AdaBoost of numbers"])
def test_ensembles_of_trees_are_as_a_whole_what_they_are_tree_by_tree(name: str) -> None:
    model = made(name)
    compiled = compile_estimators([("model", model)])
    (methods,) = [one.methods for one in compiled.replacements]
    assert set(methods) <= {"predict_proba", "predict", "decision_function", "_get_median_predict"}
    # Given rows that scikit-learn reads in another way, or refuses in one of the trees
    objects = X.astype(object)
    huge = np.where(X > 2, 1e300, X)
    for x in (objects, huge, scipy.sparse.csr_array(X), X.tolist(), X.astype(np.float16), X > 0, X[:, :3], X[0]):
        expected = outcome_of(model, x)
        with compiled.in_use():
            assert outcome_of(model, x) == expected
    model.n_jobs = 2
    with parallel_config("threading"):  # importing scikit-learn in two more processes takes four seconds of CPU time
        expected = outcome_of(model, X)
        with compiled.in_use():
            assert outcome_of(model, X) == expected


def outcome_of(model: Any, x: Any) -> tuple[Any, list[str]]:
    """Return the result of `predict` and `predict_proba`, or their error, and the warnings."""
    found: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for method in ("predict", "predict_proba"):
            try:
                result = getattr(model, method)(x)
                found.append((result.dtype, result.shape, result.strides, result.tobytes()))
            except (ValueError, TypeError, AttributeError) as error:
                found.append(str(error))
    return found, [str(one.message) for one in caught]


@pytest.mark.parametrize(
    ("model", "places"),
    [
        (SelectFromModel(RandomForestClassifier(**FEW)).fit(X, TWO), []),
        (SelectFromModel(RandomForestClassifier(**FEW).fit(X, TWO), prefit=True).fit(X, TWO), []),
        (AdaBoostClassifier(RandomForestClassifier(**FEW).fit(X, TWO), n_estimators=2).fit(X, TWO), ["estimators_"]),
        (
            CalibratedClassifierCV(RandomForestClassifier(**FEW).fit(X, TWO), cv=2).fit(X, TWO),
            ["calibrated_classifiers_"],
        ),
        (VotingClassifier([("a", RandomForestClassifier(**FEW).fit(X, TWO))]).fit(X, TWO), ["named_estimators_"]),
        (
            GridSearchCV(RandomForestClassifier(**FEW).fit(X, TWO), {"max_depth": [2]}, cv=2).fit(X, TWO),
            ["best_estimator_"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_estimators_that_score_no_rows_are_not_compiled(model: Any, places: list[str]) -> None:
    found = compile_estimators([("model", model)]).found
    assert sorted({one.place.split(".")[1].split("[")[0] for one in found}) == places


def sparse_table(x: np.ndarray) -> pd.DataFrame:
    """Return a table whose columns are all sparse, which scikit-learn takes for a sparse matrix."""
    return pd.DataFrame(
        {name: pd.arrays.SparseArray(column, fill_value=0.0) for name, column in zip(NAMES, x.T, strict=True)}
    )


@pytest.mark.parametrize("name", ["forest", "regression forest", "extra trees"])
@pytest.mark.parametrize("sparse", [scipy.sparse.csr_matrix, sparse_table])
def test_sparse_rows_cause_each_warning_once(name: str, sparse: Callable[[Any], Any]) -> None:
    # Given sparse rows without names for a forest that was fitted with names, or the other way round
    rows = sparse(np.where(X > 1, X, 0.0))
    x = X if isinstance(rows, pd.DataFrame) else pd.DataFrame(X, columns=list(NAMES))
    model = clone(ENSEMBLES[name]()).fit(x, TWO)
    compiled = compile_estimators([("model", model)])
    assert compiled
    method = "predict" if name == "regression forest" else "predict_proba"
    with warnings.catch_warnings(record=True) as own:
        warnings.simplefilter("always")
        expected = getattr(model, method)(rows)
    with compiled.in_use(), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert getattr(model, method)(rows).tobytes() == expected.tobytes()
    assert len(own) == 1
    assert "feature names" in str(own[0].message)
    assert [str(one.message) for one in found] == [str(one.message) for one in own]


@pytest.mark.parametrize("failing", [False, True])
def test_a_tree_that_another_ensemble_owns_is_not_replaced_on_its_own(failing: bool) -> None:
    # Given a gradient boosting that is compiled or not. Other objects of the bundle refer to some of its trees, too
    init = OwnInit(KeyError("lost") if failing else None)
    model = GradientBoostingRegressor(init=init, **FEW).fit(X, SIGNAL)
    models = [("tree", model.estimators_[3, 0]), ("model", model), ("trees", list(model.estimators_[:5, 0]))]
    compiled = compile_estimators(models)
    assert [(one.place, one.reason is None) for one in compiled.found] == [("model", not failing)]
    # Then the stages, for which scikit-learn itself walks through the trees, have the same results
    expected = [stage.tobytes() for stage in model.staged_predict(X)], model.apply(X).tobytes()
    with compiled.in_use():
        assert ([stage.tobytes() for stage in model.staged_predict(X)], model.apply(X).tobytes()) == expected


def test_fitted_estimators_of_which_copies_are_fitted_are_not_compiled() -> None:
    # Given ensembles that are fitted already, but given to others as templates
    tree, numbers = DecisionTreeClassifier(**ONE).fit(X, TWO), DecisionTreeRegressor(**ONE).fit(X, SIGNAL)
    stacked = StackingClassifier([("a", tree)], final_estimator=tree, cv=2).fit(X, TWO)
    transformed = TransformedTargetRegressor(numbers).fit(X, SIGNAL)
    # Then only the copies, which score rows, are compiled
    for model, places in (
        (stacked, ["model.final_estimator_", "model.named_estimators_['a']"]),
        (transformed, ["model.regressor_"]),
    ):
        assert sorted(one.place for one in compile_estimators([("model", model)]).found) == places


def test_what_is_not_known_is_left_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = RandomForestClassifier(**FEW)
    # A subclass, a template that is not fitted, and ensembles in objects of other packages are not looked at
    held = type("Own", (), {})()
    held.forest = clone(forest).fit(X, TWO)
    for model in (OwnForest(**FEW).fit(X, TWO), forest, held):
        assert compile_estimators([("model", model)]) == CompiledEstimators()
    # A forest with trees of a subclass, and a forest of another version of scikit-learn, are not compiled
    own = clone(forest).fit(X, TWO)
    own.estimators_[3].__class__ = type("OwnTree", (DecisionTreeClassifier,), {})
    assert (
        compile_estimators([("model", own)]).summary().endswith("because a OwnTree is not one of scikit-learn's trees")
    )
    monkeypatch.setattr(sklearn, "__version__", "1.10.0")
    assert (
        "because the internals of scikit-learn 1.10.0 are not known"
        in compile_estimators([("model", forest.fit(X, TWO))]).summary()
    )


@pytest.mark.parametrize("name", ["forest", "gradient boosting", "histograms", "isolation forest"])
def test_an_ensemble_that_differs_in_one_bit_is_not_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_to(self: PackedTrees, sums: np.ndarray, x: Any, **options: Any) -> None:
        right(self, sums, x, **options)
        sums[-1, 0] = np.nextafter(sums[-1, 0], np.inf)

    right = PackedTrees.add_to
    monkeypatch.setattr(PackedTrees, "add_to", add_to)
    compiled = compile_estimators([("model", ENSEMBLES[name]())])
    assert not compiled
    assert "because its results for rows with numbers differ from those of scikit-learn" in compiled.summary()


@pytest.mark.parametrize(
    "error", [KeyError("lost"), AssertionError("first line\nsecond line"), MemoryError("no memory")]
)
def test_an_ensemble_that_fails_on_the_rows_of_the_comparison_is_not_compiled(error: Exception) -> None:
    model = GradientBoostingRegressor(init=OwnInit(error), **FEW).fit(X, SIGNAL)
    compiled = compile_estimators([("failing", model), ("other", ENSEMBLES["forest"]())])
    reason = f"comparing failed ({type(error).__name__}: {str(error).splitlines()[0]})"
    assert [one.reason for one in compiled.found] == [reason, None]
    expected = results(model, X)
    with compiled.in_use():
        assert results(model, X) == expected


def test_a_time_limit_that_strikes_while_comparing_ends_the_task() -> None:
    model = GradientBoostingRegressor(init=OwnInit(SoftTimeLimitExceeded()), **FEW).fit(X, SIGNAL)
    with pytest.raises(SoftTimeLimitExceeded):
        compile_estimators([("model", model)])


def test_an_ensemble_that_cannot_say_whether_it_is_fitted_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: RandomForestClassifier) -> bool:
        raise RuntimeError("unknown")

    model = ENSEMBLES["forest"]()
    monkeypatch.setattr(RandomForestClassifier, "__sklearn_is_fitted__", fails, raising=False)
    (one,) = compile_estimators([("model", model)]).found
    assert one.reason == "comparing failed (RuntimeError: unknown)"


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (_walk, "add_leaves", "large forest"),
        (_select, "add_small", "gradient boosting"),
        (_single, "find_leaves", "decision tree"),
    ],
    ids=["walk", "select", "single"],
)
def test_a_failing_walk_is_slow_and_not_fatal(
    module: Any, function: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(*arguments: Any) -> None:
        raise TypeError("takes exactly 13 positional arguments (14 given)")

    monkeypatch.setattr(module, function, older)
    (one,) = compile_estimators([("model", ENSEMBLES[name]())]).found
    assert one.reason == "comparing failed (TypeError: takes exactly 13 positional arguments (14 given))"


def test_changed_parameters_or_layouts_have_another_version() -> None:
    """If this test fails, increase VERSION in `extension` and in the sources, and write the new values here.

    Otherwise, extensions that were built before the change would be called in the new way, and refuse rows.
    """
    folder = Path(extension.__file__).parent
    declared = "".join(
        re.sub(r"\s*#.*", "", found)
        for name in ("_pack.pyx", "_select.pyx", "_single.pyx", "_walk.pyx")
        for found in re.findall(
            r"^(?:def|cdef struct) .*\n(?: {4}[^\n\"]*\n|\).*\n)*", (folder / name).read_text(), re.M
        )
    )
    assert declared.count("def add_") == 2
    assert (extension.VERSION, hashlib.sha256(declared.encode()).hexdigest()[:16]) == (7, "3a51ed40402f1364")


@pytest.mark.parametrize("version", [None, 0])
@pytest.mark.parametrize("module", [_pack, _walk, _select, _single], ids=["pack", "walk", "select", "single"])
def test_an_extension_of_another_version_is_not_used(
    module: Any, version: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extension.is_available()
    if version is None:
        monkeypatch.delattr(module, "VERSION")
    else:
        monkeypatch.setattr(module, "VERSION", version)
    assert not extension.is_available()
    assert compile_estimators([("model", ENSEMBLES["forest"]())]) == CompiledEstimators()


DAMAGES = [
    ("left_child", 0, "the children of its nodes do not form a tree"),
    ("left_child", 1 << 40, "the children of its nodes do not form a tree"),
    ("left_child", -2, "the children of its nodes do not form a tree"),
    ("right_child", -5, "the children of its nodes do not form a tree"),
    ("feature", N_FEATURES, "a tree asks for a feature that the rows do not have"),
    ("feature", -1, "a tree asks for a feature that the rows do not have"),
    ("threshold", np.nan, "a threshold is not a number"),
]


@pytest.mark.parametrize(("field", "value", "reason"), DAMAGES)
@pytest.mark.parametrize(
    "name", ["decision tree", "extra regression tree", "forest", "extra trees", "gradient boosting", "isolation forest"]
)
def test_a_damaged_tree_is_refused_and_no_row_walks_through_it(name: str, field: str, value: Any, reason: str) -> None:
    model = ENSEMBLES[name]()
    tree = np.ravel(model.estimators_)[2].tree_ if hasattr(model, "estimators_") else model.tree_
    damage(tree, field, value)
    compiled = compile_estimators([("model", model)])
    assert not compiled
    assert compiled.summary().endswith(f"because {reason}")


def damage(tree: Tree, field: str, value: Any) -> None:
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][-1 if (field, value) == ("left_child", -2) else 0] = value  # the last node is a leaf
    tree.__setstate__(state)


@pytest.mark.parametrize(("field", "value", "reason"), DAMAGES)
@pytest.mark.parametrize("name", ["bagging", "bagging of some features", "AdaBoost", "AdaBoost of numbers"])
def test_damaged_trees_of_a_whole_are_refused_as_a_whole_and_each_on_its_own(
    name: str, field: str, value: Any, reason: str
) -> None:
    model = made(name)
    damage(model.estimators_[2].tree_, field, value)
    whole, *trees = compile_estimators([("model", model)]).found
    assert whole.reason == reason
    expected = [None] * len(model.estimators_)
    assert [tree.reason for tree in trees] == [*expected[:2], reason, *expected[3:]]


@pytest.mark.parametrize("name", ["bagging of some features", "isolation forest, features"])
@pytest.mark.parametrize("feature", [-1, N_FEATURES, 1 << 40])
def test_a_tree_that_was_given_columns_that_the_rows_do_not_have_is_refused(name: str, feature: int) -> None:
    model = made(name)
    model.estimators_features_[2][:] = feature
    found, *_ = compile_estimators([("model", model)]).found
    assert found.reason == "a tree asks for a feature that the rows do not have"


@pytest.mark.parametrize(
    ("field", "value"), [("left", 0), ("right", 1 << 31), ("feature_idx", 77), ("bitset_idx", 9_999)]
)
def test_damaged_histograms_are_refused(field: str, value: int) -> None:
    model = ENSEMBLES["histograms, categories"]()
    nodes = model._predictors[1][0].nodes
    split = np.flatnonzero(nodes["is_categorical"])[0] if field == "bitset_idx" else 0
    nodes[field][split] = value
    assert not compile_estimators([("model", model)])


@pytest.mark.parametrize("words", [0, 1, 7, 9])
def test_categories_with_another_number_of_bits_are_refused(words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ENSEMBLES["histograms, categories"]()
    for predictor in (one for iteration in model._predictors for one in iteration):
        predictor.raw_left_cat_bitsets = np.zeros((len(predictor.raw_left_cat_bitsets), words), np.uint32)
    monkeypatch.setattr(type(model), "_predict_iterations", lambda *_: pytest.fail("scikit-learn read the categories"))
    (found,) = compile_estimators([("model", model)]).found
    assert found.reason == "a tree has another number of categories"


def test_attributes_that_the_estimator_had_before_come_back_even_after_an_error() -> None:
    model = ENSEMBLES["decision tree"]()
    before = dict(vars(model))
    compiled = compile_estimators([("model", model)])
    with contextlib.suppress(ZeroDivisionError), compiled.in_use():
        assert model.tree_ is not before["tree_"]
        raise ZeroDivisionError
    assert vars(model) == before


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_copy_that_is_made_while_a_tree_is_compiled_has_its_own_tree(copied: Callable[[Any], Any]) -> None:
    model = ENSEMBLES["decision tree"]()
    expected = results(model, X)
    compiled = compile_estimators([("model", model)])
    with compiled.in_use():
        assert type(model.tree_) is single_trees.CompiledTree
        found = copied(model)
    assert type(found.tree_) is Tree
    assert found.tree_ is not model.tree_
    assert results(found, X) == expected


@pytest.mark.parametrize("name", ["_tree", "__array_interface__", "node_count"])
def test_a_stand_in_that_stands_for_nothing_yet_has_no_attributes(name: str) -> None:
    assert not hasattr(single_trees.CompiledTree.__new__(single_trees.CompiledTree), name)


def test_compiled_estimators_may_be_used_in_other_processes() -> None:
    bagging = BaggingClassifier(DecisionTreeClassifier(), n_estimators=4, **ONE).fit(X, TWO)
    forest = ENSEMBLES["forest"]()
    expected = [bagging.predict_proba(X), forest.predict_proba(X)]
    compiled = compile_estimators([("bagging", bagging), ("forest", forest)])
    assert len(compiled.replacements) == 2
    try:
        with compiled.in_use():
            other = get_reusable_executor(max_workers=1)
            found = list(other.map(_probabilities, (bagging, forest)))
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert np.array_equal(found, expected)


def _probabilities(model: Any) -> Any:
    return model.predict_proba(X)


NARROW = {"left_child", "right_child", "feature", "n_node_samples", "feature_idx"}
"""Fields that are int32 in models of a computer with 32 bits."""


def other_types(dtype: np.dtype, order: str) -> np.dtype:
    assert dtype.fields is not None
    names = [(name, "i4" if name in NARROW else dtype.fields[name][0]) for name in dtype.names or ()]
    return np.dtype(names, align=True).newbyteorder(order)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["decision tree, missing values", "forest, missing values", "gradient boosting"])
def test_trees_of_another_computer_are_compiled(name: str, order: str) -> None:
    model = ENSEMBLES[name]()
    x = GAPS if "missing" in name else X
    expected = results(model, x)
    for tree in (one.tree_ for one in np.ravel(getattr(model, "estimators_", model))):
        state = tree.__getstate__()
        state["nodes"] = state["nodes"].astype(other_types(state["nodes"].dtype, order))
        state["values"] = state["values"].astype(state["values"].dtype.newbyteorder(order))
        tree.__setstate__(state)
    compiled = compile_estimators([("model", model)])
    assert [one.reason for one in compiled.found] == [None]
    with compiled.in_use() as used:
        assert results(model, x) == expected
    assert used


def test_histograms_of_another_computer_are_compiled() -> None:
    model = ENSEMBLES["histograms, categories"]()
    expected = results(model, MIXED)
    for predictor in (one for iteration in model._predictors for one in iteration):
        nodes = predictor.nodes.astype(other_types(predictor.nodes.dtype, "<"))
        assert nodes.dtype != predictor.nodes.dtype
        predictor.__setstate__(vars(predictor) | {"nodes": nodes})
    compiled = compile_estimators([("model", model)])
    assert [one.reason for one in compiled.found] == [None]
    with compiled.in_use() as used:
        assert results(model, MIXED) == expected
    assert used


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeRegressor(max_depth=5),
        RandomForestRegressor(2, max_depth=8),
        GradientBoostingRegressor(n_estimators=2),
        HistGradientBoostingRegressor(max_iter=2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_million_rows_are_scored_as_by_scikit_learn(model: Any, order: Any) -> None:
    model.set_params(**ONE).fit(X[:, :2], SIGNAL)
    numbers = np.random.default_rng(3).choice(X[:, :2].ravel().astype(np.float32), (1_000_003, 2))
    x = np.asarray(numbers, order=order)
    compiled = compile_estimators([("model", model)])
    expected = model.predict(x)
    with compiled.in_use() as used:
        assert model.predict(x).tobytes() == expected.tobytes()
    assert used


def test_without_the_extension_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "is_available", lambda: False)
    assert not compile_estimators([("model", ENSEMBLES["forest"]())])


@pytest.mark.parametrize("name", ["forest", "regression forest", "gradient boosting", "histograms", "isolation forest"])
def test_the_compiled_form_takes_less_than_a_third_of_the_memory_of_the_trees(name: str) -> None:
    model = ENSEMBLES[name]()
    compiled = compile_estimators([("model", model)])
    if name == "histograms":
        size = sum(one.nodes.nbytes + 300 for iteration in model._predictors for one in iteration)
    else:
        trees = [one.tree_ for one in np.ravel(model.estimators_)]
        size = sum(tree.__getstate__()["nodes"].nbytes + tree.value.nbytes for tree in trees)
    assert 0 < compiled.nbytes <= size / 3


@pytest.mark.parametrize(("n_classes", "depth"), [(30, 5), (200, 10)])
def test_ada_boost_keeps_votes_only_for_classes_that_its_trees_vote_for(n_classes: int, depth: int) -> None:
    x = np.random.default_rng(5).normal(size=(2_000, 3))
    trees = DecisionTreeClassifier(max_depth=depth, random_state=0)
    model = AdaBoostClassifier(trees, n_estimators=20, random_state=0).fit(x, np.arange(2_000) % n_classes)
    size = sum(one.tree_.__getstate__()["nodes"].nbytes + one.tree_.value.nbytes for one in model.estimators_)
    compiled = compile_estimators([("model", model)])
    assert [one.name for one in compiled.found] == ["AdaBoostClassifier"]
    expected = model.decision_function(x)
    with compiled.in_use() as used:
        assert model.decision_function(x).tobytes() == expected.tobytes()
    assert used
    assert compiled.nbytes <= max(size / 3, 1 << 20)


def test_ada_boost_of_stumps_with_too_many_votes_is_compiled_tree_by_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wholes, "_VOTES_BYTES", 0)
    x = np.random.default_rng(5).normal(size=(900, 3))
    model = AdaBoostClassifier(n_estimators=7, random_state=0).fit(x, np.arange(900) % 30)
    whole, *trees = compile_estimators([("model", model)]).found
    assert whole.reason == "the votes of its trees would take more than a third of its memory"
    assert [tree.reason for tree in trees] == [None] * len(model.estimators_)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_the_rows_of_the_comparison_reach_every_leaf_from_both_sides_of_a_threshold() -> None:
    model = DecisionTreeRegressor(**ONE).fit(X, SIGNAL)
    rows = probe_rows(tree_ensembles.compile_ensemble(model).trees, N_FEATURES, wide=False)
    leaves = np.flatnonzero(model.tree_.children_left < 0)
    assert set(model.apply(rows)) == set(leaves)
    inner = np.flatnonzero(model.tree_.children_left >= 0)
    for node in inner:
        values = rows[:, model.tree_.feature[node]]
        limit = np.float32(model.tree_.threshold[node])
        assert (np.abs(values - limit) <= np.spacing(np.abs(limit))).any()


@pytest.mark.parametrize("n_trees", [1, 700])
def test_the_rows_of_the_comparison_have_a_bounded_number_of_values(n_trees: int) -> None:
    x = np.zeros((400, MAX_FEATURES), np.float32)
    x[:, 7] = RANDOM.normal(size=400)
    (tree,) = tree_ensembles.compile_ensemble(DecisionTreeRegressor(**ONE).fit(x, x[:, 7])).trees
    tracemalloc.start()
    try:
        rows = probe_rows([tree] * n_trees, MAX_FEATURES, wide=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows.size == MAX_CELLS
    assert peak < 200_000_000


def test_the_rows_for_a_large_forest_are_few_and_lead_to_leaves_of_every_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = RandomForestRegressor(30, random_state=0).fit(X, SIGNAL)
    trees = tree_ensembles.compile_ensemble(forest).trees
    many = probe_rows(trees, N_FEATURES, wide=False)
    n_nodes = sum(len(tree.left) for tree in trees)
    # With more nodes, there are fewer rows, but at least four for each tree
    monkeypatch.setattr(probes, "MAX_ROWS_AND_NODES", 600 * n_nodes)
    assert len(probe_rows(trees, N_FEATURES, wide=False)) == 600 < len(many)
    monkeypatch.setattr(probes, "MAX_ROWS_AND_NODES", 1)
    rows = probe_rows(trees, N_FEATURES, wide=False)
    assert len(rows) == 120
    assert rows.tobytes() == probe_rows(trees, N_FEATURES, wide=False).tobytes()
    for tree in forest.estimators_:
        limits = tree.tree_.threshold[tree.tree_.children_left >= 0].astype(np.float32)
        near = np.abs(rows[:, :, np.newaxis] - limits) <= np.spacing(np.abs(limits))
        assert near.any(axis=(1, 2)).sum() >= 4


def test_an_ensemble_of_too_many_features_is_not_compiled() -> None:
    x = np.zeros((20, MAX_FEATURES + 1), np.float32)
    x[:, 7] = RANDOM.normal(size=20)
    forest = RandomForestRegressor(2, random_state=0)
    (one,) = compile_estimators([("model", forest.fit(x, x[:, 7]))]).found
    assert one.reason == "rows of so many features (4,097) are not compared"
    (one,) = compile_estimators([("model", forest.fit(x[:, 1:], x[:, 7]))]).found
    assert one.reason is None


def test_results_in_another_layout_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn sums over the results of AdaBoost, and rounds these sums according to the layout."""
    boosted = AdaBoostClassifier(DecisionTreeClassifier(max_depth=3), **FEW).fit(X, TENTHS)
    assert compile_estimators([("model", boosted)]).summary() == "1 of 1 tree ensembles compiled"
    monkeypatch.setattr("scoreline.storage.models.compiled.wholes.np.asfortranarray", lambda array: array)
    assert "1 of 1" not in compile_estimators([("model", boosted)]).summary()


def test_rows_that_are_stored_by_column_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = RandomForestRegressor(3, random_state=0).fit(X, SIGNAL)
    add_to = PackedTrees.add_to

    def misread(self: PackedTrees, sums: Any, x: Any, **options: Any) -> None:
        add_to(self, sums, x if x.flags.c_contiguous else x[::-1], **options)

    monkeypatch.setattr(PackedTrees, "add_to", misread)
    (one,) = compile_estimators([("model", forest)]).found
    assert one.reason == "its results for rows with numbers differ from those of scikit-learn"


def test_boosting_that_ended_early_is_compiled_as_a_whole() -> None:
    boosted = AdaBoostClassifier(DecisionTreeClassifier(), n_estimators=9, random_state=0).fit(X, THREE)
    assert len(boosted.estimators_) < len(boosted.estimator_weights_)
    (found,) = compile_estimators([("model", boosted)]).found
    assert (found.name, found.reason) == ("AdaBoostClassifier", None)
