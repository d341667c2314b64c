"""A part commits its results and its rejected rows together, even if two workers disagree about the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import LedgerCorrupt, StepUnfinished, StoreUnavailable
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.objects.base import exists
from scoreline.tasks.dispatch.reconcile import open_ledger, reconcile_job, recover
from scoreline.tasks.rejects.report import committed_rejects
from scoreline.tasks.steps import checked_blocks, finalize
from scoreline.tasks.steps.commit_part import commit_part
from scoreline.tasks.steps.score_rows import PartStopped
from tests.support.one_job import FOLDER, PART, OneJob, before_put

FORMER = f"{FOLDER}_rejected/rejected-00000.parquet"
FIRST = f"{FOLDER}_rejected/part-00000.parquet"
ANY = 1_000


def rejects_of(job: OneJob) -> str:
    """Return the key of the only object with rejected rows."""
    (key,) = job.listed(job.layout.rejected_folder)
    return key


def test_two_workers_that_reject_different_rows_lose_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(1)
    other = job.worker(2.0)
    put = job.store.put
    suspended: list[tuple[Any, ...]] = []

    def hooked(key: str, data: bytes, **options: Any) -> Any:
        if key == PART and not suspended:
            # Given a worker that is suspended just before it commits its part, while another worker commits the part
            suspended.append((key, data, options))
            commit_part(other, other.documents("j"), 0, ANY)
        elif "_rejected/" in key and len(suspended) == 1 and ("mode" not in options or not exists(job.store, key)):
            # When the suspended worker continues, just before the other worker restores missing rejected rows
            suspended.append(())
            put(PART, suspended[0][1], **suspended[0][2])
        return put(key, data, **options)

    monkeypatch.setattr(job.store, "put", hooked)
    job.run()
    # Then the rejected rows are those of the worker that committed the part
    assert len(suspended) == 2
    job.verify(rejected=[1])


@pytest.mark.parametrize("others", [(2.0,), (0.0, 3.0), ()], ids=["as many", "more", "none"])
def test_the_rejected_rows_of_a_worker_that_committed_too_late_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[float, ...]
) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(1)
    other = job.worker(*others)
    # Given two workers, one of which commits a part just before the other would
    before_put(monkeypatch, job, lambda key, _: key == PART, lambda: commit_part(other, other.documents("j"), 0, ANY))
    job.run(1)
    # Then the late worker deletes its rejected rows, and the rejected rows of the first worker are complete
    assert len(job.listed(job.layout.rejected_folder)) == int(bool(others))
    job.run()
    job.verify(rejected=[int(value) for value in others])


@pytest.mark.parametrize("late", [(1.0,), (2.0,), (1.0, 2.0), ()], ids=["the same", "as many others", "more", "none"])
@pytest.mark.parametrize("moment", ["rejects", "results"])
def test_a_commit_after_the_results_were_arranged_leaves_the_rejected_rows_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: tuple[float, ...], moment: str
) -> None:
    job = OneJob(tmp_path, refused=(1.0,), gather=True)
    job.run(1)
    worker = job.worker(*late)
    # Given a worker that is suspended before it writes the rejected rows or the results of a part
    suspended = job.layout.part(0) if moment == "results" or not late else job.layout.rejected_folder
    before_put(monkeypatch, job, lambda key, _: key.startswith(suspended), job.run)
    # When the worker continues after another worker has scored the part and the job has ended
    with pytest.raises(PartStopped):
        commit_part(worker, worker.documents("j"), 0, ANY)
    # Then only the files that the job ended with exist
    (entry,) = json.loads(job.store.get(job.layout.manifest).data)["parts"]
    assert job.listed(job.layout.rejected_folder) == [entry["rejected_key"]]
    assert job.ids(entry["rejected_key"]) == [1]
    assert job.listed(job.layout.parts_folder) == []
    assert job.ids(PART) == [0, 2, 3]
    assert job.client.rejected("j").rows == 1


def test_rejected_rows_are_written_before_the_results_that_commit_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path, refused=(1.0, 2.0))
    job.run(1)

    def died() -> None:
        # When the process dies at its commit, its rejected rows exist, but are not counted
        assert job.ids(rejects_of(job)) == [1, 2]
        assert list(committed_rejects(job.layout, job.documents.plan.sha256)) == []
        assert recover(job.engine, job.documents).rejected == 0
        raise StoreUnavailable("the process died")

    before_put(monkeypatch, job, lambda key, _: key == PART, died)
    with pytest.raises(StoreUnavailable, match="died"):
        job.run(1)
    assert not exists(job.store, PART)
    job.run()
    job.verify(rejected=[1, 2])


def test_rejected_rows_of_an_attempt_without_a_commit_are_neither_shown_nor_kept(tmp_path: Path) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(2)
    kept = rejects_of(job)
    for left in (kept.replace("rejected-00000-", "rejected-00000-0")[: -len("0.parquet")] + ".parquet", FORMER, FIRST):
        job.copy(kept, left)
    assert len(job.listed(job.layout.rejected_folder)) == 4
    assert [info.key for info in committed_rejects(job.layout, job.documents.plan.sha256)] == [kept]
    assert recover(job.engine, job.documents).rejected == 1
    job.run()
    job.verify(rejected=[1])


BREAKS = {
    "no rejected rows": lambda job: job.store.delete(rejects_of(job)),
    "another digest": lambda job: job.copy(rejects_of(job), rejects_of(job), sha256="0" * 64),
    "another number of rejected rows": lambda job: job.copy(rejects_of(job), rejects_of(job), rejected="2"),
    "another number of scored rows": lambda job: job.copy(rejects_of(job), rejects_of(job), rows="2"),
    "another plan": lambda job: job.copy(rejects_of(job), rejects_of(job), plan="0" * 64),
    "no receipt of the rejected rows": lambda job: job.store.put(rejects_of(job), b""),
    "results that do not add up": lambda job: job.copy(PART, PART, rows="2"),
    "results without the rejected": lambda job: job.copy(PART, PART, rejected="0"),
    "no results": lambda job: job.store.delete(PART),
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("lost", [False, True], ids=["ledger kept", "ledger lost"])
def test_a_part_whose_objects_do_not_account_for_its_rows_is_scored_anew(tmp_path: Path, how: str, lost: bool) -> None:
    # Given a counted part whose objects are changed afterwards
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(2)
    BREAKS[how](job)
    if lost:
        job.ledger.forget("j")
        reconcile_job(job.engine, "j")
    # Then the job ends, and every row is scored or rejected once
    job.run()
    job.verify(rejected=[1])


@pytest.mark.parametrize("how", ["no rejected rows", "results that do not add up"])
def test_an_attempt_that_finds_a_broken_commit_scores_the_part_anew(tmp_path: Path, how: str) -> None:
    # Given a part whose results are written but not counted
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(1)
    commit_part(job.engine, job.documents, 0, ANY)
    BREAKS[how](job)
    died = PartLease(job_id="j", plan_sha256=job.documents.plan.sha256, part=0, holder="died", lease_s=0)
    assert job.ledger.start(died).attempt == 1
    # When the next attempt finds the written results
    job.run()
    # Then the attempt scores the part again, and the finalizer finds no fault
    job.verify(rejected=[1])
    progress = job.ledger.progress("j")
    assert progress is not None
    assert progress.uncounted == 0


def test_a_part_that_another_program_breaks_each_time_fails_the_job_which_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    put, attempts = job.store.put, []

    def hooked(key: str, data: bytes, **options: Any) -> Any:
        done = put(key, data, **options)
        if "/_rejected/" in key:
            attempts.append(key)
            job.store.delete(key)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(job.store, "put", hooked)
        job.run()
    assert len(attempts) == 4
    assert (job.outcome.state, job.outcome.reason) == ("failed", "parts")
    assert "1 of 1 part failed; part 0: the 1 row that s3://data/out/job_id=j/part-00000" in job.outcome.error
    assert not job.is_complete
    job.client.resume("j")
    job.run()
    job.verify(rejected=[1])


def test_a_broken_part_beside_a_failed_one_is_scored_anew_by_resume(tmp_path: Path) -> None:
    job = OneJob(tmp_path, rows=8, refused=(1.0,))
    job.run(2)
    job.store.delete(rejects_of(job))
    second = f"{FOLDER}part-00001.parquet"
    job.store.put(second, b"of another program")
    job.run()
    assert (job.outcome.state, job.outcome.reason) == ("failed", "parts")
    assert job.store.get(second).data == b"of another program"
    job.store.delete(second)
    job.client.resume("j")
    job.run()
    job.verify(rejected=[1])


def test_a_manifest_without_success_is_replaced_when_a_part_has_other_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(2)

    def died() -> None:
        raise StoreUnavailable("the process died")

    # Given a finalizer that dies before it writes _SUCCESS
    with monkeypatch.context() as patch:
        before_put(patch, job, lambda key, _: key == job.layout.success, died)
        with pytest.raises(StoreUnavailable, match="died"):
            job.run()
    # When the rejected rows of the part are lost, and the part is scored again with a different result
    job.store.delete(rejects_of(job))
    job.engine = job.worker(2.0)
    job.run()
    job.verify(rejected=[2])


# Tests of receipts of earlier releases, which do not contain a digest of the rejected rows


def as_earlier(job: OneJob, key: str) -> None:
    """Rename the object with rejected rows, and remove its digest from the receipt."""
    current = rejects_of(job)
    job.copy(current, key)
    job.store.delete(current)
    job.copy(PART, PART, rejects=None)


@pytest.mark.parametrize("key", [FORMER, FIRST])
def test_a_part_that_a_worker_of_an_earlier_release_committed_counts(tmp_path: Path, key: str) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(2)
    as_earlier(job, key)
    before = job.store.head(PART).etag
    job.ledger.forget("j")
    reconcile_job(job.engine, "j")
    job.run()
    assert job.store.head(PART).etag == before
    job.verify(rejected=[1])
    assert rejects_of(job) == key


@pytest.mark.parametrize("change", [{"rejected": "2"}, {"rows": "2"}, {"plan": "0" * 64}, {"part": "1"}])
def test_rejected_rows_of_an_earlier_release_that_do_not_match_do_not_count(
    tmp_path: Path, change: dict[str, str]
) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(2)
    as_earlier(job, FORMER)
    job.copy(FORMER, FORMER, **change)
    assert list(committed_rejects(job.layout, job.documents.plan.sha256)) == []
    job.run()
    job.verify(rejected=[1])
    assert rejects_of(job) != FORMER


def test_a_worker_of_an_earlier_release_that_commits_first_keeps_its_rejected_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(1)
    earlier = job.worker(2.0)

    def commits() -> None:
        commit_part(earlier, earlier.documents("j"), 0, ANY)
        named = job.layout.rejected_part(0, job.store.head(PART).metadata["rejects"])
        job.copy(named, FORMER)
        job.store.delete(named)
        job.copy(PART, PART, rejects=None)

    before_put(monkeypatch, job, lambda key, _: key == PART, commits)
    job.run()
    job.verify(rejected=[2])
    assert rejects_of(job) == FORMER


@pytest.mark.parametrize("former", [False, True])
def test_a_rebuilt_ledger_knows_the_rejected_rows_and_stops_a_job_over_its_budget(tmp_path: Path, former: bool) -> None:
    job = OneJob(tmp_path, rows=12, refused=(1.0, 2.0), max_rejected="2")
    job.run(2)
    if former:
        as_earlier(job, FORMER)
    job.ledger.forget("j")
    open_ledger(job.engine, job.documents, recover(job.engine, job.documents))
    progress = job.ledger.progress("j")
    assert progress is not None
    assert (progress.parts_done, progress.rows, progress.rejected, progress.stopped) == (1, 2, 2, "")
    # And with a smaller budget, the job stops at once
    job.ledger.forget("j")
    job.store.put("jobs/j/run.json", b'{"number": 1, "max_rejected": "1"}')
    open_ledger(job.engine, job.documents, recover(job.engine, job.documents))
    progress = job.ledger.progress("j")
    assert progress is not None
    assert progress.stopped == "budget"


def test_a_slower_finalizer_deletes_nothing_that_a_faster_one_has_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a part whose rejected rows are missing, and a slow finalizer that has discovered the loss
    job = OneJob(tmp_path, rows=4, part_rows=2, refused=(1.0,))
    job.run(3)
    job.store.delete(rejects_of(job))
    others = [job.run]

    def slowly(*_: Any, **__: Any) -> None:
        if others:  # a faster finalizer lets the part be scored again, and completes the job
            others.pop()()
            assert job.is_complete

    # When the slow finalizer continues, then all rows still exist
    monkeypatch.setattr(finalize.log, "warning", slowly)
    finalize.finalize(job.engine, "j")
    assert not others
    job.run()
    job.verify(rejected=[1])


def test_a_gathered_job_is_completed_from_blocks_by_a_later_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_blocks, "BLOCK_PARTS", 2)
    monkeypatch.setattr(checked_blocks, "CHECK_S", -1.0)
    job = OneJob(tmp_path, rows=12, part_rows=2, gather=True)
    attempts = 0
    while attempts == 0 or not job.is_complete:
        attempts += 1
        try:
            job.run()
        except StepUnfinished:
            job.messages.send("scoreline.finalize", job_id="j")
    assert attempts > 1
    assert (job.outcome.state, job.outcome.rows) == ("succeeded", 12)


def test_a_ledger_that_only_the_finalizer_finds_damaged_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path, rows=4, part_rows=2)
    forget, progress, damaged = job.ledger.forget, job.ledger.progress, [True]

    def read(job_id: str) -> Any:
        found = progress(job_id)
        if damaged and found is not None and found.over:
            raise LedgerCorrupt("the key 'failed' is not a hash")
        return found

    def forgetting(job_id: str) -> None:
        damaged.clear()
        forget(job_id)

    monkeypatch.setattr(job.ledger, "progress", read)
    monkeypatch.setattr(job.ledger, "forget", forgetting)
    job.run()
    assert damaged == []
    assert (job.outcome.state, job.outcome.rows) == ("succeeded", 4)


def test_a_process_that_knows_the_plan_of_a_deleted_job_with_the_same_id_scores_by_the_new_one(tmp_path: Path) -> None:
    # Given a process that has scored a job, and a user who then deletes the job by hand
    old = OneJob(tmp_path)
    old.run()
    for key in old.listed(""):
        old.store.delete(key)
    # When another process has planned a new job with the same id, and this process gets a part of the new job
    new = OneJob(tmp_path, rows=6, part_rows=6)
    new.run(1)
    new.engine = old.engine
    new.engine.ledger, new.engine.send = new.ledger, new.messages.send
    new.run()
    # Then the process scores the part by the new plan, although it still has the old plan in memory
    new.verify(rejected=[])
