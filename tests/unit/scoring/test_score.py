from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC

from scoreline.storage.errors import InputError, ScoringError
from scoreline.storage.models.manifest import Outputs
from scoreline.storage.typed_json import build
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.scoring.timings import Timings
from tests.support.bundles import batch, bundle, scored

LINE = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])


class Picky(BaseEstimator):
    """A model that counts its calls. It refuses values above 1000, and also NaN and infinity, unless these are
    allowed."""

    def __init__(self, nan: bool = True, infinite: bool = True) -> None:
        self.nan, self.infinite = nan, infinite
        self.calls = 0

    def fit(self, x: Any, y: Any = None) -> Picky:
        return self

    def predict(self, x: Any) -> Any:
        self.calls += 1
        values = np.asarray(x, dtype=float)
        if np.isnan(values).any() and not self.nan:
            raise ValueError("NaN")
        if np.isinf(values).any() and not self.infinite:
            raise ValueError("infinite")
        if (values[np.isfinite(values)] > 1000).any():
            raise ValueError("too large")
        return np.nansum(values, axis=1)


class Looking(LinearRegression):
    """A model that reads the timings when it is called."""

    def predict(self, x: Any) -> Any:
        self.seen = dict(self.timings.seconds)
        return super().predict(x)


def test_aligning_is_timed_apart_from_predicting() -> None:
    timings, model = Timings(), Looking().fit([[0.0], [1.0]], [1.0, 3.0])
    model.timings = timings
    score_batch(bundle(model), batch(x=[1.0], id=[1]), features=["x"], keep=["id"], method=None, timings=timings)
    assert 0 < model.seen["align"] < timings.seconds["align"]
    assert 0 == model.seen["predict"] < timings.seconds["predict"]
    assert {stage for stage, seconds in timings.seconds.items() if seconds} == {"align", "predict"}


def test_failing_rows_are_rejected_and_the_others_keep_their_order() -> None:
    values = [float(n) for n in range(100)]
    values[3], values[70] = float("nan"), float("inf")
    done = score_batch(bundle(LINE), batch(x=values, id=list(range(100))), features=["x"], keep=["id"], method=None)
    assert [(row, why.stage, why.column) for row, why in done.rejected.items()] == [
        (3, "schema", "x"),
        (70, "schema", "x"),
    ]
    assert "'x' is null or NaN, which the model does not take: ValueError: Input X contains NaN." in str(
        done.rejected[3]
    )
    assert "'x' is infinite" in str(done.rejected[70])
    assert done.table["id"].to_pylist() == [n for n in range(100) if n not in (3, 70)]
    assert done.table["prediction"].to_pylist() == [
        LINE.predict([[float(n)]])[0] for n in range(100) if n not in (3, 70)
    ]


def test_only_the_column_that_the_model_refuses_is_named() -> None:
    # Given a model that fills missing values in one of two columns
    frame = pd.DataFrame({"a": [1.0, np.nan, 3.0], "b": [1.0, 2.0, 3.0]})
    fills = make_column_transformer((SimpleImputer(), ["a"]), (StandardScaler(), ["b"]))
    model = make_pipeline(fills, LinearRegression()).fit(frame, [1.0, 2.0, 3.0])
    # When both columns have nulls
    done = scored(model, a=[1.0, None, None, 4.0], b=[1.0, 2.0, None, None])
    # Then rows are rejected only for nulls in the other column, `b`
    assert {row: why.column for row, why in done.rejected.items()} == {2: "b", 3: "b"}
    assert done.table["prediction"].to_pylist() == list(
        model.predict(pd.DataFrame({"a": [1.0, np.nan], "b": [1.0, 2.0]}))
    )


class Doubling(BaseEstimator):
    """A model that doubles a column, so that very large values overflow, and that accepts infinities."""

    def fit(self, x: Any, y: Any = None) -> Doubling:
        return self

    def predict(self, x: Any) -> Any:
        return np.asarray(x, dtype=float)[:, 0] * 2.0


