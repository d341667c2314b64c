"""Finds the jobs that have compared two versions of a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import batched, islice

from scoreline.storage import keys
from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job, read_job
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.challengers.comparison import Comparison, read_comparison

log = logging.getLogger(__name__)

DAYS = 31
"""Only jobs that were submitted in so many days are looked at, because older rows say little about the next ones."""
MAX_JOBS = 1_000
"""Maximum number of jobs of the model that are looked at, the newest first."""
_THREADS = 16


def newest_comparison(buckets: Buckets, champion: str, challenger: str) -> Comparison | None:
    """Return the comparison of two versions by the newest job that has one; None if there is none.

    Parameters
    ----------
    champion, challenger : str
        ``name@version`` of both.
    """

    def read(job_id: str) -> Job | None:
        try:
            return read_job(buckets.main, job_id)
        except ScorelineError as error:  # it was removed, or a later release has written it
            log.warning("job.unreadable", extra={"key": keys.job(job_id), "error": describe(error)})
            return None

    listed = islice(_job_ids(buckets, champion.partition("@")[0]), MAX_JOBS)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="jobs") as pool:
        for some in batched(listed, _THREADS):
            for job in pool.map(read, some):
                if (
                    job is None
                    or job.challenger is None
                    or (job.model.ref, job.challenger.ref) != (champion, challenger)
                ):
                    continue
                found = _read(buckets, job)
                if found is not None:
                    return found
    return None


def _read(buckets: Buckets, job: Job) -> Comparison | None:
    """Return the comparison of a job; None if it has none, or if nobody can read it."""
    try:
        return read_comparison(buckets[parse_uri(job.spec.output)[0]], job)
    except ScorelineError as error:
        if error.transient:
            raise
        log.warning("challenger.skipped", extra={"job_id": job.spec.job_id, "error": describe(error)})
        return None


def _job_ids(buckets: Buckets, model: str) -> Iterator[str]:
    """Yield the ids of the jobs of a model, the newest first."""
    today = datetime.now(UTC)
    for days in range(-1, DAYS):  # the clock of the submitter may be ahead
        folder = keys.job_index_day(f"{today - timedelta(days=days):%Y-%m-%d}")
        for info in buckets.main.list(folder):
            match info.key.removeprefix(folder).split("~"):
                case [_, name, job_id] if name == model:
                    yield job_id
