"""Each row is written exactly once, even if the object store fails, or its objects are changed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage import keys
from scoreline.storage.errors import NothingToResume
from scoreline.storage.models.registry import ModelRegistry
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch import reconcile
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.plan import BATCH_ROWS
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from tests.support.estimators import TRIAL_ROWS, Staged
from tests.support.rejects import rejected_key
from tests.support.rig import Rig


def results(rig: Rig, job: Status) -> list[str]:
    """Return the names of the result files that exist."""
    folder = parse_uri(job.output)[1]
    return [info.key.removeprefix(folder) for info in rig.store.list(f"{folder}part-")]


def test_a_job_succeeds_while_a_third_of_all_requests_fail(rig: Rig) -> None:
    rig.start_worker(2, R2_TIMEOUT_SECONDS="2")
    rig.start_beat()
    rig.publish()
    rig.chaos(seed=11, rate=1 / 3, kinds=["500", "503", "429", "cut", "lost", "stall"], stall_s=2.5)
    job = rig.submit(12)
    done = rig.end(job)
    seen = rig.chaos()["done"]
    assert set(seen) == {"500", "503", "429", "cut", "lost", "stall"}, seen
    rig.verify(done)


def test_an_outage_of_the_store_uses_up_no_attempt(rig: Rig) -> None:
    # Given a job that may attempt each part once, and leases that are too long to expire during the test
    rig.start_worker(2, PART_LEASE_SECONDS="600")
    rig.publish()
    rig.chaos(hold="part-0001")
    job = rig.submit(12, max_attempts=1)
    rig.wait(lambda: rig.held() == 2, "the last two parts about to be written")
    # When the store is down until both processes have postponed a part
    rig.chaos(rate=1, kinds=["503"])
    rig.wait(lambda: rig.logs().count("Retry in") >= 2, "two parts that are to be tried again")
    rig.chaos()
    # Then all parts are scored
    rig.verify(rig.end(job))


def test_an_input_replaced_during_a_job_fails_it_and_no_new_rows_are_mixed_in(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish(seconds=0.1)
    rig.chaos(hold="part-0000")
    job = rig.submit(20)
    rig.wait(lambda: rig.held() == 2, "two parts of the first object about to be written")
    # When the second of two objects is replaced by an object with different rows
    rig.put_table("in/1.parquet", np.arange(5_000, 6_000), 100)
    rig.chaos()
    done = rig.end(job)
    # Then the job fails because of the replaced object, and its results contain the rows of the first object, but no
    # new row
    assert done.state == "failed"
    assert "s3://scoreline/in/1.parquet was replaced or deleted after the job was planned" in done.error
    ids: list[int] = []
    for name in results(rig, done):
        table = pq.read_table(io.BytesIO(rig.store.get(parse_uri(job.output)[1] + name).data))
        rig.verify_table(job, table)
        ids += table.column("id").to_pylist()
    assert ids == list(range(1_000))
    rig.verify_clean(done)


def test_a_cancelled_job_stops_within_one_record_batch_and_can_be_resumed(rig_at_work: Rig, tmp_path: Path) -> None:
    rig = rig_at_work
    # Given two parts of three batches each, both in their first batch
    gate, calls = tmp_path / "gate", tmp_path / "calls"
    rig.publish(Staged(gate=str(gate), calls=str(calls), sample_rows=TRIAL_ROWS))
    job = rig.submit(2, rows=3 * BATCH_ROWS)
    rig.wait(lambda: calls.exists() and calls.stat().st_size == 2, "two parts at their first batch")
    # When their job is cancelled
    cancelled = rig.client.cancel(job.job_id)
    assert cancelled.state == "cancelled"
    gate.touch()
    # Then neither part begins a second batch, and nothing is written
    rig.wait(lambda: rig.redis.hlen("unacked") == 0 and not rig.messages(), "an idle worker")
    assert calls.stat().st_size == 2
    assert results(rig, cancelled) == []
    rig.verify_clean(cancelled)
    assert rig.client.cancel(job.job_id).state == "cancelled"
    # And the job continues when it is resumed
    rig.client.resume(job.job_id)
    rig.verify(rig.end(job))


def test_a_job_over_its_reject_budget_stops_early_and_resumes_with_a_larger_one(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish(seconds=0.05, refuses_from=9_990.0)
    # Given a job with 10 rows that the model refuses, twice as many as the budget allows
    rig.put_table("in/0.parquet", np.arange(9_985, 10_000), 15)
    rig.put_table("in/1.parquet", np.arange(9_985), 100)
    rig.rows = 10_000
    rig.chaos(hold="part-0001")  # so that no process scores all other parts while another one is at the first part
    job = rig.client.submit("paced", rig.store.uri("in/"), part_rows=100, max_rejected="5")
    stopped = rig.end(job)
    rig.chaos()
    assert stopped.state == "failed"
    assert "10 rows were rejected, and the job allows 5 of 10000" in stopped.error
    assert stopped.error.startswith("stopped after ")
    assert stopped.parts_done < 40
    rig.verify_clean(stopped)
    rig.wait_until_idle()
    written = results(rig, stopped)
    # When the job is resumed with a larger budget
    before = {name: rig.store.head(parse_uri(job.output)[1] + name).etag for name in written}
    rig.client.resume(job.job_id, max_rejected="1%")
    done = rig.end(job)
    # Then the job ends, and results from before the resume are not rewritten
    assert (done.state, done.rejected) == ("partial", 10)
    assert {name: rig.store.head(parse_uri(job.output)[1] + name).etag for name in written} == before
    manifest = json.loads(rig.store.get(keys.results_manifest(parse_uri(job.output)[1])).data)
    assert manifest["rows"] + manifest["rejected"] == 10_000
    with pytest.raises(NothingToResume, match=r"has all its results \(partial\)"):
        rig.client.resume(job.job_id)


def test_infrastructure_errors_do_not_count_against_the_reject_budget(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish()
    rig.chaos(seed=3, rate=0.3, kinds=["500", "cut"])
    job = rig.submit(6, max_rejected="0")
    rig.verify(rig.end(job))


def test_a_job_that_failed_on_a_corrupt_model_resumes_once_the_model_is_repaired(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish(seconds=0.05)
    pinned = ModelRegistry(rig.store).resolve("paced")
    key = keys.artifact(pinned.name, pinned.version, "model.joblib")
    good = rig.store.get(key).data
    rig.store.delete(key)
    rig.store.put(key, good[:-1] + b"!")
    job = rig.submit(6)
    failed = rig.end(job)
    assert failed.state == "failed"
    assert "model.joblib differs from its manifest" in failed.error
    # the planner's request is held back, so that the job cannot end before the next lines
    rig.chaos(hold="jobs/other/plan")
    rig.client.submit("paced", rig.store.uri("in/"), job_id="other")
    with pytest.raises(NothingToResume, match="under way"):
        rig.client.resume("other")
    rig.chaos()
    rig.store.put(key, good)
    rig.client.resume(job.job_id)
    rig.verify(rig.end(job))


def test_resume_runs_only_the_part_that_failed(rig_at_work: Rig) -> None:
    rig = rig_at_work
    # Given a job whose last result cannot be written, because a foreign object has its key
    rig.publish(seconds=0.1)
    rig.chaos(hold="part-00011.parquet")
    job = rig.submit(12)
    rig.wait_for_parts(job, 1)
    folder = parse_uri(job.output)[1]
    stranger = keys.result_part(folder, 11)
    rig.store.put(stranger, b"not ours")
    rig.chaos()
    failed = rig.end(job)
    assert failed.state == "failed"
    assert "was not written for this part of this job" in failed.error
    assert len(results(rig, failed)) == 12
    # When the foreign object is deleted, and the job is resumed
    kept = {n: rig.store.head(folder + n).etag for n in results(rig, failed) if not n.endswith("11.parquet")}
    rig.store.delete(stranger)
    rig.redis.hdel(rig.state_key(job.job_id), "stopped")  # simulate a ledger that has not been closed yet
    rig.client.resume(job.job_id)
    # Then the results of the other parts are unchanged
    rig.verify(rig.end(job))
    assert {name: rig.store.head(folder + name).etag for name in kept} == kept


def test_a_result_that_was_deleted_meanwhile_is_written_again(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish(seconds=0.1)
    rig.chaos(hold="part-00007.parquet")
    job = rig.submit(8)
    rig.wait_for_parts(job, 3)
    rig.store.delete(keys.result_part(parse_uri(job.output)[1], 1))
    rig.chaos()
    rig.verify(rig.end(job))


def test_rejected_rows_of_an_attempt_that_died_before_its_commit_are_ignored(rig: Rig) -> None:
    rig.publish()
    job = rig.submit(4)
    folder = parse_uri(job.output)[1]
    for key in (keys.rejected_part(folder, 2, "a" * 64), *keys.former_rejected_parts(folder, 2)):
        rig.store.put(key, b"left over", metadata={"part": "2"})
    rig.start_worker(1)
    rig.verify(rig.end(job))


def test_a_corrupt_job_document_is_named_and_other_jobs_go_on(rig: Rig) -> None:
    rig.publish()
    rig.store.put(keys.active("broken"), b"2026-01-01T00:00:00+00:00")
    rig.store.put(keys.job("broken"), b'{"spec": 1}')
    rig.store.put(keys.active("orphan"), b"2026-01-01T00:00:00+00:00")
    job = rig.submit(2)
    rig.redis.flushall()
    report = rig.client.reconcile()
    assert report["broken"].startswith(
        f"failed: {rig.store.uri(keys.job('broken'))} is not what Scoreline writes there"
    )
    assert report[job.job_id] == "planning"
    # the old marker without a job was deleted
    assert [info.key for info in rig.store.list(keys.active("orphan"))] == []
    rig.start_worker(1)
    rig.verify(rig.end(job))


def test_a_plan_is_written_once_however_often_it_is_asked_for(rig: Rig) -> None:
    rig.publish(seconds=0.2)
    job = rig.submit(12)
    for _ in range(4):
        rig.client.queue.send("scoreline.plan", job_id=job.job_id)
    rig.start_worker(2)
    rig.verify(rig.end(job))
    assert PlanFile(rig.store, job.job_id).parts == 12


@pytest.mark.parametrize("elsewhere", [False, True], ids=["planned by the same process", "or mostly by others"])
def test_a_result_of_another_job_at_the_same_key_is_never_counted(rig: Rig, elsewhere: bool) -> None:
    # Given a job whose documents were deleted, but whose results remain
    rig.start_worker(1)
    rig.publish()
    first = rig.end(rig.submit(2, job_id="nightly-1"))
    assert first.state == "succeeded"
    rig.wait_until_idle()
    for info in list(rig.store.list("jobs/nightly-1/")):
        rig.store.delete(info.key)
    rig.redis.flushall()
    # When a new job uses the same id, with another version of the model
    rig.publish(refuses_from=1e9)
    if elsewhere:
        rig.start_worker(3)
    again = rig.end(rig.client.submit("paced", rig.store.uri("in/"), job_id="nightly-1", part_rows=100))
    # Then the results of the old job are not counted as results of the new job
    assert again.state == "failed"
    assert "was not written for this part of this job" in again.error


def test_input_columns_named_like_ours_keep_their_names_among_the_rejected_rows(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish(refuses_from=98.0)
    ids = np.arange(100)
    table = pa.table(
        {"id": ids, "x": ids.astype(float), "source": ["theirs"] * 100, "row": ids, "message": ["m"] * 100}
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    rig.store.put("in/named.parquet", sink.getvalue())
    rig.rows = 100
    job = rig.end(rig.client.submit("paced", rig.store.uri("in/named.parquet"), max_rejected="5%"))
    rig.verify(job, state="partial", rejected=(98, 99))
    key = rejected_key(rig.store, parse_uri(job.output)[1])
    rows = pq.read_table(io.BytesIO(rig.store.get(key).data)).to_pylist()
    assert [(row["source"], row["message"], row["_row"]) for row in rows] == [("theirs", "m", 98), ("theirs", "m", 99)]
    assert [row["_source"] for row in rows] == [rig.store.uri("in/named.parquet")] * 2
    assert "x is 98.0 or more" in rows[0]["_message"]


def test_a_job_cancelled_while_its_ledger_is_rebuilt_stays_cancelled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a planned job whose ledger Redis has lost
    rig.publish(seconds=0.3)
    rig.start_worker(1)
    job = rig.submit(12)
    rig.wait_for_parts(job, 1)
    rig.kill(rig.parents() + rig.children())
    rig.redis.flushall()
    # When the job is cancelled while the reconciler lists the bucket
    listing = reconcile.recover

    def cancelled_meanwhile(*arguments: Any) -> Any:
        found = listing(*arguments)
        rig.client.cancel(job.job_id)
        return found

    monkeypatch.setattr(reconcile, "recover", cancelled_meanwhile)
    # Then no further part of the job is dispatched
    assert rig.client.reconcile() == {job.job_id: "ended"}
    assert rig.messages() == []


def test_a_job_cancelled_while_it_is_finalized_gets_no_success_marker(rig: Rig) -> None:
    rig.start_worker(1)
    rig.publish()
    rig.chaos(hold="part-00002.parquet")
    job = rig.submit(3)
    rig.wait(rig.held, "the last part about to be written")
    rig.chaos(hold="_rejected")  # hold back the finalizer's first request, which lists rejected rows
    rig.wait(rig.held, "a finalizer at its beginning")
    assert rig.client.cancel(job.job_id).state == "cancelled"
    rig.chaos()
    rig.verify_clean(rig.client.status(job.job_id))
    rig.wait(lambda: rig.redis.hlen("unacked") == 0, "an idle worker")
    folder = parse_uri(job.output)[1]
    assert [info.key for info in rig.store.list(folder) if "_SUCCESS" in info.key or "_manifest" in info.key] == []
    # And a job that is complete can no longer be cancelled
    rig.chaos(hold="outcome.json? PUT")
    rig.client.resume(job.job_id)
    rig.wait(rig.held, "an outcome about to be written")
    assert not rig.client.cancel(job.job_id).ended
    rig.chaos()
    rig.verify(rig.end(job))


def test_the_marker_of_a_resumed_job_survives_an_early_reconciler(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.publish()
    job = rig.submit(2)
    rig.client.cancel(job.job_id)
    put = rig.store.put

    def put_and_be_reconciled(key: str, *arguments: Any, **options: Any) -> Any:
        done = put(key, *arguments, **options)
        if key == keys.active(job.job_id):
            monkeypatch.setattr(rig.store, "put", put)
            Client.from_env(rig.environ).reconcile()
        return done

    monkeypatch.setattr(rig.store, "put", put_and_be_reconciled)
    rig.client.resume(job.job_id)
    assert [info.key for info in rig.store.list(keys.active(job.job_id))] == [keys.active(job.job_id)]
    rig.redis.flushall()
    rig.start_worker(1)
    rig.verify(rig.end(job))
