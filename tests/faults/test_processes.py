"""Each row is written exactly once, even if processes die at any moment."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.tree import DecisionTreeRegressor

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.job.uris import parse_uri
from tests.support.proving import proved_here
from tests.support.rig import Rig
from tests.support.waiting import HANG_S


def test_a_job_survives_twenty_killed_pool_processes(rig: Rig) -> None:
    # Given a job of 60 parts, whose last part cannot be written until the kills are over. Given also beat, because
    # Celery does not notice the death of a process with an unacknowledged message
    chance = random.Random(20)
    rig.start_beat()
    rig.start_worker(2)
    rig.publish(seconds=0.2)
    rig.chaos(hold="part-00059.parquet")
    job = rig.submit(60, max_attempts=20)
    rig.wait_for_parts(job, 1)
    # When a pool process is killed at twenty random moments
    kills = 0
    while kills < 20:
        time.sleep(chance.uniform(0, 0.4))
        if children := rig.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # the process may have just died from an earlier kill
                chance.choice(children).kill()
                kills += 1
        assert not rig.client.status(job.job_id).ended, f"ended after {kills} kills"
    rig.chaos()
    # Then each row is written exactly once
    rig.verify(rig.end(job))


def test_a_job_survives_the_death_of_the_whole_worker(rig: Rig) -> None:
    rig.start_worker(2)
    rig.publish(seconds=0.2)
    job = rig.submit(20)
    rig.wait_for_parts(job, 4)
    # When parent and children are killed at once, as on a dyno that runs out of memory
    processes = rig.parents() + rig.children()
    rig.kill(processes)
    rig.wait_for_exit(processes)
    # And a written part and the ledger are lost
    folder = parse_uri(job.output)[1]
    lost = next(info.key for info in rig.store.list(f"{folder}part-"))
    written = rig.store.get(lost).data
    rig.store.delete(lost)
    rig.redis.flushall()
    # Then a new worker and beat continue the parts long before the broker redelivers their messages
    rig.start_beat()
    rig.start_worker(2, PYTHONHASHSEED="1")
    rig.verify(rig.end(job))
    # And each part has the same bytes, whichever process writes it
    assert rig.store.get(lost).data == written


@pytest.mark.parametrize("removed", [False, True], ids=["", "and the accepted run is removed"])
def test_scores_are_carried_over_once_if_all_processes_die(rig: Rig, *, removed: bool) -> None:
    rig.start_worker(2)
    x = pd.DataFrame({"x": np.arange(1_000.0)})
    with proved_here():
        tree = DecisionTreeRegressor().fit(x, 3 * x.x + 1)
        ModelStorageManager.from_env(rig.environ).publish("tree", tree)
    output = rig.store.uri(f"out/carried-{removed}/")
    first = rig.end(rig.submit(8, model="tree", output=output, only_changed=True))
    rig.verify(first)
    # Given two parts of a later job that have written their scores for the next one, and not yet their results
    rig.chaos(hold="part-0000")
    job = rig.submit(10, model="tree", folder="later", output=output, only_changed=True)
    rig.wait(lambda: rig.held() == 2, "two parts about to be written")
    # When all processes are killed, and Redis is emptied
    processes = rig.parents() + rig.children()
    rig.kill(processes)
    rig.wait_for_exit(processes)
    rig.chaos()
    rig.redis.flushall()
    if removed:
        rig.store.delete_many([info.key for info in rig.store.list(parse_uri(first.output)[1])])
    rig.start_worker(2)
    # Then the results are complete, and rows are carried over as long as the accepted run is there
    done = rig.end(job)
    rig.verify(done)
    if removed:  # the requests of the killed processes may have been carried out
        assert done.carried in (0, 100, 200)
        assert done.not_carried == f"run {first.job_id}: its manifest was removed or replaced"
    else:
        assert (done.carried, done.not_carried) == (800, "")


def test_a_multipart_upload_is_aborted_when_the_dyno_stops(rig: Rig) -> None:
    # Given a result of 70 MB, whose upload hangs in its third part
    rig.start_worker(1, R2_TIMEOUT_SECONDS="1200")  # the timeout is so long that the upload cannot end during the test
    rig.publish()
    blobs = [os.urandom(1 << 20) for _ in range(70)]
    table = pa.table({"id": np.arange(70), "x": np.arange(70.0), "blob": blobs})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none")
    rig.store.put("in/large.parquet", sink.getvalue())
    rig.rows = 70
    rig.chaos(hold="partNumber=3")
    job = rig.client.submit("paced", rig.store.uri("in/large.parquet"), part_rows=70)
    rig.wait(lambda: rig.held() and rig.open_uploads(), "an upload under way")
    # When the dyno receives SIGTERM
    processes = rig.parents() + rig.children()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    # Then the upload is aborted before the processes end
    rig.wait_for_exit(processes)
    rig.chaos()
    rig.wait(lambda: rig.open_uploads() == [], "the end of the upload")
    assert [info.key for info in rig.store.list(parse_uri(job.output)[1])] == []
    # And the next worker writes the whole result
    rig.start_worker(1)
    rig.verify(rig.end(job))


def test_a_part_that_kills_its_process_fails_with_the_reason_and_the_others_are_scored(rig: Rig) -> None:
    rig.start_worker(2)
    rig.publish(kills_at=550.0)
    job = rig.end(rig.submit(8))
    assert job.state == "failed"
    assert job.error == (
        "1 of 8 parts failed; part 5: the worker process died 3 times while scoring part 5, the last time "
        f"after it began to read {rig.store.uri('in/1.parquet')}: the object may be damaged, or memory may be too "
        "small. Run fewer processes (WORKER_CONCURRENCY), then resume the job"
    )
    assert (job.parts_done, job.rows) == (7, 700)
    assert [key for key in keys_of(rig, job.output) if "_SUCCESS" in key or "00005" in key] == []
    rig.verify_clean(job)


def test_a_model_that_kills_the_planner_fails_the_job_with_the_reason(rig: Rig) -> None:
    rig.start_worker(1)
    rig.publish(kills_at=0.0)
    job = rig.end(rig.submit(2))
    assert (job.state, job.error) == (
        "failed",
        "the worker process died 3 times at the step 'plan', the last time after it began to read "
        f"{rig.store.uri('in/0.parquet')}: the object may be damaged, or memory may be too small",
    )
    rig.verify_clean(job)


def test_a_job_survives_a_finalizer_killed_between_manifest_and_success(rig: Rig) -> None:
    rig.start_worker(1)
    rig.publish()
    rig.chaos(hold="_SUCCESS")
    job = rig.submit(4)
    rig.wait(rig.held, "a finalizer about to write _SUCCESS")
    folder = parse_uri(job.output)[1]
    manifest = rig.store.head(keys.results_manifest(folder))
    rig.kill(rig.parents() + rig.children())
    rig.chaos(hold="_nothing")
    # The request of the killed worker may have been carried out, so delete its object
    rig.store.delete(keys.success(folder))
    assert not rig.client.status(job.job_id).ended
    rig.redis.flushall()
    rig.start_worker(1)
    rig.verify(rig.end(job))
    assert rig.store.head(keys.results_manifest(folder)).etag == manifest.etag


def test_two_finalizers_at_once_write_one_result(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish()
    rig.chaos(hold="_SUCCESS")
    job = rig.submit(4)
    rig.wait(rig.held, "a finalizer about to write _SUCCESS")
    rig.client.queue.send("scoreline.finalize", job_id=job.job_id)
    rig.wait(lambda: rig.held() == 2, "a second one")
    rig.chaos()
    rig.verify(rig.end(job))


SUBMITTER = """
import os, sys, time
from scoreline.storage.keys import active
from scoreline.storage.objects.base import exists
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue import Queue
if sys.argv[2] == "enqueue":
    Queue.send = lambda *_, **__: os.kill(os.getpid(), 9)
