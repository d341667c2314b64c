"""Does short steps of other jobs between two batches of a long part, so that they do not wait for its end."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scoreline.storage.container_memory import available_bytes
from scoreline.storage.errors import JobNotFound, LedgerError, PartInterrupted, describe
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.requests import Requests, so_far
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.tasks.dispatch.leases import keep_renewed
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.records.carried import Carried
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.inline import score_records
from scoreline.tasks.steps.planner import plan_job

log = logging.getLogger(__name__)

STEPS_OF_JOBS = frozenset({"scoreline.plan", "scoreline.finalize", "scoreline.score_staged"})
"""The steps of jobs that are listed. All other steps that are listed are requests of applications."""
LOOK_EVERY_S = 0.2
"""Minimum number of seconds between two looks at the waiting steps."""
LONGEST_S = 1.0
"""Number of seconds after which no further step is begun before the next batch, so that the part makes progress."""
LONGEST_IN_PART_S = 60.0
"""Number of seconds after which no further step is begun in the same part, so that the part ends within the time limit
of its task."""
LONGEST_RECORDS_S = 20.0
"""If scoring records seems to take longer, they are only planned between two batches, and scored as parts. That is the
length of a part: the part under way waits no longer than if its process had scored a part of another group first.
Records that take longer than `LONGEST_S` let shorter steps pass between their own batches."""
LONGEST_WITHIN_S = 2.0
"""The same for records that are scored between two batches of such records."""
MAX_PARTS = 1_000
"""Jobs with more parts are finalized by a task of their own, because checking so many parts takes long."""
MIN_MEMORY_BYTES = 192 << 20
"""Memory that must be available to begin a step. A step takes up to 90 MiB besides its model."""
_REFUSED_S = 2.0
"""Seconds for which a process does not look again at a step that it cannot do."""
_MAX_LEFT = 20
"""Number of steps without room for their model after which a look ends."""


@dataclass(kw_only=True)
class ShortSteps:
    """Does the steps that wait, between two batches of a part (see `BetweenBatches`).

    The message of such a step stays in the queue. If the process dies or the step fails, the step is done when its
    message arrives. Otherwise, the message finds that the step is done.

    Parameters
    ----------
    has_room : callable
        Returns whether the process can load the first model without evicting the second, which is in use.
    do_request : callable
        Does a step that is no step of a job: a request of an application. Returns whether the request is answered. The
        last argument is the number of seconds that scoring its records may take.
    model_of_request : callable
        Returns the model that such a step needs; None if it needs none.
    available : callable
        Returns the available memory in bytes.
    clock : callable
        Returns a time in seconds, like `time.monotonic`.
    """

    has_room: Callable[[PinnedModel, Bundle], bool]
    do_request: Callable[[Engine, WaitingStep, float], bool] = lambda engine, step, longest_s: False
    model_of_request: Callable[[WaitingStep], PinnedModel | None] = lambda step: None
    available: Callable[[], int] = available_bytes
    clock: Callable[[], float] = time.monotonic
    longest_records_s: float = LONGEST_RECORDS_S
    within: ShortSteps | None = field(default=None, init=False)
    """Does steps between two batches of records that are scored between two batches of a part."""
    spent_s: float = field(default=0.0, init=False)
    requests: Requests = field(default=Requests(), init=False)
    _looked_s: float = field(default=float("-inf"), init=False)
    _refused: dict[WaitingStep, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.longest_records_s > LONGEST_WITHIN_S:
            self.within = replace(self, longest_records_s=LONGEST_WITHIN_S)

    def begin_part(self) -> None:
        """Record that the process begins a part (see `BetweenBatches.begin_part`)."""
        self.spent_s, self.requests = 0.0, Requests()

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
        if begun - self._looked_s < LOOK_EVERY_S or self.spent_s >= LONGEST_IN_PART_S:
            return 0.0
        # Steps must not share documents and objects that the part has in memory
        within = replace(engine, between_batches=self.within, kept=KeptObjects(), _documents=OrderedDict(), _sized=None)
        before_s, left, before = self.spent_s, list[WaitingStep](), so_far()
        try:
            while self._may_begin(begun, left) and (step := engine.ledger.waiting.take(engine.lease_s)) is not None:
                self._do(within, step, bundle, left)
        except LedgerError:  # the messages are still in the queue
            pass
        finally:
            with contextlib.suppress(LedgerError):
                for step in left:  # for other processes
                    engine.ledger.waiting.add(step)
            self._looked_s = self.clock()
            self.requests += so_far() - before
        return self.spent_s - before_s

    def _may_begin(self, begun: float, left: list[WaitingStep]) -> bool:
        if self.clock() - begun >= LONGEST_S or self.spent_s >= LONGEST_IN_PART_S or len(left) >= _MAX_LEFT:
            return False
        return self.available() >= MIN_MEMORY_BYTES

    def _do(self, engine: Engine, step: WaitingStep, bundle: Bundle, left: list[WaitingStep]) -> None:
        """Do a step, and count its time. Add it to `left` if another process may be able to do it."""
        waiting, seconds, begun = engine.ledger.waiting, engine.lease_s, self.clock()
        runs = done = False
        try:
            with keep_renewed(lambda: waiting.renew(step, seconds), seconds / 3):
                if not self._has_room(engine, step, bundle):
                    left.append(step)
                    return
                if not _is_short(engine, step):
                    return
                runs = True
                done = self._run(engine, step)
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
            if runs:
                self.spent_s += self.clock() - begun
            with contextlib.suppress(LedgerError):
                waiting.end(step, done=done)

    def _run(self, engine: Engine, step: WaitingStep) -> bool:
        """Do a step. Return False if the step is left to its message."""
        if step.task not in STEPS_OF_JOBS:
            return self.do_request(engine, step, self.longest_records_s)
        with engine.span(step):
            _run(engine, step, self.longest_records_s)
        return True

    def _has_room(self, engine: Engine, step: WaitingStep, bundle: Bundle) -> bool:
        """Return whether the process has room for the model of a step. Finalizing needs no model."""
        if step.task == "scoreline.finalize":
            return True
        now = self.clock()
        self._refused = {other: at_s for other, at_s in self._refused.items() if at_s > now - _REFUSED_S}
        if step in self._refused:
            return False
        if step.task in STEPS_OF_JOBS:
            model: PinnedModel | None = read_job(engine.buckets.main, step.job_id).model
        else:
            model = self.model_of_request(step)
        if model is None or self.has_room(model, bundle):
            return True
        self._refused[step] = now
        return False


def _is_short(engine: Engine, step: WaitingStep) -> bool:
    """Return whether a step is short. All steps are, except finalizing a job with many parts, or with arranged results.

    No process does such a step between batches, so it is not listed again.
    """
    if step.task != "scoreline.finalize":
        return True
    main = engine.buckets.main
    return not read_job(main, step.job_id).spec.arranged and PlanFile(main, step.job_id).parts <= MAX_PARTS


def _run(engine: Engine, step: WaitingStep, longest_s: float) -> None:
    """Do a step of a job. Leave records that seem to take longer than `longest_s` to a process that scores parts."""
    match step.task:
        case "scoreline.plan":
            plan_job(engine, step.job_id)
        case "scoreline.finalize":
            finalize(engine, step.job_id)
        case "scoreline.score_staged":
            carried = Carried.of(step.carried)
            score_records(engine, step.job_id, secrets.token_hex(8), carried, longest_s=longest_s)
