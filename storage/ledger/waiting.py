"""The interface of the waiting steps. `tests/integration/storage/ledger/test_waiting.py` tests every implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

MAX_WAITING = 10_000
"""Maximum number of steps that are listed. If there are more, only the newest steps are listed."""
MAX_CARRIED = 200
"""Maximum number of steps that carry data, so that these data take little of a small Redis."""
ALIKE_CHARS = 16
"""Steps can be done together if this many characters at the beginning of their data are equal."""
ALIKE_LOOKED_AT = 64
"""Maximum number of listed steps that are searched for steps that can be done together."""
DONE_KNOWN_S = 600.0
"""Seconds for which a step is known to be done. Its message usually arrives within a second."""
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
    carried: str = field(default="", compare=False, repr=False)
    """What the step needs, so that it need not be read from the bucket; empty if it has to be read. It begins with
    `ALIKE_CHARS` characters that are equal for steps that can be done together."""
    trace: str = field(default="", compare=False, repr=False)
    """The trace to which the step belongs, as a W3C ``traceparent``; empty if it is not known."""

    @property
    def text(self) -> str:
        """The step as text, which `of` reads."""
        return f"{self.task} {self.job_id}"

    @classmethod
    def of(cls, text: str) -> WaitingStep:
        """Return the step that a text names."""
        task, _, job_id = text.partition(" ")
        return cls(task=task, job_id=job_id)


type Begun = Literal["", "taken", "done"]
"""Whether a step can begin: ``taken`` by another process, ``done`` by another process, or empty if it can."""
type State = Literal["", "waiting", "taken", "done"]
"""The state of a step: as `Begun`, or ``waiting`` if it is listed."""


class WaitingSteps(Protocol):
    """Lists the short steps whose messages are in the queue.

    A process that scores a long part looks at the list between two batches, and does a step without waiting for the
    message of the step. Otherwise the step would wait until a process has finished its part. The list may lack steps,
    and may contain steps that are done: only the messages and the bucket are authoritative. Each call is atomic, and
    times come from the ledger's own clock.

    Every method raises `LedgerUnavailable` (transient) if the ledger cannot be reached.
    """

    def add(self, step: WaitingStep) -> None:
        """List a step. A step that is already listed keeps its place.

        What the step carries is not kept if `MAX_CARRIED` steps already carry data.
        """
        ...

    def offer(self, step: WaitingStep) -> State:
        """List a step as `add` does if its state is empty. Return the state that it had before."""
        ...

    def states(self, steps: Sequence[WaitingStep]) -> Sequence[State]:
        """Return the state of each step."""
        ...

    def take(self, seconds: float) -> WaitingStep | None:
        """Return the step that has waited longest and remove it from the list; None if the list is empty.

        The step counts as taken for `seconds`, unless the caller calls `renew` or `end`.
        """
        ...

    def take_alike(self, step: WaitingStep, most: int, seconds: float) -> Sequence[WaitingStep]:
        """Take up to `most` steps that can be done together with a step, as `take` does.

        These steps have the same task, and their data begin with the same `ALIKE_CHARS` characters. Only the
        `ALIKE_LOOKED_AT` steps that have waited longest are searched.
        """
        ...

    def renew(self, step: WaitingStep, seconds: float) -> None:
        """Count a step as taken for `seconds` from now, if it is still taken."""
        ...

    def begin(self, step: WaitingStep) -> bool:
        """Remove a step from the list because its message has arrived. Return False if another process has taken it."""
        ...

    def receive(self, step: WaitingStep) -> tuple[Begun, str]:
        """Remove a step from the list because its message has arrived, as `begin` does.

        Return whether the step can begin, and what it carries.
        """
        ...

    def end(self, step: WaitingStep, *, done: bool = False) -> None:
        """Record that a step is no longer taken, because it is done or has failed.

        Parameters
        ----------
        done : bool
            Whether nothing of the step is left to do. If so, `receive` returns ``done`` for `DONE_KNOWN_S`, unless the
            step was added again since it was taken.
        """
        ...
