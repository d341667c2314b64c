"""Plans and finalizes jobs in stints, between two batches of a part (see `scoreline.tasks.steps.stints`)."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace

from scoreline.storage.errors import JobNotFound, LedgerError, describe
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.tasks.dispatch.leases import AttemptedBefore, hold_step, keep_renewed
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import Surveyed, plan_job, survey_job
from scoreline.tasks.steps.stints import Gate, LongStep, StepAbandoned

log = logging.getLogger(__name__)

LONG_STEPS = frozenset({"scoreline.plan", "scoreline.finalize"})
"""Steps that are done in stints, because they may take long."""
LARGE_MEMORY_BYTES = 384 << 20
"""Memory that must be available to finalize such a job. Arranging was measured to take up to 270 MiB, and finalizing a
million parts up to 400 MiB with the process itself."""
MIN_MEMORY_BYTES = 192 << 20
"""Memory that must be available to begin a step. A step takes up to 90 MiB besides its model."""


def long_step(
    engine: Engine, step: WaitingStep, finalize: Callable[[Engine], None], make_room: Callable[[], None]
) -> LongStep:
    """Return a step that is done in stints. When it has ended, it is no longer taken.

    Parameters
    ----------
    engine : Engine
        The engine of the process. The step shares neither its small objects nor its documents.
    finalize : callable
        Finalizes the job with an engine that waits at the gate.
    make_room : callable
        Called before planning loads the model of the job.
    """
    engine = replace(engine, between_batches=None, kept=KeptObjects(), _documents=OrderedDict())
    surveyed: list[Callable[[], Surveyed]] = []

    def end(gate: Gate) -> None:
        with _held(engine, step), engine.span(step):
            finalize(replace(engine, gate=gate))

    def survey(gate: Gate) -> None:
        with _held(engine, step, ends=False):
            surveyed.append(_survey(replace(engine, gate=gate), step.job_id))

    def plan(gate: Gate) -> None:
        if not surveyed:  # the step was left
            return
        with _held(engine, step):
            gate()
            make_room()
            with engine.span(step):
                plan_job(engine, step.job_id, lambda *_: surveyed[0]())

    if step.task == "scoreline.plan":
        return LongStep(survey, plan, memory_bytes=MIN_MEMORY_BYTES)
    return LongStep(end, memory_bytes=LARGE_MEMORY_BYTES)


def log_done(step: WaitingStep) -> None:
    """Log that a step was done between two batches."""
    log.info("step.between_batches", extra={"job_id": step.job_id, "task": step.task})


@contextlib.contextmanager
def _held(engine: Engine, step: WaitingStep, *, ends: bool = True) -> Iterator[None]:
    """Keep a step taken while the block does it. If the block fails, the step is left to its message.

    Parameters
    ----------
    ends : bool
        Whether the step is done after the block.

    Raises
    ------
    StepAbandoned
        The process ends. The step is listed again, for other processes.
    """
    waiting, seconds = engine.ledger.waiting, engine.lease_s
    is_done = is_taken = is_left = False
    try:
        with keep_renewed(lambda: waiting.renew(step, seconds), seconds / 3):
            yield
        is_done, is_taken = ends, not ends
        if is_done:
            log_done(step)
    except StepAbandoned:
        is_left = True
        raise
    except (JobNotFound, AttemptedBefore):
        pass
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001  # the message of the step retries it, or fails the job
        log.warning("step.left", extra={"job_id": step.job_id, "task": step.task, "error": describe(error)})
    finally:
        with contextlib.suppress(LedgerError):
            if not is_taken:
                waiting.end(step, done=is_done)
            if is_left:
                waiting.add(step)


def _survey(engine: Engine, job_id: str) -> Callable[[], Surveyed]:
    """Survey the input of a job. Return a function that returns what was found, or raises the error."""
    with hold_step(engine, job_id, "plan", only_first=True):
        try:
            found = survey_job(engine, read_job(engine.buckets.main, job_id))
        except Exception as error:  # noqa: BLE001  # planning raises it again
            caught = error

            def fail() -> Surveyed:
                raise caught

            return fail
    return lambda: found
