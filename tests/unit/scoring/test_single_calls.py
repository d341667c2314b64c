"""Within a part, a step is confirmed once, with the same results."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from scoreline.tasks.scoring.refusals import SingleCalls
from scoreline.tasks.scoring.refused_before import RefusedBefore
from scoreline.tasks.scoring.score import Scored, score_batch
from tests.support.bundles import bundle
from tests.support.model_calls import counted_calls

ROWS = 2_048
CALLED: list[int] = []
"""The numbers of rows with which the models of this module were called."""


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    with counted_calls(CALLED):
        yield


def frame(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {"town": [f"town {number}" for number in random.integers(0, 9, rows)], "x": random.uniform(0.1, 1.0, rows)}
    )


def fitted(step: Any) -> Any:
    trained = frame(300, seed=1)
    steps = make_column_transformer((OneHotEncoder(), ["town"]), (step, ["x"]))
    return make_pipeline(steps, LogisticRegression()).fit(trained, trained["x"] > 0.5)


MODEL, LOGS = fitted(StandardScaler()), fitted(FunctionTransformer(np.log))


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


def damaged(column: str, value: Any, first: int, seed: int = 0) -> pd.DataFrame:
    """Return rows of which every twentieth is refused."""
    rows = frame(seed=seed)
    rows.loc[first::20, column] = value
    return rows


def assert_same(done: Scored, expected: Scored) -> None:
    assert list(done.rejected.items()) == list(expected.rejected.items())
    assert done.table.equals(expected.table)


@pytest.mark.parametrize(("column", "value", "calls"), [("town", "elsewhere", 0), ("x", np.nan, 1), ("x", -np.inf, 0)])
@pytest.mark.parametrize("remembers", [True, False])
def test_later_batches_of_a_part_confirm_no_step_again(column: str, value: Any, calls: int, remembers: bool) -> None:
    single, before = SingleCalls(), RefusedBefore() if remembers else None
    score(MODEL, damaged(column, value, 3), before, single)
    assert 1 in CALLED
    rows = damaged(column, value, 7, seed=2)
    done = score(MODEL, rows, before, single)
    # Then a single row is scored only to explain a missing value, if no such value was expected
    assert CALLED.count(1) == (0 if remembers else calls)
    assert_same(done, score(MODEL, rows))


def test_a_value_of_another_column_is_explained_by_itself() -> None:
    single = SingleCalls()
    score(MODEL, damaged("x", np.nan, 3), None, single)
    rows = damaged("town", None, 3)
    assert_same(score(MODEL, rows, None, single), score(MODEL, rows))
    assert 1 in CALLED


BATCHES = [
    damaged("town", "elsewhere", 0),
    damaged("x", np.nan, 1, seed=2),
    damaged("x", -1.0, 2, seed=3),
    damaged("x", np.inf, 3, seed=4).assign(town=damaged("town", "nowhere", 3, seed=5)["town"]),
    frame(seed=6),
    damaged("x", np.nan, 1, seed=7).assign(town=damaged("town", "nowhere", 3, seed=8)["town"]),
    damaged("x", np.nan, 1, seed=9).assign(town=damaged("town", "nowhere", 1, seed=10)["town"]),
]


@functools.cache
def without_memory(model: int, number: int) -> Scored:
    """Return what a model makes of a batch if it remembers nothing."""
    return score([MODEL, LOGS][model], BATCHES[number])


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from([0, 1]),
    earlier=st.lists(st.integers(0, len(BATCHES) - 1), max_size=3),
    part=st.lists(st.integers(0, len(BATCHES) - 1), min_size=2, max_size=4),
)
def test_the_rejected_rows_of_a_part_do_not_depend_on_earlier_parts(
    model: int, earlier: list[int], part: list[int]
) -> None:
    before, single, alone = RefusedBefore(), SingleCalls(), SingleCalls()
    for number in earlier:
        score([MODEL, LOGS][model], BATCHES[number], before)
    for number in part:
        done = score([MODEL, LOGS][model], BATCHES[number], before, single)
        assert_same(done, score([MODEL, LOGS][model], BATCHES[number], None, alone))
        assert_same(done, without_memory(model, number))
    # Then both processes remember the same calls with single rows for the rest of the part
    assert {check: said for check, said in single.confirmed.items() if said} == {
        check: said for check, said in alone.confirmed.items() if said
    }


def test_a_batch_that_begins_again_forgets_what_it_confirmed_before() -> None:
    before, single = RefusedBefore(), SingleCalls()
    score(MODEL, damaged("town", "elsewhere", 3), before)
    score(MODEL, damaged("x", np.nan, 3), None, single)
    # Given a batch in which more rows fail than are expected to be refused
    rows = damaged("town", "elsewhere", 3, seed=2)
    rows.loc[9, "x"] = np.nan
    score(MODEL, rows, before, single)
    # Then NaN is explained once, and an unknown category is tried before and after the batch begins again
    assert CALLED.count(1) == 3
