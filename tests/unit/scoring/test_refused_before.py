"""Rows like those refused in earlier batches are scored separately and first, with the same results."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from decimal import Decimal
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

from scoreline.storage.errors import RejectBudgetExceeded
from scoreline.tasks.scoring import refused_before
from scoreline.tasks.scoring.batch_rejects import BatchRejects
from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.scoring.non_finite import Trials
from scoreline.tasks.scoring.refused_before import RefusedBefore, RefusedByModel, _Expectation
from scoreline.tasks.scoring.rejected_rows import RejectedRows
from scoreline.tasks.scoring.score import Scored, _remember, score_batch
from scoreline.tasks.scoring.search import Search
from scoreline.tasks.steps import planner
from scoreline.testing import eager
from tests.support.bundles import bundle
from tests.support.model_calls import counted_calls

ROWS = 4_096
NEW, NAN, INF, HUGE = "elsewhere", np.nan, np.inf, 1e300
CALLED: list[int] = []
"""The numbers of rows with which the models of this module were called."""


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    with counted_calls(CALLED):
        yield


def frame(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    towns = np.array([f"town {number}" for number in range(12)], dtype=object)
    return pd.DataFrame({"town": towns[random.integers(0, 12, rows)], "x": random.uniform(0.1, 1.0, rows)})


def fitted(*last: Any) -> Any:
    trained = frame(300, seed=1)
    encoder = make_column_transformer((OneHotEncoder(), ["town"]), *last, remainder="passthrough")
    model = make_pipeline(encoder, LogisticRegression())
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
    # When the next batch has the same refused values in other rows
    rows = damaged(column, values, seed=5)
    done = score(model, rows, before)
    # Then one call scores all sound rows, and the calls before it contain only rejected rows
    assert CALLED.pop(CALLED.index(max(CALLED))) == done.table.num_rows
    assert done.table.num_rows + len(done.rejected) == ROWS
    assert sum(CALLED) < 2 * len(done.rejected)
    assert_same(done, score(model, rows))


def test_a_sound_row_that_looks_like_a_refused_one_is_scored_with_the_others() -> None:
    # Given a first batch that lacks one of the known categories
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
    """Reverse the rows. Scoreline wrongly assumes that this step keeps the order of the rows."""
    return x[::-1]


reverse.__module__ = "scoreline.tests"


def test_no_sound_row_is_rejected_where_a_step_changes_the_order_of_rows() -> None:
    encoder = make_column_transformer((OneHotEncoder(sparse_output=False), ["town"]), remainder="passthrough")
    turned = make_pipeline(FunctionTransformer(reverse), encoder, FunctionTransformer(reverse), LogisticRegression())
    turned.fit(frame(300, seed=1), frame(300, seed=1)["x"] > 0.5)
    before = RefusedBefore()
    # Given a first batch that lacks one of the known categories, and has the same refused rows when it is reversed
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


@functools.cache
def without_memory(model: int, number: int) -> Scored:
    """Return what a model makes of a batch if it remembers nothing."""
    return score([MODEL, LOGS][model], BATCHES[number])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0, 1]), st.lists(st.integers(0, len(BATCHES) - 1), min_size=2, max_size=6))
def test_what_was_refused_before_changes_neither_rows_nor_reasons_nor_scores(model: int, order: list[int]) -> None:
    before = RefusedBefore()
    for number in order:
        done = score([MODEL, LOGS][model], BATCHES[number], before)
        assert_same(done, without_memory(model, number))


def test_nothing_is_expected_any_more_after_three_wrong_batches() -> None:
    before, called = RefusedBefore(), []
    # Given batches, each with one more kind of value that the model refuses
    kinds: list[tuple[str, Any]] = [("town", NEW), ("x", NAN), ("x", INF), ("town", None)]
    rows = frame()
    for number, (column, value) in enumerate(kinds):
        rows = rows.astype({"town": object})
        rows.loc[number::40, column] = value
        score(MODEL, rows, before)
        called.append(CALLED[0])
    assert called[0] == ROWS
    assert max(called[1:]) < ROWS
    # When the next batch has no new kind of value, then its first call contains all rows
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


def test_parts_of_later_jobs_begin_with_what_the_model_refused_before(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "BATCH_S", 60.0)  # however long a call takes, all rows are one batch
    with eager(tmp_path) as client:
        client.models.publish("m", MODEL, alias="new")
        called = []
        for seed in (1, 2):
            CALLED.clear()
            rows = pd.concat([damaged("town", [NEW], seed=seed)] * 3)  # more rows than the planner samples
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


def average(x: Any) -> Any:
    """Return the mean of each row and the previous row."""
    x = np.asarray(x, dtype=float)
    return (x + np.concatenate([x[:1], x[:-1]])) / 2


def test_a_step_that_mixes_rows_has_the_same_rejected_rows_whatever_was_refused_before() -> None:
    model = make_pipeline(FunctionTransformer(average), Ridge()).fit(frame(300)[["x"]], np.arange(300))
    before = RefusedBefore()
    for seed in range(2):
        rows = frame(seed=seed)
        rows.loc[[20, 700], "x"] = NAN
        batch = pa.RecordBatch.from_pandas(rows[["x"]], preserve_index=False)
        warm, cold = (
            score_batch(bundle(model), batch, features=["x"], keep=[], method=None, refused_before=memory)
            for memory in (before, None)
        )
        # Then only rows that fail alone are rejected, not the rows after them
        assert (list(warm.rejected), list(cold.rejected)) == ([20, 700], [20, 700])
        assert_same(warm, cold)


def refusals(*rows: int, column: str | None = None) -> dict[int, Rejection]:
    return {row: Rejection(stage="predict", column=column, message="refused") for row in rows}


UNHASHABLE = {
    "list": pa.array([[1.0]] * ROWS),
    "struct": pa.array([{"a": 1}] * ROWS),
    "map": pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
    "decimal": pa.array([1] * ROWS, pa.decimal32(5)),
    "half": pa.array(np.ones(ROWS, dtype=np.float16)),
    "extension": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * ROWS, pa.binary(16))),
}


@pytest.mark.parametrize("kind", UNHASHABLE)
def test_a_column_whose_values_cannot_be_compared_teaches_nothing_and_fails_nothing(kind: str) -> None:
    before = RefusedBefore()
    x = np.ones(ROWS)
    x[5] = -3.0
    batch = pa.record_batch({"other": UNHASHABLE[kind], "x": x})
    scored = np.delete(np.arange(ROWS), 5)
    assert before.learn(batch, ["other", "x"], refusals(5), scored)
    assert np.flatnonzero(before.expected(batch)).tolist() == [5]
    assert not before.learn(batch, ["other"], refusals(5, column="other"), scored)


def test_rows_are_scored_although_the_first_column_has_lists() -> None:
    lists: Any = [[1.0]] * ROWS
    rows = frame().assign(town=lists)
    rows.loc[7, "x"] = -1.0
    model = make_pipeline(make_column_transformer((FunctionTransformer(np.log), ["x"])), Ridge())
    model.fit(frame(300, seed=1), np.arange(300))
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    before = RefusedBefore()
    for _ in range(2):
        done = score_batch(bundle(model), batch, features=["town", "x"], keep=[], method=None, refused_before=before)
        assert list(done.rejected) == [7]


def test_an_expectation_that_cannot_be_compared_expects_nothing() -> None:
    batch = pa.record_batch({"x": UNHASHABLE["list"]})
    expectation = _Expectation(sound=pa.array([[2.0]]))
    assert RefusedBefore(_expected={("x", batch.schema.field("x").type): expectation}).expected(batch) is None


def test_nothing_is_learned_any_more_of_a_wide_table_that_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given rows that are refused for the combination of two numbers
    random, looked_at = np.random.default_rng(3), []
    names = [f"x{number}" for number in range(100)]
    real = refused_before._distinguish

    def count(*arguments: Any) -> Any:
        looked_at.append(1)
        return real(*arguments)

    monkeypatch.setattr(refused_before, "_distinguish", count)
    # makes any comparison of the numbers fail
    monkeypatch.setattr("scoreline.tasks.scoring.refused_before.pc.unique", None)
    batch = pa.record_batch({name: random.normal(size=ROWS) for name in names})
    rows, search = np.arange(ROWS), Search(score=dict, order=None, rejects=None, pieces=[])  # type: ignore[arg-type]
    search.pieces.append((rows[9:], {}))
    before = RefusedBefore()
    for _ in range(5):
        _remember(before, batch, names, search, RejectedRows.of(refusals(*range(9))), ())
    assert len(looked_at) == 3 * 32


def score_and_note(
    rows: pd.DataFrame, memory: RefusedBefore | None, counts: list[int], max_rejected: int | None = None
) -> None:
    """Score rows, and record each reported number of rejected rows."""
    score_batch(
        bundle(MODEL),
        pa.RecordBatch.from_pandas(rows, preserve_index=False),
        features=["town", "x"],
        keep=[],
        method=None,
        max_rejected=max_rejected,
        report=lambda count: bool(counts.append(count)),  # type: ignore[func-returns-value]
        refused_before=memory,
    )


def test_a_batch_over_its_budget_says_the_same_whatever_was_refused_before() -> None:
    before = RefusedBefore()
    score(MODEL, damaged("x", [NAN]), before)
    # Given a batch whose first row is refused for a different reason than the rows that are expected to be refused
    rows = damaged("x", [NAN], seed=5)
    rows.loc[:5, "x"] = 0.5
    rows.loc[0, "town"] = NEW
    said = []
    for memory in (before, None):
        reported: list[int] = []
        if memory is not None:
            assert memory.expected(pa.RecordBatch.from_pandas(rows, preserve_index=False)) is not None
        with pytest.raises(RejectBudgetExceeded) as raised:
            score_and_note(rows, memory, reported, max_rejected=100)
        said.append((str(raised.value), reported))
    assert said[0] == said[1]
    assert f"row 0 of a batch of {ROWS}" in said[0][0]


def test_a_batch_that_begins_again_reports_no_row_before_it_is_rejected_for_good() -> None:
    before = RefusedBefore()
    score(MODEL, damaged("town", [NEW]), before)
    rows = damaged("town", [NEW], seed=5)
    rows.loc[9, "town"], rows.loc[9, "x"] = "town 1", NAN
    reported = []
    for memory in (before, None):
        counts: list[int] = []
        score_and_note(rows, memory, counts)
        reported.append(counts)
    assert reported[0] == reported[1]


def test_values_that_take_too_much_memory_are_not_remembered() -> None:
    before = RefusedBefore()
    town = [f"{number % 600:05}" * 1_000 for number in range(ROWS)]
    batch = pa.record_batch({"town": town})
    assert not before.learn(batch, ["town"], refusals(*range(0, 600, 2), column="town"), np.arange(1, 600, 2))
    assert not before._expected


def test_what_was_remembered_is_forgotten_once_nothing_is_expected_any_more() -> None:
    before = RefusedBefore()
    score(MODEL, damaged("town", [NEW]), before)
    assert before._expected
    for _ in range(3):
        before.were(right=False)
    assert not before._expected


def test_no_call_has_no_rows_where_all_rows_are_refused_or_unconverted() -> None:
    before = RefusedBefore()
    score(MODEL, damaged("town", [NEW]), before)
    towns, x = ["town 1"] * ROWS, [Decimal("0.1234567890123456789")] * ROWS  # which is no float64
    towns[: ROWS // 4], x[: ROWS // 4] = [NEW] * (ROWS // 4), [Decimal("0.5")] * (ROWS // 4)
    for memory in (before, None):
        batch = pa.record_batch({"town": towns, "x": pa.array(x)})
        CALLED.clear()
        done = score_batch(bundle(MODEL), batch, features=["town", "x"], keep=[], method=None, refused_before=memory)
        assert len(done.rejected) == ROWS
        assert 0 not in CALLED


def test_sound_rows_that_were_expected_to_be_refused_are_not_expected_again() -> None:
    # Given a first batch that lacks most of the known categories
    first = damaged("town", [NEW], share=0.01).replace({"town": {f"town {number}": "town 0" for number in range(4)}})
    before = RefusedBefore()
    score(MODEL, first, before)
    sizes = []
    for seed in (5, 6):
        score(MODEL, damaged("town", [NEW], share=0.01, seed=seed), before)
        sizes.append(sum(CALLED))
    assert sizes[0] > 1.2 * ROWS > sizes[1]


def test_limits_give_way_to_numbers_that_turn_out_to_be_sound() -> None:
    before = RefusedBefore()
    for sound, refused in ((5.0, 1.0), (0.5, 0.25)):
        x = np.full(ROWS, sound)
        x[0] = refused
        batch = pa.record_batch({"x": x})
        assert before.learn(batch, ["x"], refusals(0, column="x"), np.arange(1, ROWS))
        assert np.flatnonzero(before.expected(batch)).tolist() == [0]


def test_threads_that_ask_at_once_get_the_same_memory() -> None:
    models = RefusedByModel()
    assert not models._lock.locked()
    seen: list[bool] = []

    class Noting(OrderedDict[Any, Any]):
        def setdefault(self, *arguments: Any) -> Any:
            seen.append(models._lock.locked())
            return super().setdefault(*arguments)

    models._models = Noting()
    models.of("a", ["x"])
    assert seen == [True]


def test_another_thread_may_learn_while_rows_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RefusedBefore()
    score(MODEL, damaged("town", [NEW]), before)
    real = _Expectation.mask

    def mask(expectation: _Expectation, column: pa.Array) -> Any:
        before._expected["other", pa.int64()] = _Expectation()
        return real(expectation, column)

    monkeypatch.setattr(_Expectation, "mask", mask)
    assert before.expected(pa.RecordBatch.from_pandas(damaged("town", [NEW]), preserve_index=False)) is not None
