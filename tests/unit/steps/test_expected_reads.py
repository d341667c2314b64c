"""A dry run predicts how many bytes the parts of a job will read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.steps import planner, preflight, sampling
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.expected_reads import ExpectedReads, expect_reads
from tests.support.one_model import Models

ROWS = 600_000
SLOW = planner.Pace(rows_per_s=1e5, scored_per_s=1e5, processes=2)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    return Engine(
        buckets=Buckets.from_env(environ), ledger=MemoryLedger(), send=lambda name, **_: None, models=Models()
    )


def expected(engine: Engine, group_rows: int) -> tuple[ExpectedReads, int]:
    """Return the expected reads of a job that needs one of a table's three columns, and the size of the table in
    bytes."""
    sink = io.BytesIO()
    x = np.random.default_rng(1).normal(size=ROWS)
    table = pa.table({"x": x, "other": x + 1.0, "more": x + 2.0})
    pq.write_table(table, sink, row_group_size=group_rows, use_dictionary=False)
    engine.buckets.main.put("in/a.parquet", sink.getvalue())
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", keep="none")
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    return expect_reads(engine.buckets, planner.draft(engine, job, SLOW)), len(sink.getvalue())


def test_whole_row_groups_are_read_once_and_only_the_columns_that_are_needed(engine: Engine) -> None:
    reads, size = expected(engine, ROWS // 8)
    assert reads.needed_bytes == pytest.approx(size / 3, rel=0.01)
    assert reads.bytes == reads.needed_bytes
    assert reads.requests == 16


def test_a_row_group_that_two_processes_share_is_read_almost_twice(engine: Engine) -> None:
    reads, _ = expected(engine, ROWS)
    assert 1.4 * reads.needed_bytes < reads.bytes < 2 * reads.needed_bytes


@pytest.mark.parametrize("tried", ["planned", "dry run"])
def test_planning_fetches_only_the_first_pages_of_a_row_group(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tried: str
) -> None:
    sink = io.BytesIO()
    x = np.random.default_rng(1).normal(size=ROWS)
    pq.write_table(pa.table({"x": x, "other": x + 1.0}), sink, row_group_size=ROWS, use_dictionary=False)
    store, objects = engine.buckets.main, 1 if tried == "planned" else 3
    for number in range(objects):
        store.put(f"in/{number}.parquet", sink.getvalue())
    fetched: list[int] = []
    get = store.get

    def counted(key: str, **options: Any) -> Any:
        start, stop = options["byte_range"]
        fetched.append(stop - start)
        return get(key, **options)

    monkeypatch.setattr(store, "get", counted)
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", keep="none")
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    made = planner.draft(engine, job, SLOW)
    if tried == "dry run":
        assert list(preflight._try_objects(engine, job, made)) == []
    assert made.sample is not None
    assert made.sample.column("x").to_pylist() == x[: sampling.SAMPLE_ROWS].tolist()
    # The sample reads less than two pages of a column with 4.8 MB
    assert sum(fetched) < objects * 2_000_000
