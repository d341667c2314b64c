"""Answers the pages of one process through a shared cache, so that many readers cost as little as one."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from scoreline.storage.audit import AuditLine
from scoreline.storage.errors import LedgerUnavailable
from scoreline.storage.models.catalog import ListedModel
from scoreline.storage.models.manifest import Manifest
from scoreline.tasks.audit.reading import AuditFilter, read_audit
from scoreline.tasks.backlog.reader import Backlog
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.job.documents import Job, Status, read_job
from scoreline.tasks.job.job_filter import JobFilter
from scoreline.tasks.overview.job import JobFacts, find_download, read_facts
from scoreline.tasks.overview.jobs import Hour, JobPages, JobsPage
from scoreline.tasks.overview.models import ModelFacts, newest_manifests, read_model
from scoreline.tasks.overview.schedules import Night, read_night
from scoreline.tasks.overview.shared_cache import SharedCache
from scoreline.tasks.overview.workers import Worker, ask_workers
from scoreline.tasks.schedules.scheduler import Scheduler

if TYPE_CHECKING:
    from scoreline.tasks.overview.samples import FirstRows
    from scoreline.tasks.rejects.report import RejectedRows

LIVE_S = 1.5
"""Seconds for which the status of a job is shared. It takes at most one request to the bucket and five to Redis."""
_PAGE_S = 3.0
_SLOW_S = 15.0
"""Seconds for which answers are shared that take many requests or a second of waiting."""
_FOREVER_S = 3_600.0
"""Seconds for which documents are shared that do not change."""
AUDITED = timedelta(days=31)
"""The period in which a page shows what people did."""
MOST_REJECTED = 200_000
"""Maximum number of rejected rows that are counted by reason for a page."""


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """All models, with the manifest of the newest version of each."""

    models: tuple[ListedModel, ...]
    newest: dict[str, Manifest | None]


class Overview:
    """Reads what the pages show. One instance serves all threads of a process.

    Parameters
    ----------
    client : Client
        The client of the deployment.
    scheduler : Scheduler
        Reads the schedules, as long as no tick has stored those in force.
    clock : callable
        Returns the time in seconds, for the cache.
    """

    def __init__(self, client: Client, scheduler: Scheduler, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self.scheduler = scheduler
        self._cache = SharedCache(clock)
        self._pages = JobPages(client.buckets.main, client.submission.statuses)

    def forget(self) -> None:
        """Read everything anew, because a person has changed something."""
        self._cache.forget()

    def night(self) -> Night:
        """Return how the slots of all schedules went."""
        return self._cache.get("night", _PAGE_S, lambda: read_night(self.client, self.scheduler, datetime.now(UTC)))

    def jobs(self, chosen: JobFilter, after: str = "") -> JobsPage:
        """Return a page of jobs; raises `InvalidRequest` if the filter or the place is malformed."""
        labels = tuple(sorted(chosen.labels.items()))
        key = (*chosen.states, chosen.model, chosen.group, labels, chosen.since, chosen.until, chosen.schedule, after)
        return self._cache.get(("jobs", key), LIVE_S, lambda: self._pages.page(chosen.check(), after))

    def recent(self, number: int = 8) -> Sequence[Status]:
        """Return the newest jobs."""
        return self._cache.get("recent", LIVE_S, lambda: tuple(self._pages.newest(JobFilter(), number)))

    def hours(self) -> tuple[tuple[Hour, ...], bool]:
        """Return the jobs under way in each of the last 24 hours, and whether all jobs were counted."""
        return self._cache.get("hours", _SLOW_S, lambda: self._pages.hours(datetime.now(UTC)))

    def job(self, job_id: str) -> Job:
        """Return a job; raises `JobNotFound`."""
        return self._cache.get(("job", job_id), _SLOW_S, lambda: read_job(self.client.buckets.main, job_id))

    def status(self, job_id: str) -> Status:
        """Return the status of a job, at most `LIVE_S` old; raises `JobNotFound`.

        While the job is under way, the bucket is hardly asked.
        """
        job, statuses = self.job(job_id), self.client.submission.statuses

        def read() -> Status:
            try:
                return statuses.under_way(job)
            except LedgerUnavailable:  # the bucket alone says how a job has ended
                return statuses.of(job)

        return self._cache.get(("status", job_id), LIVE_S, read)

    def facts(self, job_id: str) -> JobFacts:
        """Return a job with its status and the objects beside its results; raises `JobNotFound`."""
        job, status = self.job(job_id), self.status(job_id)
        buckets = self.client.buckets
        if not status.ended:  # nothing more is read
            return read_facts(buckets, job, status)
        key = ("facts", job_id, status.state, status.checks and status.checks.review)
        return self._cache.get(key, _SLOW_S, lambda: read_facts(buckets, job, status))

    def rejects(self, job_id: str) -> RejectedRows:
        """Count the rejected rows of a job by reason; raises `PackageMissing` without pyarrow."""
        ended = self.status(job_id).ended
        read = lambda: self.client.rejected(job_id, examples=2)  # noqa: E731
        return self._cache.get(("rejects", job_id, ended), _FOREVER_S if ended else _SLOW_S, read)

    def first_rows(self, job_id: str) -> FirstRows | None:
        """Return the first rows of the results of a job; None if it has no results."""

        def read() -> FirstRows | None:
            from scoreline.tasks.overview.samples import first_rows

            job, facts = self.job(job_id), self.facts(job_id)
            name = next((file.name for file in facts.files if _is_result(file.name)), None)
            if name is None:
                return None
            layout, info = find_download(self.client.buckets, job, name)
            return first_rows(layout.store, info, name)

        return self._cache.get(("rows", job_id), _SLOW_S, read)

    def catalog(self) -> Catalog:
        """Return all models."""

        def read() -> Catalog:
            models = tuple(self.client.registry.catalog())
            return Catalog(models=models, newest=newest_manifests(models, self._manifest))

        return self._cache.get("catalog", _PAGE_S, read)

    def model(self, name: str) -> ModelFacts:
        """Return a model with its newest versions; raises `ModelNotFound`."""
        main, registry = self.client.buckets.main, self.client.registry
        return self._cache.get(("model", name), _PAGE_S, lambda: read_model(main, registry, self._manifest, name))

    def _manifest(self, name: str, version: str) -> Manifest:
        read = self.client.registry.published
        return self._cache.get(("manifest", name, version), _FOREVER_S, lambda: read(name, version))

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers that answer within a second; raises `QueueUnavailable`."""
        names = QueueNames.of(self.client.buckets.main.bucket)
        return self._cache.get("workers", _PAGE_S, lambda: ask_workers(self.client.queue, names))

    def backlog(self) -> Backlog:
        """Return the work that is left; raises `LedgerUnavailable`."""
        return self._cache.get("backlog", _PAGE_S, self.client.backlog)

    def audit(self, target: str, since: datetime, number: int = 10) -> Sequence[AuditLine]:
        """Return the newest lines of the audit about a job, an alias or a schedule, in the `AUDITED` after a time.

        Each day takes a listing, so that the audit of years would take hundreds.
        """
        main = self.client.buckets.main
        chosen = AuditFilter(target=target, since=since, until=since + AUDITED)
        return self._cache.get(("audit", target), _SLOW_S, lambda: tuple(read_audit(main, chosen, number)))


def reads_parquet() -> bool:
    """Return whether pyarrow is installed, which rows and rejected rows need."""
    return importlib.util.find_spec("pyarrow") is not None


def _is_result(name: str) -> bool:
    return name.endswith(".parquet") and not any(step.startswith("_") for step in name.split("/"))
