"""Small objects are packed while a job is planned. Its parts read the packs, but never rows that have changed."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import AccessDenied, InputChanged, StoreUnavailable
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectInfo, StoredObject
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.inputs import packs
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps import open_objects, planner
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.score_rows import score_rows
from tests.support.one_model import Models

PACKS = keys.packs_folder("j")
ROWS = 7


class Remote(DirectoryStore):
    """A directory store that counts as remote. It records requests, and requests below `broken` fail."""

    remote = True

    def __init__(self, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self.gets: Counter[str] = Counter()
        self.listings = 0
        self.puts: list[int] = []
        self.broken: dict[str, Exception] = {}

    def _request(self, what: str) -> None:
        if what in self.broken:
            raise self.broken[what]

    def get(self, key: str, **options: Any) -> StoredObject:
        self.gets[key] += 1
        self._request("get pack" if key.startswith(PACKS) else "get")
        return super().get(key, **options)

    def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        if key.startswith(PACKS):
            self._request("put pack")
            self.puts.append(len(data))
        return super().put(key, data, **options)

    def list(self, prefix: str, **options: Any) -> Iterator[ObjectInfo]:
        self.listings += 1
        self._request("list")
        return super().list(prefix, **options)


@pytest.fixture
def store(tmp_path: Path) -> Remote:
    return Remote(tmp_path, "data")


@pytest.fixture
def engine(tmp_path: Path, store: Remote) -> Engine:
    buckets = Buckets.from_env({"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)})
    buckets._stores["data"] = store
    model = LinearRegression().fit(pa.table({"x": [0.0, 1.0]}).to_pandas(), [1.0, 3.0])
    return Engine(buckets=buckets, ledger=MemoryLedger(), send=lambda *_, **__: None, models=Models(model))


def job(**options: Any) -> Job:
    given: dict[str, Any] = {"job_id": "j", "model": "m", "inputs": ("s3://data/in/",), "output": "s3://data/out/"}
    pinned = PinnedModel(name="m", version="1", manifest_sha256="")
    return Job(spec=JobSpec(**given | options), model=pinned, submitted="2026-11-25")


def body(number: int, kind: str = "parquet", rows: int = ROWS) -> bytes:
    ids = np.arange(rows) + ROWS * number
    table = pa.table({"id": ids, "x": ids + 0.5})
    sink = io.BytesIO()
    match kind:
        case "csv":
            return b"id,x\n" + b"".join(b"%d,%.1f\n" % (row, row + 0.5) for row in ids) + b"oops,1,2\n"
        case "jsonl":
            return "".join(f"{json.dumps(row)}\n" for row in table.to_pylist()).encode() + b"{\n"
        case "arrow":
            with pa.ipc.new_file(sink, table.schema) as out:
                out.write_table(table)
        case _:
            pq.write_table(table, sink)
    return sink.getvalue()


def fill(store: Remote, count: int = 40, kind: str = "parquet") -> None:
    for number in range(count):
        store.put(f"in/{number:03}.{kind}", body(number, kind))


def plan(engine: Engine, store: Remote, **options: Any) -> PlanFile:
    store.put(keys.plan("j"), planner.make_plan(engine, job(**options)))
    found = PlanFile(store, "j")
    store.gets.clear()
    store.listings = 0
    return found


def score(engine: Engine, found: PlanFile, **options: Any) -> tuple[pa.Table, pa.Table]:
    documents = Documents(job=job(**options), plan=SimpleNamespace(columns=found.columns))  # type: ignore[arg-type]
    tables = [score_rows(engine, documents, part, 1_000, Timings()) for part in found]
    return pa.concat_tables([one for one, _ in tables]), pa.concat_tables([two for _, two in tables])


def all_rows(count: int = 40) -> list[int]:
    return list(range(ROWS * count))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "arrow"])
def test_a_part_reads_many_small_objects_with_one_request_and_one_listing(
    engine: Engine, store: Remote, kind: str
) -> None:
    fill(store, kind=kind)
    found = plan(engine, store, max_rejected="100%")
    scored, rejected = score(engine, found, max_rejected="100%")
    assert store.gets == {f"{PACKS}00000": found.parts}
    assert store.listings == found.parts == 1
    assert scored["id"].to_pylist() == all_rows()
    assert np.allclose(scored["prediction"], 2 * (np.arange(ROWS * 40) + 0.5) + 1)
    if kind in ("csv", "jsonl"):
        places = zip(rejected["source"].to_pylist(), rejected["row"].to_pylist(), strict=True)
        assert list(places) == [(f"s3://data/in/{number:03}.{kind}", ROWS) for number in range(40)]


def test_packs_and_requests_to_them_have_bounded_sizes(
    engine: Engine, store: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    size = len(body(0))
    monkeypatch.setattr(packs, "PACK_BYTES", 10 * size)
    monkeypatch.setattr(open_objects, "_RANGE_BYTES", 4 * size + 50)
    monkeypatch.setattr(open_objects, "_LISTED_AT_ONCE", 12)
    found = plan(engine, store)
    assert len(store.puts) == 4
    assert max(store.puts) < 11 * size
    scored, _ = score(engine, found)
    assert scored["id"].to_pylist() == all_rows()
    assert sum(store.gets.values()) == 12  # each pack of 10 objects takes 3 requests
    assert set(store.gets) == {keys.pack("j", number) for number in range(4)}
    assert 4 <= store.listings <= 6


@pytest.mark.parametrize("what", ["replaced", "deleted", "replaced with the same size"])
def test_an_object_that_changed_after_planning_fails_the_part_although_a_copy_exists(
    engine: Engine, store: Remote, what: str
) -> None:
    fill(store)
    found = plan(engine, store)
    match what:
        case "deleted":
            store.delete("in/020.parquet")
        case "replaced":
            store.put("in/020.parquet", body(20, rows=99))
        case _:
            store.put("in/020.parquet", body(20))
    with pytest.raises(InputChanged, match=r"s3://data/in/020\.parquet was replaced or deleted"):
        score(engine, found)


@pytest.mark.parametrize("what", ["deleted", "altered", "shortened", "forbidden", "unreachable"])
def test_if_a_pack_cannot_be_used_the_objects_themselves_are_read(
    engine: Engine, store: Remote, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_objects, "_RANGE_BYTES", 2 * len(body(0)) + 50)
    monkeypatch.setattr(open_objects, "AHEAD_BYTES", 1)  # one request after another
    fill(store)
    found = plan(engine, store)
    whole = store.get(f"{PACKS}00000").data
    store.gets.clear()
    match what:
        case "deleted":
            store.delete(f"{PACKS}00000")
        case "altered":
            store.put(f"{PACKS}00000", whole[::-1])
        case "shortened":
            store.put(f"{PACKS}00000", whole[:1_000])
        case "forbidden":
            store.broken["get pack"] = AccessDenied("no")
        case _:
            store.broken["get pack"] = StoreUnavailable("later")
    scored, _ = score(engine, found)
    assert scored["id"].to_pylist() == all_rows()
    assert {store.gets[f"in/{number:03}.parquet"] for number in range(40)} == {1}
    assert store.gets[f"{PACKS}00000"] == 1  # the pack is not asked for again


def test_objects_that_a_short_listing_does_not_contain_are_read_themselves(
    engine: Engine, store: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    for number in range(200):
        store.put(f"in/010-{number:03}.other", b"1")
    monkeypatch.setattr(open_objects, "_LISTED_AT_ONCE", 50)
    found = plan(engine, store, inputs=("s3://data/in/*.parquet",))
    scored, _ = score(engine, found)
    assert scored["id"].to_pylist() == all_rows()
    own = [f"in/{number:03}.parquet" for number in range(40) if store.gets[f"in/{number:03}.parquet"]]
    assert own == [f"in/{number:03}.parquet" for number in range(10, 40)]


def test_without_the_right_to_list_the_objects_themselves_are_read(engine: Engine, store: Remote) -> None:
    fill(store)
    found = plan(engine, store)
    store.broken["list"] = AccessDenied("no")
    scored, _ = score(engine, found)
    assert scored["id"].to_pylist() == all_rows()


def test_packs_that_cannot_be_written_do_not_stop_planning(engine: Engine, store: Remote) -> None:
    fill(store)
    store.broken["put pack"] = StoreUnavailable("later")
    found = plan(engine, store)
    assert {piece.pack for part in found for piece in part.slices} == {None}
    assert score(engine, found)[0]["id"].to_pylist() == all_rows()


@pytest.mark.parametrize(
    ("count", "remote", "writes"),
    [(packs.LEAST_OBJECTS - 1, True, False), (packs.LEAST_OBJECTS, True, True), (packs.LEAST_OBJECTS, False, False)],
)
def test_packs_are_written_only_for_many_objects_on_a_server(
    engine: Engine, store: Remote, count: int, remote: bool, writes: bool
) -> None:
    fill(store, count)
    store.remote = remote
    plan(engine, store)
    assert bool(store.puts) == writes


def test_a_dry_run_writes_no_packs(engine: Engine, store: Remote) -> None:
    fill(store)
    planner.draft(engine, job())
    assert not store.puts


def test_a_second_planner_overwrites_the_packs_of_one_that_died(engine: Engine, store: Remote) -> None:
    fill(store)
    first = planner.make_plan(engine, job())
    store.put("in/000.parquet", body(0))
    found = plan(engine, store)
    assert [info.key for info in store.list(PACKS)] == [f"{PACKS}00000"]
    assert score(engine, found)[0]["id"].to_pylist() == all_rows()
    # And the plan of the first planner does not use the packs of the second
    store.put(keys.plan("j"), first)
    with pytest.raises(InputChanged):
        score(engine, PlanFile(store, "j"))
