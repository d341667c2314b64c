"""Moves jobs forward with their documents, the ledger and the queue, without loading a model or a table.

This module works with `requirements.txt` alone, so that an application can cancel, resume and reconcile jobs.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from scoreline.storage.errors import LedgerError, ScorelineError
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch import trace_context
from scoreline.tasks.dispatch.outbox import Outbox
from scoreline.tasks.job.alert import Event
from scoreline.tasks.job.documents import Job, mark_active, read_job
from scoreline.tasks.job.plan_file import PlanFile

PARTS_PER_PROCESS = 4
MIN_WINDOW = 8
"""Minimum number of parts of one job that are in the queue at once, if the job has that many."""
MAX_WINDOW = 1_000
"""Maximum number of parts of one job that are in the queue at once: four for each of 250 processes."""
BYTES_PER_PART = 560
"""Memory that a part takes in Redis, in the queue and in flight. The number was measured by
`tests/integration/worker/doctor/test_redis_memory.py`."""
LEASE_S = 60.0
"""Duration of a lease, in seconds. A process that works on a part or a step renews its lease three times in that
span."""
RECONCILE_S = 60.0
_DOCUMENTS_KEPT = 8
_LISTED = ("plan", "finalize")
"""Steps that a process may do between two batches of a part."""


@dataclass(frozen=True, kw_only=True)
class Documents:
    """A job and its plan, which are all the documents that scoring a part needs."""

    job: Job
    plan: PlanFile


@dataclass(kw_only=True)
class Dispatcher:
    """Moves jobs forward, with access to the buckets, the ledger and the queue."""

    buckets: Buckets
    ledger: Ledger
    send: Callable[..., None]
    """``send(task_name, **kwargs)`` puts a message into the queue."""
    on_fault: Callable[..., None] = lambda error, **where: None
    """``on_fault(error, job_id=...)`` receives the error of a failed job, and any unexpected error."""
    parts_per_process: int = PARTS_PER_PROCESS
    """Number of parts of one job that are in the queue at once, for each worker process."""
    lease_s: float = LEASE_S
    """Seconds after which a part or a step is given to another process, unless its lease is renewed."""
    reconcile_s: float = RECONCILE_S
    """Seconds between two rounds of the reconciler."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Weights of groups of jobs (see `scoreline.storage.ledger.shares`)."""
    count_messages: Callable[[], int | None] = lambda: None
    """Returns the number of messages of parts in the queue; None if it is unknown."""
    lists_steps: bool = True
    """Whether the steps that are sent may also be done between two batches of a part (see `Ledger.waiting`)."""
    trace: Callable[[], str] = trace_context.current
    """Returns the trace context to send with a message (see `scoreline.tasks.dispatch.trace_context`)."""
    alerts: Collection[Event] = ()
    """The events of which people want to hear (see `scoreline.tasks.alerts`)."""
    _documents: OrderedDict[str, Documents] = field(default_factory=OrderedDict)

    def documents(self, job_id: str, *, fresh: bool = False) -> Documents:
        """Return a job and its plan, which are cached in the process.

        Parameters
        ----------
        fresh : bool
            Read the documents again, because a user may have deleted the job and submitted another job with the same
            id.

        Raises
        ------
        JobNotFound
            No job has that id.
        ObjectNotFound
            The job is not planned yet.
        """
        if fresh:
            self._documents.pop(job_id, None)
        if job_id not in self._documents:
            main = self.buckets.main
            with ThreadPoolExecutor(1, thread_name_prefix="plan") as pool:
                plan = pool.submit(PlanFile, main, job_id)
                job = read_job(main, job_id)
            self.remember(Documents(job=job, plan=plan.result()))
        return self._documents[job_id]

    def remember(self, documents: Documents) -> None:
        """Cache the documents of a job, which were just read or written."""
        self._documents[documents.job.spec.job_id] = documents
        while len(self._documents) > _DOCUMENTS_KEPT:
            self._documents.popitem(last=False)

    @property
    def outbox(self) -> Outbox:
        """The alerts that are not sent yet."""
        return Outbox(main=self.buckets.main, ledger=self.ledger, events=self.alerts)

    def mark_active(self, job_id: str) -> None:
        """Put a job on the reconciler's watchlist, and write the marker of a job under way (see `mark_active`)."""
        self.ledger.watchlist.add([job_id])
        mark_active(self.buckets.main, job_id)

    def window(self) -> int:
        """Return the number of parts of one job that may be in the queue now."""
        return min(MAX_WINDOW, max(MIN_WINDOW, self.parts_per_process * self.ledger.processes()))


def send_step(dispatcher: Dispatcher, step: str, job_id: str, task: str | None = None, *, carried: str = "") -> bool:
    """Send the message of a step, unless that message was sent recently. Return whether this call sent the message.

    Parameters
    ----------
    step : str
        ``plan``, ``finalize`` or ``events``. The step ``events`` sends the job's notification.
    task : str, optional
        The Celery task to send; by default, the task named after the step.
    carried : str
        What the step needs (see `WaitingStep.carried`).
    """
    if not dispatcher.ledger.claim_step(job_id, step):
        return False
    task = task or f"scoreline.{step}"
    if dispatcher.lists_steps and step in _LISTED:
        with contextlib.suppress(LedgerError):  # the list only makes the step begin sooner
            waiting = WaitingStep(task=task, job_id=job_id, carried=carried, trace=dispatcher.trace())
            dispatcher.ledger.waiting.add(waiting)
    try:
        dispatcher.send(task, job_id=job_id)
    except ScorelineError:  # otherwise the next attempt would wait until the claim expires
        dispatcher.ledger.end_step(job_id, step)
        raise
    return True
