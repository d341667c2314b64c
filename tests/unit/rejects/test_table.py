"""A rejected row keeps all its columns that could be read."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps import planner
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.score_rows import score_rows
from tests.support.one_model import Models

COLUMNS = ["id", "x", "n", "at", "name"]
TYPES = {"n": "int64", "at": "timestamp"}


def rejected(folder: Path, key: str, data: bytes) -> dict[int, dict[str, Any]]:
    """Return the input columns of each rejected row, by row number."""
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(folder)}
    buckets = Buckets.from_env(environ)
    engine = Engine(buckets=buckets, ledger=MemoryLedger(), send=lambda name, **_: None, models=Models())
    buckets.main.put(f"in/{key}", data)
    read = ReadOptions() if key.endswith(("parquet", "arrow")) else ReadOptions(types=TYPES)
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", read=read)
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    made = planner.draft(engine, job, planner.Pace(rows_per_s=1e6, processes=1))
    plan: Any = SimpleNamespace(columns=made.columns)
    _, rejects = score_rows(engine, Documents(job=job, plan=plan), made.parts[0], 100, Timings())
    return {row["row"]: {name: row[name] for name in COLUMNS if name in row} for row in rejects.to_pylist()}


def text(at: Any) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d}"


CSV = b"""id,x,n,at,name
1,1.0,7,2026-11-25,good
2,2.0,much,2026-11-26,number
3,3.0,8,soon,time
4,4.0,many,later,both
5,5.0,9
"""
JSONL = b"""{"id": 1, "x": 1.0, "n": 7, "at": "2026-11-25", "name": "good"}
{"id": 2, "x": 2.0, "n": "much", "at": "2026-11-26", "name": "number"}
{"id": 3, "x": 3.0, "n": 8, "at": "soon", "name": "time"}
{"id": 4, "x": 4.0, "n": "many", "at": "later", "name": "both"}
{"id": 5, "x": 5.0, "n": 9
"""


@pytest.mark.parametrize(("key", "data"), [("a.csv", CSV), ("a.jsonl", JSONL)])
def test_the_columns_of_a_row_that_could_be_read_are_kept(tmp_path: Path, key: str, data: bytes) -> None:
    found = rejected(tmp_path, key, data)
    assert {row: columns | {"at": text(columns["at"])} for row, columns in found.items()} == {
        1: {"id": 2, "x": 2.0, "n": None, "at": "2026-11-26", "name": "number"},
        2: {"id": 3, "x": 3.0, "n": 8, "at": None, "name": "time"},
        3: {"id": 4, "x": 4.0, "n": None, "at": None, "name": "both"},
        4: dict.fromkeys(COLUMNS),
    }


@pytest.mark.parametrize("key", ["a.parquet", "a.arrow"])
def test_a_text_that_is_not_utf8_does_not_cost_the_other_columns(tmp_path: Path, key: str) -> None:
    names = pa.array([b"good", b"b\xffd"]).view(pa.string())
    table, sink = (
        pa.table({"id": [1, 2], "x": [1.0, 2.0], "name": names, "n": pa.array(["a", "b"]).dictionary_encode()}),
        io.BytesIO(),
    )
    if key.endswith("parquet"):
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    assert rejected(tmp_path, key, sink.getvalue()) == {1: {"id": 2, "x": 2.0, "n": "b", "name": None}}
