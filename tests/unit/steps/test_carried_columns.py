"""Kept columns have the same values in the results as in the input, in all formats."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import draft
from tests.support.one_model import Models

BIG = 9_007_199_254_740_993
"""An integer that float64 cannot represent exactly."""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    return Engine(buckets=Buckets.from_env(environ), ledger=None, send=None, models=Models())  # type: ignore[arg-type]


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def carried(engine: Engine, objects: Mapping[str, bytes], **read: Any) -> list[Any]:
    """Return the values of the column id in the results of a job, in the order of the objects."""
    for name, data in objects.items():
        engine.buckets.main.put(f"in/{name}", data)
    options = ReadOptions(**read)
    spec = JobSpec(
        job_id="j",
        model="m",
        inputs=("s3://data/in/",),
        output="s3://data/out/",
        keep="id",
        read=options,
        features=("x",),
    )
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    made = draft(engine, job)
    found: list[Any] = []
    for part in made.parts:
        for piece in part.slices:
            for rows in engine.read_slice(piece, made.columns, options, 9):
                assert rows.malformed == ()
                done = score_batch(engine.models.get(job.model), rows.batch, features=("x",), keep=("id",), method=None)
                found += done.table["id"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("first", "second", "values"),
    [
        (("a.jsonl", b'{"x": 1, "id": 1}\n'), ("b.jsonl", b'{"x": 1, "id": "x"}\n'), ["1", "x"]),
        (("a.jsonl", b'{"x": 1, "id": true}\n'), ("b.jsonl", b'{"x": 1, "id": "x"}\n'), ["true", "x"]),
        (("a.jsonl", b'{"x": 1, "id": [1]}\n'), ("b.jsonl", b'{"x": 1, "id": "x"}\n'), ["[1]", "x"]),
        (("a.jsonl", b'{"x": 1, "id": {"a": 1}}\n'), ("b.jsonl", b'{"x": 1, "id": {"b": 2}}\n'), None),
        (("a.csv", b"x,id\n1,007\n"), ("b.jsonl", b'{"x": 1, "id": 7}\n'), ["007", "7"]),
        (("a.parquet", parquet(x=[1.0], id=["a"])), ("b.jsonl", b'{"x": 1, "id": 7}\n'), ["a", "7"]),
        (("a.csv", f"x,id\n1,{BIG}\n".encode()), ("b.csv", b"x,id\n1,1.5\n"), [str(BIG), "1.5"]),
        (("a.jsonl", f'{{"x": 1, "id": {BIG}}}\n'.encode()), ("b.jsonl", b'{"x": 1, "id": 1.5}\n'), [str(BIG), "1.5"]),
        (("a.csv", f"x,id\n1,{BIG}\n".encode()), ("b.csv", b"x,id\n1,7\n"), [BIG, 7]),
        (("a.csv", b"x,id\n1,5\n"), ("b.csv", b"x,id\n"), [5]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_values_of_several_objects_come_back_as_they_were(
    engine: Engine, first: tuple[str, bytes], second: tuple[str, bytes], values: list[Any] | None
) -> None:
    expected = values or [{"a": 1, "b": None}, {"a": None, "b": 2}]
    assert carried(engine, dict([first, second])) == expected


def test_integers_that_a_float_column_of_parquet_would_change_are_refused(engine: Engine) -> None:
    objects = {"a.csv": f"x,id\n1,{BIG}\n".encode(), "b.parquet": parquet(x=[1.0], id=[1.5])}
    with pytest.raises(
        UnreadableInput, match=r"a\.csv has integers in 'id' that float64 cannot hold, and .*b\.parquet"
    ):
        carried(engine, objects)


def test_half_a_surrogate_pair_costs_only_its_line(engine: Engine) -> None:
    lines = b'{"x": 1, "id": 1}\n{"x": 2, "id": 2, "n": {"a": "\\ud800"}}\n{"x": 3, "id": 3, "\\ud800": 1}\n'
    with pytest.raises(AssertionError, match="half of a surrogate pair"):
        carried(engine, {"a.jsonl": lines})
    assert carried(engine, {"a.jsonl": b'{"x": 1, "id": 1, "t": "\\ud83d\\ude42"}\n'}) == [1]


def test_a_type_of_file_that_is_given_decides_what_json_is(engine: Engine) -> None:
    assert carried(engine, {"a.txt": b'{"x": 1, "id": 1}\n{"x": 1, "id": "b"}\n'}, format="jsonl") == ["1", "b"]


def test_times_beyond_nanoseconds_are_kept_beside_those_of_nanoseconds(engine: Engine) -> None:
    far = datetime(9999, 12, 31)  # without a zone
    objects = {"a.parquet": parquet(x=[1.0], id=pa.array([far], pa.timestamp("us")))}
    assert carried(engine, objects) == [far]
