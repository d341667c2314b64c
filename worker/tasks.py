"""The Celery tasks of a worker. Each task sets its retries and limits, and calls a function of `scoreline.tasks`."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from dataclasses import replace
from typing import Any

from celery import Task

from scoreline.storage.audit import acting_as
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import (
    UNLOADABLE_HERE,
    DocumentCorrupt,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    LedgerError,
    LedgerFenced,
    LedgerLost,
    ScorelineError,
    ScoringError,
    describe,
)
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.tasks.alerts.sending import send_waiting
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.databases import loader
from scoreline.tasks.dispatch import reconcile as reconciling
from scoreline.tasks.dispatch.outcome import fail_job
from scoreline.tasks.job.submit_options import RecordsOptions, SubmitOptions, check_known
from scoreline.tasks.records import job as records_job
from scoreline.tasks.records import submit as records_submit
from scoreline.tasks.records.carried import Carried
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.policies import Policies, read_policies
from scoreline.tasks.retention.settings import RetentionSettings
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps import finalize as finalizing
from scoreline.tasks.steps import inline, planner
from scoreline.tasks.steps import score_part as parts
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.score_alike import alike_beside
from scoreline.tasks.webhooks import notify as notifying
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker import lifecycle, startup, telemetry
from scoreline.worker.celery import app
from scoreline.worker.hand_over import pass_on
from scoreline.worker.part_message import PartMessage
from scoreline.worker.retries import (
    LONG_WAITS,
    MAX_RETRIES,
    MAX_UNKNOWN_RETRIES,
    answerable,
    drop_unless_job_id,
    ignore_if_done,
    receive_step,
    reconcile_if_lost,
    retries_made,
    retry_later,
    retry_or_fail,
)
from scoreline.worker.run_request import interruptible, longest_between_batches_s
from scoreline.worker.settings import PROCESSES_KNOWN_S, SOFT_TIME_LIMIT_S

log = logging.getLogger(__name__)

RETRY_DELAY_S = 2
"""Seconds before a message is retried if its process died."""
PROCESSES_COUNTED_EVERY_S = 30
_MAX_WAITS = 8
"""Number of times that the message of a job of records comes back while another process scores the job: two minutes,
which is longer than a lease."""

startup.connect(app)


def _check_required(**required: Any) -> None:
    """Raise `InvalidRequest` if a message lacks an argument."""
    if missing := [name for name, value in required.items() if value is None]:
        raise InvalidRequest(f"the message lacks {' and '.join(missing)}: send kwargs with {' and '.join(required)}")


def _acting_for(task: Task[Any, Any], who: Any) -> contextlib.AbstractContextManager[None]:
    """Return a block that acts for the application that sent a message. The message may name a person or program."""
    if not isinstance(who, str | None):
        raise InvalidRequest(f"submitter {who!r} is not a text")
    host = str(task.request.origin or "").rpartition("@")[2] or "a host that the message does not name"
    return acting_as(who or "an application", f"{host}, message")


@app.task(
    name="scoreline.submit", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S, ignore_result=False
)
def submit(self: Task[Any, Any], /, model: Any = None, input: Any = None, **options: Any) -> dict[str, Any]:
    """Submit a job for an application without Scoreline, and return the status of the job.

    The default job id is the id of the message. A message that is delivered twice therefore creates only one job.
    """
    ignore_if_done(self)
    options["job_id"] = options.get("job_id") or self.request.id
    try:
        _check_required(model=model, input=() if input is None and {"query", "table"} & options.keys() else input)
        with interruptible(self), _acting_for(self, options.pop("submitter", None)):
            check_known(options, SubmitOptions)
            client = lifecycle.client(app)
            return client.answer(client.submit(model, () if input is None else input, **options))
    except ScorelineError as error:
        if not error.transient or retries_made(self) >= MAX_RETRIES:
            log.error("submit.refused", extra={"model": model, "input": input, "error": describe(error)})
            raise answerable(error) from None
        raise retry_later(self, error) from error


@app.task(
    name="scoreline.score_records",
    bind=True,
    max_retries=MAX_RETRIES,
    default_retry_delay=RETRY_DELAY_S,
    ignore_result=False,
    resultrepr_maxsize=1,  # Celery would otherwise log rows in the return value
)
def score_records(self: Task[Any, Any], /, model: Any = None, records: Any = None, **options: Any) -> dict[str, Any]:
    """Score the records in a message, and return the status of their job with its results.

    The default job id is the id of the message, as in `submit`.
    """
    ignore_if_done(self)
    job_id: Any = options.get("job_id") or self.request.id
    options["job_id"] = job_id
    engine, client = lifecycle.engine(app), lifecycle.client(app)
    longest_s = longest_between_batches_s(self)
    try:
        _check_required(model=model, records=records)
        with interruptible(self), _acting_for(self, options.pop("submitter", None)):
            check_known(options, RecordsOptions)
            records_submit.check_message(records)
            _, carried = records_submit.accept_records(client.submission, model, records, **options)
        with interruptible(self), reconcile_if_lost(engine, job_id):
            try:
                found = Carried.of(carried)
                found = replace(found, reader="") if found else None  # the answer goes to the sender of the message
                inline.score_records(engine, job_id, str(self.request.id), found, longest_s=longest_s)
            except UNLOADABLE_HERE as error:
                pass_on(self, error, client.queue, job_id=job_id)
                fail_job(engine, job_id, error)
        answer = records_job.answer(client, job_id)
    except ScorelineError as error:
        if not error.transient or retries_made(self) >= MAX_RETRIES:
            log.error("records.refused", extra={"model": model, "job_id": job_id, "error": describe(error)})
            raise (answerable(error) if isinstance(error, DocumentCorrupt) else error) from None
        raise retry_later(self, error) from error
    lifecycle.share_models()
    if answer is None:  # another process is scoring the job
        raise retry_later(self, JobFailed(f"job {job_id} has not ended yet: ask scoreline.status for its state"))
    return answer


@app.task(name="scoreline.score_staged", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def score_staged(self: Task[Any, Any], job_id: str) -> None:
    """Score a job whose records were written to the bucket."""
    engine = lifecycle.engine(app)
    with retry_or_fail(self, job_id), reconcile_if_lost(engine, job_id):
        is_due, carried = receive_step(self, engine, job_id)
        if not is_due:
            return
        fresh = not self.request.retries and not (self.request.delivery_info or {}).get("redelivered")
        found = Carried.of(carried) if fresh else None
        step = WaitingStep(task=self.name, job_id=job_id, carried=carried if found is not None else "")
        with alike_beside(engine, step):
            ended = inline.score_records(engine, job_id, str(self.request.id), found)
        if not ended and retries_made(self) < _MAX_WAITS:  # if the other process has died, its lease must expire first
            raise retry_later(self, JobFailed(f"another process is scoring job {job_id}"))
    lifecycle.share_models()


@app.task(name="scoreline.status", bind=True, ignore_result=False)
def status(self: Task[Any, Any], /, job_id: Any = None) -> dict[str, Any]:
    """Return the status of a job to an application without Scoreline."""
    ignore_if_done(self)
    _check_required(job_id=job_id)
    try:
        client = lifecycle.client(app)
        return client.answer(client.status(job_id))
    except DocumentCorrupt as error:
        log.error("status.refused", extra={"job_id": job_id, "error": describe(error)})
        raise answerable(error) from None


@app.task(name="scoreline.plan", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def plan(self: Task[Any, Any], job_id: str) -> None:
    """Divide a job into parts, and dispatch the first parts."""
    engine = lifecycle.engine(app)
    with retry_or_fail(self, job_id):
        if receive_step(self, engine, job_id, waits=LONG_WAITS)[0]:
            with engine.step_under_way():
                planner.plan_job(engine, job_id)


@app.task(name="scoreline.score_part", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def score_part(self: Task[Any, Any], job_id: str, part: int, retried: int = 0) -> dict[str, int] | None:
    """Score the part that is due. If a transient error outlasts its retries, the part fails with that error.

    A retry after a transient error sets `retried` to the number of the retry, and does not count as an attempt. A retry
    after the death of a process counts as an attempt. Celery then repeats the old arguments, so `retried` differs from
    the number of the retry.
    """
    engine = lifecycle.engine(app)
    message = PartMessage(self)
    while (leased := _lease(self, engine, job_id, part, is_retry=0 < retried == self.request.retries)) is not None:
        message.use_for(leased)
        if (done := _score_leased(self, engine, leased, message)) is not None:
            message.add(*done)
        if not message.is_kept:
            break
    return message.scored


def _lease(self: Task[Any, Any], engine: Engine, job_id: str, part: int, *, is_retry: bool) -> parts.LeasedPart | None:
    """Lease the part that is due, for a message that names a part."""
    holder = str(self.request.id)
    leased: parts.LeasedPart | None = None
    known = False
    with retry_or_fail(self, job_id), reconcile_if_lost(engine, job_id):
        leased = parts.lease_due_part(engine, job_id, part, holder, is_retry=is_retry)
        known = True
    if not known:  # the job was deleted, or its ledger is lost
        with contextlib.suppress(LedgerError):  # the reconciler sends the messages of waiting parts again
            leased = parts.lease_any_part(engine, holder)
    return leased


def _score_leased(
    self: Task[Any, Any], engine: Engine, leased: parts.LeasedPart, message: PartMessage
) -> tuple[int, int] | None:
    """Score the part that was due when a message arrived. From now on, the message is for this part."""
    job_id, part, retries = leased.lease.job_id, leased.lease.part, self.request.retries
    telemetry.turn_to(leased.started.trace, job_id, part, is_named=message.is_own_job)
    self.request.update(kwargs={**(self.request.kwargs or {}), "job_id": job_id, "part": part})
    done: tuple[int, int] | None = None
    with retry_or_fail(self, job_id), reconcile_if_lost(engine, job_id):
        try:
            done = _score_part(engine, leased, message.keep)
        except ScorelineError as error:
            if not error.transient or isinstance(error, LedgerLost | LedgerFenced):
                raise
            if retries_made(self) < MAX_RETRIES:
                raise retry_later(self, error, retried=retries + 1) from error
            if isinstance(error, LedgerError):  # nothing can be counted, and the part is not at fault
                raise
            parts.count_part(engine, job_id, part, failure=f"gave up: {describe(error)}")
    lifecycle.share_models()
    return done


def _score_part(engine: Engine, leased: parts.LeasedPart, keeps_message: parts.KeepsMessage) -> tuple[int, int] | None:
    try:
        return parts.score_leased(engine, leased, keeps_message)
    except SoftTimeLimitExceeded:
        job_id, part = leased.lease.job_id, leased.lease.part
        reason = f"part {part} took longer than {SOFT_TIME_LIMIT_S} s: make parts smaller with --part-rows"
        parts.count_part(engine, job_id, part, failure=reason)
        return None


@app.task(name="scoreline.finalize", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def finalize(self: Task[Any, Any], job_id: str) -> None:
    """Check the results of a job whose parts are all done, and end the job."""
    engine = lifecycle.engine(app)
    with retry_or_fail(self, job_id):
        if receive_step(self, engine, job_id, waits=LONG_WAITS)[0]:
            with engine.step_under_way():
                finalizing.finalize(engine, job_id)


@app.task(name="scoreline.events", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def notify(self: Task[Any, Any], job_id: str) -> None:
    """Send the webhook of a job that has ended. If the receiver does not answer, retry for a quarter of an hour."""
    drop_unless_job_id(job_id)
    engine = lifecycle.engine(app)
    try:
        notifying.notify(engine, WebhookSettings.from_env(os.environ), job_id)
    except JobNotFound as error:
        log.warning("job.unknown", extra={"job_id": job_id, "error": describe(error)})
    except ScorelineError as error:
        if error.transient and retries_made(self) < MAX_RETRIES:
            raise retry_later(self, error) from error
        notifying.give_up(engine, job_id, error)


@app.task(name="scoreline.load", bind=True, max_retries=MAX_RETRIES, default_retry_delay=RETRY_DELAY_S)
def load(self: Task[Any, Any], job_id: str, lane: int | None = None) -> None:
    """Load accepted results of a job into tables of databases. After many retries, the reconciler begins again."""
    drop_unless_job_id(job_id)
    engine = lifecycle.engine(app)
    try:
        loader.load(engine, DatabaseSettings.from_env(os.environ), job_id, lane)
    except JobNotFound as error:
        log.warning("job.unknown", extra={"job_id": job_id, "error": describe(error)})
    except SoftTimeLimitExceeded:
        reason = f"loading one file took longer than {SOFT_TIME_LIMIT_S} s: make parts smaller with --part-rows"
        loader.give_up(engine, _databases(), job_id, ScoringError(reason), lane)
    except ScorelineError as error:
        if not error.transient:
            loader.give_up(engine, _databases(), job_id, error, lane)
        elif retries_made(self) < MAX_RETRIES:
            raise retry_later(self, error) from None
        else:
            log.warning("load.waits", extra={"job_id": job_id, "error": describe(error)})
    except Exception as error:
        log.exception("task.broken", extra={"job_id": job_id})
        if retries_made(self) < MAX_UNKNOWN_RETRIES:
            raise retry_later(self, error) from None
        loader.give_up(engine, _databases(), job_id, error, lane)


def _databases() -> DatabaseSettings | None:
    """Return the settings of the databases; None if they are invalid, which may be why a load is given up."""
    with contextlib.suppress(ScorelineError):
        return DatabaseSettings.from_env(os.environ)
    return None


@app.task(name="scoreline.reconcile")
def reconcile() -> None:
    """Reconcile the jobs that are due. Beat requests this task regularly, and each starting worker requests it once."""
    engine = lifecycle.engine(app)
    if engine.ledger.once_in("count", PROCESSES_COUNTED_EVERY_S):
        processes = lifecycle.count_processes(app)
        engine.ledger.note_processes(sum(processes), PROCESSES_KNOWN_S)
        if any(processes):
            engine.ledger.note_worker_size(max(1, sum(processes) // len(processes)))
    reconciling.reconcile_due(engine)


@app.task(name="scoreline.gc")
def gc() -> None:
    """Remove results that are no longer kept, for some seconds. Beat requests this every ten minutes."""
    engine, settings = lifecycle.engine(app), RetentionSettings.from_env(os.environ)

    def policies() -> Policies:
        return read_policies(engine.buckets.main, settings.results_keep)

    with acting_as("the clock"):
        report = rounds.collect_piece(engine.buckets, engine.ledger.watchlist, policies, secrets.token_hex(8))
    if report is not None and (report.removed or report.kept or report.failed):
        log.info(
            "retention.ended",
            extra={"removed": len(report.removed), "kept": len(report.kept), "failed": len(report.failed)},
        )


@app.task(name="scoreline.tick")
def tick() -> None:
    """Submit the jobs of all due schedules, and send alerts. Beat requests this every 30 seconds."""
    engine = lifecycle.engine(app)
    engine.ledger.note_tick()
    for name, done in lifecycle.scheduler(app).tick().items():
        if done:
            log.info("schedule.ticked", extra={"schedule": name, "done": done})
    send_waiting(engine.buckets.main, engine.ledger, AlertSettings.from_env(os.environ))  # last, as it may be slow
