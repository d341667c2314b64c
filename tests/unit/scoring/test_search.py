"""With few calls, the search finds the rows that a model cannot score, and rejects no other row."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator

from scoreline.tasks.scoring.score import score_batch
from tests.support.bundles import batch, bundle, scored

ROWS = 20_000


class Refusing(BaseEstimator):
    """Raises `error` if `refuses` returns true for a row of the frame; otherwise returns a column of 1s."""

    def __init__(self, refuses: Callable[[pd.DataFrame], Any], error: Exception | None = None) -> None:
        self.refuses = refuses
        self.error = ValueError("refused") if error is None else error
        self.calls = 0

    def fit(self, x: Any, y: Any = None) -> Refusing:
        return self

    def predict(self, x: Any) -> Any:
        self.calls += 1
        frame = x if isinstance(x, pd.DataFrame) else pd.DataFrame(x, columns=["a", "b", "c"][: np.shape(x)[1]])
        if np.any(self.refuses(frame)):
            raise self.error
        return np.ones(len(frame))


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def towns(share: float) -> Any:
    """Return names of 40 known towns, and unknown names in some rows."""
    names = np.array([f"town {number}" for number in random().integers(0, 40, ROWS)], dtype=object)
    return names, random(1).random(ROWS) < share


KNOWN = {f"town {number}" for number in range(40)}


@pytest.mark.parametrize("distinct", [False, True])
def test_unknown_categories_cost_about_one_call_each(distinct: bool) -> None:
    names, unknown = towns(0.01)
    names[unknown] = [f"new {number}" for number in range(unknown.sum())] if distinct else "elsewhere"
    model = Refusing(lambda frame: ~frame["b"].isin(KNOWN))
    done = scored(model, a=random().normal(size=ROWS), b=names, c=random().normal(size=ROWS))
    assert list(done.rejected) == np.flatnonzero(unknown).tolist()
    assert model.calls < unknown.sum() + 80


def test_values_out_of_range_cost_about_one_call_each_even_in_two_columns() -> None:
    a, c = random(2).normal(size=ROWS), random(3).normal(size=ROWS)
    model = Refusing(lambda frame: (frame["a"] > 2.3) | (frame["c"] < -2.3))
    done = scored(model, a=a, b=["x"] * ROWS, c=c)
    bad = (a > 2.3) | (c < -2.3)
    assert list(done.rejected) == np.flatnonzero(bad).tolist()
    assert model.calls < bad.sum() + 120


def test_rows_that_fail_for_no_single_value_are_found_by_halving() -> None:
    a, c = random(2).normal(size=ROWS), random(3).normal(size=ROWS)
    model = Refusing(lambda frame: frame["a"] * frame["b"] > 4)
    done = scored(model, a=a, b=c)
    bad = a * c > 4
    assert list(done.rejected) == np.flatnonzero(bad).tolist()
    assert model.calls < 12 * bad.sum()


def test_a_batch_without_a_good_row_costs_one_call_a_row() -> None:
    model = Refusing(lambda frame: [True])
    assert len(scored(model, a=np.arange(2_000.0)).rejected) == 2_000
    assert model.calls < 2_040


def test_one_bad_row_of_many_costs_few_calls() -> None:
    model = Refusing(lambda frame: frame["a"] == 15_000)
    assert list(scored(model, a=np.arange(float(ROWS))).rejected) == [15_000]
    assert model.calls < 50


VALUES = st.sampled_from([0.0, 1.0, 2.0, -5.0, 1e9, float("inf"), float("nan"), None])
NAMES = st.sampled_from(["x", "y", "z", "x", None])
REFUSALS: list[Callable[[pd.DataFrame], Any]] = [
    lambda frame: frame["a"] > 1.5,
    lambda frame: frame["a"].isna(),
    lambda frame: frame["b"].isin(["y", "z"]),
    lambda frame: frame["a"].isna() & (frame["b"] == "x"),
    lambda frame: (frame["a"] < 0) & frame["b"].isna(),
    lambda frame: np.isinf(frame["a"]) | (frame["b"] == "z"),
    lambda frame: [True],
]


@given(
    rows=st.lists(st.tuples(VALUES, NAMES), min_size=1, max_size=60),
    refuses=st.lists(st.sampled_from(REFUSALS), min_size=1, max_size=3),
)
def test_exactly_the_rows_that_fail_alone_are_rejected(rows: list[Any], refuses: list[Any]) -> None:
    model = Refusing(lambda frame: np.any([np.any(rule(frame)) for rule in refuses]))
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    frame = pd.DataFrame({"a": np.array(a, dtype=float), "b": pd.Series(b, dtype="str")})
    expected = [row for row in range(len(rows)) if any(np.any(rule(frame[row : row + 1])) for rule in refuses)]
    columns = {"a": pa.array(a, pa.float64()), "b": pa.array(b, pa.string()), "id": list(range(len(rows)))}
    done = score_batch(bundle(model), batch(**columns), features=["a", "b"], keep=["id"], method=None)
    assert list(done.rejected) == expected
    assert done.table["id"].to_pylist() == [row for row in range(len(rows)) if row not in expected]


def test_rows_that_fail_only_together_are_all_scored() -> None:
    model = Refusing(lambda frame: [len(frame) > 100])
    done = scored(model, a=np.arange(1_000.0))
    assert (done.table.num_rows, dict(done.rejected)) == (1_000, {})
    assert model.calls < 150


def test_rows_for_which_memory_is_short_are_scored_in_smaller_groups() -> None:
    done = scored(Refusing(lambda frame: [len(frame) > 100], MemoryError()), a=np.arange(1_000.0))
    assert (done.table.num_rows, dict(done.rejected)) == (1_000, {})


class OwnError(Exception):
    """An exception like those that libraries define."""


class NotAnImage(OSError):
    """An exception of a library that is derived from a built-in exception."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no"),
        AssertionError("no"),
        OwnError("no"),
        NotAnImage("no"),
        SyntaxError("no"),
        StopIteration("no"),
    ],
)
def test_any_error_of_a_library_rejects_only_the_row_that_causes_it(error: Exception) -> None:
    done = scored(Refusing(lambda frame: frame["a"] == 250, error), a=np.arange(300.0))
    assert {row: (why.stage, str(why)) for row, why in done.rejected.items()} == {
        250: ("predict", f"{type(error).__name__}: no")
    }
    assert done.table.num_rows == 299


