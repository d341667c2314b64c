"""A deadline is a duration or a time, and a request that is repeated finds its job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, JobConflict
from scoreline.tasks.dispatch.reconcile import open_ledger, reconcile_job, terms_of
from scoreline.tasks.job.deadline import resolve_deadline
from scoreline.tasks.job.documents import Job, Outcome, Run, read_job, read_outcome, read_run
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.planner import plan_job
from tests.support.line_jobs import Desk, desk

START = "2026-11-25T02:00:00+00:00"


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def failed(at: Desk, job_id: str) -> Outcome:
    found = read_outcome(at.client.buckets.main, job_id)
    assert found is not None
    assert (found.state, found.reason) == ("failed", "deadline")
    return found


def make_late(at: Desk, job_id: str) -> None:
    """Replace the job by one whose deadline has passed since it was submitted."""
    main, key = at.client.buckets.main, keys.job(job_id)
    raw = json.loads(main.get(key).data)
    raw["spec"]["deadline"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    main.put(key, json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("90s", "2026-11-25T02:01:30+00:00"),
        ("1d12h", "2026-11-26T14:00:00+00:00"),
        ("2026-11-25T06:00:00+02:00", "2026-11-25T04:00:00+00:00"),
        ("2026-11-25T06:00:00Z", "2026-11-25T06:00:00+00:00"),
    ],
)
def test_a_deadline_becomes_a_time_in_utc(given: str, expected: str) -> None:
    assert resolve_deadline(given, START) == expected


@pytest.mark.parametrize(
    "given",
    ["", "2", "2 h", "-1h", "0s", "99999d", "2h30", "h", "tomorrow", "2026-11-25", "2026-11-25T06:00:00", "1h\n"],
)
def test_another_text_is_refused_with_examples(given: str) -> None:
    with pytest.raises(InvalidRequest, match="deadline"):
        resolve_deadline(given, START)


def test_a_request_that_is_repeated_finds_its_job_whatever_the_time(at: Desk) -> None:
    job_id = at.submit(job_id="j", deadline="2h")
    job = read_job(at.client.buckets.main, job_id)
    assert job.spec.deadline == resolve_deadline("2h", job.submitted)
    assert at.submit(job_id="j", deadline="2h") == job_id
    with pytest.raises(JobConflict, match="another deadline"):
        at.submit(job_id="j", deadline="3h")
    with pytest.raises(JobConflict, match="another deadline"):
        at.submit(job_id="j")


def test_a_deadline_that_has_passed_is_refused_unless_the_job_exists(at: Desk) -> None:
    with pytest.raises(InvalidRequest, match="has passed already"):
        at.submit(job_id="j", deadline="2026-01-01T00:00:00Z")
    assert not list(at.client.buckets.main.list("jobs/"))
    job_id = at.submit(job_id="j", deadline="2h")
    make_late(at, job_id)
    late = read_job(at.client.buckets.main, job_id).spec.deadline
    assert at.submit(job_id="j", deadline=late) == job_id


def test_a_job_whose_options_are_not_set_is_written_as_before(at: Desk) -> None:
    raw = json.loads(at.client.buckets.main.get(keys.job(at.submit())).data)
    assert not {"group", "priority", "max_processes", "deadline"} & raw["spec"].keys()


def test_a_document_with_a_deadline_that_is_no_time_is_refused(at: Desk) -> None:
    job_id = at.submit(deadline="2h")
    main, key = at.client.buckets.main, keys.job(job_id)
    main.put(key, main.get(key).data.replace(b'"deadline": "2', b'"deadline": "x'))
    with pytest.raises(DocumentCorrupt):
        read_job(main, job_id)


def test_the_terms_of_a_job_are_those_of_its_options_and_run(at: Desk) -> None:
    plain = read_job(at.client.buckets.main, at.submit())
    assert (terms_of(plain, Run()).group, terms_of(plain, Run()).priority) == ("line", "normal")
    assert (terms_of(plain, Run()).max_parts, terms_of(plain, Run()).deadline_s) == (None, None)
    chosen: dict[str, Any] = {"group": "web", "priority": "high", "max_processes": 2, "deadline": "1h"}
    job = read_job(at.client.buckets.main, at.submit(**chosen))
    terms = terms_of(job, Run())
    assert (terms.group, terms.priority, terms.max_parts) == ("web", "high", 2)
    assert terms.submitted_s + 3600 == terms.deadline_s == datetime.fromisoformat(job.spec.deadline or "").timestamp()
    assert terms_of(job, Run(number=2)).deadline_s is None
    assert terms_of(job, Run(number=2, deadline=START)).deadline_s == datetime.fromisoformat(START).timestamp()


@pytest.mark.parametrize("step", [plan_job, reconcile_job])
def test_a_job_that_is_late_before_it_is_planned_fails(at: Desk, step: object) -> None:
    job_id = at.submit(deadline="1h")
    make_late(at, job_id)
    step(at.engine, job_id)  # type: ignore[operator]
    assert "scoreline resume" in failed(at, job_id).error


def test_a_late_job_keeps_its_results_and_is_resumed_without_a_deadline(at: Desk) -> None:
    job_id = at.submit(deadline="1h", max_processes=2)
    plan_job(at.engine, job_id)
    assert len([name for name in at.names_sent() if name == "score_part"]) == 2
    at.score(job_id, 0)
    # When the ledger is rebuilt after the deadline
    make_late(at, job_id)
    at.engine.ledger.forget(job_id)
    at.names_sent()
    reconcile_job(at.engine, job_id)
    assert at.names_sent() == ["finalize"]
    finalize(at.engine, job_id)
    ended = failed(at, job_id)
    assert (ended.rows, ended.parts_done, ended.parts) == (10, 1, 4)
    assert "stopped after 1 of 4 parts: the deadline" in ended.error
    # Then a resume scores the rest
    at.client.resume(job_id)
    assert read_run(at.client.buckets.main, job_id)[0] == Run(number=2)
    plan_job(at.engine, job_id)
    at.score(job_id, 1, 2, 3)
    finalize(at.engine, job_id)
    done = read_outcome(at.client.buckets.main, job_id)
    assert done is not None
    assert (done.state, done.rows) == ("succeeded", 40)


def test_a_run_may_have_a_deadline_of_its_own(at: Desk) -> None:
    job_id = at.plan()
    at.client.cancel(job_id)
    with pytest.raises(InvalidRequest, match="has passed already"):
        at.client.resume(job_id, deadline="2026-01-01T00:00:00Z")
    at.client.resume(job_id, deadline="1h")
    run, _ = read_run(at.client.buckets.main, job_id)
    left = datetime.fromisoformat(run.deadline or "") - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_the_message_of_a_late_job_ends_it(at: Desk) -> None:
    job_id = at.plan(deadline="1h")
    make_late(at, job_id)
    at.engine.ledger.forget(job_id)
    open_ledger(at.engine, at.engine.documents(job_id, fresh=True))
    at.names_sent()
    at.score(job_id, 0)
    assert at.names_sent() == ["finalize"]


def test_rejected_rows_are_scored_without_the_deadline_of_their_job(at: Desk) -> None:
    job_id = at.plan(broken=(3,), max_rejected="100%", deadline="1h")
    at.score(job_id, 0, 1, 2, 3)
    finalize(at.engine, job_id)
    again = at.client.resume_rejected(job_id)
    assert read_job(at.client.buckets.main, again.job_id).spec.deadline is None


def test_a_job_of_an_earlier_release_belongs_to_the_group_of_its_model() -> None:
    raw = {
        "spec": {
            "job_id": "j",
            "model": "m@champion",
            "inputs": ["s3://data/in/"],
            "output": "s3://data/out/",
            "read": {},
        }
        | {"features": None},
        "model": {"name": "m", "version": "20261101T120000Z-0a1b2", "manifest_sha256": 64 * "0"},
        "submitted": START,
    }
    job = Job.from_json(json.dumps(raw).encode())
    assert job.spec.group_name == "m"
