"""Each row is written once, even if a finalizer dies while it arranges results, or two finalizers run at once."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage import keys
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.uris import parse_uri
from tests.support.rig import Rig

ROWS, PARTS = 600, 6


def submit(rig: Rig) -> Status:
    """Submit a job of six parts whose results go into three folders."""
    ids = np.arange(ROWS)
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "x": ids.astype(float), "group": ids % 3}), sink, row_group_size=ROWS // PARTS)
    rig.store.put("in/arranged.parquet", sink.getvalue())
    uri = rig.store.uri("in/arranged.parquet")
    return rig.client.submit("paced", uri, part_rows=ROWS // PARTS, partition_by="group")


def submit_held(rig: Rig, workers: int, hold: str) -> Status:
    """Submit a job, and return when a finalizer has sent the request `hold`, which is held back."""
    rig.start_worker(workers)
    rig.publish()
    rig.chaos(hold=hold)
    job = submit(rig)
    rig.wait(rig.held, f"a finalizer at {hold}")
    return job


def verify(rig: Rig, job: Status) -> None:
    assert (job.state, job.error, job.rows, job.parts_done) == ("succeeded", "", ROWS, PARTS), rig.logs()
    folder = parse_uri(job.output)[1]
    listed = {info.key for info in rig.store.list(folder)} - {keys.results_report(folder)}  # written after the end
    manifest = json.loads(rig.store.get(keys.results_manifest(folder)).data)
    assert listed == {file["key"] for file in manifest["files"]} | {
        keys.results_manifest(folder),
        keys.results_profile(folder),
        keys.success(folder),
    }
    found = []
    for file in manifest["files"]:
        data = rig.store.get(file["key"]).data
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
        table = pq.read_table(io.BytesIO(data))
        assert table.num_rows == file["rows"]
        rig.verify_table(job, table)
        assert {number % 3 for number in table["id"].to_pylist()} == {int(file["value"])}
        found += table["id"].to_pylist()
    assert sorted(found) == list(range(ROWS))
    rig.verify_clean(job)


@pytest.mark.parametrize("hold", ["group=1/part-00000", "_manifest.json", "_SUCCESS", "part-00003.parquet? DELETE"])
def test_a_job_survives_a_finalizer_killed_while_it_arranges(rig: Rig, hold: str) -> None:
    job = submit_held(rig, 1, hold)
    rig.kill(rig.parents() + rig.children())
    assert not rig.client.status(job.job_id).ended
    rig.chaos(hold="_nothing")
    rig.redis.flushall()
    rig.start_worker(1)
    verify(rig, rig.end(job))


@pytest.mark.parametrize("hold", ["group=1/part-00000", "part-00003.parquet? DELETE"])
def test_two_finalizers_that_arrange_at_once_write_each_row_once(rig: Rig, hold: str) -> None:
    job = submit_held(rig, 2, hold)
    rig.client.queue.send("scoreline.finalize", job_id=job.job_id)
    rig.wait(lambda: rig.held() >= 2, "a second one")
    rig.chaos()
    verify(rig, rig.end(job))
