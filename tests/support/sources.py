"""Jobs in this process that read rows from a real database. The model scores 2x + 1."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage import keys
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.tasks.job.documents import Status, read_job
from scoreline.tasks.job.staged import Staged, read_staged
from scoreline.tasks.quality.results.reading import open_results
from scoreline.testing import EagerClient, eager
from tests.support.one_model import LINE
from tests.support.postgres import Database

QUERIES = """
[customers]
sql = '''
SELECT id, x, name FROM customers -- all of them: even :this one
WHERE joined >= :since AND name <> ':since' AND x::numeric < 1000 ORDER BY id;
'''

[all]
sql = "SELECT id, x, name FROM customers ORDER BY id"

[writes]
sql = "INSERT INTO customers VALUES (99, 99, 'z', now()) RETURNING id, x"

[slow]
sql = "SELECT 1::bigint AS id, 1.0::float8 AS x FROM pg_sleep(60)"

[none]
sql = "SELECT id, x FROM customers WHERE false"

[other]
sql = "SELECT id, x AS y FROM customers"

[missing]
sql = "SELECT id, x FROM clients"

[divides]
sql = "SELECT id, (x / (id - 3))::float8 AS x FROM customers"

[casts]
sql = "SELECT id, name::float8 AS x FROM customers"

[quotes]
sql = "SELECT id, (chr(34) || name || chr(34) || 'quoted')::float8 AS x FROM customers"

[warehouse]
sql = "SELECT 1 AS x"
database = "warehouse"
"""
TABLE = """
CREATE TABLE customers (id bigint PRIMARY KEY, x float8, name text, joined timestamptz);
INSERT INTO customers SELECT g, g, 'name ' || g, '2026-11-01'::timestamptz + g * interval '1 day'
FROM generate_series(1, 6) g
"""


class Sources:
    """Jobs over the table ``customers`` with six rows, which joined on six days from 2 November on."""

    def __init__(self, client: EagerClient, database: Database, settings: dict[str, str]) -> None:
        self.client, self.database = client, database
        self.main = client.buckets.main
        self.settings = DatabaseSettings.from_env(settings)
        self.environ = settings

    def run(self, job_id: str, **options: Any) -> Status:
        """Run a job, and return its status."""
        return self.client.submit("line", job_id=job_id, **options)

    def staged(self, job_id: str) -> Staged:
        found = read_staged(self.main, job_id)
        assert found is not None, f"nothing is staged for {job_id}"
        return found

    def job(self, job_id: str) -> Any:
        return read_job(self.main, job_id)

    def rows(self, job_id: str) -> pa.Table:
        """Return the staged rows of a job."""
        return pa.concat_tables(
            pq.read_table(io.BytesIO(self.main.get(file.key, if_match=file.etag).data))
            for file in self.staged(job_id).files
        )

    def files(self, job_id: str) -> list[str]:
        """Return the keys of all staged files of a job, also those that do not count."""
        return [info.key for info in self.main.list(keys.staged_folder(job_id))]

    def scored(self, job_id: str) -> dict[int, float]:
        """Return the prediction of each id in the results of a job."""
        rows = (row for batch in open_results(self.client.buckets, job_id) for row in batch.to_pylist())
        return {row["id"]: round(row["prediction"], 6) for row in rows}


@contextmanager
def sources(folder: Path, database: Database, **more: str) -> Iterator[Sources]:
    file = folder / "queries.toml"
    file.write_text(QUERIES)
    with database.connect() as connection:
        connection.execute(TABLE.encode())
    settings = {
        "SOURCE_DATABASE_URL": database.url,
        "QUERIES_FILE": str(file),
        "ALLOWED_SOURCES": "public.customers, public.typed*",
    } | more
    with eager(folder / "buckets", settings=settings) as client:
        client.models.publish("line", LINE)
        yield Sources(client, database, settings)
