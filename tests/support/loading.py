"""Loads results of jobs in this process into a real database, message by message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.tasks.databases import loader
from scoreline.tasks.job.loads import LoadStatus
from scoreline.tasks.quality.reading import open_results
from tests.support.gated import Gated, gated
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

    def scored(self, job_id: str) -> dict[int, float]:
        """Return the prediction of each id in the results of a job."""
        rows = (row for batch in open_results(self.client.buckets, job_id) for row in batch.to_pylist())
        return {row["id"]: row["prediction"] for row in rows}


@contextmanager
def loading(folder: Path, database: Database) -> Iterator[Loading]:
    with gated(folder) as jobs:
        yield Loading(jobs, database)
