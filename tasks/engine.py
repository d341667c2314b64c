"""What a worker process needs to move jobs on, without Celery.

The Celery tasks are shells around `planner`, `part` and `finalize`, which share this.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from storage import keys
from storage.errors import ObjectNotFound, PreconditionFailed, describe
from storage.ledger.redis_ledger import RedisLedger
from storage.models.bundle import Bundle
from storage.models.manifest import Manifest, PinnedModel, digest
from storage.objects.base import ObjectStore
from storage.objects.buckets import Buckets
from storage.tables import parquet
from tasks.plan import Plan, Slice
from tasks.records import read_job
from tasks.spec import Job, Outcome, parse_uri

log = logging.getLogger(__name__)

WINDOW = 8
"""Parts of one job in the queue at once, at least."""
_DOCUMENTS_KEPT = 8


class ModelSource(Protocol):
    """Where an engine gets its models: a worker's cache."""

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a loaded bundle."""
        ...

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading it."""
        ...


@dataclass(kw_only=True)
class Engine:
    """What a worker process needs to move jobs on."""

    buckets: Buckets
    ledger: RedisLedger
    models: ModelSource
    send: Callable[..., None]
    """``send(task_name, **kwargs)`` puts a message into the queue."""
    window: int = WINDOW
    _documents: OrderedDict[str, tuple[Job, Plan, str]] = field(default_factory=OrderedDict)

    def job(self, job_id: str) -> Job:
        """Read a job's spec; raises `JobNotFound`."""
        return read_job(self.buckets.main, job_id)

    def documents(self, job_id: str) -> tuple[Job, Plan, str]:
        """Read a job, its plan and the plan's SHA-256, once a process."""
        if job_id not in self._documents:
            data = self.buckets.main.get(keys.plan(job_id)).data
            self._documents[job_id] = (self.job(job_id), Plan.from_bytes(data), digest(data))
            while len(self._documents) > _DOCUMENTS_KEPT:
                self._documents.popitem(last=False)
        return self._documents[job_id]


def results(buckets: Buckets, job: Job) -> tuple[ObjectStore, str]:
    """Store and folder of a job's results."""
    bucket, prefix = parse_uri(job.spec.output)
    return buckets[bucket], keys.output_folder(prefix, job.spec.job_id)


def read_slice(store: ObjectStore, piece: Slice, columns: tuple[str, ...], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a slice, at most `batch_rows` at once; raises `InputChanged` where the object was replaced."""
    return parquet.read_batches(
        store, piece.key, piece.size, piece.etag, row_groups=range(*piece.groups), columns=columns,
        batch_rows=batch_rows,
    )  # fmt: skip


def dispatch_open(engine: Engine, job_id: str, plan: Plan, plan_sha256: str) -> None:
    """Dispatch what is in the window and neither done nor under way; opens the ledger where it is not."""
    for part in engine.ledger.begin(job_id, plan_sha256, len(plan.parts), engine.window):
        engine.send("scoreline.score_part", job_id=job_id, part=part)


def ended(engine: Engine, job_id: str) -> bool:
    """Whether a job has an outcome."""
    try:
        engine.buckets.main.head(keys.outcome(job_id))
    except ObjectNotFound:
        return False
    return True


def fail_job(engine: Engine, job_id: str, error: BaseException) -> None:
    """End a job that cannot go on, with the reason."""
    end_job(engine, job_id, Outcome(state="failed", error=describe(error), failures={}))


def end_job(engine: Engine, job_id: str, outcome: Outcome) -> None:
    """Write the outcome, if nobody did before, and forget the job's ledger."""
    main = engine.buckets.main
    try:
        main.put(keys.outcome(job_id), outcome.to_json(), create_only=True)
    except PreconditionFailed:
        log.info("outcome.exists", extra={"job_id": job_id})
    main.delete(keys.active(job_id))
    engine.ledger.close(job_id)
    log.info("job.ended", extra={"job_id": job_id, "state": outcome.state})
