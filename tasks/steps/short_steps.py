"""Does short steps of other jobs between two batches of a part, so that they need not wait for the end of the part."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scoreline.storage.errors import JobNotFound, LedgerError, PartInterrupted, describe
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.tasks.dispatch.leases import keep_renewed
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.inline import score_small
from scoreline.tasks.steps.planner import plan_job

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""Minimum number of seconds between two looks at the waiting steps."""
LONGEST_S = 1.0
"""Number of seconds after which no further step is begun before the next batch, so that the part makes progress."""


@dataclass(kw_only=True)
class ShortSteps:
    """Does the steps that wait, between two batches of a part.

    The message of such a step stays in the queue. If the process dies or the step fails, the step is done when its
    message arrives. Otherwise, the message finds that the step is done.

    Parameters
    ----------
    has_room : callable
        Returns whether the process can load the first model without evicting the second, which is in use.
    clock : callable
        Returns a time in seconds, like `time.monotonic`.
    """

    has_room: Callable[[PinnedModel, Bundle], bool]
    clock: Callable[[], float] = time.monotonic
    _looked_s: float = field(default=float("-inf"), init=False)

    def __call__(self, engine: Engine, bundle: Bundle) -> float:
        """Do the steps that wait, at most every `LOOK_EVERY_S` seconds. Return the number of seconds that they took.

        Parameters
        ----------
        bundle : Bundle
            The model of the part, which stays in memory.

        Raises
        ------
        PartInterrupted
            A step was interrupted by the time limit of the task.
        """
        begun = self.clock()
        if begun - self._looked_s < LOOK_EVERY_S:
            return 0.0
        # Steps must neither interrupt each other, nor share documents and objects that the part has in memory
        within = replace(engine, between_batches=None, kept=KeptObjects(), _documents=OrderedDict(), _sized=None)
        try:
            while self.clock() - begun < LONGEST_S and (step := engine.ledger.waiting.take(engine.lease_s)) is not None:
                self._do(within, step, bundle)
        except LedgerError:  # the messages are still in the queue
            pass
        finally:
            self._looked_s = self.clock()
        return self._looked_s - begun

    def _do(self, engine: Engine, step: WaitingStep, bundle: Bundle) -> None:
        waiting, seconds = engine.ledger.waiting, engine.lease_s
        try:
            with keep_renewed(lambda: waiting.renew(step, seconds), seconds / 3):
                done = self._is_possible(engine, step, bundle) and _run(engine, step)
            if done:
                log.info("step.between_batches", extra={"job_id": step.job_id, "task": step.task})
        except JobNotFound:
            pass
        except SoftTimeLimitExceeded:
            raise PartInterrupted(
                f"the step {step.task!r} of job {step.job_id} was done between two batches of this part, and took "
                "until the time limit: the part is scored again"
            ) from None
        except Exception as error:  # noqa: BLE001  # the message of the step retries it, or fails the job
            log.warning("step.left", extra={"job_id": step.job_id, "task": step.task, "error": describe(error)})
        finally:
            with contextlib.suppress(LedgerError):
                waiting.end(step)

    def _is_possible(self, engine: Engine, step: WaitingStep, bundle: Bundle) -> bool:
        """Return whether the process has room for the model of a step. Finalizing needs no model."""
        if step.task == "scoreline.finalize":
            return True
        return self.has_room(read_job(engine.buckets.main, step.job_id).model, bundle)


def _run(engine: Engine, step: WaitingStep) -> bool:
    """Do a step. Return False if its task is unknown, because a later release may list other steps."""
    match step.task:
        case "scoreline.plan":
            plan_job(engine, step.job_id)
        case "scoreline.finalize":
            finalize(engine, step.job_id)
        case "scoreline.score_staged":
            score_small(engine, step.job_id, secrets.token_hex(8))
        case _:
            return False
    return True
