"""The backlog is the rows that are left, by the pace of each model version, and costs few requests to read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.memory_state import Job
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.backlog import reader
from scoreline.tasks.backlog.for_scalers import for_scalers
from scoreline.tasks.backlog.reader import ASSUMED_ROWS_PER_S, Backlog, BacklogReader, JobBacklog
from scoreline.tasks.backlog.workload import Workload
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.end_time import PART_S
from tests.support.one_job import OneJob

PACE = "m@20260101T000000Z-00000 default"


@pytest.fixture
def job(tmp_path: Path) -> OneJob:
    job = OneJob(tmp_path, rows=8, part_rows=2)
    job.ledger.watchlist.add(["j"])
    return job


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the objects that are read."""
    counts: Counter[str] = Counter()
    real = DirectoryStore.get

    def get(self: DirectoryStore, key: str, **options: Any) -> Any:
        counts[key] += 1
        return real(self, key, **options)

    monkeypatch.setattr(DirectoryStore, "get", get)
    return counts


def read(job: OneJob) -> Backlog:
    return BacklogReader(job.store, job.ledger).read()


def test_the_work_that_is_left_follows_from_the_rows_and_the_pace(job: OneJob) -> None:
    job.ledger.counters.note_pace(PACE, 4.0)
    job.run(1)
    (left,) = read(job).jobs
    assert (left.next_step, left.group, left.rows, left.pace_known) == ("score", "m", 8, True)
    assert left.seconds == pytest.approx(8 / 4.0 + 4 * PART_S)
    job.run(3)
    (left,) = read(job).jobs
    assert left.rows == 2
    assert left.seconds == pytest.approx(2 / 4.0 + PART_S)
    job.run(1)
    (left,) = read(job).jobs
    assert (left.next_step, left.rows, left.seconds) == ("finalize", 0, 0.0)
    job.run()
    assert read(job).jobs == ()


def test_rejected_rows_are_not_left(tmp_path: Path) -> None:
    job = OneJob(tmp_path, rows=4, part_rows=2, refused=(0.0, 1.0))
    job.ledger.watchlist.add(["j"])
    job.run(2)
    assert read(job).rows == 2


def test_a_job_that_is_not_planned_counts_and_is_read_only_once(job: OneJob, gets: Counter[str]) -> None:
    reading = BacklogReader(job.store, job.ledger)
    for _ in range(3):
        (left,) = reading.read().jobs
        assert (left.next_step, left.group, left.seconds) == ("plan", "m", 0.0)
    assert gets == {keys.job("j"): 1}
    job.run(1)
    gets.clear()
    assert reading.read().rows == 8
    assert not gets


def test_a_ledger_of_an_earlier_release_has_no_description_and_the_bucket_has(job: OneJob, gets: Counter[str]) -> None:
    job.run(1)
    job.ledger.forget("j")
    job.ledger.begin("j", job.documents.plan.sha256, 4, budget=0)
    gets.clear()
    reading = BacklogReader(job.store, job.ledger)
    assert [reading.read().rows for _ in range(2)] == [8, 8]
    assert gets == {keys.job("j"): 1, keys.plan("j"): 1}


def test_only_some_jobs_are_read_at_a_time(job: OneJob, gets: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_READ", 2)
    original = read_job(job.store, "j")
    for number in range(5):
        copy = replace(original, spec=replace(original.spec, job_id=f"k{number}"))
        job.store.put(keys.job(f"k{number}"), copy.to_json())
    job.ledger.watchlist.remove("j")
    job.ledger.watchlist.add([f"k{number}" for number in range(5)])
    gets.clear()
    reading = BacklogReader(job.store, job.ledger)
    seen = [reading.read() for _ in range(4)]
    assert [(len(found.jobs), found.unread, found.under_way) for found in seen] == [
        (2, 3, 5),
        (4, 1, 5),
        (5, 0, 5),
        (5, 0, 5),
    ]
    assert set(gets.values()) == {1}


def test_a_job_whose_documents_are_missing_or_broken_is_still_under_way(job: OneJob) -> None:
    job.store.put(keys.job("broken"), b"{")
    job.ledger.watchlist.add(["broken", "missing"])
    found = read(job)
    assert ([left.job_id for left in found.jobs], found.unread, found.under_way) == (["j"], 2, 3)


def test_an_unknown_pace_is_assumed_from_the_other_models(job: OneJob) -> None:
    job.run(1)
    (left,) = read(job).jobs
    assert not left.pace_known
    assert left.seconds == pytest.approx(8 / ASSUMED_ROWS_PER_S + 4 * PART_S)
    job.ledger.counters.count_part(rows=600, rejected=0, failed=False, seconds=300.0)
    (left,) = read(job).jobs
    assert not left.pace_known
    assert left.seconds == pytest.approx(8 / 2.0 + 4 * PART_S)


def test_a_job_that_only_waits_for_its_webhook_is_no_work(job: OneJob) -> None:
    job.run(1)
    job.ledger.close("j")
    found = read(job)
    assert ([left.next_step for left in found.jobs], found.under_way, found.rows) == (["notify"], 0, 0)


def test_groups_add_up() -> None:
    def left(job_id: str, group: str, rows: int) -> JobBacklog:
        return JobBacklog(job_id=job_id, group=group, next_step="score", rows=rows, seconds=rows / 2, since=0.0)

    found = Backlog(jobs=(left("a", "web", 4), left("b", "batch", 10), left("c", "web", 6)))
    assert [(name, group.jobs, group.rows, group.seconds) for name, group in found.groups().items()] == [
        ("batch", 1, 10, 5.0),
        ("web", 2, 10, 5.0),
    ]
    assert (found.rows, found.seconds) == (20, 10.0)
    assert for_scalers(found, "scorer") == [{"name": "scorer", "value": 10}]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pace": 1}', '{"pace": "p", "group": "g", "rows": "9", "since": 1.0}']
)
def test_a_malformed_description_counts_as_none(text: str) -> None:
    assert Workload.of_text(text) is None


def test_a_resumed_job_has_its_whole_time_again(job: OneJob) -> None:
    job.run(1)
    (before,) = read(job).jobs
    assert before.since == 1_795_564_800.0  # 2026-11-25, when the job was submitted
    job.client.cancel("j")
    job.client.resume("j")
    job.client.reconcile()
    (after,) = read(job).jobs
    assert after.since > before.since


def test_ten_thousand_jobs_are_read_without_the_bucket(tmp_path: Path, gets: Counter[str]) -> None:
    ledger = MemoryLedger()
    names = [f"job-{number}" for number in range(10_000)]
    ledger.watchlist.add(names)
    work = Workload(pace=PACE, group="g", rows=10, since=0.0)
    jobs = {
        name: Job(plan_sha256="p", parts=1, budget=0, rebuilt=False, done=set(), rows=0, rejected=0, work=work.text)
        for name in names
    }
    ledger._jobs._values = {name: (job, math.inf) for name, job in jobs.items()}  # `begin` drops expired jobs each time
    store = DirectoryStore(tmp_path, "data")
    found = BacklogReader(store, ledger).read()
    assert (len(found.jobs), found.rows, found.unread) == (10_000, 100_000, 0)
    assert not gets
