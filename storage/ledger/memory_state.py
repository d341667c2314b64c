"""The jobs, parts and steps of a ledger in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from scoreline.storage.ledger.base import LIFE_S, MAX_FAILED_PARTS, Stopped
from scoreline.storage.ledger.shares import NO_TERMS, Terms


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What a group was charged for a part that was chosen."""

    seconds: float | None
    """Seconds that the part was expected to take; None if the group was not charged."""
    begun_s: float
    weight: int
    group: str


@dataclass(frozen=True, kw_only=True)
class Used:
    """The part for which the message of another part was used."""

    holder: str
    job_id: str
    part: int


@dataclass(kw_only=True)
class Flight:
    """A part that is in flight, from its dispatch to its completion."""

    until_s: float
    """Time after which the part's message or lease is considered lost."""
    attempts: int = 0
    sent: int = 1
    """Number of messages that were sent for the part."""
    holder: str | None = None
    rejected: int = 0
    """Number of rows that were rejected so far."""
    scored: int = 0
    """Number of rows that were scored so far, as last reported with `Ledger.note_scored`."""
    charge: Charge | None = None
    message: tuple[str, int] | None = None
    """The job and the part that the message of the holder names, if they are others."""
    waits_for_retry: bool = False
    """Whether only the retry of its message may start the part."""


@dataclass(kw_only=True)
class Job:
    """The ledger of one job."""

    plan_sha256: str
    parts: int
    budget: int
    rebuilt: bool
    """Whether results may exist that the ledger has not counted."""
    done: set[int]
    rows: int
    rejected: int
    uncounted: int = 0
    cursor: int = 0
    """Number of the first part that was never dispatched. Parts that are already done are skipped."""
    failures: dict[int, str] = field(default_factory=dict)
    flights: dict[int, Flight] = field(default_factory=dict)
    stopped: Stopped = ""
    work: str = ""
    """See `Ledger.begin`."""
    terms: Terms = NO_TERMS
    trace: str = ""
    """See `Ledger.begin`."""
    cost_s: float | None = None
    """Seconds that the last parts of the job took."""
    messages: dict[int, Used] = field(default_factory=dict)
    """What the messages of parts were used for, by part."""

    @property
    def all_done(self) -> bool:
        """Whether all parts are done."""
        return len(self.done) == self.parts

    def waiting_part(self) -> int | None:
        """Return the first part that is in flight and may be started by any message."""
        waiting = (part for part, item in self.flights.items() if item.holder is None and not item.waits_for_retry)
        return min(waiting, default=None)

    def stop_if_late(self, now: float) -> None:
        """Stop the job if its deadline has passed."""
        late = self.terms.deadline_s is not None and self.terms.deadline_s <= now
        if late and not self.stopped and not self.all_done:
            self.stopped = "deadline"

    def next_part(self) -> int | None:
        """Return the next part to dispatch, and move the cursor past it; return None if all parts were dispatched."""
        while self.cursor < self.parts:
            self.cursor += 1
            if self.cursor - 1 not in self.done:
                return self.cursor - 1
        return None


@dataclass(kw_only=True)
class Step:
    """A step that should run in only one process at a time."""

    until_s: float = 0.0
    sent: int = 0
    attempts: int = 0
    reads: str = ""
    """URI of the object that is read (see `Ledger.note_object`)."""


class Expiring[V]:
    """A mapping whose values expire, like keys with a time to live in Redis.

    Parameters
    ----------
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[V, float]] = {}
        self._puts = 0
        """Number of calls of `put` since expired values were deleted."""

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> V | None:
        """Return a value, or None if it has expired."""
        value, end_s = self._values.get(key, (None, 0.0))
        return value if end_s > self._clock() else None

    def put(self, key: str, value: V, life_s: float) -> None:
        """Set a value. Now and then, delete all values that have expired.

        Deleting them looks at all values. If each call did that, the time would grow with the square of the number of
        jobs.
        """
        now = self._clock()
        self._puts += 1
        if self._puts > len(self._values) / 2:
            self._values = {key: kept for key, kept in self._values.items() if kept[1] > now}
            self._puts = 0
        self._values[key] = value, now + life_s

    def keep(self, key: str, life_s: float) -> None:
        """Restart the lifetime of a value."""
        value = self.get(key)
        if value is not None:
            self.put(key, value, life_s)

    def remove(self, key: str) -> None:
        """Delete a value if it exists."""
        self._values.pop(key, None)


class Steps:
    """The steps of all jobs.

    Parameters
    ----------
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._jobs: Expiring[dict[str, Step]] = Expiring(clock)

    def find(self, job_id: str, step: str) -> Step | None:
        """Return a step, or None if it is not known."""
        return (self._jobs.get(job_id) or {}).get(step)

    def get(self, job_id: str, step: str) -> Step:
        """Return a step to change, and add it if it is not known."""
        steps = self._jobs.get(job_id)
        if steps is None:
            steps = {}
        self._jobs.put(job_id, steps, LIFE_S)
        return steps.setdefault(step, Step())

    def end(self, job_id: str, step: str) -> None:
        """Delete a step if it is known."""
        (self._jobs.get(job_id) or {}).pop(step, None)

    def remove(self, job_id: str) -> None:
        """Delete all steps of a job."""
        self._jobs.remove(job_id)


def reason_to_stop(job: Job) -> Stopped:
    """Return why a job dispatches no more parts; the result is empty if the job still dispatches parts."""
    if job.rejected > job.budget:
        return "budget"
    return "failures" if len(job.failures) >= MAX_FAILED_PARTS else ""
