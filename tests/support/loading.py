"""Loads results of jobs in this process into a real database, message by message."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.tasks.databases import loader
from scoreline.tasks.databases.one_load import Load
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.loads import LoadStatus, pending
from scoreline.tasks.quality.results.reading import open_results
from scoreline.tasks.steps.planner import plan_job
from tests.support.gated import OUTPUT, Gated, gated
from tests.support.postgres import Database

TABLE = "CREATE TABLE scores (id bigint PRIMARY KEY, prediction double precision)"


class Loading:
    """Jobs of 40 rows in four parts, whose prediction is 2x + 1, where x is the id of the row.

    Parameters
    ----------
    gated : Gated
        The jobs.
    database : Database
        The database of results.
    """

    def __init__(self, gated: Gated, database: Database) -> None:
        self.gated, self.database = gated, database
        self.client = gated.client
        self.settings = DatabaseSettings.from_env(
            {"RESULTS_DATABASE_URL": database.url, "ALLOWED_TABLES": "public.*", "LOAD_CONNECTIONS": "2"}
        )

    def run(self, job_id: str, **options: Any) -> None:
        """Score a job whose results are to be loaded into the table ``scores``."""
        given = {"into": "scores", "key": ["id"], "into_columns": ["prediction"]} | options
        self.gated.run(job_id, **given)

    def run_rows(self, job_id: str, rows: Any, parts: int | None = None, **options: Any) -> None:
        """Score rows with the columns ``id`` and ``x`` in parts of ten, to be loaded into the table ``scores``."""
        uri = self.client.put(f"in/{job_id}.parquet", rows)
        given: dict[str, Any] = {"into": "scores", "key": ["id"], "into_columns": ["prediction"], "part_rows": 10}
        given |= options
        self.client.submit("line", uri, job_id=job_id, output=OUTPUT, **given)
        self.finish(job_id, range(parts or (len(rows) + 9) // 10))

    def score_rejected(self, job_id: str) -> str:
        """Score the rejected rows of a job with a model that takes them for 0. Return the new job."""
        filled = make_pipeline(SimpleImputer(strategy="constant", fill_value=0.0), LinearRegression())
        x = pd.DataFrame({"x": [0.0, 1.0]})
        self.client.models.publish("filled", filled.fit(x, [1.0, 3.0]))
        again = self.client.resume_rejected(job_id, model="filled").job_id
        self.finish(again, [0])
        return again

    def finish(self, job_id: str, parts: Iterable[int]) -> None:
        """Plan, score and finalize a job."""
        plan_job(self.gated.at.engine, job_id)
        self.gated.at.score(job_id, *parts)
        self.gated.finalize(job_id)

    def step(self, job_id: str, number: int) -> Load:
        """Return one of the loads of a job, as a message of lane 1 does it."""
        job, outcome = read_job(self.gated.main, job_id), self.gated.outcome(job_id)
        request = pending(self.gated.main, job.spec, outcome.loads)[number]
        return Load(
            dispatcher=self.gated.at.engine,
            settings=self.settings,
            job=job,
            outcome=outcome,
            request=request,
            lane=1,
        )

    def message(self, job_id: str, lane: int | None = None) -> None:
        """Do the work of one message."""
        loader.load(self.gated.at.engine, self.settings, job_id, lane)

    def load(self, job_id: str, **options: Any) -> LoadStatus:
        """Score a job and load its results. Return the status of the load."""
        self.run(job_id, **options)
        self.message(job_id)
        return self.status(job_id)

    def status(self, job_id: str) -> LoadStatus:
        """Return the status of the only load of a job."""
        (found,) = self.client.status(job_id).loads
        return found

    def rows(self, table: str = "scores") -> dict[int, Any]:
        """Return the prediction of each id in the table; no id may be there twice."""
        rows = self.database.run(f"SELECT id, prediction FROM {table} ORDER BY id")
        assert len(dict(rows)) == len(rows), "an id is there twice"
        return dict(rows)

    def refused(self, job_id: str) -> list[dict[str, Any]]:
        """Return the rows of a job that were set aside."""
        found = []
        for info in self.gated.main.list(f"out/job_id={job_id}/_load/"):
            found += pq.read_table(io.BytesIO(self.gated.main.get(info.key).data)).to_pylist()
        return found

    def scored(self, job_id: str) -> dict[int, float]:
        """Return the prediction of each id in the results of a job."""
        rows = (row for batch in open_results(self.client.buckets, job_id) for row in batch.to_pylist())
        return {row["id"]: row["prediction"] for row in rows}


@contextmanager
def loading(folder: Path, database: Database) -> Iterator[Loading]:
    with gated(folder) as jobs:
        yield Loading(jobs, database)