@pytest.mark.parametrize(("action", "numpy"), [("ignore", "warn"), ("error", "warn"), ("ignore", "raise")])
def test_no_row_is_rejected_because_the_process_turns_warnings_into_errors(action: Any, numpy: Any) -> None:
    # Given infinities whose sum makes numpy warn in scikit-learn, and a value that overflows
    values = {"line": [1.0, np.inf, -np.inf, 3.0], "doubled": [1.0, np.finfo(float).max, -np.inf]}
    # When these values are scored in a process that raises warnings, or numpy's floating-point errors, as exceptions
    with warnings.catch_warnings(record=True), np.errstate(all=numpy):
        warnings.simplefilter(action)
        line, doubled = scored(LINE, x=values["line"]), scored(Doubling(), x=values["doubled"])
    # Then the rows that the model accepts are scored, and the others are rejected for their values
    assert doubled.rejected == {}
    assert doubled.table["prediction"].to_pylist() == [2.0, np.inf, -np.inf]
    assert line.table["prediction"].to_pylist() == LINE.predict([[1.0], [3.0]]).tolist()
    assert [(row, str(why).partition(" which")[0]) for row, why in line.rejected.items()] == [
        (1, "'x' is infinite,"),
        (2, "'x' is minus infinity,"),
    ]


def test_the_process_keeps_its_warning_filters_and_sees_the_warning() -> None:
    # Given a process that turns warnings into exceptions
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        before = list(warnings.filters)
        # When a batch makes numpy warn
        scored(Doubling(), x=[np.finfo(float).max])
        # Then the warning filters of the process are unchanged, and the warning is shown, not raised
        assert list(warnings.filters) == before
    assert [str(item.message) for item in caught] == ["overflow encountered in multiply"]


class Segments(BaseEstimator):
    """A model that counts its calls, and refuses values above 1000, and NaN in rows of segment 1."""

    calls = 0

    def fit(self, x: Any, y: Any = None) -> Segments:
        return self

    def predict(self, x: Any) -> Any:
        self.calls += 1
        segment, value = np.asarray(x, dtype=float).T
        if (np.isnan(value) & (segment == 1)).any():
            raise ValueError("NaN in segment 1")
        if (value > 1000).any():
            raise ValueError("too large")
        return np.nan_to_num(value)


def test_an_infinity_that_the_model_takes_is_scored() -> None:
    model = make_pipeline(FunctionTransformer(np.exp), LinearRegression()).fit([[0.0], [1.0]], [1.0, 2.0])
    done = scored(model, x=[1.0, np.inf, -np.inf])
    assert {row: str(why).split(",")[0] for row, why in done.rejected.items()} == {1: "'x' is infinite"}
    assert done.table["prediction"].to_pylist() == list(model.predict([[1.0], [-np.inf]]))
    done = scored(LINE, x=[1.0, -np.inf])
    assert str(done.rejected[1]).startswith("'x' is minus infinity, which the model does not take: ValueError: ")


def test_a_value_that_the_model_takes_in_some_rows_is_scored_there() -> None:
    done = scored(Segments(), segment=[1.0, 0.0, 0.0, 1.0, 0.0], b=[None, None, None, 3.0, None])
    assert {row: (why.stage, why.column) for row, why in done.rejected.items()} == {0: ("predict", None)}
    assert done.table["prediction"].to_pylist() == [0.0, 0.0, 3.0, 0.0]


def test_a_batch_is_scored_in_the_same_way_whatever_was_scored_before() -> None:
    # Given two batches, and a model that refuses nulls in some rows of both
    first = batch(segment=[1.0, 1.0, 0.0, 1.0], b=[1.0, None, None, None])
    second = batch(segment=[0.0, 0.0, 1.0, 0.0], b=[None, 2000.0, None, 3.0])
    features = ["segment", "b"]
    alone = [score_batch(bundle(Segments()), rows, features=features, keep=[], method=None) for rows in (first, second)]
    # When one process scores the batches in either order
    for order in ([0, 1], [1, 0]):
        loaded = bundle(Segments())
        for number in order:
            done = score_batch(loaded, (first, second)[number], features=features, keep=[], method=None)
            # Then each batch gives the same result as in a fresh process
            assert done.rejected == alone[number].rejected
            assert done.table.equals(alone[number].table)
    assert [list(done.rejected) for done in alone] == [[1, 3], [1, 2]]


