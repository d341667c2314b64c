"""Does long steps of other jobs in stints: short times between two batches of a part.

A long step runs in a thread of its own. It works during its stints and waits at its gate otherwise, so that what it has
read and computed stays in memory until the next stint.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scoreline.storage.objects import requests
from scoreline.storage.objects.requests import Requests
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded

STINT_S = 0.5
"""Maximum number of seconds of a stint. A stint also takes no longer than the part had since the last stint, so that a
part goes on with at least half of the time of its process."""
MOST_AT_ONCE = 3
"""Maximum number of long steps that a process has begun."""
_ABANDON_S = 2.0
"""Seconds for which a process that ends waits until an abandoned step is listed again."""


class StepAbandoned(BaseException):
    """Raised at the gate of a step that does not go on in this process. No code that handles errors may catch this."""


class Gate:
    """Lets the threads of a long step pass during its stints."""

    def __init__(self) -> None:
        self._open, self._abandoned = threading.Event(), False
        self._closed_at: Requests | None = requests.so_far()
        self.elsewhere = Requests()
        """Requests of this process while the gate was closed. None of them belongs to the step, except those that were
        under way when the gate was closed."""

    def __call__(self) -> None:
        """Wait until the gate is open. Any thread of the step may call this, as long as it holds no lock.

        Raises
        ------
        StepAbandoned
            The step does not go on in this process.
        """
        self._open.wait()
        if self._abandoned:  # the gate stays open
            raise StepAbandoned

    def open(self) -> None:
        """Let the step work."""
        if self._closed_at is not None:
            self.elsewhere, self._closed_at = self.elsewhere + requests.so_far() - self._closed_at, None
        self._open.set()

    def close(self) -> None:
        """Make the step wait as soon as it reaches the gate."""
        if self._abandoned:
            return
        if self._closed_at is None:
            self._closed_at = requests.so_far()
        self._open.clear()

    def abandon(self) -> None:
        """Make the step end as soon as it reaches the gate."""
        self._abandoned = True
        self.open()


class LongStep:
    """A step that runs in a thread of its own, in stints.

    Parameters
    ----------
    work : callable
        Does the step. It calls the gate that it is given wherever it may be paused.
    rest : callable, optional
        What is left to do after `work`, in the thread of the part, because it uses models. It begins at the gate.
    memory_bytes : int
        Memory that the step may take, besides its model.
    """

    def __init__(
        self, work: Callable[[Gate], None], rest: Callable[[Gate], None] | None = None, *, memory_bytes: int = 0
    ) -> None:
        self.gate, self.memory_bytes = Gate(), memory_bytes
        self._work, self._rest = work, rest
        self._interrupted = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="long step")
        self._thread.start()

    def go_on(self, seconds: float | None = None) -> bool:
        """Let the step work for some seconds, or until it ends. Return whether it has ended.

        Raises
        ------
        SoftTimeLimitExceeded
            The time limit of the task interrupts this process. The step goes on in its next stint.
        """
        self.gate.open()
        try:
            self._thread.join(seconds)
        finally:
            if is_alive := self._thread.is_alive():
                self.gate.close()
        if is_alive:
            return False
        if self._interrupted:
            raise SoftTimeLimitExceeded
        rest, self._rest = self._rest, None
        if rest is not None:
            rest(self.gate)
        return True

    @property
    def has_rest(self) -> bool:
        """Whether something is left to do after the thread has ended."""
        return self._rest is not None

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do."""
        return self._rest is None and not self._thread.is_alive()

    def abandon(self) -> None:
        """End the step, and wait until that is done, if it does not take long."""
        rest, self._rest = self._rest, None
        self.gate.abandon()
        self._thread.join(_ABANDON_S)
        if rest is not None and not self._thread.is_alive():
            with contextlib.suppress(StepAbandoned):
                rest(self.gate)

    def _run(self) -> None:
        try:
            self.gate()
            self._work(self.gate)
        except StepAbandoned:
            self._rest = None
        except SoftTimeLimitExceeded:
            self._interrupted = True


@dataclass(kw_only=True)
class Stints:
    """The long steps that this process has begun.

    While a part is under way, they work in stints. Between two parts, they work all the time, beside short tasks.

    Parameters
    ----------
    clock : callable
        Returns a time in seconds, like `time.monotonic`.
    """

    clock: Callable[[], float] = time.monotonic
    _begun: list[LongStep] = field(default_factory=list, init=False)
    _last_s: float = field(default=float("-inf"), init=False)
    """Time at which the last stint ended, or the part began."""

    @property
    def are_full(self) -> bool:
        """Whether no other long step may begin."""
        return sum(not step.has_ended for step in self._begun) >= MOST_AT_ONCE

    @property
    def memory_bytes(self) -> int:
        """Memory that the steps under way may take. How much of it each has taken already is not known."""
        return sum(step.memory_bytes for step in self._begun if not step.has_ended)

    def begin(self, step: LongStep) -> None:
        """Begin a step with its first stint."""
        self._begun.insert(0, step)
        self._stint(STINT_S)

    def go_on(self) -> None:
        """Let the step go on that has waited longest."""
        if self._begun:
            self._stint(min(STINT_S, self.clock() - self._last_s))

    def begin_part(self) -> None:
        """Pause all steps."""
        self._begun = [step for step in self._begun if not step.has_ended]
        for step in self._begun:
            step.gate.close()
        self._last_s = self.clock()

    def end_part(self) -> list[LongStep]:
        """Let all steps work that can. Return those of which something is left to do in the thread of the part."""
        left = [step for step in self._begun if step.has_rest]
        self._begun = [step for step in self._begun if not step.has_rest]
        for step in self._begun:
            step.gate.open()
        return left

    def abandon(self) -> None:
        """End all steps, because this process ends. Each is listed again, so that another process does it."""
        while self._begun:
            self._begun.pop().abandon()

    def _stint(self, seconds: float) -> None:
        step = self._begun.pop(0)
        ended = False
        try:
            ended = step.go_on(max(0.0, seconds))
        finally:
            if not ended:
                self._begun.append(step)
            self._last_s = self.clock()
