"""Resumes a job that failed or was cancelled, or scores the rejected rows of a job in a new job."""

from __future__ import annotations

from dataclasses import replace

from scoreline.storage import keys
from scoreline.storage.errors import NothingToResume, PreconditionFailed
from scoreline.storage.objects.base import ObjectStore, exists, if_unchanged
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.tasks.job.documents import Outcome, Run, mark_active, read_job, read_outcome, read_run
from scoreline.tasks.job.spec import JobSpec, check_budget


def begin_run(dispatcher: Dispatcher, job_id: str, max_rejected: str | None = None) -> None:
    """Begin another run of a job, so that its outcome no longer counts (see `Client.resume`)."""
    main = dispatcher.buckets.main
    read_job(main, job_id)
    if max_rejected is not None:
        check_budget(max_rejected)
    outcome = _ended(main, job_id)
    if outcome.state in ("succeeded", "partial"):
        raise NothingToResume(f"job {job_id} has all its results ({outcome.state}): there is nothing to resume")
    run, etag = read_run(main, job_id)
    later = Run(number=outcome.run + 1, max_rejected=max_rejected or run.max_rejected)
    mark_active(main, job_id)
    try:
        # From here on, the outcome no longer counts. If this process dies now, the reconciler continues.
        main.put(keys.run(job_id), later.to_json(), mode=if_unchanged(etag))
    except PreconditionFailed:
        if read_run(main, job_id)[0] != later:  # not merely our own put, repeated by the client library
            raise NothingToResume(f"job {job_id} was just resumed by another process") from None
    mark_active(main, job_id)  # a reconciler may have removed the marker of the previous run
    dispatcher.ledger.forget(job_id)
    send_step(dispatcher, "plan", job_id)


def rejected_again(dispatcher: Dispatcher, job_id: str, model: str | None, max_rejected: str) -> JobSpec:
    """Return the spec of a job that scores the rejected rows of another job (see `Client.resume_rejected`)."""
    main = dispatcher.buckets.main
    old = read_job(main, job_id).spec
    if not _ended(main, job_id).rejected:
        raise NothingToResume(f"job {job_id} rejected no row")
    number = 1
    while exists(main, keys.job(f"{job_id}-rejected-{number}")):
        number += 1
    return replace(
        old,
        job_id=f"{job_id}-rejected-{number}",
        rejected_of=job_id,
        model=model or old.model,
        max_rejected=max_rejected,
        only_new=None,
    )


def _ended(main: ObjectStore, job_id: str) -> Outcome:
    outcome = read_outcome(main, job_id)
    if outcome is None:
        raise NothingToResume(f"job {job_id} is under way: follow it with `scoreline watch {job_id}`")
    return outcome
