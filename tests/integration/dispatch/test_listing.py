"""Jobs and the audit are listed in the same way from every store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scoreline.storage import audit, keys
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.objects.r2 import R2Store
from scoreline.tasks.audit.reading import AuditFilter, read_audit
from scoreline.tasks.dispatch.job_index import mark_built
from scoreline.tasks.dispatch.listing import JobListing
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.documents import State, Status
from scoreline.tasks.job.index_entry import IndexEntry
from scoreline.tasks.job.job_filter import JobFilter
from tests.support.s3 import settings_of

NOON = datetime(2031, 3, 2, 12, tzinfo=UTC)
"""In a year of which no other test has jobs."""
STATES: tuple[State, ...] = ("succeeded", "partial", "failed", "cancelled")


@pytest.fixture(params=["stack", "seaweed", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path, "scoreline")
    return R2Store(settings_of(request.getfixturevalue(request.param)), "scoreline")


def test_jobs_are_found_by_the_keys_and_sizes_of_their_entries(store: ObjectStore) -> None:
    written = []
    for number in range(40):
        status = Status(
            job_id=f"far-{number}",
            state=STATES[number % 4],
            model="churn@20310101T120000Z-0a1b2",
            output="",
            submitted=(NOON - timedelta(hours=number)).isoformat(timespec="milliseconds"),
        )
        entry = IndexEntry(status=status, group="churn")
        store.put(entry.key, entry.to_json())
        written.append(entry.key)
    mark_built(store, 40)
    try:
        listing = JobListing(store, StatusReader(store, MemoryLedger()))
        chosen = JobFilter(states=("failed",), model="churn", since=NOON - timedelta(hours=39), until=NOON)
        assert [job.job_id for job in listing.jobs(chosen, 4)] == ["far-2", "far-6", "far-10", "far-14"]
        assert len(list(listing.jobs(chosen))) == 10
        assert [job.job_id for job in listing.jobs(JobFilter(since=NOON - timedelta(hours=1)))] == ["far-0", "far-1"]
    finally:  # other tests use the bucket, too
        for key in (*written, keys.JOBS_INDEX_BUILT):
            store.delete(key)


def test_lines_of_the_audit_are_found_by_their_keys(store: ObjectStore) -> None:
    since = datetime.now(UTC) - timedelta(seconds=1)
    for number, target in enumerate(["s3://scoreline/results/ü a/", "churn@champion", "a+b%~c"]):
        audit.record(store, action="results.gc", target=f"{target}{number}", details={"number": number})
        found = list(read_audit(store, AuditFilter(target=f"{target}{number}", since=since), 20))
        assert [dict(line.details) for line in found] == [{"number": number}]
    assert len(list(read_audit(store, AuditFilter(action="results.gc", since=since), 2))) == 2
