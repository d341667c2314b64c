"""Rows like those that a step refused in earlier batches are called first, and nothing else changes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from scoreline.tasks.scoring.batch_rejects import BatchRejects
from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.scoring.non_finite import Trials
from scoreline.tasks.scoring.refused_before import RefusedBefore, RefusedByModel
from scoreline.tasks.scoring.score import Scored, score_batch
from scoreline.testing import eager
from tests.support.bundles import bundle

ROWS = 4_096
NEW, NAN, INF, HUGE = "elsewhere", np.nan, np.inf, 1e300
CALLED: list[int] = []
"""The numbers of rows with which the models of this module were called."""


def count(x: Any) -> Any:
    """Note the number of rows of a call; a step of the user's own that has returned when a later step fails."""
    CALLED.append(len(x))
    return x


def frame(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    towns = np.array([f"town {number}" for number in range(12)], dtype=object)
    return pd.DataFrame({"town": towns[random.integers(0, 12, rows)], "x": random.uniform(0.1, 1.0, rows)})


def fitted(*last: Any) -> Any:
    trained = frame(300, seed=1)
    encoder = make_column_transformer((OneHotEncoder(), ["town"]), *last, remainder="passthrough")
    model = make_pipeline(FunctionTransformer(count), encoder, LogisticRegression())
    return model.fit(trained, trained["x"] > 0.5)


MODEL = fitted((StandardScaler(), ["x"]))
LOGS = fitted((FunctionTransformer(np.log), ["x"]))


def damaged(column: str, values: list[Any], share: float = 0.1, seed: int = 0) -> pd.DataFrame:
    rows = frame(seed=seed)
    bad = np.random.default_rng(seed).random(len(rows)) < share
    rows[column] = rows[column].mask(bad, pd.Series(np.resize(np.array(values, dtype=object), len(rows))))
    return rows.astype({"town": object, "x": float})


def score(model: Any, rows: pd.DataFrame, before: RefusedBefore | None = None) -> Scored:
    CALLED.clear()
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    return score_batch(
        bundle(model), batch, features=["town", "x"], keep=["x"], method="predict_proba", refused_before=before
    )


def assert_same(done: Scored, expected: Scored) -> None:
    assert list(done.rejected.items()) == list(expected.rejected.items())
    assert done.table.equals(expected.table)


CASES: dict[str, tuple[Any, str, list[Any]]] = {
    "one new category": (MODEL, "town", [NEW]),
    "many new categories": (MODEL, "town", [f"place {number}" for number in range(3_000)]),
    "missing category": (MODEL, "town", [None]),
    "NaN": (MODEL, "x", [NAN]),
    "infinities": (MODEL, "x", [INF, -INF]),
    "NaN made by a step": (LOGS, "x", [-1.0, -5.0]),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_that_are_expected_to_be_refused_cost_no_call_of_all_rows(case: str) -> None:
    model, column, values = CASES[case]
    before = RefusedBefore()
    score(model, damaged(column, values), before)
    assert max(CALLED) == ROWS
    # When the next batch has other rows with such values
    rows = damaged(column, values, seed=5)
    done = score(model, rows, before)
    # Then one call scores all sound rows, and the calls before it have only the others
    assert CALLED.pop(CALLED.index(max(CALLED))) == done.table.num_rows
    assert done.table.num_rows + len(done.rejected) == ROWS
    assert sum(CALLED) < 2 * len(done.rejected)
    assert_same(done, score(model, rows))


def test_a_sound_row_that_looks_like_a_refused_one_is_scored_with_the_others() -> None:
    # Given a first batch without one of the known categories
    first = damaged("town", [NEW])
    first.loc[first["town"] == "town 3", "town"] = "town 4"
    before = RefusedBefore()
    score(MODEL, first, before)
    rows = damaged("town", [NEW], seed=5)
    done = score(MODEL, rows, before)
    assert list(done.rejected) == np.flatnonzero(rows["town"] == NEW).tolist()
    assert max(CALLED) == done.table.num_rows
    assert_same(done, score(MODEL, rows))


def reverse(x: Any) -> Any:
    """Turn the rows round; a step of the user's own that has returned when a later step fails."""
    return x[::-1]


def test_no_sound_row_is_rejected_where_a_step_changes_the_order_of_rows() -> None:
    encoder = make_column_transformer((OneHotEncoder(sparse_output=False), ["town"]), remainder="passthrough")
    turned = make_pipeline(FunctionTransformer(reverse), encoder, FunctionTransformer(reverse), LogisticRegression())
    turned.fit(frame(300, seed=1), frame(300, seed=1)["x"] > 0.5)
    before = RefusedBefore()
    # Given a first batch that is the same when it is turned round, and has not all categories
    first = frame().replace({"town": {"town 3": "town 4"}})
    first.loc[[5, 100, ROWS - 101, ROWS - 6], "town"] = NEW
    score(turned, first, before)
    rows = frame(seed=2).replace({"town": {"town 3": "town 4"}})
    rows.loc[[5, 100, 200, 400], "town"] = NEW
    rows.loc[300, "town"] = "town 3"
    assert before.expected(pa.RecordBatch.from_pandas(rows, preserve_index=False)) is not None
    done = score(turned, rows, before)
    assert list(done.rejected) == [5, 100, 200, 400]
    assert_same(done, score(turned, rows))


BATCHES = [
    damaged("town", [NEW]),
    damaged("town", ["nowhere"], seed=2),
    damaged("x", [NAN], seed=3),
    damaged("x", [NAN, HUGE, INF], seed=4).assign(town=damaged("town", [NEW, None], seed=6)["town"]),
    damaged("x", [3.0], seed=7),
    damaged("town", [NEW, "nowhere"], share=0.9),
    frame(seed=8),
    damaged("town", [NEW], share=0.0003),
]
WITHOUT_MEMORY = [(score(model, rows)) for model in (MODEL, LOGS) for rows in BATCHES]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0, 1]), st.lists(st.integers(0, len(BATCHES) - 1), min_size=2, max_size=6))
def test_what_was_refused_before_changes_neither_rows_nor_reasons_nor_scores(model: int, order: list[int]) -> None:
    before = RefusedBefore()
    for number in order:
        done = score([MODEL, LOGS][model], BATCHES[number], before)
        assert_same(done, WITHOUT_MEMORY[model * len(BATCHES) + number])