def test_a_batch_costs_one_call_if_the_model_takes_all_its_values() -> None:
    for values in ([1.0, 2.0], [1.0, None, np.nan, np.inf]):
        model = Picky()
        assert not scored(model, x=pa.array(values, pa.float64())).rejected
        assert model.calls == 1


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.dictionary(pa.int8(), pa.float64())])
def test_missing_and_infinite_values_are_found_in_floats_of_every_kind(kind: pa.DataType) -> None:
    values = [1.0, np.nan, np.inf, -np.inf, None, 2.0]
    column = pa.array(np.array([*values[:4], 0.0, 2.0], dtype="f2"), mask=np.array([n == 4 for n in range(6)]))
    column = column.cast(pa.float32()).dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    done = scored(Picky(nan=False, infinite=False), x=column)
    said = {row: (why.stage, str(why).split(",")[0]) for row, why in done.rejected.items()}
    assert said == {
        1: ("schema", "'x' is null or NaN"),
        2: ("schema", "'x' is infinite"),
        3: ("schema", "'x' is minus infinity"),
        4: ("schema", "'x' is null or NaN"),
    }


def test_a_missing_or_infinite_value_costs_one_call() -> None:
    model = Picky(nan=False, infinite=False)
    values = np.arange(6_000.0) % 1000
    values[::7], values[1::7] = np.nan, np.inf
    done = scored(model, x=values)
    assert len(done.rejected) == len(values[::7]) + len(values[1::7])
    assert {why.message.split(",")[0] for why in done.rejected.values()} == {"'x' is null or NaN", "'x' is infinite"}
    assert model.calls < len(done.rejected) + 40


def test_a_row_that_fails_for_another_reason_does_not_reject_rows_with_nan() -> None:
    # Given a model that accepts NaN, and a row that is refused for its large value in `a` and has NaN in `b`
    done = scored(Picky(), a=[1.0, 2000.0, 3.0], b=[np.nan, np.nan, 1.0])
    assert {row: (why.stage, why.column, why.message) for row, why in done.rejected.items()} == {
        1: ("predict", None, "ValueError: too large")
    }
    assert done.table["prediction"].to_pylist() == [1.0, 4.0]


def test_the_column_is_named_even_if_no_row_of_the_batch_can_be_scored() -> None:
    done = scored(LinearRegression().fit(np.eye(2), [1.0, 2.0]), a=[np.nan, 1.0], b=[None, np.inf])
    assert {row: why.column for row, why in done.rejected.items()} == {0: "a", 1: "b"}


def test_null_texts_are_rejected_with_their_column() -> None:
    texts = ["good one", "bad one", "plain one"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["good", "bad", "plain"])
    done = scored(model, text=["good", None, "bad"])
    assert {row: (why.stage, why.column) for row, why in done.rejected.items()} == {1: ("schema", "text")}
    assert done.table["prediction"].to_pylist() == ["good", "bad"]


def test_a_text_model_takes_one_column_as_texts() -> None:
    texts = ["good one", "bad one", "plain one"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["good", "bad", "plain"])
    kinds = pa.array(texts).dictionary_encode()
    for column in (texts, pa.array(texts, pa.large_string()), kinds):
        assert scored(model, text=column).table["prediction"].to_pylist() == ["good", "bad", "plain"]
    with pytest.raises(InputError, match="takes one column, but there are 2 features: choose one with --features"):
        scored(model, text=texts, more=texts)


def test_an_array_of_texts_is_encoded_as_in_scikit_learn() -> None:
    fitted = np.array([["a", "x"], ["b", "y"], ["c", "x"]])
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(fitted, [0, 1, 0])
    done = scored(model, "predict_proba", first=["a", "b", "?"], second=["y", "y", "x"])
    ours = np.column_stack(done.table.columns)
    assert np.array_equal(ours, model.predict_proba(np.array([["a", "y"], ["b", "y"], ["?", "x"]])))


def test_the_search_for_failing_rows_stops_over_the_budget() -> None:
    nothing = batch(x=[float("nan")] * 3000)
    with pytest.raises(
        ScoringError, match=r"than 100 rows .* row 0 of a batch of 3000: 'x' is null .*: Input X contains NaN\.$"
    ):
        score_batch(bundle(LINE), nothing, features=["x"], keep=[], method=None, max_rejected=100)
    done = score_batch(bundle(LINE), nothing, features=["x"], keep=[], method=None)
    assert (done.table.num_rows, len(done.rejected)) == (0, 3000)
    large = batch(x=[2000.0] * 3000)
    with pytest.raises(ScoringError, match=r"than 100 rows .* row 0 of a batch of 3000: ValueError: too large$"):
        score_batch(bundle(Picky()), large, features=["x"], keep=[], method=None, max_rejected=100)


