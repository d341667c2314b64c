"""A job stores the pace of its model, with and without reading, for the planner of the next job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scoreline.storage import keys
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.steps.planner import Pace
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
