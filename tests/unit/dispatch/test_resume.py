"""A resume starts exactly one new run of a job that failed or was cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import NothingToResume
from scoreline.tasks.dispatch import dispatcher, resume
from scoreline.tasks.job.documents import Outcome, Run, mark_active, read_run
from tests.support.line_jobs import Desk, desk


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def test_if_two_processes_resume_a_job_at_once_one_is_refused(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = at.plan()
    at.client.cancel(job_id)
    others = [lambda: resume.begin_run(at.engine, job_id, "7")]

    def slowly(*arguments: Any) -> None:
        if others:
            others.pop()()
        mark_active(*arguments)

    monkeypatch.setattr(dispatcher, "mark_active", slowly)
    with pytest.raises(NothingToResume, match="just resumed by another process"):
        resume.begin_run(at.engine, job_id, "5")
    assert read_run(at.client.buckets.main, job_id)[0] == Run(number=2, max_rejected="7")


def test_a_later_run_keeps_the_budget_of_the_run_before(at: Desk) -> None:
    job_id, main = at.plan(), at.client.buckets.main
    at.client.cancel(job_id)
    resume.begin_run(at.engine, job_id, "7")
    main.put(f"jobs/{job_id}/outcome.json", Outcome(state="failed", failures={}, run=2).to_json())
    resume.begin_run(at.engine, job_id)
    assert read_run(main, job_id)[0] == Run(number=3, max_rejected="7")


def test_the_ledger_of_the_previous_run_is_gone_when_a_run_begins(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise a late finalizer could end the new run by the counts of the previous run's ledger
    job_id, main = at.plan(), at.client.buckets.main
    at.client.cancel(job_id)
    put, found = main.put, []

    def watched(key: str, *arguments: Any, **options: Any) -> Any:
        if key == keys.run(job_id):
            found.append(at.engine.ledger.progress(job_id))
        return put(key, *arguments, **options)

    monkeypatch.setattr(main, "put", watched)
    resume.begin_run(at.engine, job_id)
    assert found == [None]


def test_a_resume_whose_check_takes_long_notices_another(at: Desk) -> None:
    job_id, main = at.plan(), at.client.buckets.main
    at.client.cancel(job_id)
    others = [lambda: resume.begin_run(at.engine, job_id, "7")]

    def check(_: object) -> None:
        if others:
            others.pop()()

    with pytest.raises(NothingToResume, match="just resumed by another process"):
        resume.begin_run(at.engine, job_id, "1", check=check)
    assert read_run(main, job_id)[0] == Run(number=2, max_rejected="7")