def test_rows_that_cannot_be_converted_are_not_scored() -> None:
    done = score_batch(
        bundle(LinearRegression().fit(np.eye(2), [1.0, 2.0])),
        batch(a=[1, 2**53 + 1, 3], b=[0.5, 0.5, 0.5]),
        features=["a", "b"],
        keep=["a"],
        method=None,
    )
    assert {row: (why.stage, why.column, why.message) for row, why in done.rejected.items()} == {
        1: ("schema", "a", "'a' is 9007199254740993, which float64 cannot hold exactly")
    }
    assert done.table["a"].to_pylist() == [1, 3]
    assert done.table.num_rows == 2


def test_an_empty_batch_gives_no_rows() -> None:
    empty = pa.record_batch({"x": pa.array([], pa.float64())})
    assert score_batch(bundle(LINE), empty, features=["x"], keep=[], method=None).table.num_rows == 0


def test_a_kept_column_with_the_name_of_an_output_is_refused() -> None:
    with pytest.raises(InputError, match="'prediction'"):
        score_batch(bundle(LINE), batch(x=[1.0], prediction=[1]), features=["x"], keep=["prediction"], method=None)


def test_a_method_that_the_model_lacks_is_named() -> None:
    with pytest.raises(ScoringError, match="predict_proba"):
        scored(LINE, "predict_proba", x=[1.0])


X = np.random.default_rng(0).normal(size=(60, 3))
ENCODED = [f"x{column}_{value}" for column in range(3) for value in sorted(X[:2, column])]
THREE = np.repeat(["a", "b", "c"], 20)


def columns_of(model: Any, method: str | None = None) -> dict[str, Any]:
    rows = batch(x=X[:, 0], y=X[:, 1], z=X[:, 2])
    done = score_batch(bundle(model), rows, features=["x", "y", "z"], keep=[], method=method)
    assert not done.rejected
    return {name: done.table[name].to_numpy() for name in done.table.column_names}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (LogisticRegression().fit(X, THREE), ["prediction", "proba_a", "proba_b", "proba_c"]),
        (LinearSVC().fit(X, THREE), ["prediction"]),
        (LinearRegression().fit(X, X[:, :2]), ["prediction_0", "prediction_1"]),
        (
            RandomForestClassifier(3, random_state=0).fit(X, X[:, :2] > 0),
            ["prediction_0", "prediction_1", "proba_0_False", "proba_0_True", "proba_1_False", "proba_1_True"],
        ),
        (IsolationForest(n_estimators=5, random_state=0).fit(X), ["prediction", "decision"]),
        (KMeans(2, n_init=1, random_state=0).fit(X), ["prediction"]),
        (PCA(2).fit(X), ["pca0", "pca1"]),
        (KernelDensity().fit(X), ["score"]),
        (GaussianMixture(2, random_state=0).fit(X), ["prediction"]),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, list) else "",
)
def test_each_kind_of_estimator_has_its_default_methods(model: Any, names: list[str]) -> None:
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
def test_a_requested_method_gives_what_the_estimator_gives(model: Any, method: str, names: list[str]) -> None:
    found = columns_of(model, method)
    expected = getattr(model, method)(X)
    expected = expected.toarray() if hasattr(expected, "toarray") else np.asarray(expected)
    assert list(found) == names
    assert np.array_equal(np.column_stack(list(found.values())), expected.reshape(len(X), -1))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["low", "mid", "top"], ["proba_low", "proba_mid", "proba_top"]),
        ([3, 5, 7], ["proba_3", "proba_5", "proba_7"]),
        ([False, True, True], ["proba_False", "proba_True"]),
        (
            np.array(["2026-11-24", "2026-11-25T06", "2026-11-26"], "M8[s]"),
            ["proba_2026-11-24", "proba_2026-11-25T06:00", "proba_2026-11-26"],
        ),
    ],
    ids=["texts", "integers", "booleans", "times"],
)
def test_classes_of_every_type_name_the_probabilities_and_keep_their_type(labels: Any, names: Any) -> None:
    model = LogisticRegression().fit(X, np.repeat(labels, 20))
    found = columns_of(model)
    assert list(found) == ["prediction", *names]
    assert np.array_equal(found["prediction"], model.predict(X))
    assert np.array_equal(np.column_stack([found[name] for name in names]), model.predict_proba(X))


