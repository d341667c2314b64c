"""The contract of counters, which `tests/integration/storage/ledger/test_counters.py` runs against every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

PART_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram of part durations; 600 s is the time limit of a task."""
MAX_MODELS = 100
"""Models that are counted separately; the loads of all others are counted as `OTHER_MODELS`."""
OTHER_MODELS = "_other"
MAX_PACES = 1_000
"""Combinations of model version and method whose pace is remembered; if there are more, all paces are dropped."""
ENDS = ("succeeded", "partial", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Loads:
    """How often a model was loaded into a process, and how long that took."""

    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Everything that was counted since the ledger was last emptied."""

    rows: int
    """Number of scored rows."""
    rejected: int
    parts_scored: int
    parts_failed: int
    part_seconds: float
    """Total duration of the parts in `part_buckets`."""
    part_buckets: tuple[tuple[float, int], ...]
    """For each upper bound in seconds, up to infinity, the number of parts that took no longer."""
    jobs: Mapping[str, int]
    """Number of jobs that ended, by state."""
    loads: Mapping[str, Loads]
    """Loads by name of the model."""


class Counters(Protocol):
    """Counters of one deployment, for its metrics.

    If the ledger is emptied, they start again at zero. Every method except `read` makes a best effort: if the ledger
    cannot be reached, it does not count and does not raise, so that scoring continues.
    """

    def count_part(self, *, rows: int, rejected: int, failed: bool, seconds: float | None) -> None:
        """Count a part that the ledger has just counted.

        Parameters
        ----------
        seconds : float, optional
            Duration of the part; None if it failed or was found written.
        """
        ...

    def count_job(self, state: str) -> None:
        """Count a job whose outcome the caller has just written."""
        ...

    def count_load(self, model: str, seconds: float) -> None:
        """Count a model that was loaded into a process."""
        ...

    def note_pace(self, what: str, rows_per_s: float) -> None:
        """Remember how many rows per second a process scores in jobs of the kind `what`."""
        ...

    def pace(self, what: str) -> float | None:
        """Return the rows per second of `what` as last noted, or None if they are unknown or not a positive number."""
        ...

    def read(self) -> Totals:
        """Return all counters; raises `LedgerUnavailable`."""
        ...


def cumulate(parts_by_bound: Mapping[float, int]) -> tuple[tuple[float, int], ...]:
    """Return `Totals.part_buckets` from the number of parts in each bucket alone."""
    buckets, parts = [], 0
    for bound in (*PART_BUCKETS_S, float("inf")):
        parts += parts_by_bound.get(bound, 0)
        buckets.append((bound, parts))
    return tuple(buckets)


def bucket_of(seconds: float) -> float:
    """Return the upper bound of the bucket for a duration.

    >>> bucket_of(0.1), bucket_of(0.11), bucket_of(601)
    (0.1, 0.25, inf)
    """
    return next((bound for bound in PART_BUCKETS_S if seconds <= bound), float("inf"))
