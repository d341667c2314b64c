"""A process scores a part, records its end, and sends the next message, or ends the job with the reason of a
failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import ModelCorrupt, ModelUnloadable, ModelUntrusted, ProcessDied, StoreUnavailable
from scoreline.storage.ledger.base import PartLease, Started
from scoreline.tasks.dispatch.leases import STEP_ATTEMPTS
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.score_part import score_part
from tests.support.line_jobs import Desk, desk


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def start(at: Desk, job_id: str, holder: str, part: int = 0) -> Started:
    plan = at.engine.documents(job_id).plan
    lease = PartLease(job_id=job_id, plan_sha256=plan.sha256, part=part, holder=holder, lease_s=60)
    return at.engine.ledger.start(lease)


def test_a_part_fails_after_its_process_died_too_often(at: Desk) -> None:
    job_id = at.plan(max_attempts=3)
    for _ in range(3):  # in each attempt, the process dies, and Celery delivers the message again
        assert start(at, job_id, "m").to_do == "run"
    score_part(at.engine, job_id, 0, "m")
    assert "died 3 times while scoring part 0" in at.progress(job_id).failures[0]


@pytest.mark.parametrize("dies", [1, 2])
def test_the_last_attempt_at_a_part_notes_each_object_before_it_is_read(
    at: Desk, dies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a part whose process dies while it reads the object, in each attempt
    job_id = at.plan(max_attempts=3)
    for _ in range(dies):
        start(at, job_id, "m")

    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(at.engine.tables, "read", die)
        with pytest.raises(KeyboardInterrupt):
            score_part(at.engine, job_id, 0, "m")
    # Then only the last attempt has noted the object, and the error names it
    noted = at.engine.ledger.noted_object(job_id, "part 0")
    assert noted == ("s3://scoreline/in/a.parquet" if dies == 2 else "")
    if dies == 2:
        score_part(at.engine, job_id, 0, "m")
        failure = at.progress(job_id).failures[0]
        assert "while scoring part 0, the last time after it began to read s3://scoreline/in/a.parquet: " in failure


def test_the_last_attempt_at_a_plan_notes_each_object_before_it_is_read(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, noted = at.submit(), list[str]()

    def die(*_: Any) -> Any:
        noted.append(at.engine.ledger.noted_object(job_id, "plan"))
        raise KeyboardInterrupt

    monkeypatch.setattr(at.engine.tables, "survey", die)
    monkeypatch.setattr(at.engine.ledger, "end_step", lambda *_, **__: None)  # as if the process had died
    for _ in range(STEP_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            plan_job(at.engine, job_id)
    assert noted == ["", "", "s3://scoreline/in/a.parquet"]
    with pytest.raises(ProcessDied, match=r"began to read s3://scoreline/in/a\.parquet: the object may be damaged"):
        plan_job(at.engine, job_id)


def test_an_object_that_was_surveyed_is_not_blamed_for_a_model_that_ends_the_process(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = at.submit()

    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(at.engine.models), "get", die)
    monkeypatch.setattr(at.engine.ledger, "end_step", lambda *_, **__: None)  # as if the process had died
    for _ in range(STEP_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            plan_job(at.engine, job_id)
    with pytest.raises(ProcessDied, match="at the step 'plan': it may be out of memory"):
        plan_job(at.engine, job_id)


@pytest.mark.parametrize("part", [True, "0", -1, 4, 10**12])
def test_a_message_for_no_part_of_the_job_is_dropped(at: Desk, part: Any, caplog: pytest.LogCaptureFixture) -> None:
    job_id = at.plan()
    assert score_part(at.engine, job_id, part, "m") is None
    assert [record.msg for record in caplog.records if record.levelname == "ERROR"] == ["part.unknown"]
    assert at.progress(job_id).parts_done == 0


def test_a_job_over_its_budget_is_finalized_at_once(at: Desk) -> None:
    job_id = at.plan(broken=(0, 1), max_rejected=1)
    at.names_sent()
    at.score(job_id, 0)
    assert at.names_sent() == ["finalize"]
    assert at.progress(job_id).stopped == "budget"


def test_a_message_for_a_part_that_is_done_sends_a_finalizer_that_was_lost(at: Desk) -> None:
    job_id = at.plan()
    at.score(job_id, 0, 1, 2, 3)
    at.names_sent()
    at.score(job_id, 3)
    assert at.names_sent() == []
    at.engine.ledger.end_step(job_id, "finalize")  # simulates a process that died before it sent the message
    at.score(job_id, 3)
    assert at.names_sent() == ["finalize"]


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("503"), SystemExit(), ModelUnloadable("too large"), ModelUntrusted("not signed")],
    ids=["an outage", "a shutdown", "too little memory", "other keys"],
)
def test_an_error_that_is_not_due_to_the_part_is_no_attempt_at_it(
    at: Desk, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    job_id = at.plan()

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(at.client.buckets.main, "put", refuse)
        with pytest.raises(type(error)):
            score_part(at.engine, job_id, 0, "m")
    # Then another process may begin at once, and its attempt still counts as the first
    started = start(at, job_id, "another")
    assert (started.to_do, started.attempt, at.progress(job_id).failures) == ("run", 1, {})


def test_a_model_that_cannot_be_trusted_fails_the_whole_job(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = at.plan()

    def refuse(pinned: Any) -> None:
        raise ModelCorrupt("chunk 3 differs from its manifest")

    monkeypatch.setattr(type(at.engine.models), "get", lambda self, pinned: refuse(pinned))
    at.score(job_id, 0)
    outcome = read_outcome(at.client.buckets.main, job_id)
    assert outcome is not None
    assert (outcome.state, outcome.error) == ("failed", "chunk 3 differs from its manifest")
