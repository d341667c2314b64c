"""Timings record how long each activity of a part took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator

from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.scoring.timings import TIMINGS, PartHistory, Timings
from tests.support.bundles import bundle

Pass = Callable[[float], None]


@pytest.fixture
def lasts(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Stop the clock, and return a function that moves it on by some seconds."""
    now = 100.0

    def pass_(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    return pass_


def test_a_part_reports_the_queue_and_upload_time_of_the_previous_part_of_its_job(lasts: Pass) -> None:
    between = PartHistory()
    assert between.begin("a").seconds == dict.fromkeys(TIMINGS, 0.0)
    between.end("a", 1.5)
    assert between.begin("b").seconds["upload"] == 0
    between.end("b", 2.5)  # this process scores parts of two jobs in turn
    lasts(7)
    after = between.begin("a").seconds
    assert after["upload"] == 1.5
    assert after["queue"] == 7
    assert between.begin("a").seconds["upload"] == 0  # 0, because the previous part was not written
    assert between.begin("b").seconds["upload"] == 2.5


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", '{"predict": "x"}', '{"predict": -1}', '{"predict": NaN}', 4_000 * "["]
)
def test_a_text_that_is_not_a_timing_is_ignored(text: str) -> None:
    timings = Timings()
    timings.add(text)
    assert timings.seconds == dict.fromkeys(TIMINGS, 0.0)


def test_timings_add_up(lasts: Pass) -> None:
    one, both = Timings(), Timings()
    with one("predict"):
        lasts(3)
    assert list(one.each("decode", iter("ab"))) == ["a", "b"]
    both.add(one.to_text())
    both.add(one.to_text())
    assert both.seconds == dict.fromkeys(TIMINGS, 0.0) | {"predict": 6.0}


def test_seconds_with_compiled_trees_are_listed_if_there_are_any(lasts: Pass) -> None:
    one, both = Timings(), Timings()
    with one.predicting(()):
        lasts(3)
    assert list(one.rounded(3)) == list(TIMINGS)
    used: list[str] = []
    with one.predicting(used):
        lasts(2)
        used.append("a tree")
    both.add(one.to_text())
    both.add(one.to_text())
    assert both.seconds["predict"] == 10
    assert both.rounded(3)["compiled"] == 4


def test_work_counts_concurrent_timings_once(lasts: Pass) -> None:
    def decoded() -> Iterator[str]:
        for batch in "ab":
            lasts(3)
            yield batch

    part, job = Timings(), Timings()
    # Given a previous part whose upload took two seconds, and a model that took 50 seconds to load
    with part("upload"):
        lasts(2)
    lasts(50)
    # When two batches are decoded during 10 s of prediction, and rejected rows are uploaded
    part.begin()
    with part("predict"):
        assert list(part.each("decode", decoded())) == ["a", "b"]
        lasts(4)
    with part("upload"):
        lasts(1)
    job.add(part.to_text())
    # Then the work of the part contains neither the time of decoding nor that of loading the model
    assert (part.seconds["decode"], part.seconds["predict"], part.seconds["upload"]) == (6, 10, 3)
    assert job.work == 10 + 3


class Slow(BaseEstimator):
    """A model that takes a second for each call, and refuses negative numbers."""

    def __init__(self, lasts: Pass) -> None:
        self.lasts = lasts

    def fit(self, x: object, y: object = None) -> Slow:
        return self

    def predict(self, x: Any) -> Any:
        self.lasts(1)
        if np.min(x) < 0:
            raise ValueError("negative")
        return np.ones(len(x))


@pytest.mark.parametrize("x", [[1.0] * 64, [1.0] * 40 + [-1.0] + [1.0] * 23, [1.0, -1.0] * 32])
def test_scoring_takes_as_long_for_each_row_as_without_rejected_rows(lasts: Pass, x: list[float]) -> None:
    timings, parts = Timings(), Timings()
    timings.begin()
    table = pa.record_batch({"x": x})
    done = score_batch(bundle(Slow(lasts)), table, features=["x"], keep=[], method=None, timings=timings)
    parts.add(timings.to_text())
    assert parts.scoring == pytest.approx(parts.work - parts.search)
    # Then the time per row is between the times per row of one call with all rows and of a call with few rows
    assert 1 / 64 <= parts.scoring / done.table.num_rows <= 1.0
    if -1.0 not in x:
        assert (parts.scoring, parts.search) == (1.0, 0.0)
    else:
        assert parts.scoring < parts.work / 2
