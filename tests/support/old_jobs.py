"""Jobs of the past, written to a bucket without running them, and a store that dies after some changes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoreline.storage import keys
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectInfo, ObjectStore, StoredObject
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import Job, Outcome, Run, mark_active
from scoreline.tasks.job.plan import Columns, Part, Slice
from scoreline.tasks.job.plan_file import PlanFile, encode
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.schedules.in_force import InForce

DAY_S = 86_400.0
VERSION = "20260101T000000Z-00000"
OUTPUT = "s3://data/out/"
ROWS = 4
"""Rows of a part."""


class Died(BaseException):
    """Raised in place of a change when a process is to die, and for each later request of that process."""


class DyingBuckets(Buckets):
    """The buckets of a process that dies before its `left` + 1st change. A batch of deletions may be cut anywhere."""

    def __init__(self, folder: Path, left: int) -> None:
        super().__init__(buckets_in(folder)._settings)
        self.left = left
        self.changed: list[str] = []
        """The keys that were written or deleted, in order."""
        self._lock = threading.Lock()
        self._dead = False

    def change(self, key: str) -> None:
        with self._lock:
            self._dead |= self.left <= 0
            self.check_alive()
            self.left -= 1
            self.changed.append(key)

    def check_alive(self) -> None:
        if self._dead:
            raise Died

    def _open(self, bucket: str) -> ObjectStore:
        return _DyingStore(self, self._settings.store_dir, bucket)


class _DyingStore(DirectoryStore):
    def __init__(self, process: DyingBuckets, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self._process = process

    def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        self._process.change(key)
        return super().put(key, data, **options)

    def delete(self, key: str) -> None:
        self._process.change(key)
        super().delete(key)

    def get(self, key: str, **options: Any) -> StoredObject:
        self._process.check_alive()
        return super().get(key, **options)


def buckets_in(folder: Path) -> Buckets:
    return Buckets.from_env(
        {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(folder), "ALLOWED_BUCKETS": "other"}
    )


@dataclass(kw_only=True)
class Past:
    """A job of the past, and the objects that belong to it."""

    job_id: str
    documents: set[str] = field(default_factory=set)
    """URIs of its documents, without ``job.json``."""
    results: set[str] = field(default_factory=set)
    """URIs of its results."""

    @property
    def objects(self) -> set[str]:
        return self.documents | self.results


class OldJobs:
    """A deployment with jobs of the past, whose times are those of their objects.

    Parameters
    ----------
    folder : Path
        Contains the buckets ``data`` (the main bucket) and ``other``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.buckets = buckets_in(folder)
        self.main = self.buckets.main
        self.jobs: dict[str, Past] = {}

    def in_force(self, faults: tuple[str, ...] = (), **keeps: str | int | None) -> None:
        """Put schedules in force; the keywords give their names and how long each keeps its results."""
        tables: dict[str, dict[str, Any]] = {}
        for name, keep in keeps.items():
            tables[name] = {"cron": "0 2 * * *", "model": "m", "input": "s3://data/in/"}
            tables[name] |= {} if keep is None else {"results_keep": keep}
        self.main.put(keys.SCHEDULES_IN_FORCE, InForce(source="x", tables=tables, faults=faults).to_json())

    def add(
        self,
        job_id: str,
        *,
        state: str | None = "succeeded",
        days: float = 100,
        parts: int = 2,
        rejected: int = 0,
        run: int = 1,
        active: bool = False,
        planned: bool = True,
        schedule: str | None = None,
        version: str = VERSION,
        **options: Any,
    ) -> Past:
        """Write a job that ended `days` ago in `state`; None if it has not ended."""
        past = self.jobs[job_id] = Past(job_id=job_id)
        at_s = time.time() - days * DAY_S
        given = {"model": "m", "inputs": ("s3://data/in/",), "output": OUTPUT} | options
        spec = JobSpec(job_id=job_id, **given)
        pinned = PinnedModel(name="m", version=version, manifest_sha256="0" * 64)
        submitted = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at_s - 60))
        job = Job(spec=spec, model=pinned, submitted=submitted, schedule=schedule)
        if active:
            mark_active(self.main, job_id)
        self._put(self.main, keys.job(job_id), job.to_json(), at_s - 60)
        bucket, prefix = parse_uri(spec.output)
        store, folder = self.buckets[bucket], keys.output_folder(prefix, job_id)
        if planned:
            self._plan(past, at_s - 50, parts)
            sha256 = PlanFile(self.main, job_id).sha256
            complete = state in ("succeeded", "partial")
            for number in range(parts if complete else parts - 1):
                name = (
                    f"day=2026-01-0{number + 1}/part-00000.parquet"
                    if spec.partition_by
                    else f"part-{number:05d}.parquet"
                )
                self._result(past, store, f"{folder}{name}", receipt(sha256, number))
            for number in range(rejected):
                self._result(past, store, keys.rejected_part(folder, number, "ab" * 32), receipt(sha256, number))
            if complete:
                self._result(past, store, keys.results_manifest(folder))
                success = {"job_id": job_id, "rows": parts * ROWS, "rejected": rejected, "manifest_sha256": "5" * 64}
                success |= {"plan": sha256} if spec.arranged else {}
                self._result(past, store, keys.success(folder), body=json.dumps(success).encode())
        if run > 1:
            self._document(past, keys.run(job_id), Run(number=run).to_json(), at_s - 20)
        if state is not None:
            outcome = Outcome(
                state=state,  # type: ignore[arg-type]
                rows=parts * ROWS,
                rejected=rejected,
                parts=parts,
                failures={},
                run=run,
            )
            self._document(past, keys.claim(job_id, run), outcome.to_json(), at_s)
            self._document(past, keys.outcome(job_id), outcome.to_json(), at_s)
        return past

    def add_records(self, past: Past) -> None:
        """Write the records with which a job was submitted."""
        key = keys.records_table(past.job_id, "f" * 64)
        self._document(past, key, b"records", time.time() - 200 * DAY_S)

    def add_staged(self, past: Past) -> None:
        """Write rows that a worker has read from a database for a job, also those of an attempt that died."""
        attempts = (keys.staged_part(past.job_id, attempt, 0) for attempt in ("0a", "0b"))
        for key in (keys.staged(past.job_id), *attempts):
            self._document(past, key, b"rows", time.time() - 200 * DAY_S)

    def objects(self) -> set[str]:
        """Return the URIs of all objects, except the documents of schedules and of the removal itself."""
        found = {store.uri(info.key) for store in (self.main, self.buckets["other"]) for info in store.list("")}
        return {uri for uri in found if "/schedules/" not in uri and "/_retention/" not in uri and "/audit/" not in uri}

    def all_of(self, jobs: Iterable[str]) -> set[str]:
        """Return the URIs of all objects of some jobs, with ``job.json``."""
        return {uri for job_id in jobs for uri in self.jobs[job_id].objects | {self.main.uri(keys.job(job_id))}}

    def _plan(self, past: Past, at_s: float, parts: int) -> None:
        pieces = [
            Part(
                slices=(
                    Slice(bucket="data", key="in/a", size=9, etag="e", start=n, stop=n + 1, first_row=0, rows=ROWS),
                )
            )
            for n in range(parts)
        ]
        columns = Columns(features=("x",), keep=(), schema="")
        self._document(past, keys.plan(past.job_id), encode(columns, pieces, identity={"id": past.job_id}), at_s)

    def _document(self, past: Past, key: str, data: bytes, at_s: float) -> None:
        self._put(self.main, key, data, at_s)
        past.documents.add(self.main.uri(key))

    def _result(
        self, past: Past, store: ObjectStore, key: str, metadata: dict[str, str] | None = None, body: bytes = b"rows"
    ) -> None:
        store.put(key, body, metadata=metadata)
        past.results.add(store.uri(key))

    def _put(self, store: ObjectStore, key: str, data: bytes, at_s: float) -> None:
        store.put(key, data)
        os.utime(self.folder / store.bucket / key, (at_s, at_s))


def receipt(plan_sha256: str, number: int) -> dict[str, str]:
    return Receipt(plan_sha256=plan_sha256, part=number, rows=ROWS, rejected=0, sha256="1" * 64).to_metadata()
