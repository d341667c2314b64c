"""A job ends in exactly one way, even if processes run at the same time, and only the end of its latest run is
valid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import ModelUnloadable, StoreUnavailable
from scoreline.storage.objects.base import ObjectInfo, exists
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, end_job, fail_job
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.job.documents import Outcome, Run, read_outcome
from tests.support.one_job import OneJob, before_put

OUTCOME, RUN, MARKER = keys.outcome("j"), keys.run("j"), keys.active("j")


def cancel(job: OneJob) -> None:
    job.client.cancel("j")


def fail(job: OneJob) -> None:
    fail_job(job.engine, "j", ModelUnloadable("late"))


def die() -> None:
    raise StoreUnavailable("the process died")


def key_is(key: str) -> Callable[[str, Any], bool]:
    return lambda given, _: given == key


# Outcome and _SUCCESS


@pytest.mark.parametrize("act", [cancel, fail])
@pytest.mark.parametrize("options", [{}, {"gather": True}], ids=["parts", "arranged"])
@pytest.mark.parametrize("moment", ["manifest", "claim", "success", "outcome"])
def test_a_job_that_is_ended_while_it_is_finalized_has_either_success_or_that_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Any, options: dict[str, Any], moment: str
) -> None:
    job = OneJob(tmp_path, rows=8, refused=(1.0,), **options)
    moments = {"manifest": job.layout.manifest, "claim": keys.claim("j", 1), "success": job.layout.success}
    before_put(monkeypatch, job, key_is(moments.get(moment, OUTCOME)), lambda: act(job))
    job.run()
    state = {cancel: "cancelled", fail: "failed"}[act] if moment in ("manifest", "claim") else "partial"
    assert (job.outcome.state, job.is_complete) == (state, state == "partial")
    assert job.client.status("j").state == state
    assert job.listed(keys.JOBS_ACTIVE) == []
    progress = job.ledger.progress("j")
    assert progress is not None
    assert progress.stopped == "closed"


@pytest.mark.parametrize("act", [cancel, fail])
def test_the_end_of_a_process_that_dies_before_it_writes_the_outcome_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Any
) -> None:
    job = OneJob(tmp_path, rows=8)
    job.run(2)
    with monkeypatch.context() as patch:
        before_put(patch, job, key_is(OUTCOME), die)
        with pytest.raises(StoreUnavailable, match="died"):
            act(job)
    assert job.client.status("j").state == "running"
    job.run()
    assert job.outcome.state == {cancel: "cancelled", fail: "failed"}[act]
    assert not job.is_complete
    assert job.listed(keys.JOBS_ACTIVE) == []


def test_a_cancel_that_died_is_completed_when_it_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = OneJob(tmp_path)
    with monkeypatch.context() as patch:
        before_put(patch, job, key_is(OUTCOME), die)
        with pytest.raises(StoreUnavailable, match="died"):
            job.client.cancel("j")
    assert job.client.cancel("j").state == "cancelled"


def test_a_finalizer_that_dies_after_its_claim_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path, refused=(1.0,))
    with monkeypatch.context() as patch:
        before_put(patch, job, key_is(job.layout.success), die)
        with pytest.raises(StoreUnavailable, match="died"):
            job.run()
    # Then the job can no longer be cancelled or fail, and succeeds
    assert not job.client.cancel("j").ended
    fail(job)
    assert read_outcome(job.store, "j") is None
    assert job.listed(keys.JOBS_ACTIVE) == [MARKER]
    job.run()
    job.verify(rejected=[1])


def test_each_run_of_a_job_ends_by_a_claim_of_its_own(tmp_path: Path) -> None:
    job = OneJob(tmp_path)
    for run in (1, 2):
        assert job.client.cancel("j").state == "cancelled"
        assert job.outcome.run == run
        assert not job.client.resume("j").ended
    job.run()
    assert (job.outcome.state, job.outcome.run, job.is_complete) == ("succeeded", 3, True)


# Runs


def test_the_outcome_of_an_older_run_does_not_count_for_a_newer_one(tmp_path: Path) -> None:
    job = OneJob(tmp_path)
    job.client.cancel("j")
    assert job.outcome.run == 1
    job.store.put(RUN, Run(number=2).to_json())
    assert read_outcome(job.store, "j") is None
    assert not clean_up_if_ended(job.engine, "j")
    # And an outcome of the current run ends the job
    job.store.put(RUN, Run(number=1).to_json())
    assert job.outcome.state == "cancelled"


@pytest.mark.parametrize("claimed", [False, True], ids=["by an earlier release", "by this one"])
def test_a_late_end_of_an_older_run_ends_no_newer_one(tmp_path: Path, claimed: bool) -> None:
    job = OneJob(tmp_path)
    late = Outcome(state="failed", error="late", failures={}, run=1)
    job.client.cancel("j")
    if not claimed:
        job.store.delete(keys.claim("j", 1))
    job.client.resume("j")
    job.run(2)
    end_job(job.engine, "j", late)
    assert read_outcome(job.store, "j") is None
    assert job.listed(keys.JOBS_ACTIVE) == [MARKER]
    progress = job.ledger.progress("j")
    assert progress is not None
    assert progress.stopped == ""
    # And a late outcome of the older run does not replace the outcome of the newer run
    job.client.cancel("j")
    end_job(job.engine, "j", late)
    assert (job.outcome.state, job.outcome.run) == ("cancelled", 2)
    # And the outcome of a newer run replaces that of an older run
    job.client.resume("j")
    job.run()
    assert (job.outcome.state, job.outcome.run) == ("succeeded", 3)


def test_a_job_that_is_resumed_while_its_marker_is_removed_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path)
    delete = job.store.delete
    resumed: list[str] = []

    def hooked(key: str) -> None:
        if key == MARKER and not resumed:
            resumed.append(key)
            job.client.resume("j")  # simulate another process that resumes the job
        delete(key)

    marked: list[bool] = []
    put = job.store.put

    def noted(key: str, *arguments: Any, **options: Any) -> ObjectInfo:
        if key.startswith("jobs/index/2") and resumed:
            marked.append(exists(job.store, MARKER))
        return put(key, *arguments, **options)

    monkeypatch.setattr(job.store, "delete", hooked)
    monkeypatch.setattr(job.store, "put", noted)
    job.client.cancel("j")
    assert resumed == [MARKER]
    assert marked == [True] * 3, "an entry says that the job is under way before it has a marker"
    assert job.listed(keys.JOBS_ACTIVE) == [MARKER]
    # The marker lets the reconciler end the job, even if all its messages are lost
    job.messages._messages.clear()
    job.ledger.forget("j")
    reconcile_job(job.engine, "j")
    job.run()
    assert job.is_complete


def test_a_marker_that_a_reconciler_removes_while_the_job_is_resumed_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = OneJob(tmp_path)
    job.client.cancel("j")

    def reconciled() -> None:
        assert job.listed(keys.JOBS_ACTIVE) == [MARKER]
        assert clean_up_if_ended(job.engine, "j")
        assert job.listed(keys.JOBS_ACTIVE) == []

    before_put(monkeypatch, job, key_is(RUN), reconciled)
    job.client.resume("j")
    assert job.listed(keys.JOBS_ACTIVE) == [MARKER]
