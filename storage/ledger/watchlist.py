"""The interface of the watchlist. `tests/integration/storage/ledger/test_watchlists.py` tests every implementation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

THOROUGH_S = 3600.0
"""Seconds after which a job is due for a check even if its ledger says otherwise, because only the bucket is
authoritative."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """How far a job on the watchlist is, according to its ledger."""

    job_id: str
    planned: bool
    """Whether the job has a ledger. Without one, all other fields have their defaults."""
    work: str = ""
    """The text that was passed to `Ledger.begin`; empty if an earlier release opened the ledger."""
    parts: int = 0
    parts_done: int = 0
    rows: int = 0
    """Number of rows that are scored or rejected, including those of parts under way."""
    in_flight: int = 0
    stopped: str = ""
    """Why no more parts are dispatched (see `scoreline.storage.ledger.base.Stopped`)."""


class Watchlist(Protocol):
    """The list of jobs under way, which the reconciler checks in turn.

    Reading the watchlist is much cheaper than listing the bucket. The watchlist may lack jobs or contain jobs that have
    ended; only the bucket is authoritative. Each call is atomic, and times come from the ledger's own clock.

    Every method raises `LedgerUnavailable` (transient) if the ledger cannot be reached.
    """

    def lock(self, what: str, holder: str, seconds: float) -> bool:
        """Acquire or renew a lock for `seconds`. Return False if another holder has the lock."""
        ...

    def unlock(self, what: str, holder: str) -> None:
        """Release a lock, if `holder` still has the lock."""
        ...

    def add(self, job_ids: Iterable[str]) -> None:
        """Add jobs, to be checked at once. Jobs that are already on the list are not moved."""
        ...

    def remove(self, job_id: str) -> None:
        """Remove a job that has ended."""
        ...

    def holds(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Return those of `job_ids` that are on the list."""
        ...

    def take(self, limit: int, again_s: float) -> Sequence[str]:
        """Return up to `limit` jobs to check. The jobs that have waited longest come first.

        No other call returns the same jobs within `again_s` seconds.
        """
        ...

    def put_off(self, job_id: str, seconds: float) -> None:
        """Do not return a job from `take` before `seconds` have passed."""
        ...

    def states(self) -> Sequence[JobState]:
        """Return the state of every job on the list."""
        ...

    def due(self, job_ids: Sequence[str], window: int) -> Sequence[str]:
        """Return the jobs in `job_ids` that must be reconciled.

        A job is due if it has no ledger, if some of its parts are lost, or if it has ended. A job is also due if fewer
        than `window` parts are in flight although other parts wait to be dispatched. A job is not due while the message
        of its next step is under way. Every `THOROUGH_S` seconds, each job becomes due, until `looked_at` is called for
        it.
        """
        ...

    def looked_at(self, job_id: str) -> None:
        """Record that a job was just compared with the bucket. This comparison is due every `THOROUGH_S` seconds."""
        ...
