"""A few rows of the first batch are tried, so that a call of the whole batch does not fail after most of its work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from scoreline.tasks.scoring.refusals import SingleCalls
from scoreline.tasks.scoring.refused_before import RefusedBefore
from scoreline.tasks.scoring.score import Scored, score_batch
from tests.support.bundles import bundle
from tests.support.model_calls import counted_calls

ROWS, TRIED = 32_768, 2_048
CALLED: list[int] = []
"""The numbers of rows with which the models of this module were called."""
FAILS: list[Exception] = []
"""Errors that the next calls raise."""


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    with counted_calls(CALLED, FAILS):
        yield


def frame(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    towns = np.array([f"town {number}" for number in range(9)], dtype=object)
    return pd.DataFrame({"town": towns[random.integers(0, 9, rows)], "x": random.uniform(0.1, 1.0, rows)})


def fitted(step: Any) -> Any:
    trained = frame(300, seed=1)
    steps = make_column_transformer((OneHotEncoder(), ["town"]), (step, ["x"]))
    return make_pipeline(steps, LogisticRegression()).fit(trained, trained["x"] > 0.5)


MODEL, LOGS = fitted(StandardScaler()), fitted(FunctionTransformer(np.log))
MIXED = fitted(FunctionTransformer(lambda x: x - 0 * np.roll(x, 1)))
"""A model with a step of the user's own, which is never asked which rows it refuses."""


def score(
    model: Any, rows: pd.DataFrame, before: RefusedBefore | None = None, single: SingleCalls | None = None
) -> Scored:
    CALLED.clear()
    return score_batch(
        bundle(model),
        pa.RecordBatch.from_pandas(rows, preserve_index=False),
        features=["town", "x"],
        keep=["x"],
        method="predict_proba",
        refused_before=before,
        single_calls=single,
    )


def assert_same(done: Scored, expected: Scored) -> None:
    assert list(done.rejected.items()) == list(expected.rejected.items())
    assert done.table.equals(expected.table)


@pytest.mark.parametrize(
    ("model", "column", "value"), [(MODEL, "town", "elsewhere"), (MODEL, "x", np.nan), (LOGS, "x", -1.0)]
)
def test_no_call_of_the_whole_first_batch_fails(model: Any, column: str, value: Any) -> None:
    rows = frame()
    rows.loc[7::20, column] = value
    done = score(model, rows, RefusedBefore())
    assert CALLED[0] == TRIED
    # Then one call scores all sound rows, and no call has more rows
    assert CALLED.count(done.table.num_rows) == 1
    assert max(CALLED) == done.table.num_rows
    assert_same(done, score(model, rows))


def test_the_first_batch_has_the_same_results_if_its_first_rows_do_not_tell_what_is_refused() -> None:
    rows = frame()
    rows.loc[ROWS - 50 :: 3, "x"] = np.nan
    rows.loc[5, "town"] = "elsewhere"
    done = score(MODEL, rows, RefusedBefore())
    assert_same(done, score(MODEL, rows))


def test_rows_are_tried_in_the_first_large_batch_of_a_model_alone() -> None:
    before = RefusedBefore()
    score(MODEL, frame(), before)
    assert CALLED == [TRIED, ROWS]
    score(MODEL, frame(seed=2), before)
    assert CALLED == [ROWS]
    small_first = RefusedBefore()
    score(MODEL, frame(ROWS - 1), small_first)
    assert CALLED == [ROWS - 1]
    score(MODEL, frame(), small_first)
    assert CALLED == [TRIED, ROWS]


def test_rows_are_tried_in_the_first_large_batch_of_a_later_job_while_no_refusals_are_expected() -> None:
    before = RefusedBefore()
    assert [before.begins(job) for job in ("a", "a", "b")] == [True, False, True]
    score(MODEL, frame(), before)
    rows = frame(seed=2)
    rows.loc[7::20, "x"] = np.nan
    single = SingleCalls(job_begins=True)
    done = score(MODEL, rows, before, single)
    assert CALLED[0] == TRIED
    assert max(CALLED) == done.table.num_rows
    assert_same(done, score(MODEL, rows))
    for later in (single, SingleCalls(job_begins=True)):
        score(MODEL, frame(seed=3), before, later)
        assert CALLED == [ROWS]


class Own(LogisticRegression):
    """A model of the user's own, which may be slow to call."""


def own() -> Any:
    rows = frame(300, seed=1)
    steps = make_column_transformer((OneHotEncoder(), ["town"]), (StandardScaler(), ["x"]))
    return make_pipeline(steps, Own()).fit(rows, rows["x"] > 0.5)


def drawing() -> Any:
    """Return a model whose results depend on the number of calls before."""
    rows = frame(300, seed=1)
    imputer = IterativeImputer(sample_posterior=True, random_state=0)
    steps = make_column_transformer((OneHotEncoder(), ["town"]), (imputer, ["x"]))
    return make_pipeline(steps, LogisticRegression()).fit(rows, rows["x"] > 0.5)


@pytest.mark.parametrize("model", [MIXED, own(), drawing()], ids=["mixes rows", "own", "draws random numbers"])
def test_no_rows_are_tried_with_a_model_whose_results_may_depend_on_earlier_calls(model: Any) -> None:
    score(model, frame(), RefusedBefore())
    assert CALLED == [ROWS]


def test_an_error_that_is_not_due_to_the_rows_ends_the_part_at_once() -> None:
    FAILS.append(ImportError("no module"))
    with pytest.raises(ImportError):
        score(MODEL, frame(), RefusedBefore())
    assert CALLED == [TRIED]


def test_too_little_memory_for_the_rows_that_are_tried_says_nothing_of_the_batch() -> None:
    FAILS.append(MemoryError())
    done = score(MODEL, frame(), RefusedBefore())
    assert (CALLED, done.table.num_rows) == ([TRIED, ROWS], ROWS)
