"""Takes the next step of jobs that have stalled. It relies on the bucket, because Redis may have lost everything."""

from __future__ import annotations

import logging
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from scoreline.storage import keys
from scoreline.storage.errors import (
    JobNotFound,
    LedgerCorrupt,
    LedgerFenced,
    LedgerLost,
    ObjectNotFound,
    ScorelineError,
    ScoringError,
    describe,
)
from scoreline.storage.ledger.base import Due, Recovered
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import moment
from scoreline.tasks.dispatch.dispatcher import Dispatcher, Documents, send_step
from scoreline.tasks.dispatch.outcome import clean_up_if_ended
from scoreline.tasks.job.documents import read_run, read_success
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.job.spec import budget_rows
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded

log = logging.getLogger(__name__)

_ORPHANED = timedelta(days=1)
_THREADS = 16


def reconcile(dispatcher: Dispatcher) -> dict[str, str]:
    """Reconcile every job under way. If reconciling one job fails, the others are still reconciled.

    Returns
    -------
    dict of str to str
        What was done, by job id.
    """
    main = dispatcher.buckets.main
    report: dict[str, str] = {}
    under_way = list(main.list(keys.JOBS_ACTIVE))
    random.shuffle(under_way)  # if time runs out, other jobs come first the next time
    for info in under_way:
        job_id = info.key.removeprefix(keys.JOBS_ACTIVE)
        try:
            report[job_id] = reconcile_job(dispatcher, job_id)
        except JobNotFound:
            report[job_id] = "submitting"  # the marker is written before the job
            _drop_orphan(dispatcher, info.key)
        except LedgerCorrupt as error:  # of a step, or of a job that has ended
            report[job_id] = f"failed: {describe(error)}"
            dispatcher.ledger.forget(job_id)
        except ScorelineError as error:
            report[job_id] = f"failed: {describe(error)}"
            log.error("reconcile.failed", extra={"job_id": job_id, "error": describe(error)})
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # a fault in one job must not hold up the others
            report[job_id] = f"failed: {describe(error)}"
            log.exception("reconcile.failed", extra={"job_id": job_id})
            dispatcher.on_fault(error, job_id=job_id)
    return report


def reconcile_job(dispatcher: Dispatcher, job_id: str) -> str:
    """Take the next step of a job. This is safe at any time, and from any number of processes at once.

    Returns
    -------
    str
        What was done: ``ended``, ``planning``, ``dispatched N``, ``finalizing``, or ``waiting`` if nothing was sent.
    """
    if clean_up_if_ended(dispatcher, job_id):
        return "ended"
    try:
        documents = dispatcher.documents(job_id, fresh=True)
    except ObjectNotFound:
        return "planning" if send_step(dispatcher, "plan", job_id) else "waiting"
    due = _due(dispatcher, job_id, documents)
    if due is None or due.stopped == "closed":
        if clean_up_if_ended(dispatcher, job_id):  # the job ended meanwhile
            return "ended"
        if due is not None:  # the ledger belongs to an earlier run
            dispatcher.ledger.forget(job_id)
        open_ledger(dispatcher, documents, recover(dispatcher, documents))
        log.warning("ledger.rebuilt", extra={"job_id": job_id})
        if clean_up_if_ended(dispatcher, job_id):  # the job was cancelled while the bucket was listed
            return "ended"
        due = dispatcher.ledger.dispatch(job_id, documents.plan.sha256, dispatcher.window())
    for part in due.parts:
        dispatcher.send("scoreline.score_part", job_id=job_id, part=part)
    if due.all_done or due.stopped:
        return "finalizing" if send_step(dispatcher, "finalize", job_id) else "waiting"
    return f"dispatched {len(due.parts)}" if due.parts else "waiting"


def _due(dispatcher: Dispatcher, job_id: str, documents: Documents) -> Due | None:
    """Return the work that is due according to the ledger; None if the ledger is lost or belongs to another plan."""
    try:
        return dispatcher.ledger.dispatch(job_id, documents.plan.sha256, dispatcher.window())
    except LedgerCorrupt as error:
        log.warning("ledger.corrupt", extra={"job_id": job_id, "error": describe(error)})
        dispatcher.ledger.forget(job_id)
        return None
    except (LedgerLost, LedgerFenced):
        return None


def open_ledger(dispatcher: Dispatcher, documents: Documents, recovered: Recovered | None = None) -> None:
    """Open a job's ledger, unless it is open already. If the plan is not new, start from what was recovered."""
    job_id, plan = documents.job.spec.job_id, documents.plan
    run, _ = read_run(dispatcher.buckets.main, job_id)
    budget = budget_rows(run.max_rejected or documents.job.spec.max_rejected, plan.rows)
    try:
        dispatcher.ledger.begin(job_id, plan.sha256, plan.parts, budget=budget, recovered=recovered)
    except LedgerFenced:  # the bucket is authoritative: a ledger of another plan is stale
        dispatcher.ledger.forget(job_id)
        dispatcher.ledger.begin(job_id, plan.sha256, plan.parts, budget=budget, recovered=recovered)


def recover(dispatcher: Dispatcher, documents: Documents) -> Recovered:
    """Find out from the results in the bucket which parts are done.

    This takes two listings, and one HEAD request for each part with rejected rows. The rows of a part are those of the
    plan minus the rejected ones; the finalizer checks each part's own receipt. If the ``_SUCCESS`` of arranged results
    exists, every part is done, even if its object has been deleted.
    """
    layout = ResultsLayout.of(dispatcher.buckets, documents.job)
    store, plan = layout.store, documents.plan
    listed = ((keys.part_number(info.key), info) for info in store.list(f"{layout.parts_folder}part-"))
    done = {part: info for part, info in listed if part is not None and part < plan.parts}
    if documents.job.spec.arranged and (success := read_success(store, layout.folder, plan.sha256)) is not None:
        return Recovered(done=frozenset(range(plan.parts)), rows=success["rows"], rejected=success["rejected"])
    aside = {part for info in store.list(layout.rejected_folder) if (part := keys.part_number(info.key)) in done}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="receipt") as pool:
        rejected = sum(pool.map(lambda part: _rejected_of(store, done[part].key), aside))
    rows = sum(part.rows for number, part in enumerate(plan) if number in done) if len(done) < plan.parts else plan.rows
    return Recovered(done=frozenset(done), rows=rows - rejected, rejected=rejected)


def _rejected_of(store: ObjectStore, key: str) -> int:
    """Return the number of rejected rows of a part; 0 if its object has no receipt, which the finalizer refuses."""
    try:
        return Receipt.from_metadata(store.head(key).metadata, store.uri(key)).rejected
    except ScoringError:
        return 0


def _drop_orphan(dispatcher: Dispatcher, key: str) -> None:
    """Remove an old marker without a job: its submitter died before it wrote the job, and no caller knows the job."""
    main = dispatcher.buckets.main
    try:
        marked = moment(main.get(key).data.decode(), "the marker")
    except ObjectNotFound:
        return
    except ValueError as error:
        log.warning("marker.unreadable", extra={"key": key, "error": describe(error)})
        return
    if datetime.now(UTC) - marked > _ORPHANED:
        main.delete(key)
