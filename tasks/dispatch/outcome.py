"""Ends jobs: writes the outcome to the bucket, closes the ledger, and removes the job's marker in ``jobs/active/``."""

from __future__ import annotations

import logging
from dataclasses import replace

from scoreline.storage import keys
from scoreline.storage.errors import (
    BucketNotAllowed,
    DeadlinePassed,
    InputError,
    InputNotFound,
    InvalidRequest,
    JobFailed,
    PreconditionFailed,
    ProcessDied,
    RejectBudgetExceeded,
    ScoringError,
    describe,
    without_quotes,
)
from scoreline.storage.objects.base import CREATE, IfMatch, ObjectStore, exists
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.tasks.dispatch.job_index import note_end, note_run, noting_end
from scoreline.tasks.job.alert import alert_of_end
from scoreline.tasks.job.documents import (
    COMPLETE,
    WITH_RESULTS,
    Job,
    Outcome,
    Reason,
    claim_end,
    read_delivery,
    read_job,
    read_outcome,
    read_run,
    read_tombstone,
    seconds_since,
)
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.loads import pending

log = logging.getLogger(__name__)

_UNWRITTEN_ROUNDS = 10
"""Number of rounds of the reconciler after which it tries again to write an entry in the index that could not be
written. The store may refuse the entry for ever, and each attempt costs several requests."""


def fail_job(dispatcher: Dispatcher, job_id: str, error: BaseException) -> None:
    """End a job that cannot continue, and record the error."""
    if is_complete(dispatcher, job_id):
        log.error("job.complete", extra={"job_id": job_id, "error": describe(error)})
        dispatcher.ledger.end_step(job_id, "finalize")  # the job can only succeed: reset the count of attempts
        return  # the reconciler sends the message ``finalize`` again
    run, _ = read_run(dispatcher.buckets.main, job_id)
    submitted = read_job(dispatcher.buckets.main, job_id).submitted
    outcome = Outcome(
        state="failed",
        error=describe(error),
        summary=without_quotes(error),
        reason=_reason(dispatcher, job_id, error),
        failures={},
        run=run.number,
        seconds=seconds_since(submitted),
    )
    if (now := dispatcher.ledger.progress(job_id)) is not None:
        outcome = replace(outcome, rows=now.rows, rejected=now.rejected, parts=now.parts, parts_done=now.parts_done)
    end_job(dispatcher, job_id, outcome, cause=error)


def _reason(dispatcher: Dispatcher, job_id: str, error: BaseException) -> Reason:
    """Return why a job failed: ``request`` if it has no plan and another run would fail in the same way."""
    if isinstance(error, RejectBudgetExceeded):
        return "rejected"
    if isinstance(error, DeadlinePassed):
        return "deadline"
    elsewhere = BucketNotAllowed, InputNotFound, ProcessDied  # a user can correct these without submitting another job
    asked = isinstance(error, InvalidRequest | InputError | ScoringError) and not isinstance(error, elsewhere)
    return "request" if asked and not exists(dispatcher.buckets.main, keys.plan(job_id)) else "error"


def is_complete(dispatcher: Dispatcher, job_id: str) -> bool:
    """Return whether ``_SUCCESS`` is written. A job with ``_SUCCESS`` can neither fail nor be cancelled."""
    try:
        layout = ResultsLayout.of(dispatcher.buckets, read_job(dispatcher.buckets.main, job_id))
    except BucketNotAllowed:  # nothing was written there
        return False
    return exists(layout.store, layout.success)


def end_job(dispatcher: Dispatcher, job_id: str, outcome: Outcome, *, cause: BaseException | None = None) -> None:
    """End a job with an outcome. If another outcome was claimed earlier, record the earlier outcome and not this one.

    If the job's success was claimed earlier, record nothing, because a finalizer is about to write it.
    """
    decided = claim_end(dispatcher.buckets.main, job_id, outcome)
    if outcome.state not in WITH_RESULTS and decided.state in WITH_RESULTS:
        log.info("outcome.exists", extra={"job_id": job_id})
        if not clean_up_if_ended(dispatcher, job_id):
            dispatcher.ledger.end_step(job_id, "finalize")  # the job can only succeed: reset the count of attempts
        return
    record_outcome(dispatcher, job_id, decided, cause=cause if decided == outcome else None)


