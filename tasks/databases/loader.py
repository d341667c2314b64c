"""Does the work of one message ``scoreline.load``: loads files of an accepted job into tables of databases.

A message loads file after file for a while, and then sends itself again, so that other work gets its turn. Several
messages, the lanes, load one job side by side. What is loaded, the database knows: any process may begin at any time,
and goes on with the files that have no receipt. If a message is lost or its process dies, the reconciler sends another,
because the marker of the job stays until all of its loads have ended. A load that is requested while a message of the
job holds the step is not sent: that message sends itself again when it ends.
"""

from __future__ import annotations

import time
from typing import Any

from scoreline.storage import keys
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import DatabaseUnavailable, ScorelineError, describe
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.tasks.databases.one_load import Load, lane_step
from scoreline.tasks.databases.progress import end_load
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.leases import hold_step
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, load_pending
from scoreline.tasks.job.alert import alert_of_load
from scoreline.tasks.job.documents import COMPLETE, Job, read_job, read_outcome
from scoreline.tasks.job.loads import LoadProgress, LoadRequest, pending

TURN_S = 20.0
"""Seconds after which a message stops and sends itself again, so that other messages get their turn."""


def load(dispatcher: Dispatcher, settings: DatabaseSettings, job_id: str, lane: int | None = None) -> None:
    """Load results of a job into the tables that the job and later requests name.

    Parameters
    ----------
    lane : int, optional
        The number of the lane. By default, this message begins the load: it is lane 0, and sends the others.

    Raises
    ------
    DatabaseUnavailable, StoreUnavailable, LedgerUnavailable
        Transient: try again.
    """
    main = dispatcher.buckets.main
    job, step = read_job(main, job_id), lane_step(lane or 0)
    with hold_step(dispatcher, job_id, step) as attempt:
        tried, left = _load_all(dispatcher, settings, job, lane)
        if attempt > 1 and not left and _is_due(main, job):
            raise DatabaseUnavailable(
                "another process loads the last files, or the server has not noticed yet that a process has died: try "
                "again"
            )
    # A load that is requested from now on has a message of its own. This message continues with earlier requests
    outcome = read_outcome(main, job_id)
    if outcome is None or outcome.state not in COMPLETE:  # a person has withdrawn the results meanwhile
        clean_up_if_ended(dispatcher, job_id)
        return
    due = pending(main, job.spec, outcome.loads)
    is_new = any(request not in tried for request in due)
    if left or is_new:
        if dispatcher.ledger.claim_step(job_id, step):
            goes_on: dict[str, Any] = {} if is_new and not lane else {"lane": lane or 0}  # without it, it sends others
            dispatcher.send("scoreline.load", job_id=job_id, **goes_on)
    elif not due:  # otherwise, other lanes still load
        _end_job(dispatcher, job)


def _is_due(main: ObjectStore, job: Job) -> bool:
    """Return whether accepted results of a job must still be loaded."""
    outcome = read_outcome(main, job.spec.job_id)
    return outcome is not None and load_pending(main, job, outcome)


def _end_job(dispatcher: Dispatcher, job: Job) -> None:
    """Remove the marker of a job. If a load was requested meanwhile, write the marker again."""
    main, job_id = dispatcher.buckets.main, job.spec.job_id
    clean_up_if_ended(dispatcher, job_id)
    if _is_due(main, job) and not exists(main, keys.active(job_id)):
        dispatcher.mark_active(job_id)


def _load_all(
    dispatcher: Dispatcher, settings: DatabaseSettings, job: Job, lane: int | None
) -> tuple[list[LoadRequest], bool]:
    """Load each request that has not ended. Return these, and whether files are left for another message of this lane.

    If the results are not accepted, nothing is loaded.
    """
    main, left = dispatcher.buckets.main, False
    outcome = read_outcome(main, job.spec.job_id)
    if outcome is None or outcome.state not in COMPLETE:
        return [], False
    waits: ScorelineError | None = None
    until = time.monotonic() + TURN_S
    tried = pending(main, job.spec, outcome.loads)
    for request in tried:
        step = Load(dispatcher=dispatcher, settings=settings, job=job, outcome=outcome, request=request, lane=lane)
        try:
            left = step.run(until) or left
        except DatabaseUnavailable as error:  # other loads of the job may have another database or table
            waits = waits or error
    if waits is not None:
        raise waits
    return tried, left


def give_up(
    dispatcher: Dispatcher,
    settings: DatabaseSettings | None,
    job_id: str,
    error: BaseException,
    lane: int | None = None,
) -> None:
    """Record that no load of a job goes on, because of an error that the next attempt would meet again.

    Tables that would have replaced others are dropped. Without settings, or if the database does not answer, they stay.
    """
    main = dispatcher.buckets.main
    job, outcome = read_job(main, job_id), read_outcome(main, job_id)
    dispatcher.ledger.end_step(job_id, lane_step(lane or 0))  # so that a load that is requested now begins at once
    for request in pending(main, job.spec, () if outcome is None else outcome.loads):
        dispatcher.outbox.leave(alert_of_load(job, request, error))
        failed = LoadProgress(number=request.number, state="failed", error=describe(error))
        end_load(dispatcher, job_id, request, failed)
        if outcome is not None and settings is not None:
            Load(dispatcher=dispatcher, settings=settings, job=job, outcome=outcome, request=request).drop_unfinished()
    clean_up_if_ended(dispatcher, job_id)
