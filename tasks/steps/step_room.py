"""Says whether a process has room for a step of another job beside the part that it scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.steps.engine import Engine, ModelInUse
from scoreline.tasks.steps.long_steps import LARGE_MEMORY_BYTES, LONG_STEPS, MIN_MEMORY_BYTES
from scoreline.tasks.steps.stints import Stints

log = logging.getLogger(__name__)

STEPS_OF_JOBS = frozenset({"scoreline.plan", "scoreline.finalize", "scoreline.score_staged"})
"""The steps of jobs that are listed. All other steps that are listed are requests of applications."""
MAX_PARTS = 1_000
"""Finalizing jobs with more parts, or with arranged results, needs `LARGE_MEMORY_BYTES` of available memory."""
PATIENCE_S = 0.5
"""Seconds for which a step waits for a process with room for its model beside the one in use. Busy processes look for
steps as often. After that time, a process loads the model in place of the one in use."""
_REFUSED_S = 2.0
"""Seconds for which a process does not look again at a step that it cannot do."""
_FORGOTTEN_S = 60.0
"""Seconds after which a refused step that did not come back is forgotten."""


class Room(Protocol):
    """Says whether a process has room for a model."""

    def __call__(self, pinned: PinnedModel, *in_use: Bundle) -> bool:
        """Return whether a model can be loaded without evicting the others, which are in use."""
        ...


class NotShort(Exception):
    """Raised if no process does a step between batches. It is not listed again, and left to its message."""


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """A step without room for its model."""

    model: PinnedModel
    first_s: float
    """Time at which this process refused the step first."""
    at_s: float
    """Time at which this process looked for room last."""


@dataclass(kw_only=True)
class StepRoom:
    """The room of a process for steps, and the steps that it has refused. The parameters are those of `ShortSteps`."""

    has_room: Room
    model_of_request: Callable[[WaitingStep], PinnedModel | None]
    available: Callable[[], int]
    clock: Callable[[], float]
    stints: Stints | None
    outer: ModelInUse | None = field(default=None, init=False)
    """The model of the part, if the steps are done between two batches of records."""
    _refused: dict[WaitingStep, _Refusal] = field(default_factory=dict, init=False)

    def holds_model(self, engine: Engine, step: WaitingStep, model: ModelInUse, turns: Collection[PinnedModel]) -> bool:
        """Return whether the process has room for the model of a step. Finalizing needs no model.

        If the model of the step is one of `turns`, make room by releasing the model in use.

        Raises
        ------
        NotShort
            No process does the step between batches.
        """
        if self.stints is not None and step.task in LONG_STEPS and self.stints.are_full:
            return False
        if step.task == "scoreline.finalize":
            return True
        now = self.clock()
        self._refused = {other: known for other, known in self._refused.items() if now - known.at_s < _FORGOTTEN_S}
        known = self._refused.get(step)
        if known is not None and not turns and now - known.at_s < _REFUSED_S:
            return False
        needed = known.model if known is not None else self._model_of(engine, step)
        if turns and needed in turns:
            log.info("model.released", extra={"model": model.pinned.ref, "job_id": step.job_id})
            model.release()
        elif needed is not None and turns:
            return False
        elif needed is not None and not self._fits(needed, model):
            self._refused[step] = _Refusal(model=needed, first_s=now if known is None else known.first_s, at_s=now)
            return False
        self._refused.pop(step, None)
        return True

    def holds_memory(self, engine: Engine, step: WaitingStep) -> bool:
        """Return whether enough memory is available for a long step, beside those that have begun.

        Finalizing needs more for a job that has many parts or arranged results. If there is too little memory, the step
        is left to its message, and not listed again.
        """
        if step.task not in LONG_STEPS:
            return True
        free = self.available() - (0 if self.stints is None else self.stints.memory_bytes)
        if step.task != "scoreline.finalize" or free >= LARGE_MEMORY_BYTES:
            return free >= MIN_MEMORY_BYTES
        main = engine.buckets.main
        return not read_job(main, step.job_id).spec.arranged and PlanFile(main, step.job_id).parts <= MAX_PARTS

    def models_awaited(self, left: Collection[WaitingStep]) -> set[PinnedModel]:
        """Return the models of those steps that have waited for `PATIENCE_S` since this process refused them."""
        now = self.clock()
        refused = [self._refused[step] for step in left if step in self._refused]
        return {refusal.model for refusal in refused if now - refusal.first_s >= PATIENCE_S}

    def _model_of(self, engine: Engine, step: WaitingStep) -> PinnedModel | None:
        if step.task not in STEPS_OF_JOBS:
            return self.model_of_request(step)
        job = read_job(engine.buckets.main, step.job_id)
        if job.challenger is not None:  # planning would load a third model, and try it for up to a minute
            raise NotShort
        return job.model

    def _fits(self, needed: PinnedModel, model: ModelInUse) -> bool:
        """Return whether the process has room for a model beside those in use."""
        in_use = (model.loaded, None if self.outer is None else self.outer.loaded)
        return self.has_room(needed, *(bundle for bundle in in_use if bundle is not None))
