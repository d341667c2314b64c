"""Many small objects are read with few requests and scored in common batches, and each row stays in its place."""

from __future__ import annotations

import io
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import InputChanged, InputError, RejectBudgetExceeded, UnreadableInput
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.scratch_files import open_files
from scoreline.storage.settings import R2Settings
from scoreline.storage.tables.base import SMALL_BYTES, Pinned
from scoreline.storage.tables.small_objects import OBJECTS_AT_ONCE, KeptObjects, held_bytes
from scoreline.storage.tables.spool import Spool, Spooled
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.inputs.listing import list_inputs, survey_inputs
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan import BATCH_BYTES
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps import planner, read_part
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.score_rows import score_rows
from scoreline.testing import eager
from tests.support.one_model import LINE, Models
from tests.support.waiting import HANG_S

FAST = planner.Pace(rows_per_s=1e6, processes=1)


class Noting(LinearRegression):
    """A model that records the number of rows of each call, and refuses a call with a negative value."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, x: Any) -> Any:
        self.calls.append(len(x))
        if (np.asarray(x) < 0).any():
            raise ValueError("negative")
        return 1 + 2 * np.asarray(x)[:, 0]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    return Engine(
        buckets=Buckets.from_env(environ), ledger=MemoryLedger(), send=lambda *_, **__: None, models=Models(Noting())
    )


def job(**options: Any) -> Job:
    given: dict[str, Any] = {"job_id": "j", "model": "m", "inputs": ("s3://data/in/",), "output": "s3://data/out/"}
    pinned = PinnedModel(name="m", version="1", manifest_sha256="")
    return Job(spec=JobSpec(**given | options), model=pinned, submitted="2026-11-25")


def put(engine: Engine, name: str, **columns: Any) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    engine.buckets.main.put(f"in/{name}", sink.getvalue())


def score(engine: Engine, planned: Any = None, **options: Any) -> tuple[pa.Table, pa.Table]:
    made = planned or planner.draft(engine, job(**options), FAST)
    (part,) = made.parts
    documents = Documents(job=job(**options), plan=SimpleNamespace(columns=made.columns))  # type: ignore[arg-type]
    return score_rows(engine, documents, part, 1_000, Timings())


def places(rejected: pa.Table) -> list[tuple[str, int, int | None]]:
    rows = zip(rejected["source"].to_pylist(), rejected["row"].to_pylist(), rejected["id"].to_pylist(), strict=True)
    return [(source.removeprefix("s3://data/in/"), row, own) for source, row, own in rows]


def put_with_rejects_at_seams(engine: Engine) -> list[tuple[str, int, int]]:
    """Put objects whose first and last rows are rejected. Return the position of each rejected row."""
    refused = []
    for number, rows in enumerate((5, 1, 4, 2, 6)):
        ids = np.arange(rows) + 10 * number
        x = ids.astype(float)
        bad = {0, rows - 1}
        x[list(bad)] = -1.0
        put(engine, f"{number}.parquet", id=ids, x=x)
        refused += [(f"{number}.parquet", row, int(ids[row])) for row in sorted(bad)]
    return refused


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 65_536])
def test_rejects_on_both_sides_of_each_seam_keep_their_object_and_row(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    refused = put_with_rejects_at_seams(engine)
    made = planner.draft(engine, job(max_rejected="100%"), FAST)
    monkeypatch.setattr("scoreline.tasks.steps.engine.BATCH_ROWS", batch_rows)
    scored, rejected = score(engine, made, max_rejected="100%")
    assert places(rejected) == refused
    assert set(rejected["message"].to_pylist()) == {"ValueError: negative"}
    assert scored["id"].to_pylist() == [1, 2, 3, 21, 22, 41, 42, 43, 44]
    assert scored["prediction"].to_pylist() == [1 + 2 * number for number in (1, 2, 3, 21, 22, 41, 42, 43, 44)]


def test_the_model_is_called_once_for_the_rows_of_many_objects(engine: Engine) -> None:
    for number in range(20):
        put(engine, f"{number:02}.parquet", id=[number], x=[float(number)])
    made = planner.draft(engine, job(), FAST)
    engine.models.model.calls.clear()  # type: ignore[attr-defined]
    scored, _ = score(engine, made)
    assert engine.models.model.calls == [20]  # type: ignore[attr-defined]
    assert scored["id"].to_pylist() == list(range(20))


@pytest.mark.parametrize(("kind", "calls"), [("parquet", [7, 7, 6]), ("csv", [6, 4])])
def test_a_batch_of_many_objects_has_no_more_rows_than_usual(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str, calls: list[int]
) -> None:
    for number in range(20 if kind == "parquet" else 10):
        if kind == "parquet":
            put(engine, f"{number:02}.parquet", id=[number], x=[float(number)])
        else:  # the second row cannot be decoded, but counts towards the size of a batch
            engine.buckets.main.put(f"in/{number:02}.csv", f"id,x\n{number},1\n{number},1,9\n".encode())
    made = planner.draft(engine, job(max_rejected="100%"), FAST)
    engine.models.model.calls.clear()  # type: ignore[attr-defined]
    monkeypatch.setattr("scoreline.tasks.steps.engine.BATCH_ROWS", 7 if kind == "parquet" else 12)
    score(engine, made, max_rejected="100%")
    assert engine.models.model.calls == calls  # type: ignore[attr-defined]


def test_objects_with_equal_columns_and_rows_share_their_schema_and_spans(engine: Engine) -> None:
    for number in range(6):
        put(engine, f"{number}.parquet", id=[number], x=[1.0 if number % 2 else 1])
    found = survey_inputs(engine.tables, list_inputs(engine.buckets, job().spec.inputs), job().spec.read)
    assert len({id(item.schema) for item in found}) == 2
    assert len({id(item.file.spans) for item in found}) == len({item.file.spans for item in found}) <= 2
    assert [item.schema.field("x").type for item in found] == [pa.int64(), pa.float64()] * 3


def test_malformed_rows_of_texts_keep_their_object_and_row(engine: Engine) -> None:
    for name, lines in (("a", "1,x\n2,0.5\n3,0.5,9\n"), ("b", "4,0.5,9\n5,0.5\n6,-1\n"), ("c", "7,0.5\n")):
        engine.buckets.main.put(f"in/{name}.csv", f"id,x\n{lines}".encode())
    options = {"max_rejected": "100%"}
    made = planner.draft(engine, job(**options), FAST)
    scored, rejected = score(engine, made, **options)
    named = [(source, row) for source, row, _ in places(rejected)]
    assert named == [("a.csv", 0), ("a.csv", 2), ("b.csv", 0), ("b.csv", 2)]
    assert rejected["stage"].to_pylist() == ["decode", "decode", "decode", "predict"]
    assert scored["id"].to_pylist() == [2, 5, 7]


def test_objects_whose_types_differ_are_scored_as_by_themselves(engine: Engine) -> None:
    # float64 cannot represent the last value
    put(engine, "a.parquet", id=[1, 2], x=pa.array([1, 2**53 + 1], pa.int64()))
    put(engine, "b.parquet", id=[3, 4], x=[-1.0, 4.5])
    put(engine, "c.parquet", id=[5], x=pa.array([5], pa.int32()))
    scored, rejected = score(engine, max_rejected="100%")
    assert places(rejected) == [("a.parquet", 1, 2), ("b.parquet", 0, 3)]
    assert scored["prediction"].to_pylist() == [3.0, 10.0, 11.0]


def test_the_budget_error_names_the_object_of_the_row(engine: Engine) -> None:
    put(engine, "a.parquet", id=[1, 2], x=[1.0, 2.0])
    put(engine, "b.parquet", id=np.arange(2_000), x=[0.0] * 50 + [-1.0] * 1_950)
    made = planner.draft(engine, job(), FAST)
    documents = Documents(job=job(), plan=SimpleNamespace(columns=made.columns))  # type: ignore[arg-type]
    with pytest.raises(RejectBudgetExceeded, match=r"first is row 50 of s3://data/in/b\.parquet: ValueError: negative"):
        score_rows(engine, documents, made.parts[0], 0, Timings())


def test_rows_keep_the_columns_of_their_folders_beside_empty_objects(engine: Engine) -> None:
    put(engine, "day=1/a.parquet", id=[1], x=[1.0])
    put(engine, "day=2/a.parquet", id=pa.array([], pa.int64()), x=pa.array([], pa.float64()))
    put(engine, "day=2/b.parquet", id=[2], x=[2.0])
    engine.buckets.main.put("in/day=2/c.parquet", b"")
    scored, _ = score(engine)
    assert scored.select(["day", "id", "prediction"]).to_pylist() == [
        {"day": 1, "id": 1, "prediction": 3.0},
        {"day": 2, "id": 2, "prediction": 5.0},
    ]


def test_categories_of_objects_are_not_combined(engine: Engine) -> None:
    for number, name in enumerate("abb"):
        put(engine, f"{number}.parquet", id=pa.array([name]).dictionary_encode(), x=[1.0])
    made = planner.draft(engine, job(), FAST)
    engine.models.model.calls.clear()  # type: ignore[attr-defined]
    scored, _ = score(engine, made)
    assert engine.models.model.calls == [1, 2]  # type: ignore[attr-defined]
    assert scored["id"].to_pylist() == ["a", "b", "b"]


def test_the_categories_of_each_column_are_compared() -> None:
    one, other = (
        pa.record_batch({name: pa.array([text]).dictionary_encode() for name, text in zip("xyz", texts, strict=True)})
        for texts in ("aaa", "aab")
    )
    texts = pa.record_batch({name: ["a"] for name in "xyz"})
    for _ in range(2):  # also after rows of another schema
        assert read_part._fit_together(texts, texts.slice(0))
        assert read_part._fit_together(one, one.slice(0))
        assert not read_part._fit_together(one, other)


def count_gets(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    get = engine.buckets.main.get

    def counted(key: str, **options: Any) -> Any:
        counts[key] += 1
        return get(key, **options)

    monkeypatch.setattr(engine.buckets.main, "get", counted)
    return counts


@pytest.mark.parametrize("kind", ["parquet", "indexed.parquet", "csv", "jsonl", "arrow"])
@pytest.mark.parametrize("objects", [1, 20])
def test_a_small_object_takes_two_requests_planning_included(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str, objects: int
) -> None:
    rows = 20_000 if objects == 1 else 50
    rng = np.random.default_rng(0)
    for number in range(objects):
        table = pa.table({"id": np.arange(rows), "x": rng.uniform(size=rows), "y": rng.uniform(size=rows)})
        sink = io.BytesIO()
        match kind:
            case "csv":
                sink.write(table.to_pandas().to_csv(index=False).encode())
            case "jsonl":
                sink.write("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()).encode())
            case "arrow":
                with pa.ipc.new_file(sink, table.schema) as out:
                    out.write_table(table, max_chunksize=1_000)
            case _:
                pq.write_table(table, sink, row_group_size=5_000, write_page_index=kind != "parquet")
        engine.buckets.main.put(
            f"in/{number:02}.{kind}",
            sink.getvalue()[: 1 << 20].rpartition(b"\n")[0] + b"\n" if kind in ("csv", "jsonl") else sink.getvalue(),
        )
    counts = count_gets(engine, monkeypatch)
    made = planner.draft(engine, job(), FAST)
    assert set(counts.values()) == {1}, counts
    scored, _ = score(engine, made)
    assert set(counts.values()) == {2}, counts
    assert scored.num_rows == sum(part.rows for part in made.parts)


def kept_by(engine: Engine, made: Any) -> list[str]:
    """Return the keys of the objects that the process has kept for parts."""
    sources = [Pinned.of(engine.buckets.main, piece) for part in made.parts for piece in part.slices]
    return sorted({source.key for source in sources if held_bytes(engine.kept.find(source)) is not None})


def test_the_process_that_plans_a_job_does_not_fetch_small_objects_again_to_score_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = put_with_rejects_at_seams(engine)
    expected, expected_rejects = score(engine, max_rejected="100%")
    counts = count_gets(engine, monkeypatch)
    made = planner.draft(engine, job(max_rejected="100%"), FAST, hand_on=True)
    assert len(kept_by(engine, made)) == 5
    scored, rejected = score(engine, made, max_rejected="100%")
    assert set(counts.values()) == {1}, counts
    assert scored.equals(expected)
    assert rejected.equals(expected_rejects)
    assert places(rejected) == refused
    # And the memory is free again: a second attempt at the part fetches the objects
    assert kept_by(engine, made) == []
    assert score(engine, made, max_rejected="100%")[0].equals(expected)
    assert set(counts.values()) == {2}, counts


def test_a_job_that_is_planned_and_scored_by_one_process_takes_one_request_for_a_small_object(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        client.models.publish("line", LINE)
        for number in range(5):
            client.put(f"in/{number}.parquet", pd.DataFrame({"x": np.arange(10.0) + number}))
        with pytest.MonkeyPatch.context() as patched:
            counts: Counter[str] = Counter()
            get = DirectoryStore.get

            def counted(self: DirectoryStore, key: str, **options: Any) -> Any:
                counts[key] += key.startswith("in/")
                return get(self, key, **options)

            patched.setattr(DirectoryStore, "get", counted)
            done = client.submit("line", "s3://scoreline/in/")
        assert (done.state, done.rows) == ("succeeded", 50)
        assert {counts[f"in/{number}.parquet"] for number in range(5)} == {1}


def test_an_object_in_several_parts_is_read_again_by_each(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an object of which each part reads some rows
    put(engine, "a.parquet", id=np.arange(100), x=np.arange(100.0))
    made = planner.draft(engine, job(part_rows=40), FAST, hand_on=True)
    assert len(made.parts) > 1
    documents = Documents(job=job(), plan=SimpleNamespace(columns=made.columns))  # type: ignore[arg-type]
    # When the object is replaced
    put(engine, "a.parquet", id=np.arange(100), x=-np.arange(100.0))
    # Then no part scores the old rows, because another process would not have them
    for part in made.parts:
        with pytest.raises(InputChanged, match=r"s3://data/in/a\.parquet"):
            score_rows(engine, documents, part, 1_000, Timings())


@pytest.fixture
def pool(engine: Engine) -> Iterator[tuple[Engine, Engine]]:
    """Two processes of a worker, of which the first one plans."""
    files = open_files(2)
    spools = [Spool(files, own, limit_bytes=1 << 20) for own in range(2)]
    one, two = (replace(engine, kept=KeptObjects(for_parts=True, spool=spool)) for spool in spools)
    yield one, two
    for item in (one, two):
        item.kept.clear()
        item.kept.begin([Sized("a", 1), Sized("b", 1)])  # ends the thread that deletes unused objects
        item.kept.clear()
    for file in files:
        file.close()


def test_no_process_of_a_worker_fetches_small_objects_that_another_has_fetched_to_plan(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, scoring = pool
    refused = put_with_rejects_at_seams(planning)
    expected, expected_rejects = score(planning, max_rejected="100%")
    counts = count_gets(planning, monkeypatch)
    made = planner.draft(planning, job(max_rejected="100%"), FAST, hand_on=True)
    assert kept_by(planning, made) == []  # no process has them in its memory
    for engine in (scoring, planning, scoring):  # a part may be scored again, in any process
        scored, rejected = score(engine, made, max_rejected="100%")
        assert scored.equals(expected)
        assert rejected.equals(expected_rejects)
        assert places(rejected) == refused
    assert set(counts.values()) == {1}, counts


@pytest.mark.parametrize("kind", ["csv", "jsonl", "arrow", "parquet"])
def test_small_objects_of_any_format_take_one_request_in_a_worker(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    planning, scoring = pool
    for number in range(3):  # the last object is larger than what planning reads of Parquet otherwise
        frame = pd.DataFrame({"id": range(30), "x": np.arange(30.0) + number})
        sink = io.BytesIO()
        match kind:
            case "csv":
                sink.write(frame.to_csv(index=False).encode())
            case "jsonl":
                sink.write(frame.to_json(orient="records", lines=True).encode())
            case "arrow":
                table = pa.Table.from_pandas(frame, preserve_index=False)
                with pa.ipc.new_file(sink, table.schema) as out:
                    out.write_table(table)
            case _:
                frame["text"] = [bytes(np.random.default_rng(0).bytes(10_000)).hex()] * 30 if number == 2 else "a"
                frame.to_parquet(sink, compression=None, index=False)
        planning.buckets.main.put(f"in/{number}.{kind}", sink.getvalue())
    counts = count_gets(planning, monkeypatch)
    made = planner.draft(planning, job(), FAST, hand_on=True)
    assert score(scoring, made)[0].num_rows == 90
    assert set(counts.values()) == {1}, counts


def test_objects_that_the_spool_has_lost_are_fetched(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, scoring = pool
    for number in range(3):
        put(planning, f"{number}.parquet", id=[number], x=[float(number)])
    counts = count_gets(planning, monkeypatch)
    made = planner.draft(planning, job(), FAST, hand_on=True)
    expected = score(scoring, made)[0]
    # Given a damaged block of rows
    (part,) = made.parts
    source = Pinned.of(planning.buckets.main, part.slices[1])
    ((_, spooled),) = scoring.kept.take([(source, 1)])
    assert spooled is not None
    os.pwrite(spooled.file.fileno(), b"damaged", spooled.offset)
    # Then its objects are fetched again, and the rows are the same
    assert score(scoring, made)[0].equals(expected)
    assert counts == {f"in/{number}.parquet": 2 for number in range(3)}
    # And if it was replaced since, the part fails
    put(planning, "1.parquet", id=[1], x=[7.0])
    with pytest.raises(InputChanged, match=r"s3://data/in/1\.parquet"):
        score(scoring, made)


def test_objects_leave_the_spool_only_for_those_of_another_job(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, scoring = pool
    for number in range(3):
        put(planning, f"{number}.parquet", id=[number], x=[float(number)])
        put(planning, f"more/{number}.parquet", id=[number], x=[float(number)])
    made = planner.draft(planning, job(inputs=("s3://data/in/[0-9].parquet",)), FAST, hand_on=True)
    counts = count_gets(planning, monkeypatch)
    # A single object is not written, because the objects of a larger job would have to make room for it
    planner.draft(planning, job(inputs=("s3://data/in/0.parquet",)), FAST, hand_on=True)
    assert score(scoring, made)[0].num_rows == 3
    assert counts == {"in/0.parquet": 1}
    # Neither are those of a job that is only tried
    planner.draft(planning, job(inputs=("s3://data/in/0.parquet",)), FAST)
    assert score(scoring, made)[0].num_rows == 3
    assert counts == {"in/0.parquet": 2}
    # But those of another job are
    planner.draft(planning, job(inputs=("s3://data/in/more/",)), FAST, hand_on=True)
    counts.clear()
    assert score(scoring, made)[0].num_rows == 3
    assert counts == {f"in/{number}.parquet": 1 for number in range(3)}


def test_a_process_decodes_objects_of_the_spool_without_threads(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, scoring = pool
    for number in range(3):
        put(planning, f"{number}.parquet", id=[number], x=[float(number)])
    made = planner.draft(planning, job(), FAST, hand_on=True)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("threads take turns, and so take longer than one")

    monkeypatch.setattr(read_part, "map_ahead", refuse)
    assert score(scoring, made)[0].num_rows == 3


def test_objects_of_a_block_are_read_from_the_spool_at_once(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, scoring = pool
    for number in range(20):
        put(planning, f"{number:02}.parquet", id=[number], x=[float(number)])
    made = planner.draft(planning, job(), FAST, hand_on=True)
    reads: list[Spooled] = []
    read = Spooled.read

    def watched(self: Spooled) -> bytes | pa.RecordBatch | None:
        reads.append(self)
        return read(self)

    monkeypatch.setattr(Spooled, "read", watched)
    assert score(scoring, made)[0]["id"].to_pylist() == list(range(20))
    assert [found.rows for found in reads] == [20]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"rows": 7, "rows_to_read": 7},
        {"rows": 21, "rows_to_read": 12},  # the batch ends within the objects that are read at once
        {"limit_bytes": 840, "rows_to_read": 12},
        {"limit_bytes": 150},
    ],
)
@pytest.mark.parametrize("kind", ["numbers", "texts", "folders"])
def test_objects_of_a_block_make_up_the_same_batches_as_one_after_another(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch, kind: str, limits: dict[str, int]
) -> None:
    planning, scoring = pool
    ids = iter(range(1_000))
    for number, rows in enumerate((5, 1, 4, 10, 2, 6)):
        columns: dict[str, Any] = {"id": [next(ids) for _ in range(rows)], "x": np.arange(float(rows))}
        if kind == "texts":
            columns["text"] = [str(row) * number for row in range(rows)]
        put(planning, f"day={number // 2}/{number}.parquet" if kind == "folders" else f"{number}.parquet", **columns)
    asked = job(keep={"numbers": "id", "texts": "id,text", "folders": "id,day"}[kind])
    made = planner.draft(planning, asked, FAST, hand_on=True)
    size = scoring.batch_size(made.columns)
    vars(size).update(limits)

    def batches() -> list[Any]:
        found = read_part.read_part(scoring, made.parts[0], made.columns, asked.spec.read, size)
        return [
            (batch.rows.to_pylist(), [(piece.uri, piece.start, list(piece.numbers)) for piece in batch.pieces])
            for batch in found
        ]

    together = batches()
    monkeypatch.setattr(Spooled, "joined_with", lambda *_: None)
    assert together == batches()


def put_with_texts(engine: Engine) -> list[tuple[str, int, int]]:
    """Put objects with texts of which some are not UTF-8. Return the position of each such row."""
    refused, ids = [], iter(range(1_000))
    for number, rows in enumerate((5, 1, 4, 10, 2, 6)):
        own = [next(ids) for _ in range(rows)]
        text = pa.array([b"\xff" if name % 5 == 3 else b"sound" for name in own]).view(pa.string())
        put(engine, f"{number}.parquet", id=own, x=np.arange(float(rows)), text=text)
        refused += [(f"{number}.parquet", row, name) for row, name in enumerate(own) if name % 5 == 3]
    return refused


def test_rows_that_cannot_be_decoded_keep_their_place_in_objects_of_a_block(pool: tuple[Engine, Engine]) -> None:
    planning, scoring = pool
    refused = put_with_texts(planning)
    options: dict[str, Any] = {"keep": "id,text", "max_rejected": "100%"}
    expected, expected_rejects = score(planning, **options)
    made = planner.draft(planning, job(**options), FAST, hand_on=True)
    scored, rejected = score(scoring, made, **options)
    assert scored.equals(expected)
    assert rejected.equals(expected_rejects)
    assert places(rejected) == refused


def test_the_damaged_object_of_a_block_is_named(pool: tuple[Engine, Engine]) -> None:
    planning, scoring = pool
    for number in range(3):  # a day has fewer milliseconds than the second object says
        time = pa.array([0, 10**8 if number == 1 else 1], pa.int32()).view(pa.time32("ms"))
        put(planning, f"{number}.parquet", id=[number, number], x=[1.0, 2.0], time=time)
    made = planner.draft(planning, job(keep="time"), FAST, hand_on=True)
    with pytest.raises(UnreadableInput, match=r"/1\.parquet cannot be decoded: the column 'time' is damaged"):
        score(scoring, made, keep="time")


def test_objects_that_the_spool_loses_during_a_part_are_fetched_side_by_side(
    pool: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoreline.storage.tables.spooled_blocks._BLOCK_OBJECTS", 1)
    planning, scoring = pool
    read_before, objects = 3, 3 + OBJECTS_AT_ONCE
    for number in range(objects):
        put(planning, f"{number:02}.parquet", id=[number], x=[float(number)])
    made = planner.draft(planning, job(), FAST, hand_on=True)
    # Given a planner that begins another job after a part has read some of its objects
    reads: list[Spooled] = []
    read = Spooled.read

    def watched(self: Spooled) -> bytes | pa.RecordBatch | None:
        if len(reads) == read_before:
            planning.kept.begin([Sized("a", 1), Sized("b", 1)])
        reads.append(self)
        return read(self)

    fetched: list[str] = []
    meeting = threading.Barrier(OBJECTS_AT_ONCE)
    get = planning.buckets.main.get

    def together(key: str, **options: Any) -> Any:
        meeting.wait(HANG_S)  # raises an error unless enough requests are under way at once
        fetched.append(key)
        return get(key, **options)

    monkeypatch.setattr(Spooled, "read", watched)
    monkeypatch.setattr(planning.buckets.main, "get", together)
    # Then the part fetches the others as if they had never been there
    assert score(scoring, made)[0]["id"].to_pylist() == list(range(objects))
    assert len(fetched) == OBJECTS_AT_ONCE


def test_an_object_that_was_replaced_after_it_was_planned_is_not_found_for_the_new_plan(engine: Engine) -> None:
    put(engine, "a.parquet", id=[1], x=[1.0])
    planner.draft(engine, job(), FAST, hand_on=True)
    put(engine, "a.parquet", id=[1], x=[2.0])
    other = replace(engine, kept=KeptObjects())
    made = planner.draft(other, job(), FAST)
    assert score(engine, made)[0]["prediction"].to_pylist() == [5.0]


def test_kept_objects_make_room_for_parts_of_other_jobs(engine: Engine) -> None:
    put(engine, "a.parquet", id=[1], x=[1.0])
    made = planner.draft(engine, job(), FAST, hand_on=True)
    engine.buckets.main.put("else/b.parquet", engine.buckets.main.get("in/a.parquet").data)
    other = replace(engine, kept=KeptObjects())
    score(engine, planner.draft(other, job(inputs=("s3://data/else/",)), FAST))
    assert kept_by(engine, made) == []


def test_objects_are_not_kept_if_planning_fails_or_another_job_is_planned(engine: Engine) -> None:
    put(engine, "a.parquet", id=[1], x=[1.0])
    made = planner.draft(engine, job(), FAST, hand_on=True)
    engine.buckets.main.put("else/b.parquet", b"damaged")
    with pytest.raises(UnreadableInput):
        planner.draft(engine, job(inputs=("s3://data/else/",)), FAST, hand_on=True)
    assert kept_by(engine, made) == []
    put(engine, "c.parquet", id=[1], y=[1.0])
    with pytest.raises(InputError):
        planner.draft(engine, job(), FAST, hand_on=True)
    assert kept_by(engine, made) == []


def test_unused_objects_are_forgotten_after_some_time(engine: Engine) -> None:
    engine.kept = KeptObjects(for_parts=True, kept_s=0.0)
    put(engine, "a.parquet", id=[1], x=[1.0])
    threads = set(threading.enumerate())
    made = planner.draft(engine, job(), FAST, hand_on=True)
    for thread in set(threading.enumerate()) - threads:
        thread.join(HANG_S)
    assert kept_by(engine, made) == []
    # And objects in use are kept, and their thread ends with them
    engine.kept = KeptObjects(for_parts=True, kept_s=HANG_S)
    made = planner.draft(engine, job(), FAST, hand_on=True)
    (thread,) = {item for item in threading.enumerate() if item.name == "kept-objects"} - threads
    score(engine, made)
    assert thread.is_alive()
    engine.kept.clear()
    thread.join(HANG_S)
    assert not thread.is_alive()


@dataclass(frozen=True)
class Sized:
    key: str
    size: int
    etag: str = "e"


@pytest.mark.parametrize(
    ("for_parts", "sizes", "kept"),
    [
        (True, [200_000] * 1_000, 332),  # 64 MiB, with 2 KiB for each object
        (True, [200_000] * 1_000 + [SMALL_BYTES + 1], 20),  # a large object needs the memory
        (False, [200_000] * 1_000, 20),
        (True, [1_000_000] * 10, 4),  # of further objects, planning reads only the footer
        (True, [0, 5, 0], 1),
    ],
)
def test_kept_objects_take_a_bounded_memory(for_parts: bool, sizes: list[int], kept: int) -> None:
    objects = [Sized(str(number), size) for number, size in enumerate(sizes)]
    found = KeptObjects(for_parts=for_parts)
    for _ in range(2):  # the second job finds as much room as the first
        found.begin(objects)
        assert sum(bool(found.reserve(item)) for item in objects) == kept


def test_each_small_object_that_is_fetched_has_a_connection_that_is_kept() -> None:
    store = R2Store(R2Settings(endpoint_url="http://127.0.0.1:9", access_key_id="a", secret_access_key="b"), "data")
    assert vars(store.client.meta.config)["max_pool_connections"] == OBJECTS_AT_ONCE


def test_small_objects_are_fetched_side_by_side(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = 2 * OBJECTS_AT_ONCE
    for number in range(objects):
        put(engine, f"{number:03}.parquet", id=[number], x=[float(number)])
    meeting = threading.Barrier(OBJECTS_AT_ONCE)
    get = engine.buckets.main.get

    def together(key: str, **options: Any) -> Any:
        meeting.wait(HANG_S)  # raises an error unless enough requests are under way at once
        return get(key, **options)

    with monkeypatch.context() as patched:
        patched.setattr(engine.buckets.main, "get", together)
        found = survey_inputs(engine.tables, list_inputs(engine.buckets, job().spec.inputs), job().spec.read)
    assert [item.file.key for item in found] == [f"in/{number:03}.parquet" for number in range(objects)]
    made = planner.draft(engine, job(), FAST)
    monkeypatch.setattr(engine.buckets.main, "get", together)
    scored, _ = score(engine, made)
    assert scored["id"].to_pylist() == list(range(objects))


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("truncated", UnreadableInput, r"s3://data/in/30\.parquet"),
        ("without the feature", InputError, r"'x'.*s3://data/in/30\.parquet|s3://data/in/30\.parquet.*'x'"),
    ],
)
def test_a_bad_object_among_sound_ones_is_found_before_anything_is_scored(
    engine: Engine, what: str, error: type[Exception], message: str
) -> None:
    for number in range(40):
        put(engine, f"{number:02}.parquet", id=[number] * 9, x=[float(number)] * 9)
    if what == "truncated":
        body = engine.buckets.main.get("in/30.parquet").data
        engine.buckets.main.put("in/30.parquet", body[:-20])
    else:
        put(engine, "30.parquet", id=[30] * 9, y=[30.0] * 9)
    with pytest.raises(error, match=message):
        planner.draft(engine, job(), FAST)
    assert engine.models.model.calls == []  # type: ignore[attr-defined]


def test_an_object_that_changes_between_parts_fails_only_the_parts_that_read_it_later(engine: Engine) -> None:
    for number in range(40):
        put(engine, f"{number:02}.parquet", id=[number] * 10, x=[float(number)] * 10)
    made = planner.draft(engine, job(part_rows=100), FAST)
    documents = Documents(job=job(), plan=SimpleNamespace(columns=made.columns))  # type: ignore[arg-type]
    first, second, *others = made.parts
    before, _ = score_rows(engine, documents, first, 1_000, Timings())
    changed = {piece.key for piece in (*first.slices, *second.slices)} & {"in/03.parquet", "in/13.parquet"}
    assert changed == {"in/03.parquet", "in/13.parquet"}
    for key in changed:
        put(engine, key.removeprefix("in/"), id=[0] * 10, x=[0.0] * 10)
    for part in (first, second):
        with pytest.raises(InputChanged, match=r"was replaced or deleted after the job was planned"):
            score_rows(engine, documents, part, 1_000, Timings())
    later = [score_rows(engine, documents, part, 1_000, Timings())[0] for part in others]
    found = pa.concat_tables([before, *later])["id"].to_pylist()
    assert found == [number for number in (*range(10), *range(20, 40)) for _ in range(10)]


def test_a_thousand_empty_objects_leave_the_rows_of_the_others(engine: Engine) -> None:
    for number in range(500):
        put(engine, f"{number:03}-a.parquet", id=pa.array([], "int64"), x=pa.array([], "float64"))
        engine.buckets.main.put(f"in/{number:03}-b.parquet", b"")
    put(engine, "250-c.parquet", id=[1, 2], x=[1.0, 2.0])
    put(engine, "499-c.parquet", id=[3], x=[3.0])
    made = planner.draft(engine, job(), FAST)
    assert made.warnings == (
        "500 of 1,002 objects have no bytes: s3://data/in/000-b.parquet, s3://data/in/001-b.parquet, "
        "s3://data/in/002-b.parquet",
    )
    scored, rejected = score(engine, made)
    assert scored["id"].to_pylist() == [1, 2, 3]
    assert rejected.num_rows == 0


@pytest.mark.parametrize("what", ["damaged", "replaced", "deleted"])
def test_one_bad_object_among_sound_ones_is_named(engine: Engine, what: str) -> None:
    for number in range(40):
        put(engine, f"{number:02}.parquet", id=[number] * 9, x=[float(number)] * 9)
    store = engine.buckets.main
    body = store.get("in/30.parquet").data
    if what == "damaged":
        store.put("in/30.parquet", body[:4] + bytes(40) + body[44:])
    made = planner.draft(engine, job(), FAST)
    if what == "replaced":
        put(engine, "30.parquet", id=[30] * 9, x=[31.0] * 9)
    elif what == "deleted":
        store.delete("in/30.parquet")
    threads = set(threading.enumerate())
    error = UnreadableInput if what == "damaged" else InputChanged
    with pytest.raises(error, match=r"s3://data/in/30\.parquet"):
        score(engine, made)
    for thread in set(threading.enumerate()) - threads:
        thread.join(HANG_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("batch_bytes", [1, 100_000, 4_000_000, BATCH_BYTES])
def test_batches_of_texts_stay_within_their_bytes(engine: Engine, batch_bytes: int) -> None:
    rng = np.random.default_rng(0)
    texts = ["t" * int(size) for size in rng.integers(0, 40_000, 200)]
    for number in range(4):
        some = slice(50 * number, 50 * number + 50)
        put(
            engine, f"{number}.parquet", id=texts[some], x=np.arange(200.0)[some], tags=[[text] for text in texts[some]]
        )
    made = planner.draft(engine, job(keep="id,tags"), FAST)
    engine.batch_bytes = batch_bytes
    size = engine.batch_size(made.columns)
    found = list(read_part.read_part(engine, made.parts[0], made.columns, job().spec.read, size))
    assert all(size.measure(batch.rows) <= batch_bytes or batch.rows.num_rows == 1 for batch in found)
    assert len(found) == (200 if batch_bytes == 1 else 1) or 1 < len(found) < 200
    scored, _ = score(engine, made, keep="id,tags")
    assert scored["id"].to_pylist() == texts
    assert scored["tags"].to_pylist() == [[text] for text in texts]
    assert scored["prediction"].to_pylist() == [1 + 2.0 * number for number in range(200)]


def test_the_limits_of_a_batch_are_found_once_for_all_parts_of_a_job(engine: Engine) -> None:
    put(engine, "a.parquet", id=[1], x=[1.0])
    first, second = (planner.draft(engine, job(keep=keep), FAST).columns for keep in ("id", "none"))
    size = engine.batch_size(first)
    assert engine.batch_size(first) is size
    assert engine.batch_size(second) is not size
    # And the sizes follow the limit of the process
    engine.batch_bytes = 1
    assert engine.batch_size(second).limit_bytes == 1


def test_a_batch_is_not_completed_if_the_caller_wants_no_more_rows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        put(engine, f"{name}.parquet", id=[1], x=[1.0])
    made = planner.draft(engine, job(), FAST)
    (part,), size = made.parts, engine.batch_size(made.columns)
    options = job().spec.read
    # If the caller has stopped reading, then no batch is filled
    assert [batch.rows.num_rows for batch in read_part.read_part(engine, part, made.columns, options, size)] == [3]
    assert list(read_part.read_part(engine, part, made.columns, options, size, [True])) == []
    # And when a part ends, its reader is notified
    passed: list[Any] = []

    def noted(*arguments: Any) -> Any:
        passed.append(arguments[-1])
        return read_part.read_part(*arguments)

    monkeypatch.setattr("scoreline.tasks.steps.score_rows.read_part", noted)
    score(engine)
    assert passed == [[True]]


@pytest.mark.parametrize(("negative", "read"), [(0, [704]), (2_000, [704, 4_296])])
def test_planning_reads_only_the_first_rows_of_a_large_slice_if_they_can_be_scored(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, negative: int, read: list[int]
) -> None:
    # Given a CSV object, and a table whose rows are so large that a batch has few rows
    engine.batch_bytes = 24_000
    put(engine, "a.parquet", id=range(5_000), x=[-1.0] * negative + [1.0] * (5_000 - negative))
    engine.buckets.main.put("in/b.csv", b"id,x\n5000,1\n")
    spans: list[int] = []
    tables = type(engine.tables)

    def watched(self: Any, source: Any, span: Any, *rest: Any) -> Any:
        spans.append(span.rows)
        return real(self, source, span, *rest)

    real = tables.read
    monkeypatch.setattr(tables, "read", watched)
    made = planner.draft(engine, job(), FAST)
    assert spans == read
    assert made.sample is not None
    assert made.sample.column("x")[-1].as_py() == 1.0
    assert sum(part.rows for part in made.parts) == 5_001


def test_rows_of_an_object_that_are_read_one_after_the_other_are_one_piece(engine: Engine) -> None:
    for name, rows in (("a", 20_000), ("b", 5)):  # texts are read some thousand rows at a time
        put(engine, f"{name}.parquet", id=[f"{name}{row}" for row in range(rows)], x=np.arange(float(rows)))
    made = planner.draft(engine, job(keep="id"), FAST)
    size = engine.batch_size(made.columns)
    assert size.rows_to_read < 20_000
    (batch,) = read_part.read_part(engine, made.parts[0], made.columns, job().spec.read, size)
    assert [(piece.uri[-9:], piece.start, piece.stop) for piece in batch.pieces] == [
        ("a.parquet", 0, 20_000),
        ("b.parquet", 20_000, 20_005),
    ]
    assert batch.pieces[0].numbers.tolist() == list(range(20_000))
    assert batch.describe(20_003) == "row 3 of s3://data/in/b.parquet"


@pytest.mark.parametrize(("rows", "batches"), [(448, [448] * 5), (640, [640] * 5), (650, [1_950, 1_300])])
def test_large_groups_of_rows_of_one_object_are_not_copied_into_common_batches_if_scores_are_the_same(
    engine: Engine, rows: int, batches: list[int]
) -> None:
    # Given row groups, at least three of which fit into the bytes of a batch
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": range(5 * rows), "x": np.arange(5.0 * rows)}), sink, row_group_size=rows)
    engine.buckets.main.put("in/a.parquet", sink.getvalue())
    made = planner.draft(engine, job(keep="id"), FAST)
    engine.batch_bytes = 100_000
    size = engine.batch_size(made.columns)
    # Then they are combined only if a batch would otherwise end where scores could depend on it
    found = list(read_part.read_part(engine, made.parts[0], made.columns, job().spec.read, size))
    assert [batch.rows.num_rows for batch in found] == batches
    assert np.concatenate([batch.pieces[0].numbers for batch in found]).tolist() == list(range(5 * rows))


def test_the_batches_of_a_part_share_what_calls_with_single_rows_have_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(engine, "a.parquet", id=np.arange(1_000), x=np.arange(1_000.0))
    made = planner.draft(engine, job(keep="id"), FAST)
    engine.batch_bytes = 10_000
    shared: list[Any] = []

    def noted(*arguments: Any, single_calls: Any = None, **options: Any) -> Any:
        shared.append(single_calls)
        return score_batch(*arguments, **options)

    monkeypatch.setattr("scoreline.tasks.steps.score_rows.score_batch", noted)
    score(engine, made, keep="id")
    batches = len(shared)
    score(engine, made, keep="id")
    assert batches > 1
    # Then all batches of an attempt at the part share one object, and a second attempt begins with a new object
    assert all(item is shared[0] for item in shared[:batches])
    assert all(item is shared[batches] for item in shared[batches:])
    assert shared[0] is not shared[batches]
