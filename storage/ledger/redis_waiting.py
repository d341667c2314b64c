"""The waiting steps in Redis, which all processes of a deployment share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import batched
from typing import Any, cast

from scoreline.storage.ledger import redis_keys
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


class RedisWaitingSteps:
    """The waiting steps of one bucket (see `WaitingSteps`).

    Parameters
    ----------
    script : script
        The script ``waiting.lua``.
    namespace : str
        Name of the bucket that contains the jobs.
    translate_errors : callable
        Returns a context manager that turns errors of the client into those of `scoreline.storage.errors`.
    now : callable
        Returns the time to pass to the script; empty if the script uses the clock of the server.
    """

    def __init__(
        self,
        script: Any,
        namespace: str,
        translate_errors: Callable[..., AbstractContextManager[None]],
        now: Callable[[], str],
    ) -> None:
        self._script = script
        self._keys = [
            redis_keys.of_bucket(namespace, what) for what in ("waiting", "taken", "carried", "done", "traces")
        ]
        self._translate_errors = translate_errors
        self._now = now

    def add(self, step: WaitingStep) -> None:
        """List a step (see `WaitingSteps.add`)."""
        self._run("add", step.text, text=step.carried, trace=step.trace)

    def offer(self, step: WaitingStep) -> State:
        """List a step unless its state is known (see `WaitingSteps.offer`)."""
        return cast(State, self._run("offer", step.text, text=step.carried, trace=step.trace))

    def states(self, steps: Sequence[WaitingStep]) -> Sequence[State]:
        """Return the state of each step (see `WaitingSteps.states`)."""
        return cast(list[State], self._run("states", text="\n".join(step.text for step in steps))) if steps else []

    def take(self, seconds: float) -> WaitingStep | None:
        """Take the step that has waited longest (see `WaitingSteps.take`)."""
        found = self._run("take", seconds=seconds)
        return next(iter(_steps_of(found or ())), None)

    def take_alike(self, step: WaitingStep, most: int, seconds: float) -> Sequence[WaitingStep]:
        """Take steps that can be done together with a step (see `WaitingSteps.take_alike`)."""
        alike = step.carried[:ALIKE_CHARS]
        return _steps_of(self._run("alike", f"{step.task} ", seconds, alike, most)) if alike else []

    def renew(self, step: WaitingStep, seconds: float) -> None:
        """Count a step as taken for longer (see `WaitingSteps.renew`)."""
        self._run("renew", step.text, seconds)

    def begin(self, step: WaitingStep) -> bool:
        """Record that the message of a step has arrived (see `WaitingSteps.begin`)."""
        return self.receive(step)[0] != "taken"

    def receive(self, step: WaitingStep) -> tuple[Begun, str]:
        """Record that the message of a step has arrived (see `WaitingSteps.receive`)."""
        begun, carried = self._run("begin", step.text)
        return begun, carried

    def end(self, step: WaitingStep, *, done: bool = False) -> None:
        """Record that a step is no longer taken (see `WaitingSteps.end`)."""
        self._run("end", step.text, DONE_KNOWN_S if done else 0)

    def _run(
        self, action: str, step: str = "", seconds: float = 0, text: str = "", most: int = 1, trace: str = ""
    ) -> Any:
        limits = [MAX_WAITING, int(LISTED_S), MAX_CARRIED, ALIKE_LOOKED_AT]
        arguments = [action, step, self._now(), seconds, *limits, text, most, trace]
        with self._translate_errors():
            return self._script(keys=self._keys, args=arguments)


def _steps_of(found: Sequence[str]) -> list[WaitingStep]:
    """Return steps from an answer of the script: for each step its text, what it carries, and its trace context."""
    return [replace(WaitingStep.of(text), carried=carried, trace=trace) for text, carried, trace in batched(found, 3)]
