"""A job's documents, as they lie in the bucket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from storage import keys
from storage.errors import InvalidRequest, JobNotFound, ObjectNotFound, PreconditionFailed, RecordCorrupt
from storage.objects.base import ObjectStore
from tasks.spec import Job, Notice, Outcome, Run

_MALFORMED = (ValueError, KeyError, TypeError, InvalidRequest)


@contextlib.contextmanager
def reading(store: ObjectStore, key: str) -> Iterator[None]:
    """Name the object where the block finds that it is not what Scoreline writes; raises `RecordCorrupt`."""
    try:
        yield
    except _MALFORMED as error:
        reason = str(error) if isinstance(error, InvalidRequest) else repr(error)
        raise RecordCorrupt(f"{store.uri(key)} is not what Scoreline writes there: {reason}") from error


def read_job(store: ObjectStore, job_id: str) -> Job:
    """Read ``job.json``; raises `JobNotFound`."""
    try:
        with reading(store, key := keys.job(job_id)):
            job = Job.from_json(store.get(key).data)
            if job.spec.job_id != job_id:
                raise ValueError(f"it is job {job.spec.job_id!r}")
            return job
    except ObjectNotFound as error:
        if "no bucket" in str(error):
            raise
        raise JobNotFound(f"no job {job_id!r} in bucket {store.bucket!r}") from None


def read_run(store: ObjectStore, job_id: str) -> tuple[Run, str | None]:
    """Read which run of a job counts, and the ETag of its record where it was resumed."""
    try:
        got = store.get(keys.run(job_id))
    except ObjectNotFound:
        return Run(), None
    with reading(store, keys.run(job_id)):
        return Run.from_json(got.data), got.info.etag


def read_outcome(store: ObjectStore, job_id: str) -> Outcome | None:
    """Read ``outcome.json``, where the run that counts has ended."""
    try:
        with reading(store, key := keys.outcome(job_id)):
            outcome = Outcome.from_json(store.get(key).data)
    except ObjectNotFound:
        return None
    if outcome.state in ("succeeded", "partial"):  # such a job cannot be resumed
        return outcome
    return outcome if outcome.run >= read_run(store, job_id)[0].number else None


def read_success(store: ObjectStore, folder: str, plan_sha256: str) -> Mapping[str, Any] | None:
    """Read ``_SUCCESS`` of a job whose results are arranged; None where it is not there, or is of another plan.

    Once it is there the job's parts may be gone.
    """
    try:
        with reading(store, key := keys.success(folder)):
            raw = json.loads(store.get(key).data)
            if not isinstance(raw, dict) or raw.get("plan") != plan_sha256:
                return None
            if not all(type(raw[name]) is int for name in ("rows", "rejected", "parts")):
                raise TypeError("rows, rejected and parts are not numbers")
            return raw
    except ObjectNotFound:
        return None


def read_notice(store: ObjectStore, job_id: str) -> Notice | None:
    """Read whether somebody was told of a job's end; None where nobody was, and somebody may still try."""
    try:
        with reading(store, key := keys.notice(job_id)):
            return Notice.from_json(store.get(key).data)
    except ObjectNotFound:
        return None


def mark_active(store: ObjectStore, job_id: str) -> None:
    """Note in the bucket that a job is under way, and since when."""
    with contextlib.suppress(PreconditionFailed):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        store.put(keys.active(job_id), now.encode(), create_only=True)


def seconds_since(moment: str) -> float:
    """Seconds since a time in ISO 8601, a job's submission say."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
