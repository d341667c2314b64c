"""A job's documents, as they lie in the bucket."""

from __future__ import annotations

from storage import keys
from storage.errors import JobNotFound, ObjectNotFound
from storage.objects.base import ObjectStore
from tasks.spec import Job, Outcome


def read_job(store: ObjectStore, job_id: str) -> Job:
    """Read ``job.json``; raises `JobNotFound`."""
    try:
        return Job.from_json(store.get(keys.job(job_id)).data)
    except ObjectNotFound as error:
        if "no bucket" in str(error):
            raise
        raise JobNotFound(f"no job {job_id!r} in bucket {store.bucket!r}") from None


def read_outcome(store: ObjectStore, job_id: str) -> Outcome | None:
    """Read ``outcome.json``, where the job has ended."""
    try:
        return Outcome.from_json(store.get(keys.outcome(job_id)).data)
    except ObjectNotFound:
        return None
