"""Takes the next step of stalled jobs. The reconciler relies on the bucket, because Redis may lose its data."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from scoreline.storage import keys
from scoreline.storage.errors import (
    DeadlinePassed,
    JobNotFound,
    JobRemoved,
    LedgerCorrupt,
    LedgerFenced,
    LedgerLost,
    ObjectNotFound,
    ScorelineError,
    ScoringError,
    describe,
)
from scoreline.storage.ledger.base import Due, Recovered
from scoreline.storage.ledger.shares import Terms
from scoreline.storage.objects.requests import Requests
from scoreline.storage.prefetch import map_ahead
from scoreline.storage.typed_json import moment
from scoreline.tasks.backlog.workload import Workload
from scoreline.tasks.dispatch.dispatcher import Dispatcher, Documents, send_step
from scoreline.tasks.dispatch.leases import keep_renewed
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, drop_marker_if_removed, fail_job
from scoreline.tasks.job.deadline import has_passed
from scoreline.tasks.job.documents import Job, Run, read_job, read_run, read_success
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.listed_rejects import ListedRejects
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.job.spec import budget_rows
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded

log = logging.getLogger(__name__)

_ORPHANED = timedelta(days=1)
_THREADS = 16
MAX_RECEIPTS = 50_000
"""Maximum number of parts with rejected rows whose receipts are read to rebuild a ledger. Reading them takes up to two
minutes, and a task has nine. If more parts have rejected rows, the ledger counts too few rejected rows, so that it may
notice too late that the job exceeds its budget. The finalizer counts all of them."""
LIST_EVERY = 10
"""Number of rounds between two listings of the markers. A listing finds jobs that are missing in the watchlist, but
costs money."""
_MOST_REBUILDS = 3
"""Maximum number of times that a ledger is rebuilt in one go. The message or the next round then tries again."""
SLICE_JOBS = 500
"""Number of jobs that are checked in one round trip to Redis."""


def reconcile(dispatcher: Dispatcher) -> dict[str, str]:
    """Reconcile every job under way. If one job cannot be reconciled, the other jobs are still reconciled.

    Returns
    -------
    dict of str to str
        What was done for each job, by job id.
    """
    return {job_id: _try_job(dispatcher, job_id) for job_id in _listed(dispatcher)}


def reconcile_due(dispatcher: Dispatcher, clock: Callable[[], float] = time.monotonic) -> dict[str, str]:
    """Do one round of the reconciler: reconcile only the jobs that are due according to their ledgers.

    Only one process does a round at a time. A round takes at most half of the time between two rounds, so that the
    process has time for other tasks. The next round continues with the jobs that this round did not reach.

    Parameters
    ----------
    clock : callable
        Returns a time in seconds, like `time.monotonic`.

    Returns
    -------
    dict of str to str
        What was done for each job, by job id.
    """
    watchlist, holder = dispatcher.ledger.watchlist, secrets.token_hex(8)
    if not watchlist.lock("reconciler", holder, dispatcher.lease_s):
        return {}
    try:
        with keep_renewed(lambda: watchlist.lock("reconciler", holder, dispatcher.lease_s), dispatcher.lease_s / 3):
            _watch_listed(dispatcher)
            return _do_round(dispatcher, clock, clock() + dispatcher.reconcile_s / 2)
    finally:
        watchlist.unlock("reconciler", holder)


def _do_round(dispatcher: Dispatcher, clock: Callable[[], float], end_s: float) -> dict[str, str]:
    watchlist, window = dispatcher.ledger.watchlist, dispatcher.window()
    messages = dispatcher.count_messages()
    queue_is_long = messages is not None and messages > window
    report: dict[str, str] = {}
    while clock() < end_s and (taken := watchlist.take(SLICE_JOBS, dispatcher.reconcile_s / 2)):
        for job_id in watchlist.due(taken, window):
            if clock() >= end_s:
                break
            report[job_id] = _try_job(dispatcher, job_id, queue_is_long=queue_is_long)
    return report


def _watch_listed(dispatcher: Dispatcher) -> None:
    """Add the jobs under way to the watchlist, every `LIST_EVERY` rounds and after Redis was emptied."""
    watchlist, holder = dispatcher.ledger.watchlist, secrets.token_hex(8)
    if not watchlist.lock("listing", holder, LIST_EVERY * dispatcher.reconcile_s):
        return
    try:
        watchlist.add(_listed(dispatcher))
    except BaseException:
        watchlist.unlock("listing", holder)
        raise


def _listed(dispatcher: Dispatcher) -> list[str]:
    return [info.key.removeprefix(keys.JOBS_ACTIVE) for info in dispatcher.buckets.main.list(keys.JOBS_ACTIVE)]


def _try_job(dispatcher: Dispatcher, job_id: str, *, queue_is_long: bool = False) -> str:
    """Reconcile a job and return what was done. An error in one job must not stop the others."""
    try:
        done = reconcile_job(dispatcher, job_id, queue_is_long=queue_is_long)
        dispatcher.ledger.watchlist.looked_at(job_id)
        return done
    except JobRemoved:  # a process that resumed or submitted the job while it was removed has left its marker
        drop_marker_if_removed(dispatcher, job_id)
        return "removed"
    except JobNotFound:
        _put_off(dispatcher, job_id)
        _drop_orphan(dispatcher, job_id)
        return "submitting"  # the marker of a job is written before the job's document
    except LedgerCorrupt as error:  # a step's ledger, or the ledger of an ended job, is corrupt
        dispatcher.ledger.forget(job_id)
        return f"failed: {describe(error)}"
    except ScorelineError as error:
        log.error("reconcile.failed", extra={"job_id": job_id, "error": describe(error)})
        if not error.transient:
            _put_off(dispatcher, job_id)
        return f"failed: {describe(error)}"
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        log.exception("reconcile.failed", extra={"job_id": job_id})
        dispatcher.on_fault(error, job_id=job_id)
        _put_off(dispatcher, job_id)
        return f"failed: {describe(error)}"


def _put_off(dispatcher: Dispatcher, job_id: str) -> None:
    """Reconcile a job less often, because the last attempt failed and each attempt costs requests."""
    dispatcher.ledger.watchlist.put_off(job_id, LIST_EVERY * dispatcher.reconcile_s)


def reconcile_job(
    dispatcher: Dispatcher, job_id: str, *, queue_is_long: bool = False, documents: Documents | None = None
) -> str:
    """Take the next step of a job. Any number of processes may call this at any time.

    Parameters
    ----------
    queue_is_long : bool
        See `Ledger.dispatch`.
    documents : Documents, optional
        The documents of the job, if this process has just written the plan.

    Returns
    -------
    str
        What was done: ``ended``, ``planning``, ``dispatched N``, ``finalizing``, or ``waiting`` if nothing was sent.
    """
    if clean_up_if_ended(dispatcher, job_id):
        return "ended"
    try:
        documents = documents or dispatcher.documents(job_id, fresh=True)
    except ObjectNotFound:
        if fail_if_late(dispatcher, read_job(dispatcher.buckets.main, job_id)):
            return "ended"
        return "planning" if send_step(dispatcher, "plan", job_id) else "waiting"
    due = _due(dispatcher, job_id, documents, queue_is_long)
    for _ in range(_MOST_REBUILDS):  # Redis may be emptied again while the ledger is rebuilt
        if due is not None and due.stopped != "closed":
            break
        if clean_up_if_ended(dispatcher, job_id):  # the job ended meanwhile
            return "ended"
        if due is not None:  # this ledger belongs to an earlier run of the job
            dispatcher.ledger.forget(job_id)
        open_ledger(dispatcher, documents, recover(dispatcher, documents))
        log.warning("ledger.rebuilt", extra={"job_id": job_id})
        if clean_up_if_ended(dispatcher, job_id):  # the job was cancelled while `recover` listed the bucket
            return "ended"
        due = _due(dispatcher, job_id, documents, queue_is_long=False)
    if due is None:
        raise LedgerLost(f"the ledger of job {job_id} was lost again and again while it was rebuilt: try again")
    for part in due.parts:
        dispatcher.send("scoreline.score_part", job_id=job_id, part=part)
    if due.all_done or due.stopped:
        return "finalizing" if send_step(dispatcher, "finalize", job_id) else "waiting"
    return f"dispatched {len(due.parts)}" if due.parts else "waiting"


def fail_if_late(dispatcher: Dispatcher, job: Job) -> bool:
    """Fail a job without a plan if its deadline has passed. Return whether the deadline has passed.

    If only a later run has a deadline (see `Run.deadline`), this returns False; the ledger enforces that deadline.
    """
    if job.spec.deadline is None:
        return False
    job_id = job.spec.job_id
    deadline = read_run(dispatcher.buckets.main, job_id)[0].deadline_of(job)
    if deadline is None or not has_passed(deadline):
        return False
    fail_job(dispatcher, job_id, DeadlinePassed(late_error(job_id, deadline)))
    return True


def late_error(job_id: str, deadline: str) -> str:
    """Return the error of a job whose deadline has passed."""
    return (
        f"the deadline {deadline} has passed: `scoreline resume {job_id}` scores the rest without a deadline, or with "
        "--deadline by another one"
    )


def _due(dispatcher: Dispatcher, job_id: str, documents: Documents, queue_is_long: bool) -> Due | None:
    """Return the work that is due according to the ledger; None if the ledger is lost or belongs to another plan."""
    try:
        return dispatcher.ledger.dispatch(
            job_id, documents.plan.sha256, dispatcher.window(), queue_is_long=queue_is_long
        )
    except LedgerCorrupt as error:
        log.warning("ledger.corrupt", extra={"job_id": job_id, "error": describe(error)})
        dispatcher.ledger.forget(job_id)
        return None
    except (LedgerLost, LedgerFenced):
        return None


def open_ledger(
    dispatcher: Dispatcher,
    documents: Documents,
    recovered: Recovered | None = None,
    planning: Requests | None = None,
    run: Run | None = None,
) -> None:
    """Open a job's ledger, unless it is already open. The ledger starts with the parts in `recovered`.

    Parameters
    ----------
    planning : Requests, optional
        The requests that planning took.
    run : Run, optional
        The current run of the job, if the caller has just read it.
    """
    job_id, plan = documents.job.spec.job_id, documents.plan
    run = run or read_run(dispatcher.buckets.main, job_id)[0]
    budget = budget_rows(run.max_rejected or documents.job.spec.max_rejected, plan.rows)
    since = time.time() if run.number > 1 else None
    work = Workload.of(documents.job, plan.rows, since, planning, run.deadline_of(documents.job)).text
    terms = terms_of(documents.job, run)

    def begin() -> None:
        dispatcher.ledger.begin(
            job_id,
            plan.sha256,
            plan.parts,
            budget=budget,
            recovered=recovered,
            terms=terms,
            work=work,
            trace=dispatcher.trace(),
        )

    try:
        begin()
    except LedgerFenced:  # the bucket is authoritative: a ledger of another plan is stale
        dispatcher.ledger.forget(job_id)
        begin()


def terms_of(job: Job, run: Run) -> Terms:
    """Return the terms on which a run of a job shares the processes."""
    spec, deadline = job.spec, run.deadline_of(job)
    return Terms(
        group=spec.group_name,
        priority=spec.priority or "normal",
        submitted_s=datetime.fromisoformat(job.submitted).timestamp(),
        max_parts=spec.max_processes,
        deadline_s=None if deadline is None else datetime.fromisoformat(deadline).timestamp(),
    )


def recover(dispatcher: Dispatcher, documents: Documents, broken: Collection[int] = ()) -> Recovered:
    """Find, from the results in the bucket, which parts are done.

    Parts in `broken` count as not done. The requests are two listings, and one HEAD request for each part with rejected
    rows, up to `MAX_RECEIPTS`. The number of scored rows is the planned number minus the rejected rows; the finalizer
    checks the receipt of each part. If a job arranges its results (see `JobSpec.arranged`) and has its ``_SUCCESS``,
    all parts count as done, even if their objects have been deleted.
    """
    layout = ResultsLayout.of(dispatcher.buckets, documents.job)
    store, plan = layout.store, documents.plan
    listed = (keys.part_number(info.key) for info in store.list(f"{layout.parts_folder}part-"))
    done = frozenset(part for part in listed if part is not None and part < plan.parts and part not in broken)
    if documents.job.spec.arranged and (success := read_success(store, layout.folder, plan.sha256)) is not None:
        return Recovered(done=frozenset(range(plan.parts)), rows=success["rows"], rejected=success["rejected"])
    aside = (part for part in ListedRejects(layout).parts() if part in done)
    some = islice(aside, MAX_RECEIPTS)
    with contextlib.closing(map_ahead(partial(_rejected_of, layout), some, threads=_THREADS, budget=_THREADS)) as found:
        rejected = sum(found)
    rows = sum(part.rows for number, part in enumerate(plan) if number in done) if len(done) < plan.parts else plan.rows
    return Recovered(done=done, rows=rows - rejected, rejected=rejected)


def _rejected_of(layout: ResultsLayout, part: int) -> int:
    """Return the number of rejected rows of a part; 0 if the part has no receipt.

    The finalizer reports a missing receipt.
    """
    try:
        key = layout.part(part)
        return Receipt.from_metadata(layout.store.head(key).metadata, layout.uri(key)).rejected
    except ScoringError:
        return 0


def _drop_orphan(dispatcher: Dispatcher, job_id: str) -> None:
    """Remove an old marker whose job was never written, because the submitting process died."""
    main, key = dispatcher.buckets.main, keys.active(job_id)
    try:
        marked = moment(main.get(key).data.decode(), "the marker")
    except ObjectNotFound:
        dispatcher.ledger.watchlist.remove(job_id)
        return
    except ValueError as error:
        log.warning("marker.unreadable", extra={"key": key, "error": describe(error)})
        return
    if datetime.now(UTC) - marked > _ORPHANED:
        main.delete(key)
        dispatcher.ledger.watchlist.remove(job_id)
