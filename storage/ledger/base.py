"""The contract of a ledger, which `tests/integration/storage/ledger/test_ledgers.py` runs against every ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from scoreline.storage.ledger.counters import Counters

ToDo = Literal["run", "done", "busy", "stopped", "unknown"]
Stopped = Literal["", "budget", "failures", "closed"]
"""Why no more parts are dispatched: too many rows were rejected, too many parts failed, or the outcome is written."""

LIFE_S = 30 * 24 * 3600
"""How long a ledger is kept after the last call of `begin` or `dispatch`; the job itself is in the bucket."""
LIFE_AFTER_OUTCOME_S = 24 * 3600
"""How long a ledger is kept after the outcome is written."""
LONGEST_PATIENCE_S = 3600.0
"""Longest time after which an unanswered message is sent again; the time doubles with each message."""
TICK_KNOWN_S = 24 * 3600
"""How long a tick of the clock is remembered."""
MAX_FAILED_PARTS = 100
"""Failed parts after which a job stops, because the cause is not a single part. This also limits the stored reasons."""


@dataclass(frozen=True, kw_only=True)
class PartLease:
    """The exclusive right to score a part, which the holder renews every few seconds."""

    job_id: str
    plan_sha256: str
    """Digest of the plan that contains the part; the ledger of another plan refuses it."""
    part: int
    holder: str
    """Identifies the message. If it is delivered again, it takes over the lease of its earlier delivery."""
    lease_s: float
    """Seconds until the lease expires, unless it is renewed."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """Result of `Ledger.start`."""

    to_do: ToDo
    """``run``: score the part. ``done``: it was finished before. ``busy``: another holder has the lease, and the
    reconciler watches it. ``stopped``: the job dispatches no more parts. ``unknown``: the part is not due yet and will
    be dispatched again."""
    attempt: int
    """Number of the attempt, from 1."""
    all_done: bool
    result_may_exist: bool
    """Whether the result may have been written without being counted."""
    budget: int
    """Number of rows that the job may reject."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """Result of `Ledger.complete`."""

    next_part: int | None
    """The part that the caller must dispatch, which no other caller receives; None if there is none."""
    all_done: bool
    stopped: Stopped
    counted: bool
    """Whether this call counted the part, rather than an earlier one."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """Result of `Ledger.dispatch`."""

    parts: tuple[int, ...]
    """The parts that the caller must dispatch."""
    all_done: bool
    stopped: Stopped


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a job."""

    parts: int
    parts_done: int
    """Number of finished parts, including failed ones."""
    rows: int
    """Number of rows scored so far."""
    rejected: int
    failures: Mapping[int, str]
    """Reasons of failed parts, by part."""
    in_flight: int
    """Number of parts that are in the queue or being scored."""
    stopped: Stopped

    @property
    def over(self) -> bool:
        """Whether no more parts will be scored, but the outcome is not written yet."""
        return self.stopped in ("budget", "failures") or (self.all_done and self.stopped != "closed")

    @property
    def all_done(self) -> bool:
        """Whether all parts are done."""
        return self.parts_done == self.parts


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What the results in the bucket show about a job whose ledger was lost."""

    done: frozenset[int]
    rows: int
    rejected: int


class Ledger(Protocol):
    """Keeps track of which parts are done, in flight and next, for all jobs of one bucket.

    A ledger may be lost at any moment and is then rebuilt from the bucket. Each call is atomic, for any number of
    threads and, if the ledger is a server, of processes. Times are those of the caller's clock; a wrong clock can make
    a part run twice, which is harmless.

    A dispatched part is *in flight* until it is counted. If a part or step is not begun, its message is sent again
    after the ledger's patience, which doubles each time up to `LONGEST_PATIENCE_S`.

    Every method raises `LedgerUnavailable` (transient) if the ledger cannot be reached.
    """

    @property
    def counters(self) -> Counters:
        """The counters of all jobs."""
        ...

    def ping(self) -> None:
        """Raise `LedgerUnavailable` if the ledger does not answer."""
        ...

    def begin(
        self, job_id: str, plan_sha256: str, parts: int, *, budget: int, recovered: Recovered | None = None
    ) -> bool:
        """Open the ledger of a job unless it is already open, and return whether this call opened it.

        Parameters
        ----------
        budget : int
            Number of rows that the job may reject before it stops.
        recovered : Recovered, optional
            What is already written, if the plan is not new.

        Raises
        ------
        LedgerFenced
            The ledger belongs to another plan.
        """
        ...

    def dispatch(self, job_id: str, plan_sha256: str, window: int) -> Due:
        """Claim the parts to put into the queue now: lost ones, and new ones until `window` parts are in flight.

        Raises
        ------
        LedgerLost, LedgerFenced
            The job has no ledger, or its ledger belongs to another plan.
        """
        ...

    def start(self, lease: PartLease, *, is_retry: bool = False) -> Started:
        """Take the lease of a part; a holder may also take over its own earlier lease.

        Parameters
        ----------
        is_retry : bool
            Whether the holder's earlier start ended in a transient error, which does not count as an attempt.

        Raises
        ------
        LedgerLost, LedgerFenced
            The job has no ledger, or its ledger belongs to another plan.
        """
        ...

    def renew(self, lease: PartLease) -> bool:
        """Extend a lease by `lease.lease_s` seconds from now, and return whether the holder still had it."""
        ...

    def release(self, lease: PartLease) -> None:
        """Release a lease after a transient error, so that the start does not count as an attempt."""
        ...

    def complete(
        self, job_id: str, plan_sha256: str, part: int, *, rows: int, rejected: int, failure: str = ""
    ) -> Completed:
        """Count a part exactly once; a second call changes nothing and receives no next part.

        The caller needs no lease, because a part is also counted by a process that finds it written or gives it up.

        Raises
        ------
        LedgerLost, LedgerFenced
            The job has no ledger, or its ledger belongs to another plan.
        """
        ...

    def stopped(self, job_id: str) -> bool:
        """Return whether scoring should stop, because the job was cancelled, has ended, or is over its budget."""
        ...

    def close(self, job_id: str) -> None:
        """Record that the outcome is written; the ledger expires after `LIFE_AFTER_OUTCOME_S`."""
        ...

    def forget(self, job_id: str) -> None:
        """Delete the ledger and the steps of a job, so that it starts again from what is in the bucket."""
        ...

    def progress(self, job_id: str) -> Progress | None:
        """Return the progress of a job, or None if it has no ledger."""
        ...

    def claim_step(self, job_id: str, step: str) -> bool:
        """Return whether the caller must send the message of a step: none was sent yet, or the last one seems lost."""
        ...

    def begin_step(self, job_id: str, step: str, seconds: float) -> int:
        """Record that the caller works on a step for `seconds`, and return how often it was begun but not ended."""
        ...

    def renew_step(self, job_id: str, step: str, seconds: float) -> None:
        """Record that the caller works on a step for `seconds` more; an unknown step is ignored."""
        ...

    def end_step(self, job_id: str, step: str, *, will_retry: bool = False) -> None:
        """Record that a step is done or, with `will_retry`, that it will be retried without counting as an attempt."""
        ...

    def once_in(self, what: str, seconds: float) -> bool:
        """Return whether the caller is the first of all processes to ask for `what` within `seconds`."""
        ...

    def note_processes(self, count: int, seconds: float) -> None:
        """Remember for `seconds` how many processes can score parts."""
        ...

    def processes(self) -> int:
        """Return the number of processes noted last, or 0 if it has expired."""
        ...

    def note_tick(self) -> None:
        """Remember for `TICK_KNOWN_S` that the clock ticked."""
        ...

    def seconds_since_tick(self) -> float | None:
        """Return how long ago the clock ticked, or None if it did not within `TICK_KNOWN_S`."""
        ...
