"""Resumes a job that failed or was cancelled, or scores the rejected rows of a job in a new job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from scoreline.storage import audit, keys
from scoreline.storage.errors import InvalidRequest, JobRemoved, NothingToResume, PreconditionFailed
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.keys import MAX_NAME
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectStore, exists, if_unchanged
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.tasks.dispatch.job_index import note_run
from scoreline.tasks.dispatch.outcome import end_job
from scoreline.tasks.job.deadline import has_passed, resolve_deadline
from scoreline.tasks.job.documents import (
    COMPLETE,
    REMOVAL_S,
    Job,
    Outcome,
    Run,
    read_job,
    read_outcome,
    read_run,
    seconds_since,
)
from scoreline.tasks.job.spec import JobSpec, check_budget


def begin_run(
    dispatcher: Dispatcher,
    job_id: str,
    max_rejected: str | None = None,
    deadline: str | None = None,
    check: Callable[[Job], None] | None = None,
) -> None:
    """Begin another run of a job; the new run replaces the job's outcome (see `Client.resume`).

    Parameters
    ----------
    check : callable, optional
        Raises an error if the job may not be resumed. The check is called before the run begins, and again after other
        processes can see the run. If the second check fails, the run ends with the outcome of the previous run.
    """
    main = dispatcher.buckets.main
    job = read_job(main, job_id)
    if max_rejected is not None:
        check_budget(max_rejected)
    if deadline is not None:
        given, deadline = deadline, resolve_deadline(deadline, datetime.now(UTC).isoformat())
        if has_passed(deadline):
            raise InvalidRequest(f"deadline {given!r} has passed already: name a later time, or a duration")
    run, etag = read_run(main, job_id)  # read before the outcome, to notice a run that begins meanwhile
    _refuse_while_removed(run, job_id)
    outcome = _ended(main, job_id)
    if outcome.state == "blocked":
        raise NothingToResume(
            f"job {job_id} has all its results, but they are blocked: look at `scoreline status {job_id}`, then "
            f"`scoreline accept {job_id} --reason TEXT` gives them to readers, and `scoreline reject {job_id} --reason "
            "TEXT` keeps them back"
        )
    if outcome.state in COMPLETE:
        raise NothingToResume(f"job {job_id} has all its results ({outcome.state}): there is nothing to resume")
    if check is not None:
        check(job)
    later = Run(number=outcome.run + 1, max_rejected=max_rejected or run.max_rejected, deadline=deadline)
    details = {"run": later.number, "from": outcome.state, "max_rejected": later.max_rejected, "deadline": deadline}
    audit.record(main, action="job.resume", target=job_id, details=details)
    dispatcher.mark_active(job_id)
    note_run(main, job)  # if the process dies, the index must not say that the job has ended
    dispatcher.ledger.forget(job_id)  # a late finalizer must not take the old ledger for the ledger of the new run
    try:
        # After this write, the old outcome is void. If the process dies, the reconciler continues the run.
        main.put(keys.run(job_id), later.to_json(), mode=if_unchanged(etag))
    except PreconditionFailed:
        now = read_run(main, job_id)[0]
        _refuse_while_removed(now, job_id)
        if now != later:  # not written by an earlier attempt of this request
            raise NothingToResume(f"job {job_id} was just resumed by another process") from None
    if check is not None:
        try:
            check(job)
        except BaseException:
            end_job(dispatcher, job_id, replace(outcome, run=later.number))
            raise
    note_run(main, job)  # a late process may have recorded the end of the previous run meanwhile
    dispatcher.mark_active(job_id)  # a reconciler may have removed the marker of the previous run
    dispatcher.ledger.forget(job_id)
    send_step(dispatcher, "plan", job_id)


def _refuse_while_removed(run: Run, job_id: str) -> None:
    """Raise `JobRemoved` if the removal of a job has begun, unless it began long ago and was never decided."""
    if run.removing and seconds_since(run.removing) < REMOVAL_S:
        raise JobRemoved(
            f"job {job_id!r} is being removed, because its results are no longer kept: if `scoreline status {job_id}` "
            "still shows the job in an hour, try again"
        )


def rejected_again(dispatcher: Dispatcher, job_id: str, pinned: PinnedModel, model: str, max_rejected: str) -> JobSpec:
    """Return the spec of a job that scores the rejected rows of `job_id` (see `Client.resume_rejected`).

    If the request is repeated after an error, the spec of the existing job is returned. Submitting the same spec again
    creates no second job.

    Parameters
    ----------
    pinned : PinnedModel
        The model version to which `model` resolves now.

    Raises
    ------
    NothingToResume
        The job is under way, or it rejected no rows, or another job with other options is scoring its rejected rows.
    """
    main = dispatcher.buckets.main
    old, ended = read_job(main, job_id).spec, _ended(main, job_id)
    if not ended.rejected:
        raise NothingToResume(f"job {job_id} rejected no row")
    number = 1
    while exists(main, keys.job(rejected_job_id(job_id, number))):
        number += 1
    again = replace(
        old,
        job_id=rejected_job_id(job_id, number),
        rejected_of=job_id,
        model=model,
        max_rejected=max_rejected,
        only_new=None,
        only_changed=None,
        key=None if old.into is None else old.key,
        deadline=None,
        challenger=None,
        mode="upsert" if old.mode == "replace" else old.mode,  # a few rows do not replace a whole table
    )
    if number == 1:
        return again
    try:
        last = read_job(main, rejected_job_id(job_id, number - 1))
    except JobRemoved:
        return again
    outcome = read_outcome(main, last.spec.job_id)
    same = last.model == pinned and replace(again, job_id=last.spec.job_id) == last.spec
    if outcome is None and not same:
        raise NothingToResume(
            f"job {last.spec.job_id} scores the rejected rows of job {job_id} already, in another way: wait until it "
            f"ends, or end it with `scoreline cancel {last.spec.job_id}`"
        )
    if outcome is None or (same and outcome.state in COMPLETE and outcome.rows + outcome.rejected == ended.rejected):
        return last.spec
    return again


def rejected_job_id(job_id: str, number: int) -> str:
    """Return the id of a job that scores the rejected rows of `job_id`. A long `job_id` is cut, and a digest is added.

    >>> rejected_job_id("nightly", 2)
    'nightly-rejected-2'
    >>> len(rejected_job_id("n" * 100, 2)), rejected_job_id("n" * 100, 2)[-20:]
    (100, '-4e9d8231-rejected-2')
    """
    suffix = f"-rejected-{number}"
    if len(job_id) + len(suffix) > MAX_NAME:
        suffix = f"-{sha256_hex(job_id.encode())[:8]}{suffix}"
    return f"{job_id[: MAX_NAME - len(suffix)]}{suffix}"


def _ended(main: ObjectStore, job_id: str) -> Outcome:
    outcome = read_outcome(main, job_id)
    if outcome is None:
        raise NothingToResume(f"job {job_id} is under way: follow it with `scoreline watch {job_id}`")
    return outcome
