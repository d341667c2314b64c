"""The waiting steps in the memory of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from scoreline.storage.ledger.waiting import (
    ALIKE_CHARS,
    ALIKE_LOOKED_AT,
    DONE_KNOWN_S,
    LISTED_S,
    MAX_CARRIED,
    MAX_WAITING,
    Begun,
    State,
    WaitingStep,
)


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
        self._carried: dict[WaitingStep, str] = {}
        self._traces: dict[WaitingStep, str] = {}
        self._done: dict[WaitingStep, float] = {}

    def add(self, step: WaitingStep) -> None:
        """List a step (see `WaitingSteps.add`)."""
        with self._guard:
            self._add(step)

    def offer(self, step: WaitingStep) -> State:
        """List a step unless its state is known (see `WaitingSteps.offer`)."""
        with self._guard:
            if (state := self._state(step)) == "":
                self._add(step)
            return state

    def states(self, steps: Sequence[WaitingStep]) -> Sequence[State]:
        """Return the state of each step (see `WaitingSteps.states`)."""
        with self._guard:
            return [self._state(step) for step in steps]

    def _add(self, step: WaitingStep) -> None:
        self._waiting.setdefault(step, self._clock())
        self._done.pop(step, None)
        if step.trace:
            self._traces[step] = step.trace
        if step.carried and len(self._carried) < MAX_CARRIED:
            self._carried[step] = step.carried
        while len(self._waiting) > MAX_WAITING:
            self._drop(next(iter(self._waiting)))

    def _state(self, step: WaitingStep) -> State:
        now = self._clock()
        if self._taken.get(step, 0.0) > now:
            return "taken"
        if self._done.get(step, 0.0) > now:
            return "done"
        return "waiting" if step in self._waiting else ""

    def take(self, seconds: float) -> WaitingStep | None:
        """Take the step that has waited longest (see `WaitingSteps.take`)."""
        with self._guard:
            self._drop_old()
            return self._take(next(iter(self._waiting)), seconds) if self._waiting else None

    def take_alike(self, step: WaitingStep, most: int, seconds: float) -> Sequence[WaitingStep]:
        """Take steps that can be done together with a step (see `WaitingSteps.take_alike`)."""
        with self._guard:
            self._drop_old()
            alike = [
                other
                for other in list(self._waiting)[:ALIKE_LOOKED_AT]
                if other.task == step.task
                and self._carried.get(other, "")[:ALIKE_CHARS] == step.carried[:ALIKE_CHARS] != ""
            ]
            return [self._take(other, seconds) for other in alike[:most]]

    def _take(self, step: WaitingStep, seconds: float) -> WaitingStep:
        trace = self._traces.get(step, "")
        carried = self._drop(step)
        self._taken[step] = self._clock() + seconds
        return WaitingStep(task=step.task, job_id=step.job_id, carried=carried, trace=trace)

    def _drop(self, step: WaitingStep) -> str:
        self._waiting.pop(step, None)
        self._traces.pop(step, None)
        return self._carried.pop(step, "")

    def _drop_old(self) -> None:
        now = self._clock()
        for step in [step for step, since in self._waiting.items() if since <= now - LISTED_S]:
            self._drop(step)

    def renew(self, step: WaitingStep, seconds: float) -> None:
        """Count a step as taken for longer (see `WaitingSteps.renew`)."""
        with self._guard:
            if step in self._taken:
                self._taken[step] = self._clock() + seconds

    def begin(self, step: WaitingStep) -> bool:
        """Record that the message of a step has arrived (see `WaitingSteps.begin`)."""
        return self.receive(step)[0] != "taken"

    def receive(self, step: WaitingStep) -> tuple[Begun, str]:
        """Record that the message of a step has arrived (see `WaitingSteps.receive`)."""
        with self._guard:
            if (state := self._state(step)) == "taken":  # if it was added since, it must be done once more
                return state, ""
            carried = self._drop(step)
            return ("done", "") if state == "done" else ("", carried)

    def end(self, step: WaitingStep, *, done: bool = False) -> None:
        """Record that a step is no longer taken (see `WaitingSteps.end`)."""
        with self._guard:
            self._taken.pop(step, None)
            if done and step not in self._waiting:
                now = self._clock()
                self._done = {other: until for other, until in self._done.items() if until > now}
                self._done[step] = now + DONE_KNOWN_S
