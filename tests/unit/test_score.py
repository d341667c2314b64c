from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from storage.errors import InputError, ScoringError
from storage.models.bundle import Bundle
from storage.models.describe import describe_outputs
from tasks.score import score_batch, to_features


def bundle(model: Any, named: bool = False) -> Bundle:
    manifest = SimpleNamespace(
        feature_names=("x",) if named else None, outputs={"model": describe_outputs(model, None)}
    )
    return Bundle(models={"model": model}, manifest=manifest, manifest_sha256="")  # type: ignore[arg-type]


LINE = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values) for name, values in columns.items()})


def test_rows_that_fail_are_found_and_the_others_keep_their_order() -> None:
    values = [float(n) for n in range(100)]
    values[3], values[70] = float("nan"), float("inf")
    done = score_batch(bundle(LINE), batch(x=values, id=list(range(100))), features=["x"], keep=["id"], method=None)
    assert sorted(done.rejected) == [3, 70]
    assert "NaN" in done.rejected[3]
    assert done.table["id"].to_pylist() == [n for n in range(100) if n not in (3, 70)]
    assert done.table["prediction"].to_pylist() == [
        LINE.predict([[float(n)]])[0] for n in range(100) if n not in (3, 70)
    ]


def test_the_search_for_rows_that_fail_ends_where_more_failed_than_may() -> None:
    nothing = batch(x=[float("nan")] * 3000)
    with pytest.raises(
        ScoringError, match=r"than the 100 .* row 0 of a batch of 3000: ValueError: Input X contains NaN\.$"
    ):
        score_batch(bundle(LINE), nothing, features=["x"], keep=[], method=None, max_rejected=100)
    done = score_batch(bundle(LINE), nothing, features=["x"], keep=[], method=None)
    assert (done.table.num_rows, len(done.rejected)) == (0, 3000)


def test_an_empty_batch_gives_no_rows() -> None:
    empty = pa.record_batch({"x": pa.array([], pa.float64())})
    assert score_batch(bundle(LINE), empty, features=["x"], keep=[], method=None).table.num_rows == 0


def test_a_kept_column_named_as_an_output_is_refused() -> None:
    with pytest.raises(InputError, match="'prediction'"):
        score_batch(bundle(LINE), batch(x=[1.0], prediction=[1]), features=["x"], keep=["prediction"], method=None)


def test_a_method_that_the_model_lacks_is_named() -> None:
    with pytest.raises(ScoringError, match="predict_proba"):
        score_batch(bundle(LINE), batch(x=[1.0]), features=["x"], keep=[], method="predict_proba")


def test_columns_come_in_the_order_of_the_model() -> None:
    x = to_features(batch(b=[1, 2], a=[0.5, 0.25]), ["a", "b"], named=False)
    assert np.array_equal(x, [[0.5, 1.0], [0.25, 2.0]])


def test_float32_stays_float32() -> None:
    x = to_features(pa.record_batch({"a": pa.array([1.5], pa.float32())}), ["a"], named=False)
    assert x.dtype == np.float32


X = np.random.default_rng(0).normal(size=(60, 3))
ENCODED = [f"x{column}_{value}" for column in range(3) for value in sorted(X[:2, column])]
THREE = np.repeat(["a", "b", "c"], 20)


def columns_of(model: Any, method: str | None = None) -> dict[str, Any]:
    rows = batch(x=X[:, 0], y=X[:, 1], z=X[:, 2])
    done = score_batch(bundle(model), rows, features=["x", "y", "z"], keep=[], method=method)
    assert done.rejected == {}
    return {name: done.table[name].to_numpy() for name in done.table.column_names}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (LogisticRegression().fit(X, THREE), ["prediction", "proba_a", "proba_b", "proba_c"]),
        (LinearSVC().fit(X, THREE), ["prediction"]),
        (LinearRegression().fit(X, X[:, :2]), ["prediction_0", "prediction_1"]),
        (RandomForestClassifier(3, random_state=0).fit(X, X[:, :2] > 0), ["prediction_0", "prediction_1"]),
        (IsolationForest(n_estimators=5, random_state=0).fit(X), ["prediction", "decision"]),
        (KMeans(2, n_init=1, random_state=0).fit(X), ["prediction"]),
        (PCA(2).fit(X), ["pca0", "pca1"]),
        (KernelDensity().fit(X), ["score"]),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, list) else "",
)
def test_without_a_method_an_estimator_does_what_is_usual_for_it(model: Any, names: list[str]) -> None:
    assert list(columns_of(model)) == names


@pytest.mark.parametrize(
    ("model", "method", "names"),
    [
        (LogisticRegression().fit(X, THREE), "predict_log_proba", ["log_proba_a", "log_proba_b", "log_proba_c"]),
        (LogisticRegression().fit(X, THREE), "decision_function", ["decision_a", "decision_b", "decision_c"]),
        (LinearSVC().fit(X, THREE == "a"), "decision_function", ["decision"]),
        (IsolationForest(n_estimators=5, random_state=0).fit(X), "score_samples", ["score"]),
        (KMeans(2, n_init=1, random_state=0).fit(X), "transform", ["kmeans0", "kmeans1"]),
        (StandardScaler().set_output(transform="pandas").fit(X), "transform", ["x0", "x1", "x2"]),
        (FunctionTransformer(np.exp), "transform", ["transform_0", "transform_1", "transform_2"]),
        (OneHotEncoder(handle_unknown="ignore").fit(X[:2]), "transform", ENCODED),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, (list, str)) else None,
)
def test_a_method_that_is_asked_for_gives_what_the_estimator_gives(model: Any, method: str, names: list[str]) -> None:
    found = columns_of(model, method)
    expected = getattr(model, method)(X)
    expected = expected.toarray() if hasattr(expected, "toarray") else np.asarray(expected)
    assert list(found) == names
    assert np.array_equal(np.column_stack(list(found.values())), expected.reshape(len(X), -1))


def test_a_method_that_a_model_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(ScoringError, match="has no predict_proba: it offers predict, decision_function"):
        columns_of(LinearSVC().fit(X, THREE), "predict_proba")


def test_more_columns_than_a_table_has_are_refused() -> None:
    wide = FunctionTransformer(lambda x: np.zeros((len(x), 10_001)))
    with pytest.raises(ScoringError, match="transform gives 10,001 columns"):
        columns_of(wide, "transform")
