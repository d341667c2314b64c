"""Says when two models take turns in the memory of a process that has no room for both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.tasks.steps.engine import ModelInUse

log = logging.getLogger(__name__)

TURNS_EVERY = 9
"""If models take turns, the part goes on for this many times as long as the turn took. A process therefore spends at
most a tenth of its time on turns."""


@dataclass(kw_only=True)
class Turns:
    """The turns that other models take in place of the model of a part. The parameters are those of `ShortSteps`."""

    can_take_turns: Callable[[PinnedModel, Bundle], bool]
    clock: Callable[[], float]
    _next_s: float = field(default=float("-inf"), init=False)

    def due(self, models: Collection[PinnedModel], model: ModelInUse) -> frozenset[PinnedModel]:
        """Return which of the awaited models are to be loaded now in place of the model in use."""
        in_use = model.loaded
        if in_use is None or self.clock() < self._next_s:  # or nothing has to leave the memory
            return frozenset()
        return frozenset(other for other in models if self._can_take(other, in_use))

    def _can_take(self, other: PinnedModel, in_use: Bundle) -> bool:
        try:
            return self.can_take_turns(other, in_use)
        except ScorelineError as error:  # of the other model, for example because it was deleted meanwhile
            log.warning("step.left", extra={"model": other.ref, "error": describe(error)})
            return False

    def end(self, seconds: float) -> None:
        """Record that a turn has ended which took some seconds."""
        self._next_s = self.clock() + TURNS_EVERY * seconds
