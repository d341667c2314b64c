"""The pages take few requests to the bucket and to Redis."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from scoreline.storage import keys
from scoreline.storage.audit import AuditLine
from scoreline.storage.ledger.base import Progress
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.backlog.workload import Workload
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.memory_queue import MemoryQueue
from scoreline.tasks.job.documents import Job, Outcome
from scoreline.tasks.job.index_entry import entry_of
from scoreline.tasks.job.job_filter import JobFilter
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.overview import remembered
from scoreline.tasks.overview.jobs import PAGE
from scoreline.tasks.overview.overview import Overview
from scoreline.tasks.schedules.scheduler import Scheduler
from tests.support.counting_store import RequestLog

BEGIN = datetime(2026, 11, 28, tzinfo=UTC)
MODEL = PinnedModel(name="churn", version="20261128T000000Z-00000", manifest_sha256="0" * 64)


class CountedLedger(MemoryLedger):
    """Counts how often the progress of a job is asked for, and says that the job is under way."""

    asked = 0

    def progress(self, job_id: str) -> Progress | None:
        self.asked += 1
        return Progress(
            parts=10,
            parts_done=3,
            rows=300,
            rejected=0,
            failures={},
            in_flight=2,
            stopped="",
            rows_under_way=7,
            work=Workload.of(job_of(1), 1_000).text,
        )


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Overview, RequestLog, CountedLedger]:
    settings = {"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path), "R2_BUCKET": "scoreline"}
    buckets, ledger = Buckets.from_env(settings), CountedLedger()
    store = RequestLog(tmp_path, "scoreline")
    buckets._stores["scoreline"] = store
    client = Client(buckets, MemoryQueue(lambda message: None, at_once=False), ledger)
    return Overview(client, Scheduler(client, tmp_path / "schedules.toml"), lambda: 0.0), store, ledger


def job_of(number: int) -> Job:
    submitted = (BEGIN + timedelta(seconds=number)).isoformat(timespec="milliseconds")
    spec = JobSpec(
        job_id=f"job-{number:05}", model="churn", inputs=("s3://scoreline/in/",), output="s3://scoreline/out/"
    )
    return Job(spec=spec, model=MODEL, submitted=submitted)


def write_index(store: RequestLog, number: int) -> None:
    outcome = Outcome(state="succeeded", rows=10, parts=1, parts_done=1, failures={})
    for index in range(number):
        entry = entry_of(job_of(index), outcome)
        store.put(entry.key, entry.to_json())
    store.put(keys.JOBS_INDEX_BUILT, json.dumps({"at": BEGIN.isoformat(), "jobs": number}).encode())
    store.requests.clear()


def test_a_page_of_many_jobs_takes_thirty_requests_and_a_few_when_it_is_known(
    deployment: tuple[Overview, RequestLog, CountedLedger],
) -> None:
    overview, store, _ = deployment
    write_index(store, 2_000)
    page = overview.jobs(JobFilter())
    assert [job.job_id for job in page.jobs] == [f"job-{number:05}" for number in range(1999, 1999 - PAGE, -1)]
    assert len(store.requests) <= 30
    store.requests.clear()
    overview.forget()
    assert overview.jobs(JobFilter()) == page
    assert len(store.requests) <= 4
    following = overview.jobs(JobFilter(), page.after)
    assert following.jobs[0].job_id == f"job-{1999 - PAGE:05}"


def test_a_page_of_small_jobs_of_records_is_read_once(
    deployment: tuple[Overview, RequestLog, CountedLedger],
) -> None:
    overview, store, ledger = deployment
    write_index(store, 0)
    for index in range(3):
        job, entry = job_of(index), entry_of(job_of(index))
        outcome = Outcome(state="succeeded", rows=10, failures={}, results="x" * 99, job=json.loads(job.to_json()))
        store.put(entry.key, entry.to_json())
        store.put(keys.outcome(job.spec.job_id), outcome.to_json())
    store.requests.clear()
    page = overview.jobs(JobFilter())
    assert [job.state for job in page.jobs] == ["succeeded"] * 3
    read = [key for operation, key in store.requests if operation == "get"]
    assert sorted(read) == [keys.outcome(f"job-{number:05}") for number in range(3)]  # read by several threads
    store.requests.clear()
    overview.forget()
    assert overview.jobs(JobFilter()) == page
    assert [key for operation, key in store.requests if operation == "get"] == []
    # Until the entry says otherwise, because a person has decided about the results
    blocked = entry_of(job_of(1), Outcome(state="blocked", rows=10, failures={}))
    store.put(blocked.key, blocked.to_json())
    overview.forget()
    assert [job.state for job in overview.jobs(JobFilter()).jobs] == ["succeeded", "blocked", "succeeded"]
    accepted = entry_of(job_of(1), Outcome(state="partial", rows=10, failures={}))
    store.put(accepted.key, accepted.to_json())
    overview.forget()
    assert [job.state for job in overview.jobs(JobFilter()).jobs] == ["succeeded", "partial", "succeeded"]
    assert ledger.asked == 0


def test_a_search_that_finds_little_reads_a_limited_number_of_jobs(
    deployment: tuple[Overview, RequestLog, CountedLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "MOST_READ", 60)
    overview, store, _ = deployment
    write_index(store, 100)
    page = overview.jobs(JobFilter(labels={"team": "nobody"}))
    assert (page.jobs, page.is_cut) == ((), True)
    assert len(store.requests) <= 60 + 5
    assert not overview.jobs(JobFilter()).is_cut
    old = overview.jobs(JobFilter(labels={"team": "nobody"}, until=BEGIN + timedelta(seconds=50)))
    assert not old.is_cut


def test_the_audit_of_years_takes_few_listings(deployment: tuple[Overview, RequestLog, CountedLedger]) -> None:
    overview, store, _ = deployment
    for day in range(400):
        at = BEGIN - timedelta(days=day)
        line = AuditLine(
            at=at.isoformat(timespec="milliseconds"), action="job.cancel", target="old", who="a", where="b"
        )
        store.put(keys.audit_line(at, "9f3c01d2", line.action, line.target), line.to_json())
    store.requests.clear()
    assert len(overview.audit("old", BEGIN - timedelta(days=100, hours=1))) == 10
    assert overview.audit("none", BEGIN - timedelta(days=100)) == ()
    assert len(store.requests) <= 2 * (1 + 32) + 2 * 10


def test_an_entry_that_was_replaced_is_read_again(deployment: tuple[Overview, RequestLog, CountedLedger]) -> None:
    overview, store, _ = deployment
    write_index(store, 3)
    assert {job.state for job in overview.jobs(JobFilter()).jobs} == {"succeeded"}
    entry = entry_of(job_of(2), Outcome(state="failed", error="it broke", failures={}))
    store.put(entry.key, entry.to_json())
    overview.forget()
    assert [job.state for job in overview.jobs(JobFilter()).jobs] == ["failed", "succeeded", "succeeded"]


def test_fifty_people_who_watch_a_job_read_as_little_as_one(
    deployment: tuple[Overview, RequestLog, CountedLedger],
) -> None:
    overview, store, ledger = deployment
    store.put(keys.job("job-00001"), job_of(1).to_json())
    store.requests.clear()
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: overview.facts("job-00001"), range(50)))
    assert {facts.status.rows for facts in found} == {307}
    # The job itself is read once, and its status from the ledger alone
    assert store.requests == [("get", keys.job("job-00001"))]
    assert ledger.asked == 1


def test_the_hours_of_a_day_follow_from_the_index(deployment: tuple[Overview, RequestLog, CountedLedger]) -> None:
    overview, store, _ = deployment
    write_index(store, 5)
    pages: Any = cast("Any", overview)._pages
    hours, whole = pages.hours(BEGIN + timedelta(hours=2, minutes=10))
    assert whole
    assert [hour.jobs for hour in hours[-3:]] == [5, 0, 0]
    assert [hour.rows for hour in hours[-3:]] == [50, 0, 0]