@pytest.mark.parametrize(
    ("kind", "methods", "default"),
    [
        ("classifier", ["predict", "predict_proba", "decision_function"], ("predict", "predict_proba")),
        ("None", ["predict", "transform"], ("predict",)),
        ("None", ["transform"], ("transform",)),
        ("DensityEstimator", ["score_samples"], ("score_samples",)),
    ],
)
def test_models_with_manifests_of_an_earlier_format_are_scored(
    kind: str, methods: list[str], default: tuple[str, ...]
) -> None:
    classes = [0, 1] if kind == "classifier" else None
    offered = build(Outputs, {"kind": kind, "methods": methods, "classes": classes})
    assert offered.default_methods == default


def test_an_unknown_method_is_refused_with_a_list_of_the_known_ones() -> None:
    with pytest.raises(ScoringError, match="has no predict_proba: it offers predict, decision_function"):
        columns_of(LinearSVC().fit(X, THREE), "predict_proba")


def test_more_output_columns_than_a_table_may_have_are_refused() -> None:
    wide = FunctionTransformer(lambda x: np.zeros((len(x), 10_001)))
    with pytest.raises(ScoringError, match="transform gives 10,001 columns"):
        columns_of(wide, "transform")


def test_the_column_that_an_error_quotes_is_named() -> None:
    frame = pd.DataFrame({"plan": ["a", "b"], "x": [0.0, 1.0]})
    model = make_pipeline(
        make_column_transformer((OrdinalEncoder(), ["plan"]), remainder="passthrough"), LinearRegression()
    ).fit(frame, [0.0, 2.0])
    done = scored(model, plan=["a", "gold", "b"], x=[1.0, 1.0, 1.0])
    assert {row: (why.stage, why.column) for row, why in done.rejected.items()} == {1: ("predict", "plan")}


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (RandomForestClassifier(3, random_state=0), "predict_proba"),
        (HistGradientBoostingClassifier(max_iter=3), "_raw_predict"),
        (GradientBoostingClassifier(n_estimators=3), "decision_function"),
        (LogisticRegression(), "decision_function"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "decision_function"),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, str) else item,
)
@pytest.mark.parametrize("labels", [THREE, THREE == "a"], ids=["three", "two"])
def test_computation_shared_by_two_methods_runs_once_and_changes_no_bit(
    model: Any, asked: str, labels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.fit(X, labels)
    alone = columns_of(model, "predict") | columns_of(model, "predict_proba")
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    count, ask = 0, getattr(type(last), asked)

    def counted(self: Any, x: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return ask(self, x, *arguments, **options)

    monkeypatch.setattr(type(last), asked, counted)
    both = columns_of(model)
    assert count == 1
    assert list(both) == list(alone)
    assert all(np.array_equal(both[name], values) for name, values in alone.items())
    assert asked not in vars(last)


@pytest.mark.parametrize("value", ["n/a", "it's", 'say "no"', "", "two\nlines"])
def test_the_column_with_a_text_that_is_not_a_number_is_named(value: str) -> None:
    model = LinearRegression().fit(np.eye(2), [1.0, 2.0])
    done = scored(model, a=["1", "2", "3"], b=["1", value, "3"])
    assert {row: (why.stage, why.column) for row, why in done.rejected.items()} == {1: ("predict", "b")}
    # And if two columns contain such a text, the rejected row names the first of them
    assert scored(model, a=["1", value], b=["1", value]).rejected[1].column == "a"


def test_a_few_failing_rows_cost_few_calls_each() -> None:
    model = Picky()
    values = np.arange(4096.0) % 1000
    bad = [3, 1000, 1001, 4095]
    values[bad] = 5000.0
    assert list(scored(model, x=values).rejected) == bad
    assert model.calls <= 2 * len(bad) * 12 + 2
