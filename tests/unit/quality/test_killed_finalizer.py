"""A finalizer that dies at any of its changes: another one gives the job the same end, and readers never see less."""

from __future__ import annotations

import pytest

from scoreline.storage import keys
from scoreline.storage.objects.base import exists
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.job.findings import Finding
from scoreline.tasks.steps.finalize import finalize
from tests.support.gated import BLOCKS, WARNS, Deaths, Died, Gated, check_latest


def finish(jobs: Gated, job_id: str) -> None:
    """Let another process reconcile the job until it has ended, after Redis was emptied."""
    jobs.forget_redis(job_id)
    for _ in range(4):
        reconcile_job(jobs.at.engine, job_id)
        if "finalize" in jobs.at.names_sent():
            finalize(jobs.at.engine, job_id)
        if not exists(jobs.main, keys.active(job_id)):
            return
    raise AssertionError(f"{job_id} does not end")


@pytest.mark.parametrize("gather", [False, True], ids=["parts", "gathered"])
@pytest.mark.parametrize("finding", [WARNS, BLOCKS], ids=["accepted", "blocked"])
def test_a_finalizer_that_dies_at_any_change_and_another_one_give_the_same_end(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch, finding: Finding, gather: bool
) -> None:
    jobs.run("before")
    deaths = Deaths(monkeypatch)
    number, named = 0, "before"
    while True:
        job_id = f"j{number:02}"
        jobs.findings = (finding,)
        jobs.score(job_id, gather=gather)
        deaths.left, deaths.changed, deaths.seen = number, [], []
        try:
            finalize(jobs.at.engine, job_id)
        except Died:
            is_over = False
        else:
            is_over = True
        deaths.left = None
        # The claim decides: what another finalizer's checks would find does not count
        claimed = exists(jobs.main, keys.claim(job_id, 1))
        jobs.findings = (finding,) if not claimed else (BLOCKS if finding is WARNS else WARNS,)
        finish(jobs, job_id)
        blocked = finding is BLOCKS
        outcome = jobs.outcome(job_id)
        assert outcome.state == ("blocked" if blocked else "succeeded")
        assert outcome.checks is not None
        assert outcome.checks.findings == (finding,)
        assert jobs.has_success(job_id) == (not blocked)
        assert exists(jobs.main, keys.results_manifest(f"out/job_id={job_id}/"))
        # Readers saw the run before, then this one, and nothing else
        expected = named if blocked else job_id
        assert check_latest(jobs.main) == expected
        assert [run for run in dict.fromkeys(deaths.seen) if run not in (named, expected)] == []
        assert [run.job_id for run in jobs.latest.runs].count(job_id) == (not blocked)
        if not blocked:
            assert jobs.client.reject(job_id, "make room").latest == "before"
        if is_over:
            break
        number += 1
    assert number >= (3 if blocked else 5)
