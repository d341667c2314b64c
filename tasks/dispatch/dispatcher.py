"""What it takes to move a job on, without a model or a table: its documents, the ledger, the queue.

Works with `requirements.txt` alone, so that an application and the command line can cancel, resume and reconcile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from scoreline.storage.errors import ScorelineError
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job, read_job
from scoreline.tasks.job.plan_file import PlanFile

PARTS_PER_PROCESS = 4
MIN_WINDOW = 8
"""Parts of one job in the queue at once, at least."""
MAX_WINDOW = 2_000
"""And at most: some 3 MB of messages and ledger."""
LEASE_S = 60.0
"""How long a part or a step is left to a process that does not say that it lives; it says so thrice in that time."""
_DOCUMENTS_KEPT = 8


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What a job's parts need to know."""

    job: Job
    plan: PlanFile


@dataclass(kw_only=True)
class Dispatcher:
    """What it takes to move jobs on."""

    buckets: Buckets
    ledger: RedisLedger
    send: Callable[..., None]
    """``send(task_name, **kwargs)`` puts a message into the queue."""
    on_fault: Callable[..., None] = lambda error, **where: None
    """``on_fault(error, job_id=...)`` is told of a job that failed, and of an error that nobody foresaw."""
    parts_per_process: int = PARTS_PER_PROCESS
    """Parts of one job in the queue at once, for each process that was counted."""
    lease_s: float = LEASE_S
    """Seconds after which a part or a step is taken from a process that does not renew its lease."""
    _documents: OrderedDict[str, Documents] = field(default_factory=OrderedDict)

    def documents(self, job_id: str, *, fresh: bool = False) -> Documents:
        """Read a job and its plan, once a process; raises `JobNotFound` and `ObjectNotFound`.

        Where `fresh`, read them again: records removed by hand may have made room for another job of that id.
        """
        if fresh:
            self._documents.pop(job_id, None)
        if job_id not in self._documents:
            main = self.buckets.main
            self._documents[job_id] = Documents(job=read_job(main, job_id), plan=PlanFile(main, job_id))
            while len(self._documents) > _DOCUMENTS_KEPT:
                self._documents.popitem(last=False)
        return self._documents[job_id]

    def window(self) -> int:
        """Parts of one job that may be in the queue now."""
        return min(MAX_WINDOW, max(MIN_WINDOW, self.parts_per_process * self.ledger.processes()))


def send_step(dispatcher: Dispatcher, step: str, job_id: str, task: str | None = None) -> bool:
    """Send a job's plan or finalize message, unless somebody did lately; returns whether it was sent.

    `task` is what to send where that does more than the step alone.
    """
    if not dispatcher.ledger.claim_step(job_id, step):
        return False
    try:
        dispatcher.send(task or f"scoreline.{step}", job_id=job_id)
    except ScorelineError:  # whoever tries again must not have to wait for this claim
        dispatcher.ledger.end_step(job_id, step)
        raise
    return True
