"""The checks of scikit-learn find all rows that a step refuses, wherever the step is in a model."""

from __future__ import annotations

import functools
import itertools
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_transformer
from sklearn.decomposition import NMF, LatentDirichletAllocation
from sklearn.ensemble import (
    BaggingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.kernel_approximation import AdditiveChi2Sampler, SkewedChi2Sampler
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import CategoricalNB
from sklearn.neighbors import RadiusNeighborsClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)

from scoreline.tasks.scoring import refusals, step_checks
from scoreline.tasks.scoring.outputs import outputs
from scoreline.tasks.scoring.score import Scored, score_batch
from tests.support.bundles import bundle

ROWS = 400


def frame(rows: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    towns = np.array([f"town {number}" for number in range(12)], dtype=object)
    return pd.DataFrame(
        {
            "town": towns[random.integers(0, 12, rows)],
            "level": random.integers(0, 4, rows).astype(float),
            "x": random.uniform(0.1, 1.0, rows),
            "y": random.uniform(0.1, 1.0, rows),
        }
    )


NUMBERS = ["x", "y"]
TRAINED = frame(300, seed=1)
TRAINED.loc[:1, NUMBERS] = [[0.1, 0.1], [1.0, 1.0]]
LABELS = (TRAINED["x"] > 0.5).astype(int)


def of_towns(encoder: Any) -> ColumnTransformer:
    return make_column_transformer((encoder, ["town"]), remainder="passthrough")


def of_numbers(*steps: Any) -> Any:
    return make_pipeline(make_column_transformer((steps[0], NUMBERS)), *steps[1:])


def encoding() -> Any:
    return make_pipeline(of_towns(OneHotEncoder()), LogisticRegression())


NEW, NAN, INF, HUGE, NEGATIVE, MISSING = "elsewhere", np.nan, np.inf, 1e300, -2.0, None
CASES: dict[str, tuple[Any, str, list[Any]]] = {
    "OneHotEncoder": (encoding(), "town", [NEW, "nowhere", MISSING]),
    "OrdinalEncoder": (make_pipeline(of_towns(OrdinalEncoder()), RandomForestClassifier(5)), "town", [NEW, "nowhere"]),
    "OneHotEncoder of numbers": (
        make_pipeline(make_column_transformer((OneHotEncoder(), ["level"])), Ridge()),
        "level",
        [7.0, 9.0, NAN],
    ),
    "FeatureUnion": (
        make_pipeline(make_union(of_towns(OneHotEncoder()), of_towns(OrdinalEncoder())), Ridge()),
        "town",
        [NEW],
    ),
    "search": (GridSearchCV(encoding(), {"logisticregression__C": [1.0]}, cv=2), "town", [NEW]),
    "calibration": (CalibratedClassifierCV(encoding(), cv=2), "town", [NEW]),
    "stacking": (StackingClassifier([("a", encoding()), ("b", encoding())], cv=2), "town", [NEW]),
    "voting": (VotingClassifier([("a", encoding()), ("b", encoding())]), "town", [NEW]),
    "bagging behind a step": (of_numbers(RobustScaler(), BaggingClassifier(n_estimators=3)), "x", [INF, HUGE]),
    "several outputs": (
        MultiOutputRegressor(make_pipeline(of_towns(OneHotEncoder()), Ridge())),
        "town",
        [NEW],
    ),
    "transformed target": (
        TransformedTargetRegressor(
            make_pipeline(of_towns(OneHotEncoder()), Ridge()), func=np.log1p, inverse_func=np.expm1
        ),
        "town",
        [NEW],
    ),
    "TargetEncoder": (make_pipeline(of_towns(TargetEncoder()), Ridge()), "x", [NAN, INF]),
    "KBinsDiscretizer": (of_numbers(KBinsDiscretizer(), Ridge()), "x", [NAN, INF, -INF]),
    "NaN behind a scaler": (of_numbers(StandardScaler(), LogisticRegression()), "x", [NAN]),
    "NaN beside a sparse matrix": (
        make_pipeline(
            ColumnTransformer([("a", OneHotEncoder(), ["town"]), ("b", "passthrough", ["x"])], sparse_threshold=1.0),
            Ridge(),
        ),
        "x",
        [NAN, INF],
    ),
    "NaN made by a step": (of_numbers(FunctionTransformer(np.log), Ridge()), "x", [NEGATIVE, 0.0]),
    "too large for float32": (of_numbers(RobustScaler(), RandomForestClassifier(5)), "x", [HUGE, -HUGE]),
    "Box-Cox": (of_numbers(PowerTransformer(method="box-cox"), Ridge()), "x", [NEGATIVE, 0.0]),
    "NMF": (of_numbers("passthrough", NMF(2, max_iter=20, tol=0.1), Ridge()), "x", [NEGATIVE, NAN]),
    "LatentDirichletAllocation": (of_numbers("passthrough", LatentDirichletAllocation(2, max_iter=2)), "x", [NEGATIVE]),
    "AdditiveChi2Sampler": (of_numbers("passthrough", AdditiveChi2Sampler(), Ridge()), "x", [NEGATIVE]),
    "SkewedChi2Sampler": (of_numbers("passthrough", SkewedChi2Sampler(skewedness=0.5), Ridge()), "x", [NEGATIVE]),
    "SplineTransformer": (of_numbers(SplineTransformer(extrapolation="error"), Ridge()), "x", [5.0, NEGATIVE]),
    "CategoricalNB": (
        make_pipeline(make_column_transformer(("passthrough", ["level"])), CategoricalNB()),
        "level",
        [9.0, -1.0, NAN],
    ),
    "RadiusNeighborsClassifier": (of_numbers("passthrough", RadiusNeighborsClassifier(5.0)), "x", [900.0, NAN]),
    "MissingIndicator": (
        make_pipeline(make_column_transformer((MissingIndicator(), ["x", "y"])), LogisticRegression()),
        "x",
        [NAN],
    ),
    "text that is no number": (of_numbers(SimpleImputer(), Ridge()), "x", ["n/a", "1,5", ""]),
    "text for a scaler": (of_numbers(StandardScaler(), Ridge()), "x", ["n/a", "it's"]),
}


@functools.cache
def of_case(name: str) -> Any:
    """Return the fitted model of a case."""
    return fitted(CASES[name][0])


def fitted(model: Any) -> Any:
    several = isinstance(model, MultiOutputRegressor)
    trained = TRAINED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if any(
            isinstance(step, ColumnTransformer) and isinstance(step.transformers[0][1], MissingIndicator)
            for step in getattr(model, "named_steps", {}).values()
        ):
            trained = TRAINED.assign(y=TRAINED["y"].mask(TRAINED["y"] > 0.9))
        return model.fit(trained, np.column_stack([LABELS, LABELS]) if several else LABELS)


def damaged(column: str, values: list[Any], share: float, seed: int = 2) -> tuple[pd.DataFrame, Any]:
    """Return rows, and a mask of those that have one of the given values in a column."""
    rows = frame(ROWS, seed)
    bad = np.random.default_rng(seed).random(ROWS) < share
    rows[column] = rows[column].astype(object)
    rows.loc[bad, column] = np.resize(np.array(values, dtype=object), bad.sum())
    if not any(isinstance(value, str) for value in rows[column]):
        rows[column] = rows[column].astype(float)
    elif column != "town":
        rows[column] = rows[column].astype(str)
    return rows, bad


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls of the model. The counter pretends to be Scoreline's own code, not a user's."""
    counted: list[int] = []
    real = outputs

    def count(*arguments: Any) -> Any:
        counted.append(len(arguments[1]))
        return real(*arguments)

    namespace = {**globals(), "__name__": "scoreline.tests"}
    posing = types.FunctionType(count.__code__, namespace, closure=count.__closure__)
    monkeypatch.setattr("scoreline.tasks.scoring.score.outputs", posing)
    return counted


def scored(model: Any, rows: pd.DataFrame) -> Scored:
    of_model = bundle(model)
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    names = list(of_model.manifest.feature_names or rows.columns)
    return score_batch(of_model, batch, features=names, keep=[], method=None)


def failing_alone(model: Any, rows: pd.DataFrame) -> list[int]:
    return [row for row in range(len(rows)) if scored(model, rows.iloc[row : row + 1].reset_index(drop=True)).rejected]


@pytest.mark.parametrize("name", CASES)
def test_all_rows_that_a_step_refuses_are_found_at_once_anywhere_in_a_model(name: str, calls: list[int]) -> None:
    _, column, values = CASES[name]
    rows, bad = damaged(column, values, share=0.1)
    done = scored(of_case(name), rows)
    assert list(done.rejected) == np.flatnonzero(bad).tolist()
    # Then the search needs a few calls for each kind of value, however many rows have that value
    assert len(calls) <= 3 + 4 * len(values), calls


@pytest.mark.parametrize("name", CASES)
def test_the_rows_that_a_step_refuses_are_those_that_fail_alone(name: str) -> None:
    _, column, values = CASES[name]
    rows, bad = damaged(column, values, share=0.3)
    rows = rows.iloc[:12].reset_index(drop=True)
    assert failing_alone(of_case(name), rows) == np.flatnonzero(bad[:12]).tolist()


def test_rows_that_are_refused_for_the_same_value_share_their_reason() -> None:
    rows, _ = damaged("town", [NEW, "nowhere"], share=0.1)
    reasons = scored(of_case("OneHotEncoder"), rows).rejected.values()
    assert len({id(reason) for reason in reasons}) == 2 < len(reasons)


VALUES = st.lists(
    st.sampled_from(["1", "1.5", " 2 ", "1_0", "0x1f", "1e400", "nan", "inf", "n/a", "", "\uff11", "true"])
    | st.sampled_from([None, True, 3, 2**70, 1.5, np.nan, b"1", b"x", pd.Timestamp(0)])
    | st.text(max_size=3),
    max_size=8,
)


@given(VALUES, st.sampled_from(["f8", "f4", "i8"]))
def test_values_that_numpy_cannot_convert_are_found_among_many(values: list[Any], dtype: str) -> None:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    alone = [bool(step_checks._conversion_error(value, np.dtype(dtype))) for value in values]
    assert step_checks._not_numbers(column, np.dtype(dtype)).tolist() == alone


def test_each_rejected_row_has_the_message_of_the_step_about_this_row() -> None:
    rows = frame(6)
    rows.loc[[1, 4], "town"] = ["elsewhere", "nowhere"]
    rows.loc[3, "x"] = np.nan
    model = make_pipeline(of_towns(OneHotEncoder()), Ridge()).fit(TRAINED, TRAINED["x"])
    said = {row: (why.stage, why.column, why.message) for row, why in scored(model, rows).rejected.items()}
    unknown = "ValueError: Found unknown categories ['{}'] in column 0 during transform"
    assert said == {
        1: ("predict", "town", unknown.format("elsewhere")),
        3: ("schema", "x", "'x' is null or NaN, which the model does not take: ValueError: Input X contains NaN."),
        4: ("predict", "town", unknown.format("nowhere")),
    }


def test_each_reason_is_made_once_however_many_columns_have_refused_values() -> None:
    # Given 20 columns with unknown texts in different rows, each text in one row
    names = [f"c{number}" for number in range(20)]
    rows = pd.DataFrame(dict.fromkeys(names, ["known"] * ROWS), dtype=object)
    model = make_pipeline(OneHotEncoder(), Ridge()).fit(rows, np.arange(ROWS))
    for row in range(ROWS // 2):
        rows.loc[row, names[row % 20]] = f"text {row}"
    done = scored(model, rows)
    assert [(why.column, f"'text {row}'" in why.message) for row, why in done.rejected.items()] == [
        (names[row % 20], True) for row in range(ROWS // 2)
    ]
    assert len(done.rejected.messages) == ROWS // 2


class Own(BaseEstimator):
    """A user's own model, which reorders the rows before it passes them to another model."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def fit(self, x: Any, y: Any) -> Own:
        self.feature_names_in_ = np.asarray(x.columns, dtype=object)
        self.inner.fit(x, y)
        return self

    def predict(self, x: Any) -> Any:
        order = np.argsort(x["x"].to_numpy())
        return self.inner.predict(x.iloc[order])[np.argsort(order)]


def test_rows_within_a_model_of_the_users_own_are_found_by_calls_alone() -> None:
    rows = frame(6).assign(x=np.linspace(0.9, 0.4, 6))
    # Given a model that reverses its rows, so that its encoder reports rows 0, 4 and 5, of which row 4 is sound
    rows.loc[[0, 1, 5], "town"] = NEW
    assert list(scored(Own(encoding()).fit(TRAINED, LABELS), rows).rejected) == [0, 1, 5]


def test_an_answer_counts_only_if_a_call_confirms_it(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    # Given a check of refused values that also reports sound rows
    real: Callable[..., Any] = refusals.ask

    def ask(error: Exception, n_rows: int) -> Any:
        found = real(error, n_rows)
        for refused in found:
            refused.rows[:] = np.arange(len(refused.rows))
        return found

    monkeypatch.setattr("scoreline.tasks.scoring.search.ask", ask)
    rows, bad = damaged("town", [NEW], share=0.05)
    bad[0], rows.loc[0, "town"] = False, "town 1"
    assert list(scored(fitted(encoding()), rows).rejected) == np.flatnonzero(bad).tolist()


def test_a_missing_text_is_found_in_all_rows_at_once(calls: list[int]) -> None:
    texts = [f"word {number} of many" for number in range(ROWS)]
    model = make_pipeline(TfidfVectorizer(), LinearRegression()).fit(np.array(texts, dtype=object), np.arange(ROWS))
    some = pd.DataFrame({"text": [None if number % 10 == 0 else text for number, text in enumerate(texts)]})
    assert list(scored(model, some).rejected) == list(range(0, ROWS, 10))
    assert len(calls) < 20


def test_values_beyond_an_isotonic_regression_are_found_in_all_rows_at_once(calls: list[int]) -> None:
    model = IsotonicRegression(out_of_bounds="raise").fit([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    x = np.resize([0.5, 1.5, 2.5, 1.0, -1.0], ROWS)
    done = scored(model, pd.DataFrame({"x": x}))
    assert list(done.rejected) == np.flatnonzero((x < 0) | (x > 2)).tolist()
    assert len(calls) < 20


MIXED = make_pipeline(of_towns(OneHotEncoder()), Ridge()).fit(TRAINED, LABELS)
OWN = Own(make_pipeline(of_towns(OrdinalEncoder()), Ridge())).fit(TRAINED, LABELS)
CELLS = st.tuples(
    st.sampled_from(["town 1", "town 2", "town 3", "elsewhere", "nowhere", None]),
    st.sampled_from([0.5, 1.0, np.nan, np.inf, -np.inf, 1e300]),
)


@functools.cache
def fails_alone(own: bool, town: str | None, x: float) -> bool:
    table = frame(1, seed=3)
    table["town"] = pd.Series([town], dtype="str")
    table["x"] = [x]
    return bool(scored(OWN if own else MIXED, table).rejected)


@settings(max_examples=30)
@given(st.lists(CELLS, min_size=1, max_size=16), st.data(), st.sampled_from([MIXED, OWN]))
def test_the_rejected_rows_are_a_function_of_the_rows_and_the_model(rows: list[Any], data: Any, model: Any) -> None:
    table = frame(len(rows), seed=3)
    table["town"] = pd.Series([town for town, _ in rows], dtype="str")
    table["x"] = [x for _, x in rows]
    expected = {row for row, cells in enumerate(rows) if fails_alone(model is OWN, *cells)}
    # When the rows are divided at random, and the parts are scored in any order, some of them twice
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=4).map(lambda cuts: sorted({0, len(rows), *cuts})))
    parts = list(itertools.pairwise(cuts))
    for start, stop in data.draw(st.permutations(parts + parts[:1])):
        done = scored(model, table.iloc[start:stop].reset_index(drop=True))
        assert {start + row for row in done.rejected} == expected & set(range(start, stop))
        assert done.table.num_rows == stop - start - len(done.rejected)
