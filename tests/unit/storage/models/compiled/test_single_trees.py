"""Single trees give the bits of scikit-learn, and refuse and warn as scikit-learn does."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor

pytest.importorskip("scoreline.storage.models.compiled._single", reason="there was no compiler to build the extension")

from scoreline.storage.models.compiled import nodes, single_trees
from scoreline.storage.models.compiled.columns import float32_at_or_below
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.compiled.nodes import pack_single
from scoreline.storage.models.compiled.plain_rows import plain_rows
from scoreline.storage.models.compiled.single_trees import PackedTree
from tests.support.random_trees import SPECIAL, leaf_of, random_tree

N_FEATURES = 5
METHODS = ("predict", "predict_proba", "predict_log_proba", "apply")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(700, N_FEATURES))
GAPS = np.where(RANDOM.random(X.shape) < 0.2, np.nan, X)
NUMBER = X[:, 0] * 10 + RANDOM.normal(size=len(X))
LABELS = np.array(["low", "middle", "highest"], dtype=object)[np.digitize(NUMBER, [-3, 3])]
ONE = {"random_state": 0}

MODELS: dict[str, Callable[[], Any]] = {
    "labels": lambda: DecisionTreeClassifier(**ONE).fit(X, LABELS),
    "one class": lambda: DecisionTreeClassifier(**ONE).fit(X, np.zeros(len(X))),
    "shallow": lambda: DecisionTreeClassifier(max_depth=2, **ONE).fit(X, NUMBER > 0),
    "gaps": lambda: DecisionTreeClassifier(**ONE).fit(GAPS, LABELS),
    "numbers": lambda: DecisionTreeRegressor(**ONE).fit(X, NUMBER),
    "numbers with gaps": lambda: DecisionTreeRegressor(**ONE).fit(GAPS, NUMBER),
    "chain": lambda: DecisionTreeRegressor(max_leaf_nodes=60, **ONE).fit(X[:90], np.exp(20 * X[:90, 0])),
    "extra": lambda: ExtraTreeRegressor(**ONE).fit(X, NUMBER),
    "outputs": lambda: DecisionTreeRegressor(**ONE).fit(X, np.stack([NUMBER, -NUMBER], 1)),
    "classes of outputs": lambda: DecisionTreeClassifier(**ONE).fit(X, np.stack([LABELS, LABELS[::-1]], 1)),
}


def outcome(model: Any, x: Any, methods: tuple[str, ...] = METHODS) -> list[Any]:
    """Return each result with its type and layout, or the error, and every warning with its place."""
    found: list[Any] = []
    for method in methods:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = getattr(model, method)(x) if hasattr(model, method) else []
            except (ValueError, FloatingPointError, TypeError) as error:
                result = []
                found.append((type(error), str(error)))
        for array in result if isinstance(result, list) else [result]:
            bits = array.tolist() if array.dtype == object else array.tobytes()
            found.append((method, array.dtype, array.shape, array.strides, array.flags.writeable, bits))
        found += [(str(one.message), one.category, one.filename, one.lineno) for one in caught]
    return found


def same_in_use(model: Any, x: Any, compiled: CompiledEstimators | None = None) -> bool:
    """Compare with scikit-learn. Return whether such rows are plain."""
    compiled = compiled or compiled_of(model)
    expected = outcome(model, x)
    with compiled.in_use():
        assert outcome(model, x) == expected
    return plain_rows(model, x) is not None


def compiled_of(model: Any) -> CompiledEstimators:
    compiled = compile_estimators([("model", model)])
    assert [one.reason for one in compiled.found] == [None]
    return compiled


def with_value(value: Any, dtype: Any = np.float64) -> np.ndarray:
    """Return rows with one such value in the middle."""
    rows = X[:40].astype(dtype)
    rows[20, 3:4] = np.asarray(value, dtype)  # a number alone would be converted, and be quiet
    return rows


SIGNALLING = np.array([0x7FF0000000000001], np.uint64).view(np.float64)
SIGNALLING_32 = np.array([0x7F800001], np.uint32).view(np.float32)
TABLES: dict[str, Any] = {
    "float64": X,
    "float32": X.astype(np.float32),
    "by column": np.asfortranarray(X),
    "long, by column": np.asfortranarray(np.tile(X, (13, 1))[:9_011]),
    "long, by column, float32": np.asfortranarray(np.tile(X, (13, 1))[:9_011].astype(np.float32)),
    "long": np.tile(X, (5, 1))[:2_500],
    "every second row": X[::2],
    "rows in the opposite order": np.tile(X, (5, 1))[::-1],
    "columns of a wider table": np.hstack([X, X])[:, 2 : 2 + N_FEATURES],
    "every second column": np.repeat(X, 2, axis=1)[:, ::2],
    "float32, every second column": np.repeat(X, 2, axis=1)[:, ::2].astype(np.float32, order="K"),
    "one row for all": np.broadcast_to(X[:1], X.shape),
    "read-only": np.frombuffer(X.tobytes()).reshape(X.shape),
    "big-endian": X.astype(">f8"),
    "float16": X.astype(np.float16),
    "integers": (10 * X).astype(int),
    "objects": X.astype(object),
    "list": X[:3].tolist(),
    "one row": X[:1],
    "no row": X[:0],
    "one dimension": X[0],
    "too few columns": X[:, :3],
    "frame": pd.DataFrame(X),
    "frame of float32": pd.DataFrame(X.astype(np.float32)),
    "frame of columns": pd.DataFrame(dict(enumerate(X.T.copy())), copy=False),
    "frame of columns with gaps": pd.DataFrame(dict(enumerate(GAPS.T.copy()))),
    "frame of rows": pd.DataFrame(X.copy(), copy=False),
    "frame of rows and columns": pd.concat(
        [pd.DataFrame(X[:, :3].copy(), copy=False), pd.DataFrame(X[:, 3:])], axis=1, ignore_index=True
    ),
    "frame of two types": pd.DataFrame(X).astype({1: np.float32}),
    "frame with names": pd.DataFrame(X, columns=list("abcde")),
    "frame with some names": pd.DataFrame(X, columns=["a", 1, 2, 3, 4]),
    "frame of nullable numbers": pd.DataFrame(X).astype("Float64"),
    "missing": with_value(np.nan),
    "missing, float32": with_value(np.nan, np.float32),
    "missing, by column": np.asfortranarray(np.tile(GAPS, (13, 1))[:9_011]),
    "missing in the first rows": np.vstack([GAPS, *[X] * 12]),
    "missing in the first rows, by column": np.asfortranarray(np.vstack([GAPS, *[X] * 12])),
    "missing in the last rows": np.vstack([X, X, GAPS]),
    "missing, every second row": np.vstack([GAPS, GAPS])[::2],
    "all missing": np.full((70, N_FEATURES), np.nan),
    "many missing": GAPS,
    "infinite": with_value(np.inf),
    "infinite, by column": np.asfortranarray(np.where(np.tile(X, (5, 1)) > 3, -np.inf, np.tile(X, (5, 1)))),
    "infinite, columns of a wider table": np.hstack([with_value(np.inf), X[:40]])[:, :N_FEATURES],
    "infinite, in the first column": np.asfortranarray(with_value(np.inf)[:, [3, 0, 1, 2, 4]]),
    "infinite, float32": with_value(-np.inf, np.float32),
    "missing and infinite": np.where(GAPS > 2, np.inf, GAPS),
    "too large": with_value(1e39),
    "the largest": with_value(3.4028235677973366e38),
    "rounded to the largest": with_value(3.4028235677973362e38),
    "denormal": X * 1e-40,
    "too small": X * 1e-310,
    "zeros": -0.0 * X,
    "signals": with_value(SIGNALLING),
    "signals, float32": with_value(SIGNALLING_32, np.float32),
}


@pytest.mark.parametrize("model", MODELS)
def test_results_errors_and_warnings_are_those_of_scikit_learn(model: str) -> None:
    fitted = MODELS[model]()
    compiled = compiled_of(fitted)
    for table in TABLES.values():
        same_in_use(fitted, table, compiled)


@pytest.mark.parametrize(
    "name", ["float64", "float32", "by column", "long, by column", "every second row", "one row", "frame", "infinite"]
)
def test_plain_rows_are_not_validated_by_scikit_learn(name: str) -> None:
    assert plain_rows(MODELS["labels"](), TABLES[name]) is not None


@pytest.mark.parametrize("name", ["labels", "gaps", "numbers"])
def test_rows_that_are_not_refused_do_not_reach_scikit_learn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def validated(*_: Any) -> None:
        raise AssertionError("validated by scikit-learn")

    model = MODELS[name]()
    compiled = compiled_of(model)
    monkeypatch.setattr(type(model), "_validate_X_predict", validated)
    with compiled.in_use():
        for table in ("float64", "float32", "long, by column", "missing", "rounded to the largest"):
            assert len(model.predict(TABLES[table])) == len(TABLES[table])
        with pytest.raises(AssertionError, match="validated by scikit-learn"):
            model.predict(TABLES["infinite"])


def named() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(**ONE).fit(pd.DataFrame(X, columns=list("abcde")), LABELS)


@pytest.mark.parametrize(
    ("columns", "quick"),
    [
        (list("abcde"), True),
        (list("abced"), False),
        (["a", "b", "c", "d", "f"], False),
        ([0, 1, 2, 3, 4], False),
        (["a", 1, 2, 3, 4], False),
        (list("aabcd"), False),
        (list("abcdef"), False),
        (None, False),
    ],
)
def test_names_are_compared_as_scikit_learn_does(columns: list[Any] | None, quick: bool) -> None:
    rows = X[:50, [0, 1, 2, 3, 4, 0][: len(columns or X[0])]]
    table = rows if columns is None else pd.DataFrame(rows, columns=columns)
    assert same_in_use(named(), table) == quick


def test_names_of_a_type_that_scikit_learn_does_not_know_give_its_warning() -> None:
    names = pd.Index([np.str_(name) for name in "abcde"], dtype=object)
    assert not same_in_use(named(), pd.DataFrame(X[:50], columns=names))


def test_other_ways_to_call_are_those_of_scikit_learn() -> None:
    for name in ("labels", "numbers"):
        model = MODELS[name]()
        x = X.astype(np.float32)
        expected = model.predict(x, check_input=False).tolist()
        refused = model.predict(np.where(x > 2, np.inf, x).astype(np.float32), check_input=False).tolist()
        compiled = compiled_of(model)
        with compiled.in_use():
            assert model.predict(x, check_input=False).tolist() == expected
            infinite = np.where(x > 2, np.inf, x).astype(np.float32)
            assert model.predict(infinite, check_input=False).tolist() == refused
            with pytest.raises(ValueError, match="sample"):
                model.predict(X[:0])


@pytest.mark.parametrize("table", ["infinite", "missing and infinite", "float64"])
def test_settings_of_scikit_learn_hold(table: str) -> None:
    with sklearn.config_context(assume_finite=True):
        assert not same_in_use(MODELS["gaps"](), TABLES[table])


@pytest.mark.parametrize("table", ["too small", "denormal", "float64"])
def test_errors_of_numpy_are_raised_where_they_are_asked_for(table: str) -> None:
    with np.errstate(under="raise"):
        assert not same_in_use(MODELS["labels"](), TABLES[table])


def test_a_tree_that_differs_in_one_bit_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PackedTree.values

    def values(self: PackedTree, x: Any, **options: Any) -> Any:
        found = right(self, x, **options)
        if found is not None:
            found[-1, 0] = np.nextafter(found[-1, 0], np.inf)
        return found

    monkeypatch.setattr(PackedTree, "values", values)
    compiled = compile_estimators([("model", MODELS["numbers"]())])
    assert not compiled
    assert "because its results for rows with numbers differ from those of scikit-learn" in compiled.summary()


def test_rows_of_the_comparison_walk_through_spread_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(*arguments: Any) -> nodes.Nodes:
        form = pack_single(*arguments)
        form.nodes.view(nodes.NODE)["threshold"][0] = 0xFF900000  # of which spread nodes make another range of keys
        return form

    model = MODELS["shallow"]()
    model.tree_.threshold[0] = np.inf  # all rows go left, as they do at any node whose threshold is above all keys
    assert compile_estimators([("model", model)])
    monkeypatch.setattr(single_trees, "pack_single", packed)
    assert "because its results for rows with numbers differ" in compile_estimators([("model", model)]).summary()


def test_a_tree_with_another_label_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PackedTree.leaves

    def leaves(self: PackedTree, x: Any, **options: Any) -> Any:
        found = right(self, x, **options)
        return None if found is None else found[::-1]

    monkeypatch.setattr(PackedTree, "leaves", leaves)
    assert not compile_estimators([("model", MODELS["labels"]())])


@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_form_takes_less_than_a_third_of_the_memory_of_the_tree(name: str) -> None:
    model = MODELS[name]()
    size = model.tree_.__getstate__()["nodes"].nbytes + model.tree_.value.nbytes
    assert 0 < compiled_of(model).nbytes <= size / 3


def test_rows_of_another_width_are_refused() -> None:
    model = MODELS["labels"]()
    packed = compiled_of(model).replacements[0].stand_ins["tree_"]._packed
    with pytest.raises(ValueError, match=r"expected 5 columns, got \(700, 3\)"):
        packed.leaves(X[:, :3], missing_allowed=True)


def kinds_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    for x in (rows, rows.astype(np.float64)):
        yield from (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400), st.sampled_from([1, 30, 1_100]))
def test_random_trees_lead_each_row_to_its_leaf(seed: int, n_splits: int, n_rows: int) -> None:
    random = np.random.default_rng(seed)
    thresholds = np.concatenate([SPECIAL, random.normal(size=5), random.normal(size=5).astype(np.float32)])
    tree = random_tree(random, n_splits, thresholds, N_FEATURES)
    tree = replace(tree, values=np.ascontiguousarray(tree.values))
    packed = PackedTree(N_FEATURES, pack_single(tree, N_FEATURES), tree.values)
    pool = float32_at_or_below(thresholds)
    with np.errstate(over="ignore", under="ignore"):
        pool = np.concatenate([pool, np.nextafter(pool, np.float32(np.inf)), np.nextafter(pool, np.float32(-np.inf))])
    rows = random.choice(pool, (n_rows, N_FEATURES))
    kind = random.integers(3)
    if kind:  # only finite values, or missing ones, too
        rows = np.clip(rows, np.finfo(np.float32).min, np.finfo(np.float32).max)
    if kind == 2:
        rows[random.random(rows.shape) < 0.1] = np.nan
    expected = [leaf_of(tree, row) for row in rows]
    for x in kinds_of(rows):
        found = packed.values(x, checked=True)
        assert found is not None
        assert found.tobytes() == tree.values.reshape(len(tree.values), -1)[expected].tobytes()
        allowed = packed.leaves(x, missing_allowed=True)
        assert (allowed is None) == bool(np.isinf(rows).any())
        assert allowed is None or allowed.tolist() == expected
        assert (packed.leaves(x, missing_allowed=False) is None) == (not np.isfinite(rows).all())


@pytest.mark.parametrize("n_features", [1, 16, 17, 300, 4_000])
@pytest.mark.parametrize("most_rows", [1, 128])  # that have room on both sides; fewer than 16 if a tree is large
def test_rows_of_any_width_arrive_at_their_leaves(
    n_features: int, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "_SINGLE_BLOCK_ROWS", most_rows)
    random = np.random.default_rng(n_features)
    tree = random_tree(random, 200, random.normal(size=50), n_features)
    tree = replace(tree, values=np.ascontiguousarray(tree.values))
    packed = PackedTree(n_features, pack_single(tree, n_features), tree.values)
    rows = random.normal(size=(150, n_features))
    rows[40:90][random.random((50, n_features)) < 0.3] = np.nan
    expected = [leaf_of(tree, row) for row in rows.astype(np.float32)]
    tables: list[Any] = [*kinds_of(rows), list(rows.T), [np.array(column) for column in rows.T]]
    for x in tables:
        found = packed.leaves(x, missing_allowed=True)
        assert found is not None
        assert found.tolist() == expected
        assert packed.leaves(x, missing_allowed=False) is None


@pytest.mark.parametrize("n_features", [1, 5, 300])
@pytest.mark.parametrize("n_splits", [0, 1, 7, 63])
def test_rows_of_shallow_trees_arrive_at_their_leaves(n_features: int, n_splits: int) -> None:
    random = np.random.default_rng(n_features)
    left = np.array([2 * node + 1 if node < n_splits else -1 for node in range(2 * n_splits + 1)])
    tree = random_tree(random, n_splits, np.array([*SPECIAL, -0.5, 0.5]), n_features)
    tree = replace(tree, left=left, right=left + (left >= 0), values=np.ascontiguousarray(tree.values))
    form = pack_single(tree, n_features)
    assert form.steps[0, 1] == 0  # therefore these nodes are spread
    packed = PackedTree(n_features, form, tree.values)
    rows = random.choice([0.0, -0.0, 1e-45, 0.5, -0.5, 3e38, -3e38, np.nextafter(0.5, 1)], (501, n_features))
    rows[100:200][random.random((100, n_features)) < 0.3] = np.nan
    expected = [leaf_of(tree, row) for row in rows.astype(np.float32)]
    for x in kinds_of(rows.astype(np.float32)):
        found = packed.leaves(x, missing_allowed=True)
        assert found is not None
        assert found.tolist() == expected
    double = packed.leaves(rows, missing_allowed=True)
    assert double is not None
    assert double.tolist() == expected
    for place in ((0, 0), (150, n_features - 1), (500, 0)):
        wide = np.hstack([rows, rows])
        wide[place] = np.inf
        assert packed.leaves(wide[:, :n_features], missing_allowed=True) is None


def test_columns_of_different_lengths_are_refused() -> None:
    packed = compiled_of(MODELS["labels"]()).replacements[0].stand_ins["tree_"]._packed
    with pytest.raises(ValueError, match="expected a column of 700 rows, got 699"):
        packed.leaves([*X.T[:-1], X[1:, -1]], missing_allowed=True)


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_copy_that_is_made_in_use_has_the_methods_of_scikit_learn(copied: Callable[[Any], Any]) -> None:
    model = MODELS["labels"]()
    expected = outcome(model, X)
    compiled = compiled_of(model)
    with compiled.in_use():
        other = copied(model)
    model.classes_ = model.classes_[::-1]  # which a copy does not see
    assert outcome(other, X) == expected
    assert outcome(copied(other), X) == expected


def test_the_module_has_no_other_way_to_accept_rows() -> None:
    """Every type of rows that `plain_rows` accepts is one of the kinds in this file."""
    model = MODELS["labels"]()
    quick = {name for name, table in TABLES.items() if plain_rows(model, table) is not None}
    others = {"big-endian", "float16", "integers", "objects", "list", "no row", "one dimension", "too few columns"}
    others |= {"frame of two types", "frame with names", "frame with some names", "frame of nullable numbers"}
    assert quick == set(TABLES) - others
