"""A job may end, and be resumed, while its plan is written. Its ledger then opens for the run that is under way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.tasks.job.documents import read_run
from scoreline.tasks.steps import planner
from tests.support.line_jobs import desk


def test_a_job_that_is_resumed_while_its_plan_is_written_has_the_budget_of_the_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path) as at:
        job_id, main, is_read = at.submit(broken=(3,)), at.client.buckets.main, threading.Event()
        put = main.put

        def note(*arguments: Any) -> Any:
            found = read_run(*arguments)
            is_read.set()
            return found

        def resume_meanwhile(key: str, *arguments: Any, **options: Any) -> Any:
            written = put(key, *arguments, **options)
            if key == keys.plan(job_id):
                assert is_read.wait(10)
                at.client.cancel(job_id)
                at.client.resume(job_id, max_rejected=5)
            return written

        monkeypatch.setattr(planner, "read_run", note)
        monkeypatch.setattr(main, "put", resume_meanwhile)
        planner.plan_job(at.engine, job_id)
        monkeypatch.undo()
        planner.plan_job(at.engine, job_id)  # the message of the resume
        at.score(job_id, 0, 1, 2, 3)
        progress = at.progress(job_id)
        assert (progress.stopped, progress.rows, progress.rejected) == ("", 39, 1)