def test_nothing_is_expected_any_more_after_three_wrong_batches() -> None:
    before, called = RefusedBefore(), []
    # Given batches each of which has one more kind of value that the model refuses
    kinds: list[tuple[str, Any]] = [("town", NEW), ("x", NAN), ("x", INF), ("town", None)]
    rows = frame()
    for number, (column, value) in enumerate(kinds):
        rows = rows.astype({"town": object})
        rows.loc[number::40, column] = value
        score(MODEL, rows, before)
        called.append(CALLED[0])
    assert called[0] == ROWS
    assert max(called[1:]) < ROWS
    # When a batch has nothing new, then all rows are called first
    done = score(MODEL, rows, before)
    assert CALLED[0] == ROWS
    assert_same(done, score(MODEL, rows))


def test_values_of_a_column_are_not_expected_of_one_with_another_type() -> None:
    before = RefusedBefore()
    score(MODEL, damaged("town", [NEW]), before)
    batch = pa.record_batch({"town": pa.array(np.arange(ROWS)), "x": pa.array(np.ones(ROWS))})
    assert before.expected(batch) is None


def test_a_process_remembers_each_model_and_no_more_than_64() -> None:
    models = RefusedByModel()
    first = models.of("a", ["x"])
    assert models.of("a", ["x"]) is first
    assert models.of("a", ["x", "y"]) is not first
    for number in range(64):
        models.of(f"other {number}", ["x"])
    assert models.of("a", ["x"]) is not first


def test_parts_of_later_jobs_begin_with_what_the_model_refused_before(tmp_path: Any) -> None:
    with eager(tmp_path) as client:
        client.models.publish("m", MODEL, alias="new")
        called = []
        for seed in (1, 2):
            CALLED.clear()
            rows = pd.concat([damaged("town", [NEW], seed=seed)] * 3)  # more than are tried while planning
            uri = client.put(f"in/{seed}.parquet", rows)
            job = client.submit("m@new", uri, max_rejected="100%", part_rows=3 * ROWS)
            assert client.status(job.job_id).state == "partial"
            called.append(3 * ROWS in CALLED)
    assert called == [True, False]


def test_batches_that_no_step_refuses_are_scored_in_one_call() -> None:
    before = RefusedBefore()
    score(MODEL, damaged("town", [NEW]), before)
    score(MODEL, frame(seed=9), before)
    assert CALLED == [ROWS]


def test_expectations_of_two_columns_hold_together() -> None:
    model = make_pipeline(make_column_transformer((OneHotEncoder(), ["town"]), (StandardScaler(), ["x"])), Ridge()).fit(
        frame(300, seed=1), np.arange(300)
    )
    before = RefusedBefore()
    for town, number in itertools.product([NEW, "town 1"], [NAN, 0.5]):
        rows = damaged("x", [number], seed=3).assign(town=damaged("town", [town], seed=4)["town"])
        batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
        with_memory, without = (
            score_batch(bundle(model), batch, features=["town", "x"], keep=[], method=None, refused_before=memory)
            for memory in (before, None)
        )
        assert_same(with_memory, without)


def test_rows_that_were_rejected_before_a_batch_begins_again_are_taken_back() -> None:
    batch = pa.record_batch({"x": pa.array([1.0, 2.0, 3.0])})
    unconverted = Rejection(stage="schema", column="x", message="not exact")
    trials = Trials(score=dict, batch=batch, features=["x"])
    rejects = BatchRejects(rejected={0: unconverted}, trials=trials, pieces=[], max_rejected=None)
    rejects.add(2, ValueError("refused"))
    rejects.take_back()
    assert rejects.explained() == {0: unconverted}
