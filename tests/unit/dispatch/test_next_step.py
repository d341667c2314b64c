"""The reconciler takes the next step of a job, even if messages or the ledger are lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import ModelInUse
from scoreline.storage.objects.base import exists
from scoreline.tasks.dispatch.reconcile import reconcile, reconcile_job, recover
from scoreline.tasks.steps.planner import plan_job
from tests.support.line_jobs import Desk, desk


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def test_a_ledger_that_was_lost_is_rebuilt_from_the_results(at: Desk) -> None:
    job_id = at.plan(rows=100)
    at.score(job_id, 0, 1, 5)
    at.engine.ledger.forget(job_id)
    at.sent.clear()
    assert reconcile_job(at.engine, job_id) == "dispatched 7"
    assert sorted(kwargs["part"] for _, kwargs in at.sent) == [2, 3, 4, 6, 7, 8, 9]
    progress = at.progress(job_id)
    assert (progress.parts_done, progress.rows) == (3, 30)


def test_a_job_goes_on_if_a_late_process_closed_the_ledger_of_its_next_run(at: Desk) -> None:
    job_id = at.plan()
    at.client.cancel(job_id)
    at.client.resume(job_id)
    plan_job(at.engine, job_id)
    at.engine.ledger.close(job_id)  # the canceller was slow
    assert reconcile_job(at.engine, job_id) == "dispatched 4"
    assert at.progress(job_id).stopped == ""


def test_a_finalizer_that_was_lost_is_sent_again(at: Desk) -> None:
    job_id = at.plan()
    at.score(job_id, 0, 1, 2, 3)
    assert at.names_sent()[-1] == "finalize"
    assert reconcile_job(at.engine, job_id) == "waiting"
    at.engine.ledger.end_step(job_id, "finalize")  # simulates the end of the step's time limit
    assert reconcile_job(at.engine, job_id) == "finalizing"
    assert at.names_sent() == ["finalize"]


def test_a_marker_without_a_job_is_kept_while_a_submitter_may_still_write_the_job(at: Desk) -> None:
    main, now = at.client.buckets.main, datetime.now(UTC)
    main.put(keys.active("young"), now.isoformat().encode())
    main.put(keys.active("old"), (now - timedelta(days=2)).isoformat().encode())
    assert reconcile(at.engine) == {"young": "submitting", "old": "submitting"}
    assert exists(main, keys.active("young"))
    assert not exists(main, keys.active("old"))


def test_objects_of_parts_that_the_plan_lacks_are_not_counted(at: Desk) -> None:
    job_id = at.plan()
    at.score(job_id, 0)
    documents = at.engine.documents(job_id)
    folder = f"results/line/job_id={job_id}/"
    assert exists(at.client.buckets.main, f"{folder}part-00000.parquet")
    at.client.put(f"{folder}part-00099.parquet", b"stray")
    assert recover(at.engine, documents).done == {0}


def test_a_model_that_a_job_under_way_scores_with_is_not_deleted(at: Desk) -> None:
    job_id = at.plan()
    pinned = at.engine.documents(job_id).job.model
    with pytest.raises(ModelInUse, match=f"job {job_id} scores with {pinned.ref}"):
        at.client.submission.check_unused(pinned)
    at.client.cancel(job_id)
    at.client.submission.check_unused(pinned)


def test_a_damaged_job_document_does_not_hold_up_other_jobs(at: Desk) -> None:
    sound, damaged = at.plan(job_id="sound"), at.plan(job_id="damaged")
    at.client.buckets.main.put(keys.job(damaged), b"{")
    at.engine.ledger.forget(sound)
    report = reconcile(at.engine)
    assert report[sound] == "dispatched 4"
    assert report[damaged].startswith("failed: ")
    assert "is not what Scoreline writes there" in report[damaged]
