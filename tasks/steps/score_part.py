"""Scores one part of a job: takes a lease on the part, commits it, and records its end in the ledger."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from scoreline.storage.errors import (
    UNLOADABLE_HERE,
    JobNotFound,
    LedgerError,
    LedgerFenced,
    ModelError,
    ObjectNotFound,
    PartInterrupted,
    ProcessDied,
    RejectBudgetExceeded,
    ScorelineError,
    describe,
    without_quotes,
)
from scoreline.storage.ledger.base import PartLease, Started
from scoreline.storage.objects import requests
from scoreline.tasks.dispatch.dispatcher import Documents, send_step
from scoreline.tasks.dispatch.leases import describe_deaths, keep_renewed, object_notes
from scoreline.tasks.dispatch.outcome import fail_job
from scoreline.tasks.job.part_failures import write_failure
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.commit_part import commit_part, read_receipt
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.score_rows import PartStopped

log = logging.getLogger(__name__)

_MUCH_S = 5.0
"""Seconds of steps of other jobs that may be the reason why a part reaches the time limit."""
MAX_REASON = 500
"""Maximum number of characters in the reason of a failed part. Redis keeps about a hundred reasons per job."""


def score_part(
    engine: Engine, job_id: str, part: int, holder: str, *, is_retry: bool = False
) -> tuple[int, int] | None:
    """Score a part, commit it, and dispatch the next part or step. Repeated calls do no harm.

    Parameters
    ----------
    holder : str
        Identifies the message. A redelivered message takes over the lease of its earlier delivery. Any other message
        for the part is ignored while the part is leased.
    is_retry : bool
        Whether the message is a retry after a transient error. Such a retry is not counted as an attempt.

    Returns
    -------
    tuple of int and int, optional
        The numbers of scored and rejected rows; None if there was nothing to score.

    Raises
    ------
    ModelUnloadable, ModelUntrusted
        This process cannot load the model, but another worker may be able to. The attempt is not counted.
    ScorelineError
        A transient error: the attempt is not counted, and the message must be delivered again.
    """
    leased = _start(engine, job_id, part, holder, is_retry=is_retry, due=False)
    return None if leased is None else score_leased(engine, leased)


@dataclass(frozen=True, kw_only=True)
class LeasedPart:
    """A part that this process has leased, and is to score."""

    lease: PartLease
    started: Started
    is_retry: bool


def lease_due_part(engine: Engine, job_id: str, part: int, holder: str, *, is_retry: bool = False) -> LeasedPart | None:
    """Lease the part that is due, among the parts of all jobs (see `scoreline.storage.ledger.shares`).

    Parameters
    ----------
    job_id, part : str and int
        The part that the message names.
    holder, is_retry
        As for `score_part`. A retry is always for the part that the message names.

    Returns
    -------
    LeasedPart, optional
        The part to score with `score_leased`; None if no part is due.
    """
    start = functools.partial(_start, engine, job_id, part, holder, is_retry=is_retry, due=True)
    return _first_planned(engine, job_id, start)


def lease_any_part(engine: Engine, holder: str) -> LeasedPart | None:
    """Lease the part that is due, for a message whose own job was deleted or has no ledger.

    Other parts may wait for this message, because their own messages were used for parts of that job.
    """

    def start() -> LeasedPart | None:
        taken = engine.ledger.start_any(holder, engine.lease_s, engine.weights)
        return None if taken is None else LeasedPart(lease=taken[0], started=taken[1], is_retry=False)

    return _first_planned(engine, "", start)


def _first_planned(engine: Engine, job_id: str, start: Callable[[], LeasedPart | None]) -> LeasedPart | None:
    """Call `start` until it leases a part of a job that was not deleted. The job `job_id` need not be checked."""
    while True:
        leased = start()
        if leased is None or leased.lease.job_id == job_id or _is_planned(engine, leased.lease):
            return leased
        log.warning("ledger.stale", extra={"job_id": leased.lease.job_id})
        engine.ledger.forget(leased.lease.job_id)


def _is_planned(engine: Engine, lease: PartLease) -> bool:
    """Return whether the job of a lease still has the plan that its ledger belongs to. Its documents may be deleted."""
    try:
        if engine.documents(lease.job_id).plan.sha256 == lease.plan_sha256:
            return True
        return engine.documents(lease.job_id, fresh=True).plan.sha256 == lease.plan_sha256
    except (JobNotFound, ObjectNotFound):
        return False
    except ScorelineError:  # `score_leased` raises this error again
        return True


type KeepsMessage = Callable[[], bool]
"""Returns whether the message of a part that has ended is used for the next part, too. Then none is sent for that."""


def score_leased(
    engine: Engine, leased: LeasedPart, keeps_message: KeepsMessage | None = None
) -> tuple[int, int] | None:
    """Score a part that this process has leased (see `score_part`).

    Parameters
    ----------
    keeps_message : callable, optional
        Called when the next part of the job is due. If it returns True, the caller must lease a part with the same
        message afterwards. It is not called if steps of other jobs were done, because these may go on for long after
        the part.
    """
    with engine.step_under_way():
        return _score_leased(engine, leased, keeps_message)


def _score_leased(engine: Engine, leased: LeasedPart, keeps_message: KeepsMessage | None) -> tuple[int, int] | None:
    requests_before = requests.so_far()
    lease, started, is_retry = leased.lease, leased.started, leased.is_retry
    job_id, part, step = lease.job_id, lease.part, f"part {lease.part}"
    rows, rejected, failure, summary = 0, 0, "", ""
    seconds: float | None = None
    try:
        with keep_renewed(lambda: engine.ledger.renew(lease), engine.lease_s / 3):
            documents = engine.documents(job_id)
            committed = read_receipt(engine, documents, part) if started.result_may_exist else None
            most = documents.job.spec.max_attempts
            challenged = started.attempt <= most
            if committed is None and started.attempt > most + (documents.job.challenger is not None):
                died = describe_deaths(engine, job_id, step, started.attempt - 1, f"while scoring part {part}")
                raise ProcessDied(f"{died}. Run fewer processes (WORKER_CONCURRENCY), then resume the job")
            is_last = started.attempt == most + (documents.job.challenger is not None)
            notes = object_notes(engine, job_id, step) if is_last and started.attempt > 1 else None
            begun = time.perf_counter()
            receipt = committed or commit_part(
                engine.for_attempt(started.attempt, is_retry=is_retry, at_object=notes),
                documents,
                part,
                started.budget,
                functools.partial(engine.ledger.note_rejects, lease),
                functools.partial(engine.ledger.note_scored, lease),
                requests_before,
                challenged=challenged,
            )
            rows, rejected = receipt.rows, receipt.rejected
            seconds = None if committed else time.perf_counter() - begun - _spent_elsewhere_s(engine)
    except PartStopped:
        log.info("part.stopped", extra={"job_id": job_id, "part": part})
        _settle(engine, lease)
        if engine.ledger.stopped(job_id) == "deadline":
            send_step(engine, "finalize", job_id)
        return None
    except SystemExit:  # the worker shuts down: the message returns to the queue, and the attempt is not counted
        engine.ledger.release(lease)
        raise
    except UNLOADABLE_HERE:  # another worker may be able to load the model: do not count the attempt
        engine.ledger.release(lease, retried=True)
        raise
    except (ModelError, RejectBudgetExceeded) as error:  # the job fails, whatever its other parts do
        if isinstance(error, RejectBudgetExceeded):
            engine.ledger.counters.count_part(rows=0, rejected=0, failed=True, seconds=None)
        fail_job(engine, job_id, error)
        _settle(engine, lease)
        return None
    except ScorelineError as error:
        if error.transient:
            engine.ledger.release(lease, retried=True)
            raise
        failure, summary = describe(error), without_quotes(error)
    except SoftTimeLimitExceeded:
        if _spent_elsewhere_s(engine) >= _MUCH_S:  # the part alone might have ended in time
            engine.ledger.release(lease, retried=True)
            raise PartInterrupted(
                f"part {part} reached the time limit, partly because of steps of other jobs: it is scored again"
            ) from None
        if engine.challengers.spent_s >= _MUCH_S:  # and likewise
            engine.challengers.add(job_id, f"it reached the time limit of part {part}")
            engine.ledger.release(lease, retried=True)
            raise PartInterrupted(
                f"part {part} reached the time limit, partly because of the challenger: it is scored again"
            ) from None
        raise
    except Exception as error:  # an estimator may raise any exception; the job must end with the reason
        log.exception("part.failed", extra={"job_id": job_id, "part": part})
        engine.on_fault(error, job_id=job_id, part=part)
        failure, summary = describe(error), without_quotes(error)
    count_part(
        engine,
        job_id,
        part,
        rows=rows,
        rejected=rejected,
        failure=failure,
        summary=summary,
        seconds=seconds,
        keeps_message=None if _spent_elsewhere_s(engine) else keeps_message,
    )
    return rows, rejected


def _settle(engine: Engine, lease: PartLease) -> None:
    """Release the lease of a part whose job has ended, so that its group is charged with the time that it took."""
    with contextlib.suppress(LedgerError):
        engine.ledger.release(lease)


def _spent_elsewhere_s(engine: Engine) -> float:
    return 0.0 if engine.between_batches is None else engine.between_batches.spent_s


def _start(engine: Engine, job_id: str, part: int, holder: str, *, is_retry: bool, due: bool) -> LeasedPart | None:
    """Lease a part, or the part that is due; None if there is nothing to score."""
    try:
        found = _try_start(engine, engine.documents(job_id), part, holder, is_retry=is_retry, due=due)
    except LedgerFenced:  # this process may have cached documents of a deleted job with the same id
        documents = engine.documents(job_id, fresh=True)
        found = _try_start(engine, documents, part, holder, is_retry=is_retry, due=due)
    if found is None or found.started.to_do == "run":
        return found
    log.info("part.skipped", extra={"job_id": job_id, "part": part, "why": found.started.to_do})
    if found.started.to_do == "late" or (found.started.all_done and found.started.to_do == "done"):
        send_step(engine, "finalize", job_id)
    return None


def _try_start(
    engine: Engine, documents: Documents, part: int, holder: str, *, is_retry: bool, due: bool
) -> LeasedPart | None:
    """Ask the ledger for the lease; None if the job has no such part."""
    job_id, plan = documents.job.spec.job_id, documents.plan
    if type(part) is not int or not 0 <= part < plan.parts:  # the ledger does not check the number of a part
        log.error("part.unknown", extra={"job_id": job_id, "part": part, "parts": plan.parts})
        return None
    lease = PartLease(job_id=job_id, plan_sha256=plan.sha256, part=part, holder=holder, lease_s=engine.lease_s)
    if due:
        lease, started = engine.ledger.start_due(lease, engine.weights, is_retry=is_retry)
    else:
        started = engine.ledger.start(lease, is_retry=is_retry)
    return LeasedPart(lease=lease, started=started, is_retry=is_retry)


def count_part(
    engine: Engine,
    job_id: str,
    part: int,
    *,
    rows: int = 0,
    rejected: int = 0,
    failure: str = "",
    summary: str = "",
    seconds: float | None = None,
    keeps_message: KeepsMessage | None = None,
) -> None:
    """Record the end of a part in the ledger, then dispatch the next part or the finalizer, whichever is due.

    Parameters
    ----------
    failure : str
        Reason why the part failed, to store in the bucket; empty if the part is committed.
    summary : str
        The reason without quotations from the input, to store in the ledger, because people without access to the
        bucket may read the ledger. By default, the summary is `failure`, which must then contain no quotations.
    seconds : float, optional
        Time spent on scoring the part; None if another process scored it.
    keeps_message : callable, optional
        As for `score_leased`. By default, a message is sent for the next part.
    """
    plan_sha256 = engine.documents(job_id).plan.sha256
    summary = (summary or failure)[:MAX_REASON]
    if failure:  # written even if it equals the summary, to replace a reason from an earlier run
        write_failure(engine.buckets.main, job_id, part, failure[:MAX_REASON])
    done = engine.ledger.complete(
        job_id, plan_sha256, part, rows=rows, rejected=rejected, failure=summary, seconds=seconds
    )
    if done.next_part is not None and not (keeps_message is not None and keeps_message()):
        engine.send("scoreline.score_part", job_id=job_id, part=done.next_part)
    if done.all_done or done.stopped in ("budget", "failures", "deadline"):
        send_step(engine, "finalize", job_id)
