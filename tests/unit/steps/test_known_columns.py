"""A small job with the columns of an earlier one is not sampled, and has the same plan and results nevertheless."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.records.carried import Carried
from scoreline.tasks.records.job import RecordsJob
from scoreline.tasks.steps import known_columns, planner
from scoreline.tasks.steps.eager import LoadedModels
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.inline import score_records
from scoreline.tasks.steps.known_columns import KnownColumns
from scoreline.tasks.steps.sampling import SAMPLE_ROWS, try_rows
from scoreline.tasks.steps.score_carried import score_carried
from scoreline.testing import EagerClient, eager
from tests.support.estimators import Versatile
from tests.support.waiting import HANG_S

type _Rows = list[dict[str, Any]]


class Desk:
    """Scores small jobs in one process, and counts the samples."""

    def __init__(self, client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        models = LoadedModels(models=client.models, counters=client.ledger.counters)
        self.engine = Engine(buckets=client.buckets, ledger=client.ledger, send=client.queue.send, models=models)
        self.samples = 0

        def noted(*arguments: Any) -> Any:
            self.samples += 1
            return try_rows(*arguments)

        monkeypatch.setattr(f"{planner.__name__}.try_rows_of_both", noted)

    def publish(self, model: BaseEstimator, *columns: str) -> None:
        self.client.models.publish("m", model.fit(pd.DataFrame({name: [0.0, 1.0] for name in columns}), [1.0, 4.0]))

    def submit(self, rows: _Rows, **options: Any) -> tuple[RecordsJob, Carried]:
        job = self.client.submit_records("m", rows, **options)
        _, text = self.client.ledger.waiting.receive(WaitingStep(task="scoreline.score_staged", job_id=job.job_id))
        carried = Carried.of(text)
        assert carried is not None
        return job, carried

    def score(self, rows: _Rows, **options: Any) -> RecordsJob:
        job, carried = self.submit(rows, **options)
        assert score_records(self.engine, job.job_id, "holder", carried)
        return job

    def results(self, job: RecordsJob) -> tuple[pa.Table, bytes]:
        main = self.client.buckets.main
        layout = ResultsLayout.of(self.client.buckets, read_job(main, job.job_id))
        return pq.read_table(io.BytesIO(main.get(layout.part(0)).data)), main.get(keys.plan(job.job_id)).data

    def forget(self) -> None:
        """Make the process like one that has just begun."""
        self.engine.known_columns = KnownColumns()


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with eager(tmp_path, run=False) as client:
        yield Desk(client, monkeypatch)


def test_only_the_first_of_like_jobs_is_sampled(at: Desk) -> None:
    at.publish(LinearRegression(), "x")
    for number in range(4):
        job = at.score([{"x": float(number), "id": number}], keep="id")
        assert job.wait(HANG_S) == [{"id": number, "prediction": pytest.approx(3 * number + 1)}]
    assert at.samples == 1
    # And a job with other options, other types or more rows is sampled
    at.score([{"x": 1.0, "id": 1}], keep="none")
    at.score([{"x": 1.0, "id": "one"}], keep="id")
    at.score([{"x": 1, "id": 1}], keep="id")
    at.score([{"x": 1, "id": 1}, {"x": None, "id": 2}], max_rejected="1", keep="id")
    at.score([{"x": 1.0, "id": 1}] * (SAMPLE_ROWS + 1), keep="id")
    assert at.samples == 6
    at.publish(LinearRegression(), "x", "y")
    at.score([{"x": 1.0, "y": 2.0, "id": 1}], keep="id")
    assert at.samples == 7


def test_a_plan_by_known_columns_equals_a_plan_by_a_sample(at: Desk) -> None:
    at.publish(LinearRegression(), "x")
    at.score([{"x": 1.0, "id": 1}], keep="id")
    job, _ = at.submit([{"x": 2.0, "id": 2}, {"x": 4.0, "id": None}], keep="id")
    document = read_job(at.client.buckets.main, job.job_id)
    known = planner.make_plan(at.engine, document, planner.Pace(), at.engine.known_columns)
    assert at.samples == 1
    assert known == planner.make_plan(at.engine, document, planner.Pace())
    assert at.samples == 2


def test_a_job_with_other_row_rules_does_not_get_the_rules_of_an_earlier_job(at: Desk) -> None:
    at.publish(LinearRegression(), "x")
    rows = [{"x": 0.0}, {"x": 1.0}, {"x": 9.0}]
    assert len(at.score(rows).wait(HANG_S)) == 3
    assert len(at.score(rows, checks="[columns.x]\nmax = 5\n", max_rejected="2").wait(HANG_S)) == 2
    assert len(at.score(rows, checks="[columns.x]\nmax = 0\n", max_rejected="2").wait(HANG_S)) == 1
    assert len(at.score(rows).wait(HANG_S)) == 3


VALUES = [5.0, -7.0, 500.0, -1.0, 6.0, 7.0]


def test_a_model_whose_results_have_other_types_for_other_values_is_sampled_again(at: Desk) -> None:
    at.publish(Versatile(), "x")
    kinds = []
    for value in VALUES:
        found, _ = at.results(at.score([{"x": value}]))
        kinds.append(str(found.schema.field("prediction").type))
        job, carried = at.submit([{"x": value}])
        at.forget()
        assert score_carried(at.engine, job.job_id, carried)
        alone, _ = at.results(job)
        assert (found.schema, found.to_pylist()) == (alone.schema, alone.to_pylist())
        at.forget()
        at.score([{"x": 5.0}])  # so that the next job finds the types of another
    assert kinds == ["double", "int64", "string", "int64", "double", "double"]


def test_columns_that_a_job_did_not_have_are_forgotten(at: Desk) -> None:
    at.publish(Versatile(), "x")
    at.score([{"x": 5.0}])
    job, carried = at.submit([{"x": -7.0}])
    assert not score_carried(at.engine, job.job_id, carried)
    # Nothing of the job is written before it is planned again
    assert not list(at.client.buckets.main.list(f"jobs/{job.job_id}/plan"))
    assert score_records(at.engine, job.job_id, "holder", None)
    before = at.samples
    assert at.score([{"x": -8.0}]).wait(HANG_S) == [{"prediction": -23}]
    assert at.samples == before + 1


def test_only_the_latest_columns_are_remembered(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_columns, "_KEPT", 2)
    at.publish(LinearRegression(), "x")
    for keep in ("a", "b", "c", "a", "c"):
        at.score([{"x": 1.0, "a": 1, "b": 2, "c": 3}], keep=keep)
    assert at.samples == 4
