"""Columns of every Arrow type keep their values, even if a row is rejected, or else the planner refuses the type."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import ScorelineError, UnreadableInput
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables import parquet
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import draft
from scoreline.tasks.steps.score_rows import score_rows
from tests.support.one_model import Models

DAY_MS = 86_400_000


def whole(kind: Any) -> Any:
    return pa.array([1, None, 3, 4], kind)


def decimals(kind: Any) -> Any:
    return pa.array([Decimal("1.5"), None, Decimal("3"), Decimal("-4.25")], kind)


def texts(kind: Any) -> Any:
    return pa.array(["a", None, "c", "ä longer text than a view holds"], kind)


def raw(kind: Any) -> Any:
    return pa.array([b"ab", None, b"cd", b"ef"], kind)


def lists(kind: Any) -> Any:
    return pa.array([[1], None, [], [2, 3]], kind)


def coded(values: Any) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 0], pa.int8()), values)


def runs(values: Any) -> Any:
    return pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 4], pa.int32()), values)


def each_one(values: Any) -> Any:
    return pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4], pa.int32()), values)


def extension(kind: Any, storage: Any) -> Any:
    return pa.ExtensionArray.from_storage(kind, storage)


INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
UNITS = ("s", "ms", "us", "ns")
KEPT: list[Any] = [
    pa.nulls(4),
    pa.array([True, None, False, True]),
    *(whole(kind) for kind in INTEGERS),
    *(pa.array([1.5, None, 3.0, 4.0], kind) for kind in (pa.float16(), pa.float32(), pa.float64())),
    *(decimals(kind) for kind in (pa.decimal32(5, 2), pa.decimal64(5, 2), pa.decimal128(5, 2), pa.decimal256(50, 2))),
    whole(pa.date32()),
    pa.array([DAY_MS, None, 0, DAY_MS], pa.date64()),
    *(whole(kind) for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"))),
    pa.array([1_000, None, 3_000, 4_000], pa.time64("ns")),
    *(pa.array([1_000, None, 3_000, 4_000], pa.timestamp(unit)) for unit in UNITS),
    whole(pa.timestamp("us", "Europe/Paris")),
    *(pa.array([1_000, None, 3_000, 4_000], pa.duration(unit)) for unit in UNITS),
    *(texts(kind) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *(raw(kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2))),
    *(lists(kind(pa.int64())) for kind in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)),
    lists(pa.list_view(pa.int64())).slice(0, 4),
    pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
    pa.array([["a"], None, [], ["b"]], pa.list_(pa.string_view())),
    pa.array([["a"], None, [], ["b"]], pa.list_view(pa.string_view())),
    pa.array([{"a": 1}, None, {"a": None}, {"a": 4}]),
    pa.array([{"a": [1]}, None, {"a": None}, {"a": []}]),
    pa.array([[("k", 1)], None, [], [("j", 2)]], pa.map_(pa.string(), pa.int64())),
    coded(pa.array(["a", "b"])),
    coded(pa.array(["a", None])),
    coded(pa.array([1, 2])),
    coded(pa.array([True, False])),
    coded(pa.array([1, 2], pa.timestamp("us"))),
    coded(pa.array([Decimal("1.5"), Decimal("2.5")])),
    coded(pa.array(["a", "b"], pa.string_view())),
    coded(pa.array([[1], [2]])),
    each_one(pa.array(["a", "b", "a", "c"]).dictionary_encode()),
    pa.StructArray.from_arrays([pa.array(["a", "b", "a", "c"]).dictionary_encode()], names=["a"]),
    runs(pa.array(["a", None, "c"])),
    runs(pa.array([1, None, 3])),
    each_one(runs(pa.array(["a", None, "c"]))),
    extension(pa.uuid(), pa.array([b"a" * 16, None, b"c" * 16, b"d" * 16], pa.binary(16))),
    extension(pa.json_(), pa.array(["1", None, "2", "3"])),
    extension(pa.bool8(), whole(pa.int8())),
    extension(pa.opaque(pa.int64(), "t", "v"), whole(pa.int64())),
    extension(
        pa.fixed_shape_tensor(pa.int64(), [2]), pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int64(), 2))
    ),
]
KINDS = pa.array([0, 1, 0, 1], pa.int8())
NOT_KEPT: list[Any] = [
    pa.array([(1, 2, 3), None, (4, 5, 6), (0, 0, 0)], pa.month_day_nano_interval()),
    pa.array([{}, None, {}, {}], pa.struct([])),
    pa.UnionArray.from_sparse(KINDS, [pa.array([1, 2, 3, 4]), pa.array(["a", "b", "c", "d"])]),
    pa.UnionArray.from_dense(KINDS, pa.array([0, 0, 1, 1], pa.int32()), [pa.array([1, 2]), pa.array(["a", "b"])]),
]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    send: Any = None
    return Engine(buckets=Buckets.from_env(environ), ledger=MemoryLedger(), send=send, models=Models())


def encoded(table: pa.Table, suffix: str) -> bytes:
    body = io.BytesIO()
    if suffix == "parquet":
        pq.write_table(table, body)
        return body.getvalue()
    new = pa.ipc.new_file if suffix == "arrow" else pa.ipc.new_stream
    with new(body, table.schema) as writer:
        writer.write_table(table)
    return body.getvalue()


def run(engine: Engine, table: pa.Table, suffix: str = "arrow", keep: str = "none") -> list[pa.Table]:
    """Score two objects with this table, and return the written results and rejected rows."""
    for name in "ab":
        engine.buckets.main.put(f"in/{name}.{suffix}", encoded(table, suffix))
    spec = JobSpec(
        job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", keep=keep, features=("x",)
    )
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    made = draft(engine, job)
    plan: Any = SimpleNamespace(columns=made.columns)
    tables = score_rows(engine, Documents(job=job, plan=plan), made.parts[0], 100, Timings())
    return [pq.read_table(io.BytesIO(parquet.write(table, {}))) for table in tables if table.num_columns]


@pytest.mark.parametrize("suffix", ["arrow", "arrows", "parquet"])
def test_every_type_is_kept_beside_a_rejected_row(engine: Engine, suffix: str) -> None:
    columns = {f"k{number}": column for number, column in enumerate(KEPT)}
    if suffix == "parquet":
        columns = {name: column for name, column in columns.items() if is_writable(column)}
    table = pa.table({"x": [1.0, 2.0, None, 4.0]} | columns)
    results, rejects = run(engine, table, suffix, keep=",".join(columns))
    for name, column in columns.items():
        values = column.to_pylist()
        assert results[name].to_pylist() == 2 * [values[0], values[1], values[3]], column.type
        assert rejects[name].to_pylist() == 2 * [values[2]], column.type


def is_writable(column: Any) -> bool:
    try:
        pq.write_table(pa.table({"k": column}), io.BytesIO())
    except (pa.ArrowException, OSError):
        return False
    return True


@pytest.mark.parametrize("column", NOT_KEPT, ids=lambda column: str(column.type))
def test_a_type_that_parquet_cannot_hold_is_refused_by_name(engine: Engine, column: Any) -> None:
    with pytest.raises(
        UnreadableInput, match=r"the column 'k' is .*, which Parquet cannot hold: leave it out with --keep"
    ):
        run(engine, pa.table({"x": [1.0, 2.0, None, 4.0], "k": column}), keep="k")


def test_a_feature_of_any_type_is_scored_or_refused_with_a_reason(engine: Engine) -> None:
    wrong = {}
    for column in [*KEPT, *NOT_KEPT]:
        try:
            assert sum(table.num_rows for table in run(engine, pa.table({"x": column}), keep="x")) == 8
        except ScorelineError:
            pass
        except Exception as error:  # noqa: BLE001  # no other error may reach the user
            wrong[str(column.type)] = error
    assert wrong == {}


def test_times_with_nanoseconds_reject_only_their_rows(engine: Engine) -> None:
    with pytest.raises(ScorelineError, match="has nanoseconds, and Python's times hold microseconds"):
        run(engine, pa.table({"x": pa.array([1, 2, 3], pa.time64("ns"))}))
