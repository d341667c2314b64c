"""Readers see each row exactly once, even if a finalizer that arranges results is slow, stops, or runs twice."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.steps import arrange, commit_part, finalize, preflight, score_part
from scoreline.tasks.steps.engine import Engine
from tests.support.rig import Rig

PARTS = 6
ROWS = 50


def submit(rig: Rig, **options: Any) -> Status:
    """Submit a job of six parts whose rows go into three folders."""
    ids = np.arange(PARTS * ROWS)
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "x": ids.astype(float), "kind": ids * 7 % 3}), sink, row_group_size=ROWS)
    rig.store.put("in/kinds.parquet", sink.getvalue())
    rig.rows = len(ids)
    uri = rig.store.uri("in/kinds.parquet")
    return rig.client.submit("paced", uri, part_rows=ROWS, **{"partition_by": "kind"} | options)


def names(rig: Rig, job: Status) -> list[str]:
    folder = parse_uri(job.output)[1]
    listed = [info.key.removeprefix(folder) for info in rig.store.list(folder)]
    return [name for name in listed if name != "_report.html"]  # it appears after the job has ended


def verify(rig: Rig, job: Status) -> None:
    """Check that readers see each id once, that the manifest names all files, and that no other files exist."""
    assert (job.state, job.error, job.rows, job.parts_done) == ("succeeded", "", rig.rows, PARTS), rig.logs()
    folder = parse_uri(job.output)[1]
    manifest = json.loads(rig.store.get(keys.results_manifest(folder)).data)
    named = {file["key"].removeprefix(folder) for file in manifest["files"]}
    assert set(names(rig, job)) == named | {"_SUCCESS", "_manifest.json", "_profile.json"}
    ids: list[int] = []
    for file in manifest["files"]:
        data = rig.store.get(file["key"]).data
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
        table = pq.read_table(io.BytesIO(data))
        rig.verify_table(job, table)
        assert table.num_rows == file["rows"]
        ids += table.column("id").to_pylist()
    assert sorted(ids) == list(range(rig.rows))
    rig.verify_clean(job)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One worker process for all tests of this module."""
    with Rig(tmp_path_factory.mktemp("arrange")) as running:
        running.publish()
        running.start_worker(1)
        yield running


def engine(rig: Rig) -> Engine:
    """Return the engine of a second worker, which runs in this process and whose requests are never held back."""
    models = preflight.UncachedModels(models=ModelStorageManager.from_env(rig.environ))
    return Engine(buckets=rig.client.buckets, ledger=rig.client.ledger, send=rig.client.queue.send, models=models)


def idle(rig: Rig) -> None:
    rig.wait(lambda: rig.redis.hlen("unacked") == 0 and not rig.messages(), "an idle worker")


def test_a_finalizer_does_not_fail_the_job_when_another_has_deleted_the_parts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a finalizer that is reading the parts of a job
    rig.chaos(hold="_parts/part-00003.parquet? GET")
    job = submit(rig)
    rig.wait(rig.held, "a part about to be read")
    # When another finalizer deletes the parts, and dies before it writes the outcome
    with monkeypatch.context() as patch:
        patch.setattr(finalize, "record_outcome", lambda *_, **__: None)
        finalize.finalize(engine(rig), job.job_id)
    assert not [name for name in names(rig, job) if name.startswith("_parts/")]
    assert rig.client.status(job.job_id).state == "running"
    # Then the first finalizer ends the job as succeeded
    rig.chaos()
    verify(rig, rig.end(job))


def test_a_part_that_is_written_after_the_job_ended_leaves_nothing_behind(rig: Rig) -> None:
    # Given a slow worker, and another worker that writes the same part first
    rig.chaos(hold="_parts/part-00005.parquet? PUT")
    job = submit(rig)
    rig.wait(rig.held, "the last part about to be written")
    other = engine(rig)
    commit_part.commit_part(other, other.documents(job.job_id), 5, 0)
    # When the job ends before the slow worker goes on
    score_part.count_part(replace(other, send=lambda *_, **__: None), job.job_id, 5, rows=ROWS)
    finalize.finalize(other, job.job_id)
    rig.chaos()
    # Then all objects of the slow worker are deleted
    idle(rig)
    verify(rig, rig.end(job))


def test_results_too_large_to_arrange_keep_their_parts_and_a_resumed_job_arranges_them(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job whose results are too large to be arranged
    rig.chaos(hold="_parts/part-00005.parquet? PUT")
    job = submit(rig, partition_by=None, gather=True)
    rig.wait(rig.held, "the last part about to be written")
    other = engine(rig)
    commit_part.commit_part(other, other.documents(job.job_id), 5, 0)
    score_part.count_part(replace(other, send=lambda *_, **__: None), job.job_id, 5, rows=ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(arrange, "MAX_BYTES", 1_000)
        finalize.finalize(other, job.job_id)
    rig.chaos()
    failed = rig.end(job)
    idle(rig)
    assert failed.state == "failed"
    assert "and at most 1,000 can be arranged: all of them can be read as" in failed.error
    assert names(rig, job) == [f"_parts/part-0000{number}.parquet" for number in range(PARTS)]
    # When the job is resumed with the usual limit
    before = [rig.store.head(info.key).etag for info in rig.store.list(parse_uri(job.output)[1])]
    assert len(before) == PARTS
    rig.client.resume(job.job_id)
    # Then the job ends, and its only result file contains all rows in order
    done = rig.end(job)
    verify(rig, done)
    assert names(rig, job) == ["_SUCCESS", "_manifest.json", "_profile.json", "part-00000.parquet"]


def test_a_file_is_written_again_when_a_part_in_it_has_been_scored_again(rig: Rig) -> None:
    # Given a finalizer that was stopped after it had written a file
    rig.chaos(hold="kind=1/part-00000.parquet? PUT")
    job = submit(rig)
    rig.wait(rig.held, "a file about to be written")
    rig.client.cancel(job.job_id)
    folder = parse_uri(job.output)[1]
    stale = rig.store.head(f"{folder}kind=0/part-00000.parquet").metadata
    key = f"{folder}_parts/part-00002.parquet"
    was = rig.store.get(key)
    rig.chaos()
    idle(rig)
    # When one part of that file is replaced by other bytes, as a different library version would write them
    rig.store.delete(key)
    rig.store.put(key, was.data, metadata=dict(was.info.metadata) | {"sha256": "0" * 64})
    rig.client.resume(job.job_id)
    # Then all files that contain the old part are deleted
    verify(rig, rig.end(job))
    assert rig.store.head(f"{folder}kind=0/part-00000.parquet").metadata["parts"] != stale["parts"]
