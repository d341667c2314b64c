"""Decides what happens when a task fails: retry or drop the message, or fail the job with the reason."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from inspect import signature
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.states import RETRY

from scoreline.storage.errors import (
    InvalidRequest,
    JobFailed,
    JobNotFound,
    LedgerError,
    LedgerFenced,
    LedgerLost,
    ObjectNotFound,
    ScorelineError,
    ScoringError,
    describe,
    without_quotes,
)
from scoreline.storage.keys import check_name, is_name
from scoreline.storage.ledger.waiting import Begun, WaitingStep
from scoreline.tasks.dispatch import outcome, reconcile
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine
from scoreline.worker import lifecycle, telemetry
from scoreline.worker.hand_over import may_pass_on, pass_on, times_passed_on
from scoreline.worker.run_request import LeftToMessage, is_between_batches
from scoreline.worker.settings import SOFT_TIME_LIMIT_S

log = logging.getLogger(__name__)

MAX_RETRIES = 30
"""Maximum number of retries after a transient error. With delays of up to `LONGEST_RETRY_S`, no part fails because of
an outage of a quarter of an hour."""
LONGEST_RETRY_S = 60
LONG_WAITS = 4
"""Number of times that the message of a step comes back while another process does the step in stints: at most half a
minute. If the step has not ended by then, a free process does it, too, and without pauses; the other process may have
died."""
MAX_UNKNOWN_RETRIES = 3
"""Maximum number of retries after an error that is not a `ScorelineError`. Without this limit, a job would never end
after a bug."""


def drop_unless_job_id(job_id: str) -> None:
    """Drop a message if its job id is invalid, because anyone with access to the broker can send messages."""
    try:
        check_name("job id", job_id)
    except InvalidRequest as error:
        log.error("message.refused", extra={"error": describe(error)})
        raise Reject(describe(error), requeue=False) from None


@contextlib.contextmanager
def retry_or_fail(task: Task[Any, Any], job_id: str) -> Iterator[None]:
    """If the block raises an error, retry the message, or fail the job with the error.

    After a transient error, the message is retried up to `MAX_RETRIES` times; after an unknown error, up to
    `MAX_UNKNOWN_RETRIES` times. After any other error, the job fails, unless another worker may succeed (see
    `pass_on`). A message is dropped if its job does not exist. No job fails because of its ledger: if the ledger cannot
    be used in any retry, the message is dropped, and the reconciler continues the job.
    """
    drop_unless_job_id(job_id)
    try:
        yield
    except Retry:
        raise
    except JobNotFound as error:
        log.warning("job.unknown", extra={"job_id": job_id, "error": describe(error)})
    except SoftTimeLimitExceeded:
        step = task.name.removeprefix("scoreline.")
        reason = f"the step {step!r} took longer than {SOFT_TIME_LIMIT_S} s: submit fewer objects in one job"
        outcome.fail_job(lifecycle.engine(task.app), job_id, ScoringError(reason))
    except Exception as error:
        if may_pass_on(error):
            is_part = "retried" in signature(task.run).parameters
            changed = {"retried": task.request.retries + 1} if is_part else {}
            pass_on(task, error, lifecycle.client(task.app).queue, was_loaded=is_part, **changed)
        known = isinstance(error, ScorelineError)
        if not known:
            log.exception("task.broken", extra={"job_id": job_id})
        allowed = MAX_RETRIES if getattr(error, "transient", False) else 0 if known else MAX_UNKNOWN_RETRIES
        if retries_made(task) < allowed:
            raise retry_later(task, error) from None  # Celery would store the chained errors, too
        if isinstance(error, LedgerError):
            log.error("message.left", extra={"job_id": job_id, "task": task.name, "error": describe(error)})
            return
        outcome.fail_job(lifecycle.engine(task.app), job_id, error)


def answerable(error: Exception) -> Exception:
    """Return an error that may be stored in Redis as an answer, where others can read it.

    A `ScorelineError` keeps its class, and any other error becomes `JobFailed`. The returned error quotes neither
    inputs nor documents.
    """
    if isinstance(error, ScorelineError):
        return type(error)(without_quotes(error)) if error.quotes else error
    return JobFailed(without_quotes(error))


def retries_made(task: Task[Any, Any]) -> int:
    """Return the number of retries after errors. Passing the message on to other workers is not counted as a retry."""
    return task.request.retries - times_passed_on(task)


def retry_later(task: Task[Any, Any], error: Exception, **changed: Any) -> BaseException:
    """Return the exception that makes Celery send the message again, with the arguments in `changed`.

    The message is sent to the deployment's own queue, even if the message came from a queue that all deployments share.
    The delay doubles with each retry and is jittered, so that the workers do not all retry at the same time.

    A request that is done between two batches is left to its message instead.
    """
    if is_between_batches(task):
        telemetry.drop()
        return LeftToMessage()
    longest = min(LONGEST_RETRY_S, 2 ** (retries_made(task) + 1))
    return task.retry(
        exc=answerable(error),
        countdown=random.uniform(longest / 2, longest),
        max_retries=MAX_RETRIES + times_passed_on(task),
        throw=False,
        queue=lifecycle.queue_names().of_task(task.name),
        kwargs={**(task.request.kwargs or {}), **changed},
    )


def receive_step(task: Task[Any, Any], engine: Engine, job_id: str, waits: int = 1) -> tuple[bool, str]:
    """Record that the message of a step has arrived.

    Return whether the step is to be done now, and what it carries (see `WaitingSteps.receive`). If another process does
    the step between two batches of a part, or beside other records, send the message again, up to `waits` times. The
    step is done when the message comes back. It is then done twice if the other process has not ended it, which does no
    harm.

    Most messages of small jobs of records arrive while another process does them. They therefore do not come back by an
    exception, for which Celery would copy the stack to its main process: that was measured to take a tenth of the CPU
    time of such a job.
    """
    begun, carried = _receive(task, engine, job_id)
    if begun == "taken" and task.request.retries < waits:
        again = _step_is_taken(task, job_id)
        if task.request.is_eager or not isinstance(again, Retry):  # without a queue, an exception repeats the task
            raise again
    elif begun != "done":
        return True, carried
    telemetry.drop()
    return False, ""


def _receive(task: Task[Any, Any], engine: Engine, job_id: str) -> tuple[Begun, str]:
    with contextlib.suppress(LedgerError):
        return engine.ledger.waiting.receive(WaitingStep(task=task.name, job_id=job_id))
    return "", ""


def _step_is_taken(task: Task[Any, Any], job_id: str) -> BaseException:
    """Send the message of a step again, which another process does, and return the exception of `retry_later`."""
    return retry_later(task, JobFailed(f"another process does the step of job {job_id}: it may end first"))


def ignore_if_done(task: Task[Any, Any]) -> None:
    """Drop the message of a request if another process has done the request between two batches of a part.

    The application has its answer already. While another process does the request, retry the message, once. Celery
    stores that as the state of the request. If it has thereby overwritten a failure, the request is done again.
    """
    request_id = str(task.request.id)
    if is_between_batches(task) or not is_name(request_id):
        return
    begun, _ = _receive(task, lifecycle.engine(task.app), request_id)
    if begun == "taken" and not task.request.retries:
        raise _step_is_taken(task, request_id)
    if begun == "done":
        telemetry.drop()
        if task.backend.get_state(request_id) != RETRY:
            raise Ignore


@contextlib.contextmanager
def reconcile_if_lost(engine: Engine, job_id: str) -> Iterator[None]:
    """Reconcile the job if the block fails because the ledger is lost or the job has no plan yet.

    Reconciling sends the messages of all steps and parts that are due, including the step or part that failed.
    """
    try:
        yield
    except (LedgerLost, LedgerFenced, ObjectNotFound):
        with contextlib.suppress(SoftTimeLimitExceeded):  # beat later requests that the job is reconciled
            reconcile.reconcile_job(engine, job_id)
