"""A job stores the pace of its model, with and without reading, for the planner of the next job."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
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
from scoreline.tasks.steps import planner, sampling
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


@pytest.mark.parametrize(
    ("pace", "most"),
    [
        (Pace(rows_per_s=500, scored_per_s=1_000), 448),
        (Pace(rows_per_s=1_000), 448),
        (Pace(rows_per_s=500, scored_per_s=4_100), 0),
    ],
)
def test_a_batch_of_a_slow_model_takes_half_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: Pace, most: int
) -> None:
    assert BATCH_S == 0.5
    monkeypatch.setattr(planner.Pace, "of", lambda *_: pace)
    calls: list[int] = []

    def predict(self: Paced, x: pd.DataFrame) -> np.ndarray:
        calls.append(len(x))
        return np.zeros(len(x))

    frame = pd.DataFrame({"x": np.arange(2_000.0)})
    with eager(tmp_path) as client:
        client.models.publish("paced", Paced().fit(frame))
        monkeypatch.setattr(Paced, "predict", predict)
        job_id = client.submit("paced", client.put("in/a.parquet", frame), part_rows=2_000).job_id
        assert client.status(job_id).rows == 2_000
        assert PlanFile(client.buckets.main, job_id).columns.batch_rows == most
    assert max(calls) == (most or 2_000)


def test_the_batches_of_a_model_of_unknown_pace_follow_from_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call with few rows takes about as long as one with many, so the sample alone would make batches too small."""
    frame = pd.DataFrame({"x": np.arange(2_000.0)})
    slow = Paced().fit(frame)
    with eager(tmp_path) as client:
        client.models.publish("paced", slow)
        uri = client.put("in/a.parquet", frame)
        sizes = []
        for sampled_per_s in (1_500.0, 1_000_000.0, 3_000.0, 900.0):

            def sampled(*given: Any, pace: float = sampled_per_s) -> Any:
                return replace(try_rows(*given), rows_per_s=pace)

            monkeypatch.setattr(planner, "try_rows", sampled)
            monkeypatch.setattr(planner, "try_pace", lambda *_, pace=sampled_per_s: 900.0 if pace == 900 else 3_000.0)
            sizes.append(PlanFile(client.buckets.main, client.submit("paced", uri).job_id).columns.batch_rows)
    assert sizes == [1_472, 0, 0, 448]  # if the trial refuses rows, only that of a slow model counts


@pytest.mark.parametrize(("refused", "tried"), [(5, []), (SAMPLE_ROWS + 5, [375])])
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
    monkeypatch.setattr(planner, "try_rows", lambda *given: replace(try_rows(*given), rows_per_s=1_500.0))
    with eager(tmp_path) as client:
        client.models.publish("linear", model)
        job_id = client.submit("linear", client.put("in/a.parquet", frame), max_rejected=1).job_id
        assert client.status(job_id).rejected == 1
    assert [size for size in sizes if size > SAMPLE_ROWS] == tried
