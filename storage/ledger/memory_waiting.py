"""The waiting steps in the memory of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from scoreline.storage.ledger.waiting import LISTED_S, MAX_WAITING, WaitingStep


class MemoryWaitingSteps:
    """The waiting steps of one process (see `WaitingSteps`).

    Parameters
    ----------
    lock : Lock
        The lock of the ledger.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, lock: threading.Lock, clock: Callable[[], float]) -> None:
        self._guard = lock
        self._clock = clock
        self._waiting: dict[WaitingStep, float] = {}
        self._taken: dict[WaitingStep, float] = {}

    def add(self, step: WaitingStep) -> None:
        """List a step (see `WaitingSteps.add`)."""
        with self._guard:
            self._waiting.setdefault(step, self._clock())
            while len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]

    def take(self, seconds: float) -> WaitingStep | None:
        """Take the step that has waited longest (see `WaitingSteps.take`)."""
        with self._guard:
            now = self._clock()
            while self._waiting:
                step = next(iter(self._waiting))
                if self._waiting.pop(step) > now - LISTED_S:
                    self._taken[step] = now + seconds
                    return step
            return None

    def renew(self, step: WaitingStep, seconds: float) -> None:
        """Count a step as taken for longer (see `WaitingSteps.renew`)."""
        with self._guard:
            if step in self._taken:
                self._taken[step] = self._clock() + seconds

    def begin(self, step: WaitingStep) -> bool:
        """Record that the message of a step has arrived (see `WaitingSteps.begin`)."""
        with self._guard:
            self._waiting.pop(step, None)
            return self._taken.get(step, 0.0) <= self._clock()

    def end(self, step: WaitingStep) -> None:
        """Record that a step is no longer taken (see `WaitingSteps.end`)."""
        with self._guard:
            self._taken.pop(step, None)
