"""Scores small jobs of records of one model: calls the model for one job after another, but writes side by side.

Most of the time of a small job passes while the store writes its objects. A process that did one job at a time would
answer only a few jobs a second. The model is called for each job alone, because linear algebra may round the last bit
of a row differently if other rows are scored in the same call. Compiled trees score each row alone, but the call itself
takes only an eighth of the CPU time of a job, or less, and one call for a dozen jobs would save no more than that.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from scoreline.storage.errors import LedgerError, describe
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.tasks.dispatch.leases import keep_renewed
from scoreline.tasks.records.carried import Carried
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.score_carried import score_carried

log = logging.getLogger(__name__)

MOST_TOGETHER = 12
"""Maximum number of jobs that a process does together. Each takes up to four of the 32 connections of a store at
once, and up to a megabyte of memory."""


@contextlib.contextmanager
def alike_beside(engine: Engine, step: WaitingStep) -> Iterator[None]:
    """Do the waiting steps that can be done together with `step` while the block runs; wait until they are done.

    The messages of these steps stay in the queue. If this process dies, or a step fails, the process that receives the
    message does the step. Otherwise, that process finds that nothing is left to do.
    """
    taken: list[WaitingStep] = []
    with contextlib.suppress(LedgerError):  # the messages are still in the queue
        taken += engine.ledger.waiting.take_alike(step, MOST_TOGETHER - 1, engine.lease_s)
    if not taken:
        yield
        return

    def renew() -> None:
        for other in taken:
            engine.ledger.waiting.renew(other, engine.lease_s)

    with keep_renewed(renew, engine.lease_s / 3), ThreadPoolExecutor(len(taken), thread_name_prefix="alike") as pool:
        for other in taken:
            pool.submit(_do, engine, other)
        yield


def _do(engine: Engine, step: WaitingStep) -> None:
    done = False
    try:
        carried = Carried.of(step.carried)
        if carried is not None:
            with engine.span(step):
                done = score_carried(engine, step.job_id, carried)
    except Exception as error:  # noqa: BLE001  # the message of the step retries it, or fails the job
        log.warning("step.left", extra={"job_id": step.job_id, "task": step.task, "error": describe(error)})
    finally:
        with contextlib.suppress(LedgerError):
            engine.ledger.waiting.end(step, done=done)
