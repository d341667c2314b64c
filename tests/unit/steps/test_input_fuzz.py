"""Each row of random tables, whole or damaged, is scored or rejected once, or the job fails with a clear error."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.storage.errors import ScorelineError
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import draft
from scoreline.tasks.steps.sampling import Draft
from tests.support.corpus import arrow, lines
from tests.support.one_model import Models

TYPES = {
    "float": (pa.float64(), st.none() | st.floats()),
    "integer": (pa.int64(), st.none() | st.integers(-(1 << 63), (1 << 63) - 1)),
    "text": (pa.string(), st.none() | st.sampled_from(["1", " 2.5", "n/a", "", "é"]) | st.text(max_size=3)),
    "flag": (pa.bool_(), st.none() | st.booleans()),
    "decimal": (pa.decimal128(30, 4), st.none() | st.decimals(-(10**20), 10**20, places=4)),
    "nothing": (pa.null(), st.none()),
}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    return Engine(buckets=Buckets.from_env(environ), ledger=None, send=None, models=Models())  # type: ignore[arg-type]


def encoded(table: pa.Table, kind: str, group: int) -> bytes:
    sink = io.BytesIO()
    match kind:
        case "parquet":
            pq.write_table(table, sink, row_group_size=group, write_page_checksum=True)
        case "arrow" | "arrows":
            return arrow(table, stream=kind == "arrows")
        case "csv":
            rows = [[str(v) if v is not None else "" for v in row.values()] for row in table.to_pylist()]
            text = "".join(",".join('"' + v.replace('"', '""') + '"' for v in row) + "\n" for row in rows)
            return ("id,x\n" + text).encode("utf-8", "surrogatepass")
        case _:
            plain = [
                {k: float(v) if isinstance(v, Decimal) else v for k, v in row.items()} for row in table.to_pylist()
            ]
            return lines(*plain)
    return sink.getvalue()


@st.composite
def inputs(draw: st.DrawFn) -> tuple[str, bytes, list[Any], bool]:
    """Draw a format, an object in that format, the values of its column x, and whether the object is damaged."""
    kind = draw(st.sampled_from(["parquet", "arrow", "arrows", "csv", "jsonl"]))
    type_, values = TYPES[draw(st.sampled_from(sorted(TYPES)))]
    column = draw(st.lists(values, max_size=40))
    table = pa.table({"id": pa.array(range(len(column)), pa.int64()), "x": pa.array(column, type_)})
    data = encoded(table, kind, draw(st.integers(1, 20)))
    harmed = draw(st.booleans())
    if harmed and data:
        match draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                at = draw(st.integers(0, len(data) - 1))
                data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
            case "cut":
                data = data[: draw(st.integers(0, len(data)))]
            case _:
                at = draw(st.integers(0, len(data)))
                data = data[:at] + draw(st.binary(min_size=1, max_size=9)) + data[at:]
    return kind, data, column, harmed


def outcomes(engine: Engine, job: Job, made: Draft) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the number of each row with its kept columns and its score, or with None if it was rejected."""
    columns = made.columns
    for part in made.parts:
        for piece in part.slices:
            for rows in engine.read_slice(piece, columns, job.spec.read, 7):
                done = score_batch(
                    Models().get(job.model), rows.batch, features=columns.features, keep=columns.keep, method=None
                )
                scored = iter(done.table.to_pylist())
                for index, number in enumerate(rows.numbers.tolist()):
                    yield number, None if index in done.rejected else next(scored)
                assert next(scored, None) is None  # no row is both scored and rejected
                yield from ((item.row, None) for item in rows.malformed)


@pytest.mark.filterwarnings("ignore:overflow")  # for values near the largest float, the prediction overflows
@given(given_=inputs(), part_rows=st.integers(1, 50))
def test_no_row_of_any_input_is_lost_or_scored_twice(
    engine: Engine, given_: tuple[str, bytes, list[Any], bool], part_rows: int
) -> None:
    kind, data, values, harmed = given_
    info = engine.buckets.main.put(f"in/a.{kind}", data)
    spec = JobSpec(
        job_id="j", model="m", inputs=(f"s3://data/{info.key}",), output="s3://data/out/", part_rows=part_rows
    )
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    try:
        made = draft(engine, job)
        found = list(outcomes(engine, job, made))
    except ScorelineError as error:
        message = str(error)
        names_it = "s3://data/in/a." in message or " tried, from all parts of the input" in message or "'x'" in message
        if not names_it:
            raise
        if not harmed and " tried, " not in message:
            raise
        return
    assert sorted(number for number, _ in found) == list(range(sum(part.rows for part in made.parts)))
    if not harmed:
        assert len(found) == len(values)
        for number, row in found:
            verify(values[number], number, row)


def verify(value: Any, number: int, row: dict[str, Any] | None) -> None:
    """Check that a row either has the score 2 * value + 1, or was rejected because its value is not a finite number."""
    finite = isinstance(value, float) and math.isfinite(value)
    if row is None:
        assert not finite, f"row {number} with {value!r} was rejected"
        return
    assert int(row["id"]) == number
    with np.errstate(over="ignore"):
        assert row["prediction"] == pytest.approx(2 * np.float64(value) + 1, rel=1e-12)
