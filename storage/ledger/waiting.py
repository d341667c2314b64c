"""The interface of the waiting steps. `tests/integration/storage/ledger/test_waiting.py` tests every implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MAX_WAITING = 10_000
"""Maximum number of steps that are listed. If there are more, only the newest steps are listed."""
LISTED_S = 3600.0
"""Seconds after which a step is no longer listed. By then, the reconciler has sent its message again."""


@dataclass(frozen=True, kw_only=True)
class WaitingStep:
    """A short step of a job whose message is in the queue.

    Examples
    --------
    >>> WaitingStep.of(WaitingStep(task="scoreline.plan", job_id="nightly").text)
    WaitingStep(task='scoreline.plan', job_id='nightly')
    """

    task: str
    """Name of the Celery task that does the step, such as ``scoreline.plan``."""
    job_id: str

    @property
    def text(self) -> str:
        """The step as text, which `of` reads."""
        return f"{self.task} {self.job_id}"

    @classmethod
    def of(cls, text: str) -> WaitingStep:
        """Return the step that a text names."""
        task, _, job_id = text.partition(" ")
        return cls(task=task, job_id=job_id)


class WaitingSteps(Protocol):
    """Lists the short steps whose messages are in the queue.

    A process that scores a long part looks at the list between two batches, and does a step without waiting for the
    message of the step. Otherwise the step would wait until a process has finished its part. The list may lack steps,
    and may contain steps that are done: only the messages and the bucket are authoritative. Each call is atomic, and
    times come from the ledger's own clock.

    Every method raises `LedgerUnavailable` (transient) if the ledger cannot be reached.
    """

    def add(self, step: WaitingStep) -> None:
        """List a step. A step that is already listed keeps its place."""
        ...

    def take(self, seconds: float) -> WaitingStep | None:
        """Return the step that has waited longest and remove it from the list; None if the list is empty.

        The step counts as taken for `seconds`, unless the caller calls `renew` or `end`.
        """
        ...

    def renew(self, step: WaitingStep, seconds: float) -> None:
        """Count a step as taken for `seconds` from now, if it is still taken."""
        ...

    def begin(self, step: WaitingStep) -> bool:
        """Remove a step from the list because its message has arrived. Return False if another process has taken it."""
        ...

    def end(self, step: WaitingStep) -> None:
        """Record that a step is no longer taken, because it is done or has failed."""
        ...
