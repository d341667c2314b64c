"""The waiting steps in Redis, which all processes of a deployment share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from scoreline.storage.ledger import redis_keys
from scoreline.storage.ledger.waiting import LISTED_S, MAX_WAITING, WaitingStep


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
        self._keys = [redis_keys.of_bucket(namespace, what) for what in ("waiting", "taken")]
        self._translate_errors = translate_errors
        self._now = now

    def add(self, step: WaitingStep) -> None:
        """List a step (see `WaitingSteps.add`)."""
        self._run("add", step.text)

    def take(self, seconds: float) -> WaitingStep | None:
        """Take the step that has waited longest (see `WaitingSteps.take`)."""
        found = self._run("take", seconds=seconds)
        return None if found is None else WaitingStep.of(found)

    def renew(self, step: WaitingStep, seconds: float) -> None:
        """Count a step as taken for longer (see `WaitingSteps.renew`)."""
        self._run("renew", step.text, seconds)

    def begin(self, step: WaitingStep) -> bool:
        """Record that the message of a step has arrived (see `WaitingSteps.begin`)."""
        return bool(self._run("begin", step.text))

    def end(self, step: WaitingStep) -> None:
        """Record that a step is no longer taken (see `WaitingSteps.end`)."""
        self._run("end", step.text)

    def _run(self, action: str, text: str = "", seconds: float = 0) -> Any:
        arguments = [action, text, self._now(), seconds, MAX_WAITING, int(LISTED_S)]
        with self._translate_errors():
            return self._script(keys=self._keys, args=arguments)
