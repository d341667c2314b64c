"""What moves a job on, without a model or a table: its documents, the ledger, the queue, and how it ends.

Works with `requirements.txt` alone, so that an application and the command line can cancel, resume and reconcile.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from storage import keys
from storage.errors import (
    JobNotFound,
    LedgerFenced,
    LedgerLost,
    ObjectNotFound,
    PreconditionFailed,
    ScorelineError,
    describe,
)
from storage.ledger.base import Due, Recovered
from storage.ledger.redis_ledger import RedisLedger
from storage.objects.base import ObjectStore
from storage.objects.buckets import Buckets
from tasks.plan_file import PlanFile
from tasks.records import read_job, read_outcome, read_run
from tasks.spec import Job, Outcome, budget_rows, parse_uri

log = logging.getLogger(__name__)

PARTS_PER_PROCESS = 4
MIN_WINDOW = 8
"""Parts of one job in the queue at once, at least."""
LEASE_S = 60.0
"""How long a part is left to a process that does not say that it lives; it says so three times in that time."""
STEP_S = 120.0
"""How long planning or finalizing is left to whoever claimed it; who works on renews the claim."""
_DOCUMENTS_KEPT = 8
_ORPHANED = timedelta(days=1)


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
    parts_per_process: int = PARTS_PER_PROCESS
    """Parts of one job in the queue at once, for each process that was counted."""
    _documents: OrderedDict[str, Documents] = field(default_factory=OrderedDict)

    def documents(self, job_id: str) -> Documents:
        """Read a job and its plan, once a process; raises `JobNotFound` and `ObjectNotFound`."""
        if job_id not in self._documents:
            main = self.buckets.main
            self._documents[job_id] = Documents(job=read_job(main, job_id), plan=PlanFile(main, job_id))
            while len(self._documents) > _DOCUMENTS_KEPT:
                self._documents.popitem(last=False)
        return self._documents[job_id]

    def window(self) -> int:
        """Parts of one job that may be in the queue now."""
        return max(MIN_WINDOW, self.parts_per_process * self.ledger.processes())


def results(buckets: Buckets, job: Job) -> tuple[ObjectStore, str]:
    """Store and folder of a job's results."""
    bucket, prefix = parse_uri(job.spec.output)
    return buckets[bucket], keys.output_folder(prefix, job.spec.job_id)


def tend(dispatcher: Dispatcher, job_id: str) -> str:
    """Do for a job whatever is due now; harmless at any moment and from any number of processes.

    Returns
    -------
    str
        What was done: ``ended``, ``planning``, ``dispatched N``, ``finalizing`` or ``waiting``.
    """
    if _cleared(dispatcher, job_id):
        return "ended"
    try:
        documents = dispatcher.documents(job_id)
    except ObjectNotFound:
        return "planning" if send_step(dispatcher, "plan", job_id) else "waiting"
    due = _due(dispatcher, job_id, documents)
    if due is None or due.stopped == "closed":
        if _cleared(dispatcher, job_id):  # it ended meanwhile
            return "ended"
        if due is not None:  # of an earlier run
            dispatcher.ledger.forget(job_id)
        open_ledger(dispatcher, job_id, recover(dispatcher, documents))
        log.warning("ledger.rebuilt", extra={"job_id": job_id})
        due = dispatcher.ledger.dispatch(job_id, documents.plan.sha256, dispatcher.window())
    for part in due.parts:
        dispatcher.send("scoreline.score_part", job_id=job_id, part=part)
    if due.all_done or due.stopped:
        return "finalizing" if send_step(dispatcher, "finalize", job_id) else "waiting"
    return f"dispatched {len(due.parts)}" if due.parts else "waiting"


def _due(dispatcher: Dispatcher, job_id: str, documents: Documents) -> Due | None:
    """Ask the ledger; None where it is lost, or of another plan."""
    try:
        return dispatcher.ledger.dispatch(job_id, documents.plan.sha256, dispatcher.window())
    except (LedgerLost, LedgerFenced):
        return None


def open_ledger(dispatcher: Dispatcher, job_id: str, recovered: Recovered | None = None) -> None:
    """Open a job's ledger, where nobody did before; with what was recovered, where the plan is not new."""
    documents = dispatcher.documents(job_id)
    plan = documents.plan
    run, _ = read_run(dispatcher.buckets.main, job_id)
    budget = budget_rows(run.max_rejected or documents.job.spec.max_rejected, plan.rows)
    try:
        dispatcher.ledger.begin(job_id, plan.sha256, plan.parts, budget=budget, recovered=recovered)
    except LedgerFenced:  # the bucket is the record: a ledger of another plan is stale
        dispatcher.ledger.forget(job_id)
        dispatcher.ledger.begin(job_id, plan.sha256, plan.parts, budget=budget, recovered=recovered)


