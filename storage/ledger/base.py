"""The contract of a ledger; `tests/integration/storage/ledger/test_ledgers.py` holds every ledger to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from scoreline.storage.ledger.counters import Counters

ToDo = Literal["run", "done", "busy", "stopped", "unknown"]
Stopped = Literal["", "budget", "failures", "closed"]
"""Why no more parts are given out: too many rows rejected, too many parts failed, or the outcome is written."""

LIFE_S = 30 * 24 * 3600
"""How long a ledger outlives the last call of `begin` or `dispatch`; the record is in the bucket."""
LIFE_AFTER_OUTCOME_S = 24 * 3600
LONGEST_PATIENCE_S = 3600.0
"""Bound of the time after which a message is sent again, which doubles each time."""
TICK_KNOWN_S = 24 * 3600
MAX_FAILED_PARTS = 100
"""Failed parts after which a job stops: by then, what is wrong is not a single part. Bounds the reasons kept."""


@dataclass(frozen=True, kw_only=True)
class PartLease:
    """A part of a plan that a message asks a process to score, held for some seconds at a time."""

    job_id: str
    plan_sha256: str
    """Digest of the plan that the part is of; a ledger of another plan refuses it."""
    part: int
    holder: str
    """Names the message: when it is delivered again, it takes over the lease of its earlier delivery."""
    lease_s: float
    """Seconds for which `Ledger.start` and `Ledger.renew` keep others out."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """Answer to the start of a part."""

    to_do: ToDo
    """``run``: score it. ``done``: it was finished before. ``busy``: another holder has the lease, and the reconciler
    watches it. ``stopped``: the job gives out no more parts. ``unknown``: its turn has not come; it will be sent
    again."""
    attempt: int
    """Counts from 1."""
    all_done: bool
    result_may_exist: bool
    """Whether the part may have been written without being counted."""
    budget: int
    """Rows of the job that may be rejected."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """Answer to the end of a part."""

    next_part: int | None
    """The caller has to dispatch it; no other caller is given it."""
    all_done: bool
    stopped: Stopped
    counted: bool
    """Whether it was this call that counted the part."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """What has to be done for a job now."""

    parts: tuple[int, ...]
    """The caller has to dispatch them."""
    all_done: bool
    stopped: Stopped


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is."""

    parts: int
    parts_done: int
    """Failed ones included."""
    rows: int
    """Rows scored so far."""
    rejected: int
    failures: Mapping[int, str]
    """Reasons by part."""
    in_flight: int
    """Parts in the queue or being scored."""
    stopped: Stopped

    @property
    def over(self) -> bool:
        """Whether the job is at its end, and the outcome is not written."""
        return self.stopped in ("budget", "failures") or (self.all_done and self.stopped != "closed")

    @property
    def all_done(self) -> bool:
        """Whether no part is left."""
        return self.parts_done == self.parts


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What the results in the bucket say of a job whose ledger is gone."""

    done: frozenset[int]
    rows: int
    rejected: int


class Ledger(Protocol):
    """What is done, under way and next in every job of one bucket.

    A ledger may be lost at any moment and is then rebuilt from the bucket. Each call is atomic, from any number of
    threads and, where the ledger is a server, of processes. Times are those of the caller's clock: a clock that is off
    makes a part run twice, which is harmless.

    A part that is dispatched is *in flight* until it is counted. The message of a part or step that was sent and never
    begun is sent again after the ledger's patience, which doubles each time up to `LONGEST_PATIENCE_S`.

    Every method raises `LedgerUnavailable` (transient) where the ledger cannot be reached.
    """

    @property
    def counters(self) -> Counters:
        """What happened so far, in all jobs."""
        ...

    def ping(self) -> None:
        """Raise `LedgerUnavailable` where the ledger does not answer."""
        ...

    def begin(
        self, job_id: str, plan_sha256: str, parts: int, *, budget: int, recovered: Recovered | None = None
    ) -> bool:
        """Open the ledger of a job, once; returns whether this call did.

        Parameters
        ----------
        budget : int
            Rows that may be rejected before the job stops.
        recovered : Recovered, optional
            What is written already, where the plan is not new.

        Raises
        ------
        LedgerFenced
            The ledger is of another plan.
        """
        ...

    def dispatch(self, job_id: str, plan_sha256: str, window: int) -> Due:
        """Claim the parts to put into the queue now: lost ones, and new ones up to `window` in flight.

        Raises
        ------
        LedgerLost, LedgerFenced
            There is no ledger of the job, or it is of another plan.
        """
        ...

    def start(self, lease: PartLease, *, is_retry: bool = False) -> Started:
        """Take the lease of a part; its holder may also take over a lease of its own.

        Parameters
        ----------
        is_retry : bool
            The holder's earlier start ended in a transient error, and does not count as an attempt.

        Raises
        ------
        LedgerLost, LedgerFenced
            There is no ledger of the job, or it is of another plan.
        """
        ...

    def renew(self, lease: PartLease) -> bool:
        """Hold a part for `lease.lease_s` more seconds; returns whether the holder still had it."""
        ...

    def release(self, lease: PartLease) -> None:
        """Take back a start that ended in a transient error: its message comes again, and it was no attempt."""
        ...

    def complete(
        self, job_id: str, plan_sha256: str, part: int, *, rows: int, rejected: int, failure: str = ""
    ) -> Completed:
        """Count a part, once; a second call changes nothing and is given no next part.

        No lease is needed: a part is also counted by a process that found it written, or gave it up.

        Raises
        ------
        LedgerLost, LedgerFenced
            There is no ledger of the job, or it is of another plan.
        """
        ...

    def stopped(self, job_id: str) -> bool:
        """Whether the job wants no more of what is being scored: it was cancelled, has ended, or is over its budget."""
        ...

    def close(self, job_id: str) -> None:
        """Note that the outcome is written, and let the ledger fade within `LIFE_AFTER_OUTCOME_S`."""
        ...

    def forget(self, job_id: str) -> None:
        """Remove a job's ledger and its steps, to begin again from what is in the bucket."""
        ...

    def progress(self, job_id: str) -> Progress | None:
        """Return how far a job is; None where there is no ledger of it."""
        ...

    def claim_step(self, job_id: str, step: str) -> bool:
        """Whether a step's message has to be sent: it was not yet, or nothing was heard of it for too long."""
        ...

    def begin_step(self, job_id: str, step: str, seconds: float) -> int:
        """Note that the caller does a step for `seconds`; returns how often it was begun and not ended, with this."""
        ...

    def renew_step(self, job_id: str, step: str, seconds: float) -> None:
        """Note that the caller goes on with a step for `seconds`; nothing changes where the step is not known."""
        ...

    def end_step(self, job_id: str, step: str, *, will_retry: bool = False) -> None:
        """Note that a step is done; or, with `will_retry`, that its message comes again and this was no attempt."""
        ...

    def once_in(self, what: str, seconds: float) -> bool:
        """Whether the caller is the first to ask for `what` within `seconds`, of all processes."""
        ...

    def note_processes(self, count: int, seconds: float) -> None:
        """Remember for `seconds` how many processes there are to score parts."""
        ...

    def processes(self) -> int:
        """Return how many processes there were when they were counted last; 0 where that was too long ago."""
        ...

    def note_tick(self) -> None:
        """Remember for `TICK_KNOWN_S` that the clock ticked."""
        ...

    def seconds_since_tick(self) -> float | None:
        """Return how long ago the clock ticked; None where it did not within `TICK_KNOWN_S`."""
        ...