def record_outcome(
    dispatcher: Dispatcher,
    job_id: str,
    outcome: Outcome,
    *,
    cause: BaseException | None = None,
    job: Job | None = None,
) -> bool:
    """Write the claimed outcome, unless an outcome is already written, and close the job's ledger.

    The outcome of a later run replaces the outcome of an earlier run, but never the reverse.

    Parameters
    ----------
    job : Job, optional
        The job, if the caller has read it.

    Returns
    -------
    bool
        Whether this call wrote the outcome.
    """
    written = _write(dispatcher, job_id, outcome)
    if not written:
        log.info("outcome.exists", extra={"job_id": job_id})
    elif outcome.state == "failed":
        ended = {"state": outcome.state, "error": outcome.error, "reason": outcome.reason}
        log.error("job.ended", extra={"job_id": job_id, **ended})
        dispatcher.ledger.counters.count_job(outcome.state)
        dispatcher.on_fault(cause or JobFailed(outcome.error), job_id=job_id)
    else:
        log.info("job.ended", extra={"job_id": job_id, "state": outcome.state})
        dispatcher.ledger.counters.count_job(outcome.state)
    _clear(dispatcher, job_id, outcome, job)
    return written


def _write(dispatcher: Dispatcher, job_id: str, outcome: Outcome) -> bool:
    """Write the outcome, unless this run or a later run has one. Return whether this call wrote it."""
    main, key = dispatcher.buckets.main, keys.outcome(job_id)
    try:
        main.put(key, outcome.to_json(), mode=CREATE)
        return True
    except PreconditionFailed:
        existing = main.get(key)
    if Outcome.from_json(existing.data).run >= outcome.run:
        return False
    try:
        main.put(key, outcome.to_json(), mode=IfMatch(existing.info.etag))
        return True
    except PreconditionFailed:
        return False


def clean_up_if_ended(dispatcher: Dispatcher, job_id: str) -> bool:
    """If a job has ended, remove its marker and close its ledger. Return whether the job has ended."""
    outcome = read_outcome(dispatcher.buckets.main, job_id)
    if outcome is not None:
        _clear(dispatcher, job_id, outcome)
    return outcome is not None


def drop_marker_if_removed(dispatcher: Dispatcher, job_id: str) -> None:
    """Remove the marker of a removed job. If the removal is withdrawn meanwhile, write the marker again."""
    main = dispatcher.buckets.main
    if read_tombstone(main, job_id) is None:
        return
    main.delete(keys.active(job_id))
    dispatcher.ledger.watchlist.remove(job_id)
    if read_tombstone(main, job_id) is None:
        dispatcher.mark_active(job_id)


def webhook_pending(main: ObjectStore, job: Job, run: int) -> bool:
    """Return whether the receiver of the webhook must still be notified of the end of a run."""
    if job.webhook is None:
        return False
    notice = read_delivery(main, job.spec.job_id)
    return notice is None or notice.run < run


def load_pending(main: ObjectStore, job: Job, outcome: Outcome) -> bool:
    """Return whether accepted results of a job must still be loaded into a database."""
    return outcome.state in COMPLETE and bool(pending(main, job.spec, outcome.loads))


def _clear(dispatcher: Dispatcher, job_id: str, outcome: Outcome, job: Job | None = None) -> None:
    """Close a job's ledger, correct its entry in the index, and remove its marker, unless another run has begun.

    A complete run is the last run of its job, so `run.json` is not read if the run is complete. The entry of a complete
    job is written while the marker is removed, or not at all if the outcome says the same (see `entry_in`). Any other
    end must be in the index before the marker is removed, because a listing by state takes a job without a marker for
    complete if its entry says that it is under way. If the entry cannot be written, the marker stays, and the
    reconciler tries again later.

    The marker stays until the webhook is delivered and the results are loaded.
    """
    main, run, may_be_resumed = dispatcher.buckets.main, outcome.run, outcome.state not in WITH_RESULTS
    if may_be_resumed and read_run(main, job_id)[0].number != run:
        return
    dispatcher.ledger.close(job_id)
    job = job or read_job(main, job_id)
    dispatcher.outbox.leave(alert_of_end(job, outcome))
    due = ["events"] if webhook_pending(main, job, run) else []
    due += ["load"] if load_pending(main, job, outcome) else []
    if due:
        note_end(main, job, outcome)
        for step in due:
            send_step(dispatcher, step, job_id)
        return
    if outcome.state not in COMPLETE:
        if not note_end(main, job, outcome):
            dispatcher.ledger.watchlist.put_off(job_id, _UNWRITTEN_ROUNDS * dispatcher.reconcile_s)
            return
        main.delete(keys.active(job_id))
    elif outcome.job is not None:
        main.delete(keys.active(job_id))
    else:
        with noting_end(main, job, outcome):
            main.delete(keys.active(job_id))
    dispatcher.ledger.watchlist.remove(job_id)
    if may_be_resumed and read_run(main, job_id)[0].number != run:  # the job was resumed meanwhile
        dispatcher.mark_active(job_id)  # before the entry, which would mean a complete job without a marker
        note_run(main, job)
