"""A job stores the pace of its model, with and without reading, for the planner of the next job."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.scoring import score
from scoreline.tasks.steps import call_time, planner, sampling
from scoreline.tasks.steps.call_time import MIN_BATCH_ROWS
from scoreline.tasks.steps.planner import BATCH_S, Pace
from scoreline.tasks.steps.sampling import SAMPLE_ROWS, try_rows
from scoreline.testing import eager
from tests.support.estimators import Paced


def test_the_pace_without_reading_is_that_of_scoring_alone(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(2_000.0)})
    with eager(tmp_path) as client:
        client.models.publish("paced", Paced(seconds=0.05).fit(frame))
        job_id = client.submit("paced", client.put("in/a.parquet", frame)).job_id
        job, done = read_job(client.buckets.main, job_id), client.status(job_id)
        pace = Pace.of(client.ledger, job)
        listed = json.loads(client.buckets.main.get(keys.results_manifest(parse_uri(done.output)[1])).data)
    seconds = listed["seconds"]
    scoring = seconds["align"] + seconds["predict"] + seconds["encode"]
    assert pace.scored_per_s == pytest.approx(2_000 / scoring, rel=0.05)
    assert pace.rows_per_s is not None
    assert pace.scored_per_s is not None
    assert pace.rows_per_s < pace.scored_per_s


class Clock:
    """The time of a model's calls, which only its calls move on."""

    def __init__(self, fixed_s: float, row_s: float) -> None:
        self.now = 0.0
        self.fixed_s = fixed_s
        self.row_s = row_s
        self.calls: list[int] = []

    def predict(self, model: Paced, x: pd.DataFrame) -> Any:
        self.calls.append(len(x))
        self.now += self.fixed_s + len(x) * self.row_s
        return np.zeros(len(x))


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "known", "most"),
    [
        (0.0, 0.0001, None, 4_992),
        (0.0, 0.0001, 3_000.0, 4_992),  # a recorded pace is not used, because small batches may be its reason
        (0.0, 0.0001, 50_000.0, 0),
        (0.03, 0.00001, None, 0),  # fixed costs dominate a call with few rows
        (0.3, 0.0005, None, 5_376),  # a tenth of the time of a batch is fixed
        (0.3, 0.00001, 100.0, 0),
        (0.0, 0.002, None, MIN_BATCH_ROWS),
        (2.0, 0.0, None, MIN_BATCH_ROWS),  # no more rows are tried
    ],
)
def test_a_batch_takes_half_a_second_but_not_many_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed_s: float, row_s: float, known: float | None, most: int
) -> None:
    assert BATCH_S == 0.5
    clock, rows = Clock(fixed_s, row_s), 20_000
    pace = Pace(rows_per_s=known and known / 2, scored_per_s=known)
    monkeypatch.setattr(planner.Pace, "of", lambda *_: pace)
    frame = pd.DataFrame({"x": np.arange(float(rows))})
    with eager(tmp_path) as client:
        client.models.publish("paced", Paced().fit(frame))
        monkeypatch.setattr(Paced, "predict", lambda model, x: clock.predict(model, x))
        for module in (call_time, sampling):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        job_id = client.submit("paced", client.put("in/a.parquet", frame), part_rows=rows).job_id
        assert client.status(job_id).rows == rows
        assert PlanFile(client.buckets.main, job_id).columns.batch_rows == most
    assert max(clock.calls) == (most if 0 < most < rows else rows)


@pytest.mark.parametrize(("refused", "tried"), [(5, []), (SAMPLE_ROWS + 5, [225])])
def test_the_pace_is_not_tried_with_rows_of_which_some_are_known_to_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int, tried: list[int]
) -> None:
    frame = pd.DataFrame({"x": np.arange(2_000.0)})
    model = LinearRegression().fit(frame, frame["x"])
    frame.loc[refused, "x"] = np.nan
    sizes: list[int] = []

    def noted(bundle: Any, batch: pa.RecordBatch, **options: Any) -> Any:
        sizes.append(batch.num_rows)
        return score.score_batch(bundle, batch, **options)

    monkeypatch.setattr(sampling, "score_batch", noted)
    monkeypatch.setattr(planner, "measure_call", lambda *_: None)
    monkeypatch.setattr(planner, "try_rows_of_both", lambda *given: replace(try_rows(*given), rows_per_s=900.0))
    with eager(tmp_path) as client:
        client.models.publish("linear", model)
        job_id = client.submit("linear", client.put("in/a.parquet", frame), max_rejected=1).job_id
        assert client.status(job_id).rejected == 1
    assert [size for size in sizes if size > SAMPLE_ROWS] == tried
