"""Jobs of one output in this process, whose checks find what a test says, and a process that dies after some writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import Outcome, read_outcome
from scoreline.tasks.job.findings import Finding
from scoreline.tasks.quality.gate.latest import Latest
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.steps.finalize import finalize
from tests.support.line_jobs import Desk, desk

OUTPUT = "s3://scoreline/out/"
KEY = "out/latest.json"
BLOCKS = Finding(check="rows", level="block", message="half of the rows are missing", value=10.0, limit=20.0)
WARNS = Finding(check="nulls", level="warn", message="x has more nulls than before", column="x")


class Died(BaseException):
    """Raised in place of a change when the process is to die."""


class Gated:
    """Jobs that score 2x + 1 into one output."""

    def __init__(self, at: Desk) -> None:
        self.at = at
        self.client = at.client
        self.main: ObjectStore = at.client.buckets.main
        self.buckets = at.client.buckets
        self.findings: tuple[Finding, ...] = ()
        """What the checks of the next jobs find."""
        at.engine.checker = lambda evidence: self.findings

    def score(self, job_id: str, **options: Any) -> None:
        """Score a job of 40 rows in four parts, but do not finalize it."""
        self.at.plan(**{"job_id": job_id, "output": OUTPUT} | options)
        self.at.score(job_id, 0, 1, 2, 3)

    def run(self, job_id: str, *findings: Finding, **options: Any) -> Outcome:
        """Run a job whose checks find `findings`, and return its outcome."""
        self.findings = findings
        self.score(job_id, **options)
        return self.finalize(job_id)

    def finalize(self, job_id: str) -> Outcome:
        finalize(self.at.engine, job_id)
        return self.outcome(job_id)

    def outcome(self, job_id: str) -> Outcome:
        found = read_outcome(self.main, job_id)
        assert found is not None, f"{job_id} has not ended"
        return found

    @property
    def latest(self) -> Latest:
        found, _ = Pointer.of(self.buckets, OUTPUT).read()
        assert found is not None, "there is no latest.json"
        return found

    @property
    def named(self) -> str | None:
        return self.latest.job_id

    def has_success(self, job_id: str) -> bool:
        return exists(self.main, keys.success(f"out/job_id={job_id}/"))

    def audited(self) -> list[tuple[str, str]]:
        """Return action and target of the lines of the audit, the oldest first."""
        lines = [json.loads(self.main.get(info.key).data) for info in self.main.list("audit/")]
        return [(line["action"], line["target"]) for line in sorted(lines, key=lambda line: line["at"])]

    def forget_redis(self, job_id: str) -> None:
        self.at.engine.ledger.forget(job_id)


def check_latest(store: ObjectStore, key: str = KEY, withdrawn: tuple[str, ...] = ()) -> str | None:
    """Check, as a reader would, that ``latest.json`` names one complete accepted run. Return its job."""
    if not exists(store, key):
        return None
    document = json.loads(store.get(key).data)
    job_id = document["job_id"]
    if job_id is None:
        assert document["files"] == []
        return None
    assert job_id not in withdrawn
    for file in document["files"]:
        assert f"/job_id={job_id}/" in file["uri"]
        name = file["uri"].removeprefix(f"s3://{store.bucket}/")
        assert sha256_hex(store.get(name).data) == file["sha256"]
    entry = next(run for run in document["runs"] if run["job_id"] == job_id)
    assert sum(file["rows"] for file in document["files"]) == entry["rows"]
    assert entry["decision"] == "accepted"
    assert isinstance(job_id, str)
    return job_id


@contextmanager
def gated(folder: Path) -> Iterator[Gated]:
    with desk(folder) as at:
        yield Gated(at)


class Deaths:
    """Lets the process die in place of a change, and watches each change of a reader's view."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        """Number of changes until the process dies; None to live on."""
        self.changed: list[str] = []
        self.seen: list[str | None] = []
        """What ``latest.json`` named after each change."""
        put, delete = DirectoryStore.put, DirectoryStore.delete
        deaths = self

        def dying_put(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
            deaths._before(key)
            found = put(store, key, *arguments, **options)
            deaths.seen.append(check_latest(store))
            return found

        def dying_delete(store: DirectoryStore, key: str) -> None:
            deaths._before(key)
            delete(store, key)
            deaths.seen.append(check_latest(store))

        monkeypatch.setattr(DirectoryStore, "put", dying_put)
        monkeypatch.setattr(DirectoryStore, "delete", dying_delete)

    def _before(self, key: str) -> None:
        if key.startswith(keys.JOBS_INDEX):  # another thread writes the entries of the index
            return
        if self.left is not None:
            if self.left <= 0:
                raise Died(key)
            self.left -= 1
        self.changed.append(key)
