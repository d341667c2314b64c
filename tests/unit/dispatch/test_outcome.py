"""The end of a job is logged once, and as an error with its reason if the job failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.tasks.dispatch.outcome import end_job
from scoreline.tasks.job.documents import Outcome
from scoreline.testing import EagerClient, eager

X = pd.DataFrame({"x": [0.0, 1.0]})


@pytest.fixture
def client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[EagerClient]:
    caplog.set_level(logging.INFO, "scoreline.tasks.dispatch.outcome")
    with eager(tmp_path) as client:
        client.models.publish("line", LinearRegression().fit(X, [1.0, 3.0]))
        yield client


def ends(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [
        (record.levelname, record.state, getattr(record, "error", ""))  # type: ignore[attr-defined]
        for record in caplog.records
        if record.msg == "job.ended"
    ]


@pytest.mark.parametrize(
    "frame",
    [X.rename(columns={"x": "y"}), X.assign(x=None)],
    ids=["planning fails", "too many rows are rejected"],
)
def test_a_failed_job_is_an_error_in_the_log_with_its_reason(
    client: EagerClient, caplog: pytest.LogCaptureFixture, frame: pd.DataFrame
) -> None:
    done = client.submit("line", client.put("in/a.parquet", frame.astype(float)))
    assert done.state == "failed"
    assert ends(caplog) == [("ERROR", "failed", done.error)]
    assert done.error != ""


def test_any_other_end_is_not_logged_as_an_error(client: EagerClient, caplog: pytest.LogCaptureFixture) -> None:
    client.submit("line", client.put("in/a.parquet", X))
    client.submit("line", client.put("in/b.parquet", X.assign(x=[0.0, float("nan")])), max_rejected=1)
    assert ends(caplog) == [("INFO", "succeeded", ""), ("INFO", "partial", "")]


def test_an_end_that_comes_second_is_not_logged_as_the_end(
    client: EagerClient, caplog: pytest.LogCaptureFixture
) -> None:
    done = client.submit("line", client.put("in/a.parquet", X))
    end_job(client.submission.dispatcher, done.job_id, Outcome(state="failed", error="late", failures={}))
    assert ends(caplog) == [("INFO", "succeeded", "")]
    assert caplog.records[-1].msg == "outcome.exists"
