"""A dry run predicts how many bytes the parts of a job will read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.scratch_files import open_files
from scoreline.storage.tables import forward, row_groups
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.storage.tables.spool import Spool
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan import Part
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.steps import planner, preflight, sampling
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.expected_reads import SPOOL_BYTES, ExpectedReads, expect_reads
from scoreline.tasks.steps.read_part import read_part
from tests.support.one_model import Models
from tests.support.small_shapes import SHAPES, ShapedJob, SmallShape, encoded, rows_of

ROWS = 600_000
NOT_EXACT = {"one group in pieces", "arrow", *(name for name, shape in SHAPES.items() if shape.is_compressed)}
"""Shapes that are read in other requests if they are so small. Other tests read larger ones."""
ENDS_EARLY = {"arrow stream"}
"""Shapes of which a part may have all rows before its last piece is requested, which it then does without."""
SLOW = planner.Pace(rows_per_s=1e5, scored_per_s=1e5, processes=2)


@pytest.fixture(autouse=True)
def as_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be read with requests, although their store keeps files."""
    monkeypatch.setattr(forward, "KeepsFiles", ())


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    return Engine(
        buckets=Buckets.from_env(environ), ledger=MemoryLedger(), send=lambda name, **_: None, models=Models()
    )


def draft_of(engine: Engine, group_rows: int) -> tuple[Job, sampling.Draft, int]:
    """Plan a job that needs one of a table's three columns. Return also the size of the table in bytes."""
    sink = io.BytesIO()
    x = np.random.default_rng(1).normal(size=ROWS)
    table = pa.table({"x": x, "other": x + 1.0, "more": x + 2.0})
    pq.write_table(table, sink, row_group_size=group_rows, use_dictionary=False)
    engine.buckets.main.put("in/a.parquet", sink.getvalue())
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", keep="none")
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    return job, planner.draft(engine, job, SLOW), len(sink.getvalue())


def expected(engine: Engine, group_rows: int) -> tuple[ExpectedReads, int]:
    """Return the expected reads of that job, and the size of the table in bytes."""
    job, made, size = draft_of(engine, group_rows)
    return expect_reads(engine, made, job.spec.read, SLOW.processes), size


def test_whole_row_groups_are_read_once_and_only_the_columns_that_are_needed(engine: Engine) -> None:
    reads, size = expected(engine, ROWS // 8)
    assert reads.needed_bytes == pytest.approx(size / 3, rel=0.01)
    assert reads.bytes == pytest.approx(reads.needed_bytes, rel=0.01)
    assert reads.requests == 8 + SLOW.processes - 1  # the process that plans the job has read the footer


def test_a_row_group_that_two_processes_share_is_read_almost_twice(engine: Engine) -> None:
    reads, _ = expected(engine, ROWS)
    assert 1.4 * reads.needed_bytes < reads.bytes < 2 * reads.needed_bytes


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("memory", "groups", "parts", "least"),
    [
        ({}, 4, 4, 0),
        ({}, 1, 2, 0),
        ({"read": 4 << 20}, 1, 2, 3),
        ({"read": 1 << 20}, 2, 2, 0),
        ({"read": 1 << 20, "column": 0}, 2, 2, 10),
        ({"wide": 1 << 20}, 1, 2, 0),
    ],
    ids=["whole groups", "shared", "shared, in pieces", "blocks", "groups in pieces", "wide, in several passes"],
)
def test_a_dry_run_predicts_the_requests_and_bytes_of_parts(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    memory: dict[str, int],
    groups: int,
    parts: int,
    least: int,
    processes: int,
) -> None:
    # Given less memory than a process has, so that a small table is read as a large one
    if "read" in memory:
        monkeypatch.setattr(forward, "READ_BYTES", memory["read"])
    if "column" in memory:
        monkeypatch.setattr(row_groups, "_BLOCK_COLUMN_BYTES", memory["column"])
    if "wide" in memory:
        monkeypatch.setattr(row_groups.RowGroup, "is_wide", True)
        monkeypatch.setattr(row_groups, "WINDOW_BYTES", memory["wide"])
        monkeypatch.setattr(row_groups, "MAX_WINDOW_BYTES", memory["wide"])
    job, made, _ = draft_of(engine, ROWS // groups)
    pieces = [piece for part in made.parts for piece in part.slices]
    cut = [piece.rows for piece in pieces] if groups > 1 else [400_000, 200_000]
    starts = np.cumsum([0, *cut[:-1]]).tolist()
    planned = [
        Part(slices=(replace(pieces[0], start=start, stop=start + rows, first_row=start, rows=rows),))
        for start, rows in zip(starts, cut, strict=True)
    ]
    made = replace(made, parts=planned)
    assert len(made.parts) == parts
    reads = expect_reads(engine, made, job.spec.read, processes)
    # When the processes take turns with the parts
    log: list[int] = []
    get = engine.buckets.main.get

    def counted(key: str, **options: Any) -> Any:
        start, stop = options["byte_range"]
        log.append(stop - start)
        return get(key, **options)

    monkeypatch.setattr(engine.buckets.main, "get", counted)
    size = engine.batch_size(made.columns)
    for number in range(processes):
        own = replace(engine, tables=Tables()) if number else engine  # the first process has planned the job
        for part in made.parts[number::processes]:
            for _ in read_part(own, part, made.columns, job.spec.read, size):
                pass
    # Then the requests are those of the dry run, and so are their bytes, except for the footers
    assert len(log) == reads.requests
    assert len(log) >= least
    assert sum(log) == pytest.approx(reads.bytes, abs=processes * (70 << 10))


@pytest.mark.parametrize(("worker_size", "fetched"), [(1, 30), (2, 20), (4, 0)])
def test_small_objects_are_fetched_again_only_by_other_workers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, worker_size: int, fetched: int
) -> None:
    # Given forty objects in eight parts, and four processes
    for number in range(40):
        sink = io.BytesIO()
        pq.write_table(pa.table({"x": np.arange(10.0)}), sink)
        engine.buckets.main.put(f"in/{number:02}.parquet", sink.getvalue())
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", part_rows=50)
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    files = open_files(worker_size)
    kept = [KeptObjects(for_parts=True) for _ in range(4)]
    if worker_size > 1:
        kept[:worker_size] = [
            KeptObjects(for_parts=True, spool=Spool(files, own, limit_bytes=SPOOL_BYTES)) for own in range(worker_size)
        ]
    made = planner.draft(replace(engine, kept=kept[0]), job, SLOW, hand_on=True)
    reads = expect_reads(engine, made, job.spec.read, 4, worker_size)
    # When one of the workers plans the job, and the processes take turns with the parts
    log: list[int] = []
    get = engine.buckets.main.get

    def counted(key: str, **options: Any) -> Any:
        stored = get(key, **options)
        log.append(len(stored.data))
        return stored

    monkeypatch.setattr(engine.buckets.main, "get", counted)
    size = engine.batch_size(made.columns)
    for number, part in enumerate(made.parts):
        for _ in read_part(replace(engine, kept=kept[number % 4]), part, made.columns, job.spec.read, size):
            pass
    # Then the requests are those of the dry run
    assert len(made.parts) == 8
    assert (reads.requests, reads.bytes) == (len(log), sum(log))
    assert len(log) == fetched
    kept[0].begin([made.surveyed[0].file, made.surveyed[1].file])  # ends the thread that deletes unused objects
    kept[0].clear()
    for file in files:
        file.close()