@pytest.mark.parametrize(
    "error",
    [MemoryError("no"), OSError(errno.ENOSPC, "disk full"), ModuleNotFoundError("no"), ConnectionResetError(104, "")],
)
def test_an_error_of_the_machine_rejects_no_row(error: Exception) -> None:
    with pytest.raises(type(error)):
        scored(Refusing(lambda frame: frame["a"] == 250, error), a=np.arange(300.0))


class Broken(Refusing):
    """A model that one bad row breaks for all later rows, like an error in a graphics processor."""

    broken = False

    def predict(self, x: Any) -> Any:
        if self.broken:
            raise self.error
        try:
            return super().predict(x)
        except type(self.error):
            self.broken = len(x) == 1
            raise


def test_a_row_that_breaks_the_model_does_not_condemn_the_rows_after_it() -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        scored(Broken(lambda frame: frame["a"] == 50, RuntimeError("device-side assert")), a=np.arange(300.0))


class Enriching(BaseEstimator):
    """A model that adds a column to its input, where pandas aligns rows by the index."""

    def fit(self, x: Any, y: Any = None) -> Enriching:
        self.feature_names_in_ = np.asarray(x.columns, dtype=object)
        return self

    def predict(self, x: Any) -> Any:
        if (x["a"] < 0).any():
            raise ValueError("negative")
        return pd.concat([x, pd.Series(2 * x["a"].to_numpy(), name="twice")], axis=1)["twice"]


def test_a_model_that_adds_columns_finds_each_row_although_another_was_rejected() -> None:
    done = scored(Enriching().fit(pd.DataFrame({"a": [0.0]})), a=[1.0, -1.0, 3.0, 4.0])
    assert list(done.rejected) == [1]
    assert done.table["prediction"].to_pylist() == [2.0, 6.0, 8.0]
