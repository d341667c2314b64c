"""The interface of a ledger. `tests/integration/storage/ledger/test_ledgers.py` tests every implementation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from scoreline.storage.ledger.answers import Answers
from scoreline.storage.ledger.counters import Counters
from scoreline.storage.ledger.shares import NO_TERMS, Terms
from scoreline.storage.ledger.waiting import WaitingSteps
from scoreline.storage.ledger.watchlist import Watchlist

ToDo = Literal["run", "done", "busy", "stopped", "late", "unknown"]
Stopped = Literal["", "budget", "failures", "deadline", "closed"]
"""Reason why no more parts are dispatched, or an empty string if parts are still dispatched.

``budget``: too many rows were rejected. ``failures``: too many parts failed. ``deadline``: the deadline has passed.
``closed``: the outcome is written.
"""

LIFE_S = 30 * 24 * 3600
"""Seconds for which a ledger is kept after the last call of `begin` or `dispatch`. The job itself stays in the
bucket."""
LIFE_AFTER_OUTCOME_S = 24 * 3600
"""Seconds for which a ledger is kept after the outcome is written."""
LONGEST_PATIENCE_S = 3600.0
"""Maximum number of seconds to wait until a message is sent again if no worker has started its part. The delay doubles
with each message."""
LONGEST_PATIENCE_IN_QUEUE_S = 600.0
"""`LONGEST_PATIENCE_S` while the queue is long. It is shorter, so that the end of a long queue is noticed in time."""
TICK_KNOWN_S = 24 * 3600
"""Seconds for which the ledger remembers the last run of the task `scoreline.tick`."""
IDLE_KNOWN_S = 24 * 3600
"""Seconds for which the ledger remembers the time since which there is no work."""
MAX_FAILED_PARTS = 100
"""Number of failed parts at which a job stops, because so many failures have a common cause. The number also limits how
many failure reasons are stored."""


@dataclass(frozen=True, kw_only=True)
class PartLease:
    """The exclusive right to score a part, which the holder renews every few seconds."""

    job_id: str
    plan_sha256: str
    """Digest of the plan that contains the part. A ledger that belongs to another plan refuses the lease."""
    part: int
    holder: str
    """Identifier of the message. If the message is delivered again, the new delivery takes over the lease of the
    earlier delivery."""
    lease_s: float
    """Seconds until the lease expires, unless it is renewed."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """Result of `Ledger.start`."""

    to_do: ToDo
    """What the caller does with the part.

    ``run``: score the part. ``done``: the part was already finished. ``busy``: another holder has the lease, and the
    reconciler monitors it. ``stopped``: the job dispatches no more parts. ``late``: the job dispatches no more parts,
    because its deadline has passed. ``unknown``: the part is not due yet and will be dispatched again.
    """
    attempt: int
    """Number of the attempt, from 1."""
    all_done: bool
    result_may_exist: bool
    """Whether the result of the part may already be written although the ledger has not counted the part."""
    budget: int
    """Number of rows that the job may reject."""
    trace: str = ""
    """The trace to which the part belongs, as a W3C ``traceparent``; empty if it is not known or nothing is run."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """Result of `Ledger.complete`."""

    next_part: int | None
    """The part that the caller must dispatch next, or None if there is none. No other caller receives this part."""
    all_done: bool
    stopped: Stopped
    counted: bool
    """True if this call counted the part; False if an earlier call counted it."""


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
    """Number of finished parts, including failed parts."""
    rows: int
    """Number of rows scored so far."""
    rejected: int
    failures: Mapping[int, str]
    """Reason for each failure, by part number."""
    in_flight: int
    """Number of parts that are in the queue or being scored."""
    stopped: Stopped
    rows_under_way: int = 0
    """Number of rows that parts in flight have scored so far, according to `Ledger.note_scored`."""
    uncounted: int = 0
    """Number of times that the ledger was rebuilt because it had counted parts that were incomplete in the bucket."""
    work: str = ""
    """The text that was passed to `Ledger.begin`."""

    @property
    def over(self) -> bool:
        """Whether scoring has ended but the outcome is not written yet."""
        return self.stopped in ("budget", "failures", "deadline") or (self.all_done and self.stopped != "closed")

    @property
    def all_done(self) -> bool:
        """Whether all parts are done."""
        return self.parts_done == self.parts


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """Progress of a job, recovered from its results in the bucket after the ledger was lost."""

    done: frozenset[int]
    rows: int
    rejected: int
    uncounted: int = 0
    """See `Progress.uncounted`."""


class Ledger(Protocol):
    """Keeps track of which parts are done, in flight and next, for all jobs of one bucket.

    A ledger may be lost at any moment; it is then rebuilt from the bucket. Each call is atomic across threads and, if
    the ledger is a server, across processes. All times come from the ledger's own clock, so that a wrong clock of a
    caller does no harm.

    A dispatched part is *in flight* until it is counted. If no process begins a part or step, its message is sent
    again. The first delay is set by `patience_s`. The delay doubles with each further message, up to
    `LONGEST_PATIENCE_S`.

    Every method raises `LedgerUnavailable` (transient) if the ledger cannot be reached.
    """

    @property
    def counters(self) -> Counters:
        """The counters of all jobs."""
        ...

    @property
    def watchlist(self) -> Watchlist:
        """The jobs under way, for the reconciler."""
        ...

    @property
    def waiting(self) -> WaitingSteps:
        """The short steps whose messages are in the queue, for processes that score long parts."""
        ...

    @property
    def answers(self) -> Answers:
        """The answers of small jobs, for the applications that wait for them."""
        ...

    def ping(self) -> None:
        """Raise `LedgerUnavailable` if the ledger does not answer."""
        ...

    def begin(
        self,
        job_id: str,
        plan_sha256: str,
        parts: int,
        *,
        budget: int,
        recovered: Recovered | None = None,
        work: str = "",
        terms: Terms = NO_TERMS,
        trace: str = "",
    ) -> bool:
        """Open the ledger of a job unless it is already open, and return whether this call opened it.

        Parameters
        ----------
        budget : int
            Number of rows that the job may reject before it stops.
        recovered : Recovered, optional
            Progress found in the bucket, if the plan existed before.
        work : str
            A description of the job's work, which `Watchlist.states` returns. The ledger does not read it.
        terms : Terms, optional
            How the job shares the processes with others.
        trace : str
            The trace to which the parts of the job belong (see `Started.trace`).

        Raises
        ------
        LedgerFenced
            The ledger belongs to another plan.
        """
        ...

    def dispatch(self, job_id: str, plan_sha256: str, window: int, *, queue_is_long: bool = False) -> Due:
        """Claim the parts to put into the queue now: lost parts, then new parts until `window` parts are in flight.

        A job with a maximum number of parts has at most that many in flight.

        Parameters
        ----------
        queue_is_long : bool
            Whether the queue has messages for all processes. Each of these messages serves any part that waits, so no
            message is sent again for a part that no process has begun. Otherwise, if parts wait for hours because other
            groups or jobs come first, the queue would grow with each message that is sent again.

        Raises
        ------
        LedgerLost, LedgerFenced
            The job has no ledger, or its ledger belongs to another plan.
        """
        ...

    def start(self, lease: PartLease, *, is_retry: bool = False) -> Started:
        """Acquire the lease of a part. A holder can also take over its own earlier lease.

        Parameters
        ----------
        is_retry : bool
            Whether the holder's previous attempt ended in a transient error. Such an attempt is not counted.

        Raises
        ------
        LedgerLost, LedgerFenced
            The job has no ledger, or its ledger belongs to another plan.
        """
        ...

    def start_due(
        self, lease: PartLease, weights: Mapping[str, int], *, is_retry: bool = False
    ) -> tuple[PartLease, Started]:
        """Acquire the lease of the part that is due, among the parts of all jobs (see `shares`).

        If the message is delivered again, it gets the part that was due at its earlier delivery, as long as the lease
        of this part exists. A retry is always for the part of `lease`. If no part is due, the result describes the part
        of `lease`.

        Parameters
        ----------
        lease : PartLease
            The part that the message names, and the holder.
        weights : mapping of str to int
            Weights of groups; by default, a group has the weight 1.

        Returns
        -------
        lease : PartLease
            The part to work on. Its job and plan may be others than those of the argument.
        started : Started
            The result.

        Raises
        ------
        LedgerLost, LedgerFenced
            The job that the message names has no ledger, or its ledger belongs to another plan.
        """
        ...

    def start_any(self, holder: str, lease_s: float, weights: Mapping[str, int]) -> tuple[PartLease, Started] | None:
        """Acquire the lease of the part that is due, for a message whose own job has no ledger.

        Other parts may wait for this message, because their own messages were used for parts of the job without a
        ledger. The result is None if no part is due. If the message is delivered again, the new delivery does not take
        over the lease of the earlier one.
        """
        ...

    def renew(self, lease: PartLease) -> bool:
        """Extend a lease to `lease.lease_s` seconds from now, and return whether the holder still had the lease."""
        ...

    def release(self, lease: PartLease, *, retried: bool = False) -> None:
        """Release a lease, so that the interrupted attempt is not counted.

        If `retried` is true, the part waits for the retry of the message, and no other message starts it.
        """
        ...

    def note_rejects(self, lease: PartLease, rejected: int) -> int:
        """Record how many rows the holder has rejected so far in a part under way.

        Return the number of rejected rows of the whole job: in counted parts, and in parts under way. When a
        part is started again, its own count begins at zero again. If the job has no ledger, or its ledger belongs to
        another plan, return `rejected`.
        """
        ...

    def note_scored(self, lease: PartLease, rows: int) -> None:
        """Record how many rows the holder has scored so far in a part under way, for `Progress.rows_under_way`.

        The number is dropped when the part is started again or counted. If the job has no ledger for this plan, nothing
        is recorded.
        """
        ...

    def complete(
        self,
        job_id: str,
        plan_sha256: str,
        part: int,
        *,
        rows: int,
        rejected: int,
        failure: str = "",
        seconds: float | None = None,
    ) -> Completed:
        """Count a part as done, exactly once. A second call for the same part changes nothing and returns no next part.

        The part is also added to the counters, if they can be changed (see `Counters.count_part`).

        The caller needs no lease. A process without a lease counts two kinds of parts: parts whose result the process
        finds in the bucket, and parts that the process gives up.

        Parameters
        ----------
        failure : str
            Why the part failed; empty if it did not.
        seconds : float, optional
            Duration of the part, or None if the part failed or its result was already written.

        Raises
        ------
        LedgerLost, LedgerFenced
            The job has no ledger, or its ledger belongs to another plan.
        """
        ...

    def stopped(self, job_id: str) -> Stopped:
        """Return why scoring should stop: the job was cancelled, has ended, exceeds its budget or is past its deadline.

        The text is empty if scoring should continue.
        """
        ...

    def close(self, job_id: str) -> None:
        """Record that the outcome is written. The ledger then expires after `LIFE_AFTER_OUTCOME_S`."""
        ...

    def forget(self, job_id: str) -> None:
        """Delete the ledger and the steps of a job, so that the job starts again from its state in the bucket."""
        ...

    def progress(self, job_id: str) -> Progress | None:
        """Return the progress of a job, or None if it has no ledger."""
        ...

    def claim_step(self, job_id: str, step: str) -> bool:
        """Return whether the caller must send the message of a step.

        The caller must send the message if none was sent yet, or if the last message seems to be lost.
        """
        ...

    def begin_step(self, job_id: str, step: str, seconds: float) -> int:
        """Record that the caller will work on a step for up to `seconds`.

        Return how many times the step was begun since it last ended.
        """
        ...

    def renew_step(self, job_id: str, step: str, seconds: float) -> None:
        """Record that the caller will work on a step for another `seconds`. An unknown step is ignored."""
        ...

    def end_step(self, job_id: str, step: str, *, will_retry: bool = False) -> None:
        """Record that a step is done.

        If `will_retry` is true, record instead that the step will be retried. The failed attempt is then not counted.
        """
        ...

    def note_object(self, job_id: str, step: str, uri: str) -> None:
        """Record which object a step or a part is about to read, in case the object ends the process.

        An empty URI deletes the note, and so does the end of the step. The note of a part expires after `LIFE_S`.
        """
        ...

    def noted_object(self, job_id: str, step: str) -> str:
        """Return the URI that `note_object` recorded last; empty if there is none."""
        ...

    def once_in(self, what: str, seconds: float) -> bool:
        """Return True if no process has called this method with the same `what` in the last `seconds`."""
        ...

    def set_flag(self, name: str, seconds: float) -> None:
        """Set a flag for `seconds`, or until `take_flag` takes it."""
        ...

    def take_flag(self, name: str) -> bool:
        """Take a flag that was set. Return whether it was set; of several processes, one takes it."""
        ...

    def note_processes(self, count: int, seconds: float) -> None:
        """Remember for `seconds` that `count` processes can score parts."""
        ...

    def processes(self) -> int:
        """Return the number that `note_processes` recorded last, or 0 if it has expired."""
        ...

    def note_worker_size(self, processes: int) -> None:
        """Remember for `LIFE_S` how many processes a worker has, on average."""
        ...

    def worker_size(self) -> int:
        """Return the number that `note_worker_size` recorded last; 0 if it is unknown."""
        ...

    def note_busy(self) -> None:
        """Record that there is work, so that `note_idle` counts from zero again."""
        ...

    def note_idle(self) -> float:
        """Record that there is no work. Return the seconds since the first such call after the last `note_busy`.

        After `IDLE_KNOWN_S`, the count begins at zero again.
        """
        ...

    def note_tick(self) -> None:
        """Record that the task `scoreline.tick`, which beat requests, runs now.

        The record expires after `TICK_KNOWN_S`.
        """
        ...

    def seconds_since_tick(self) -> float | None:
        """Return the seconds since `note_tick` was last called, or None if that record has expired."""
        ...