def recover(dispatcher: Dispatcher, documents: Documents) -> Recovered:
    """Learn from the results in the bucket which parts are done: two listings, and a HEAD a part with rejected rows.

    Rows are those of the plan, less the rejected ones; the finalizer checks each part's own receipt.
    """
    store, folder = results(dispatcher.buckets, documents.job)
    plan = documents.plan
    listed = ((_number(info.key), info) for info in store.list(f"{folder}part-"))
    done = {part: info for part, info in listed if part is not None and part < plan.parts}
    rejected = 0
    for info in store.list(keys.rejected_folder(folder)):
        part = _number(info.key)
        if part in done:
            rejected += int(store.head(done[part].key).metadata.get("rejected", 0))
    rows = sum(part.rows for number, part in enumerate(plan) if number in done) if len(done) < plan.parts else plan.rows
    return Recovered(done=frozenset(done), rows=rows - rejected, rejected=rejected)


def send_step(dispatcher: Dispatcher, step: str, job_id: str) -> bool:
    """Send a job's plan or finalize message, unless somebody did lately; returns whether it was sent."""
    if not dispatcher.ledger.claim(job_id, step, STEP_S):
        return False
    try:
        dispatcher.send(f"scoreline.{step}", job_id=job_id)
    except ScorelineError:  # whoever tries again must not have to wait for this claim
        dispatcher.ledger.unclaim(job_id, step)
        raise
    return True


def fail_job(dispatcher: Dispatcher, job_id: str, error: BaseException) -> None:
    """End a job that cannot go on, with the reason."""
    run, _ = read_run(dispatcher.buckets.main, job_id)
    end_job(dispatcher, job_id, Outcome(state="failed", error=describe(error), failures={}, run=run.number))


def end_job(dispatcher: Dispatcher, job_id: str, outcome: Outcome) -> None:
    """Write the outcome, if nobody did before, and forget the job's ledger.

    The outcome of an earlier run gives way to that of a later one, never the other way round.
    """
    main = dispatcher.buckets.main
    key = keys.outcome(job_id)
    try:
        main.put(key, outcome.to_json(), create_only=True)
    except PreconditionFailed:
        existing = main.get(key)
        if Outcome.from_json(existing.data).run < outcome.run:
            try:
                main.put(key, outcome.to_json(), if_match=existing.info.etag)
            except PreconditionFailed:
                log.info("outcome.exists", extra={"job_id": job_id})
        else:
            log.info("outcome.exists", extra={"job_id": job_id})
    _clear(dispatcher, job_id, outcome.run)
    log.info("job.ended", extra={"job_id": job_id, "state": outcome.state})


def reconcile(dispatcher: Dispatcher) -> dict[str, str]:
    """Tend every job under way; one that cannot be tended does not hold up the others.

    Returns
    -------
    dict of str to str
        What was done, by job id.
    """
    main = dispatcher.buckets.main
    report: dict[str, str] = {}
    for info in main.list(keys.JOBS_ACTIVE):
        job_id = info.key.removeprefix(keys.JOBS_ACTIVE)
        try:
            report[job_id] = tend(dispatcher, job_id)
        except JobNotFound:
            report[job_id] = "submitting"  # the marker comes before the job
            _drop_orphan(dispatcher, info.key)
        except ScorelineError as error:
            report[job_id] = f"failed: {describe(error)}"
            log.error("reconcile.failed: %s: %s", job_id, describe(error), extra={"job_id": job_id})
    return report


def _cleared(dispatcher: Dispatcher, job_id: str) -> bool:
    """Whether a job has ended; then nothing of it is left that is there only while it is under way."""
    outcome = read_outcome(dispatcher.buckets.main, job_id)
    if outcome is not None:
        _clear(dispatcher, job_id, outcome.run)
    return outcome is not None


def _clear(dispatcher: Dispatcher, job_id: str, run: int) -> None:
    """Remove what is there only while a job is under way."""
    main = dispatcher.buckets.main
    if read_run(main, job_id)[0].number == run:
        main.delete(keys.active(job_id))
        dispatcher.ledger.close(job_id)


def _drop_orphan(dispatcher: Dispatcher, key: str) -> None:
    """Remove a marker whose submitter died before it wrote the job: nobody was told of such a job."""
    main = dispatcher.buckets.main
    try:
        marked = datetime.fromisoformat(main.get(key).data.decode())
    except (ObjectNotFound, ValueError):
        return
    if datetime.now(UTC) - marked > _ORPHANED:
        main.delete(key)


def _number(key: str) -> int | None:
    """Part number in a result's key, where it is one of ours."""
    stem = key.rpartition("/part-")[2].removesuffix(".parquet")
    return int(stem) if stem.isdigit() and key.endswith(f"/part-{int(stem):05d}.parquet") else None
