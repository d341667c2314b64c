"""The tasks of a worker: shells that name their policy, around what `tasks` does. A worker alone imports them."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task
from celery.exceptions import Reject, Retry

from scoreline.storage.errors import (
    InvalidRequest,
    JobFailed,
    JobNotFound,
    LedgerFenced,
    LedgerLost,
    ObjectNotFound,
    ScorelineError,
    ScoringError,
    describe,
)
from scoreline.storage.keys import check_name
from scoreline.tasks.dispatch import outcome
from scoreline.tasks.dispatch import reconcile as reconciling
from scoreline.tasks.job.submit_options import RecordsOptions, SubmitOptions, check_known
from scoreline.tasks.records import job as records_job
from scoreline.tasks.steps import finalize as finalizing
from scoreline.tasks.steps import inline, planner
from scoreline.tasks.steps import score_part as parts
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.webhooks import notify
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker import lifecycle
from scoreline.worker.celery import app
from scoreline.worker.settings import PROCESSES_KNOWN_S, SOFT_TIME_LIMIT_S

log = logging.getLogger(__name__)

MAX_RETRIES = 30
"""With `LONGEST_RETRY_S` between them, an outage of a quarter of an hour fails no part."""
LONGEST_RETRY_S = 60
MAX_UNKNOWN = 3
"""Tries after an error that is not ours: a fault in the code would else leave its job open for ever."""
RETRY_DELAY_S = 2
"""After the process of a part died."""
PROCESSES_COUNTED_EVERY_S = 30

lifecycle.connect(app)


def _refuse_unless_id(job_id: str) -> None:
    """Drop a message that names no job: anybody who can reach the broker can send one."""
    try:
        check_name("job id", job_id)
    except InvalidRequest as error:
        log.error("message.refused", extra={"error": describe(error)})
        raise Reject(describe(error), requeue=False) from None


def _check_given(**needed: Any) -> None:
    """Name what a message lacks; raises `InvalidRequest`."""
    if missing := [name for name, value in needed.items() if value is None]:
        raise InvalidRequest(f"the message lacks {' and '.join(missing)}: send kwargs with {' and '.join(needed)}")


@contextlib.contextmanager
def _until_told(task: Task[Any, Any], job_id: str) -> Iterator[None]:
    """Try transient errors again for a while, and unknown ones a few times; then the job fails with the reason."""
    _refuse_unless_id(job_id)
    try:
        yield
    except Retry:
        raise
    except JobNotFound as error:
        log.warning("job.unknown", extra={"job_id": job_id, "error": describe(error)})
    except SoftTimeLimitExceeded:
        step = task.name.removeprefix("scoreline.")
        reason = f"the step {step!r} took longer than {SOFT_TIME_LIMIT_S} s: name fewer objects in one job"
        outcome.fail_job(lifecycle.engine(app), job_id, ScoringError(reason))
    except Exception as error:
        known = isinstance(error, ScorelineError)
        if not known:
            log.exception("task.broken", extra={"job_id": job_id})
        patience = MAX_RETRIES if getattr(error, "transient", False) else 0 if known else MAX_UNKNOWN
        if task.request.retries < patience:
            raise _retry_later(task, error) from error
        outcome.fail_job(lifecycle.engine(app), job_id, error)


def _retry_later(task: Task[Any, Any], error: Exception, **changed: Any) -> BaseException:
    """Send the message again after a pause that doubles, with jitter, so that workers do not come back in step."""
    longest = min(LONGEST_RETRY_S, 2 ** (task.request.retries + 1))
    return task.retry(
        exc=error,
        countdown=random.uniform(longest / 2, longest),
        max_retries=MAX_RETRIES,
        throw=False,
        kwargs={**(task.request.kwargs or {}), **changed},
    )


@app.task(
    name="scoreline.submit", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S, ignore_result=False
)
def submit(self: Task[Any, Any], /, model: Any = None, input: Any = None, **options: Any) -> dict[str, Any]:
    """Submit a job on behalf of an application that has nothing of ours installed; the answer is its status.

    The message's id is the job's, where none is given: delivered twice or tried again, it is one job.
    """
    options["job_id"] = options.get("job_id") or self.request.id
    try:
        _check_given(model=model, input=input)
        check_known(options, SubmitOptions)
        return lifecycle.client(app).submit(model, input, **options).to_dict()
    except ScorelineError as error:
        if not error.transient or self.request.retries >= MAX_RETRIES:
            log.error("submit.refused", extra={"model": model, "input": input, "error": describe(error)})
            raise
        raise _retry_later(self, error) from error


@app.task(
    name="scoreline.score_records",
    bind=True,
    max_retries=MAX_RETRIES,
    default_retry_delay=RETRY_DELAY_S,
    ignore_result=False,
    resultrepr_maxsize=1,  # Celery logs the answer, and rows are not for logs
)
def score_records(self: Task[Any, Any], /, model: Any = None, records: Any = None, **options: Any) -> dict[str, Any]:
    """Score the records in a message of an application that has nothing of ours installed; the answer has the results.

    As with `submit`, the message's id is the job's.
    """
    job_id: Any = options.get("job_id") or self.request.id
    options["job_id"] = job_id
    engine, client = lifecycle.engine(app), lifecycle.client(app)
    try:
        _check_given(model=model, records=records)
        check_known(options, RecordsOptions)
        records_job.check_message(records)
        records_job.accept_records(client.submission, model, records, **options)
        with _rebuilt(engine, job_id):
            inline.score_small(engine, job_id, str(self.request.id))
        told = records_job.answer(client, job_id)
    except ScorelineError as error:
        if not error.transient or self.request.retries >= MAX_RETRIES:
            log.error("records.refused", extra={"model": model, "job_id": job_id, "error": describe(error)})
            raise
        raise _retry_later(self, error) from error
    lifecycle.report()
    if told is None:  # somebody else is at it
        raise _retry_later(self, JobFailed(f"job {job_id} has not ended yet: ask scoreline.status"))
    return told


@app.task(name="scoreline.score_staged", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def score_staged(self: Task[Any, Any], job_id: str) -> None:
    """Score a job of records that are in the bucket."""
    engine = lifecycle.engine(app)
    with _until_told(self, job_id), _rebuilt(engine, job_id):
        inline.score_small(engine, job_id, str(self.request.id))
    lifecycle.report()


@contextlib.contextmanager
def _rebuilt(engine: Engine, job_id: str) -> Iterator[None]:
    """Do what is due for a job of which Redis was found to know nothing: the queue brings the rest."""
    try:
        yield
    except (LedgerLost, LedgerFenced, ObjectNotFound):
        with contextlib.suppress(SoftTimeLimitExceeded):
            reconciling.reconcile_job(engine, job_id)


@app.task(name="scoreline.status", ignore_result=False)
def status(job_id: Any = None) -> dict[str, Any]:
    """Answer an application that has nothing of ours installed how far its job is."""
    _check_given(job_id=job_id)
    return lifecycle.client(app).status(job_id).to_dict()


@app.task(name="scoreline.plan", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def plan(self: Task[Any, Any], job_id: str) -> None:
    """Cut a job into parts and dispatch the first."""
    with _until_told(self, job_id):
        planner.plan_job(lifecycle.engine(app), job_id)


@app.task(name="scoreline.score_part", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def score_part(self: Task[Any, Any], job_id: str, part: int, retried: int = 0) -> dict[str, int] | None:
    """Score one part; a transient error is retried, and in the end fails the part with that reason.

    `retried` is the number of the try that follows a transient error, which was no attempt. A try that follows the
    death of a process carries the same arguments and has another number.
    """
    engine = lifecycle.engine(app)
    tries = self.request.retries
    done: dict[str, int] | None = None
    with _until_told(self, job_id):
        try:
            done = _score_part(engine, job_id, part, str(self.request.id), is_retry=0 < retried == tries)
        except (LedgerLost, LedgerFenced, ObjectNotFound):  # Redis was emptied, or there is no plan
            with contextlib.suppress(SoftTimeLimitExceeded):  # the reconciler goes on
                reconciling.reconcile_job(engine, job_id)
        except ScorelineError as error:
            if not error.transient:
                raise
            if tries < MAX_RETRIES:
                raise _retry_later(self, error, retried=tries + 1) from error
            parts.count_part(engine, job_id, part, failure=f"gave up: {describe(error)}")
    lifecycle.report()
    return done


def _score_part(engine: Engine, job_id: str, part: int, holder: str, *, is_retry: bool) -> dict[str, int] | None:
    try:
        done = parts.score_part(engine, job_id, part, holder, is_retry=is_retry)
        return None if done is None else {"rows": done[0], "rejected": done[1]}
    except SoftTimeLimitExceeded:
        reason = f"part {part} took longer than {SOFT_TIME_LIMIT_S} s: make parts smaller with --part-rows"
        parts.count_part(engine, job_id, part, failure=reason)
        return None


@app.task(name="scoreline.finalize", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def finalize(self: Task[Any, Any], job_id: str) -> None:
    """Check and close a job whose parts are all done."""
    with _until_told(self, job_id):
        finalizing.finalize(lifecycle.engine(app), job_id)


@app.task(name="scoreline.events", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def tell(self: Task[Any, Any], job_id: str) -> None:
    """Send the webhook of a job that has ended; a receiver that is away is tried again for a quarter of an hour."""
    _refuse_unless_id(job_id)
    engine = lifecycle.engine(app)
    try:
        notify.notify(engine, WebhookSettings.from_env(os.environ), job_id)
    except JobNotFound as error:
        log.warning("job.unknown", extra={"job_id": job_id, "error": describe(error)})
    except ScorelineError as error:
        if error.transient and self.request.retries < MAX_RETRIES:
            raise _retry_later(self, error) from error
        notify.give_up(engine, job_id, error)


@app.task(name="scoreline.reconcile")
def reconcile() -> None:
    """Do for every job under way what is due; the clock asks for it, and each worker when it starts."""
    engine = lifecycle.engine(app)
    if engine.ledger.once_in("count", PROCESSES_COUNTED_EVERY_S):
        engine.ledger.note_processes(lifecycle.count_processes(app), PROCESSES_KNOWN_S)
    reconciling.reconcile(engine)


@app.task(name="scoreline.tick")
def tick() -> None:
    """Do what the schedules have due; the clock asks for it every 30 seconds."""
    lifecycle.engine(app).ledger.note_tick()
    for name, done in lifecycle.scheduler(app).tick().items():
        if done:
            log.info("schedule.ticked", extra={"schedule": name, "done": done})