def test_a_dry_run_expects_no_more_in_a_spool_than_it_may_contain(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        engine.buckets.main.put(f"in/{number}.csv", b"x\n1\n2\n")
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/")
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    made = planner.draft(engine, job, SLOW)
    monkeypatch.setattr("scoreline.tasks.steps.expected_reads.SPOOL_BYTES", 13)
    assert expect_reads(engine, made, job.spec.read, 4, 4).requests == 2


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


def reads_of(
    job: ShapedJob, objects: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> tuple[ExpectedReads, list[int]]:
    """Run a job. Return the reads that a dry run expects, and the sizes of the requests that the parts send."""
    shape = job.shape
    job.put(objects)
    dry = replace(job.engines[0], tables=Tables(), kept=KeptObjects())
    made = planner.draft(dry, job.job, planner.Pace(processes=shape.processes))
    worker_size = shape.processes if shape.shares else 1
    reads = expect_reads(dry, made, job.job.spec.read, shape.processes, worker_size)
    job.submit()
    job.run(1)
    sizes: list[int] = []
    get = job.store.get

    def counted(key: str, **options: Any) -> Any:
        stored = get(key, **options)
        if key.startswith(job.folder):
            sizes.append(len(stored.data) or sum(map(len, options.get("into") or ())))
        return stored

    monkeypatch.setattr(job.store, "get", counted)
    job.run()
    assert job.outcome.state == "succeeded"
    assert len(made.parts) == sum("/part-" in info.key for info in job.store.list(job.layout.parts_folder))
    return reads, sizes


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in NOT_EXACT])
def test_a_dry_run_predicts_the_requests_of_each_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shape, environ = SHAPES[name], {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    shape.lower_limits(monkeypatch)
    with ShapedJob(shape, environ, "j", profile="off") as job:
        objects = shape.objects(rows_of())
        reads, sizes = reads_of(job, objects, monkeypatch)
        parts = sum("/part-" in info.key for info in job.store.list(job.layout.parts_folder))
    assert reads.requests - (parts if name in ENDS_EARLY else 0) <= len(sizes) <= reads.requests
    # The bytes, too, except for the footers and headers, of which each process may read all of a small object
    largest = max(map(len, objects.values()))
    assert sum(sizes) == pytest.approx(reads.bytes, abs=shape.processes * largest)


@pytest.mark.parametrize(("suffix", "off"), [("arrow", 0), ("csv", 0), ("csv.gz", 2)])
def test_a_dry_run_predicts_the_requests_for_objects_of_several_mb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, off: int
) -> None:
    # Given an object that is read as it is in production. How far a text can be compressed is known only roughly
    rows, processes, random = 80_000, 2, np.random.default_rng(1)
    table = pa.table({"id": np.arange(rows), "x": random.normal(size=rows), "y": random.normal(size=rows)})
    shape = SmallShape(suffix=suffix, part_rows=20_000, processes=processes)
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    with ShapedJob(shape, environ, "j", profile="off") as job:
        reads, sizes = reads_of(job, {f"0.{suffix}": encoded(table, suffix, 10_000)}, monkeypatch)
    assert abs(len(sizes) - reads.requests) <= off * processes
    # The bytes, too, except for the beginning and the end of the object
    assert sum(sizes) == pytest.approx(reads.bytes, rel=0.35 if off else 0, abs=processes * (128 << 10))