client = Client.from_env()
if sys.argv[2] == "job":
    put = client.buckets.main.put
    def dying(key, *arguments, **options):
        if key.endswith("job.json"):
            while not exists(client.buckets.main, active("orphan")):  # it is written side by side with the job
                time.sleep(0.01)
            os.kill(os.getpid(), 9)
        return put(key, *arguments, **options)
    client.buckets.main.put = dying
client.submit("paced", sys.argv[1], job_id="orphan", part_rows=100)
"""


def submit_and_die(rig: Rig, uri: str, before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SUBMITTER, uri, before], env=os.environ | rig.environ, timeout=HANG_S, check=False
    )
    assert done.returncode == -signal.SIGKILL


def test_a_job_runs_though_its_submitter_died_before_it_sent_the_message(rig: Rig) -> None:
    rig.publish()
    uri = rig.put_input(4)
    submit_and_die(rig, uri, "enqueue")
    assert rig.messages() == []
    # The claim of the dead submitter expires after two minutes; the test deletes it at once
    rig.redis.flushall()
    rig.start_worker(2)
    rig.verify(rig.end(rig.client.status("orphan")))


def test_a_submission_can_be_repeated_after_the_submitter_died_before_it_wrote_the_job(rig: Rig) -> None:
    rig.publish()
    uri = rig.put_input(4)
    submit_and_die(rig, uri, "job")
    assert rig.client.reconcile() == {"orphan": "submitting"}
    # Then submitting the same job again runs it
    rig.start_worker(2)
    rig.verify(rig.end(rig.client.submit("paced", uri, job_id="orphan", part_rows=100)))


def keys_of(rig: Rig, output: str) -> list[str]:
    return [info.key for info in rig.store.list(parse_uri(output)[1])]
