"""The interface of counters. `tests/integration/storage/ledger/test_counters.py` tests every implementation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

PART_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram of part durations; 600 s is the time limit of a task."""
MAX_MODELS = 100
"""Maximum number of models that are counted separately. Loads of any further models are counted as `OTHER_MODELS`."""
OTHER_MODELS = "_other"
MAX_PACES = 1_000
"""Maximum number of paces (rows per second) that are remembered: one for each combination of model version and method.
If there are more paces, all earlier paces are dropped."""
ENDS = ("succeeded", "partial", "failed", "cancelled", "blocked")


@dataclass(frozen=True, kw_only=True)
class Loads:
    """Number and total duration of the loads of one model."""

    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The totals of all counters since the ledger was last emptied."""

    rows: int
    """Number of scored rows."""
    rejected: int
    parts_scored: int
    parts_failed: int
    part_seconds: float
    """Total duration in seconds of the parts that `part_buckets` counts."""
    part_buckets: tuple[tuple[float, int], ...]
    """Pairs of an upper bound in seconds and the number of parts that took at most this time. The last bound is
    infinity."""
    jobs: Mapping[str, int]
    """Number of jobs that ended, by state."""
    loads: Mapping[str, Loads]
    """Loads by model name."""


class Counters(Protocol):
    """Counters of one deployment, for its metrics.

    If the ledger is emptied, the counters start again at zero. If the ledger cannot be reached, `read` raises an error,
    and all other methods do nothing, so that scoring continues.
    """

    def count_part(self, *, rows: int, rejected: int, failed: bool, seconds: float | None) -> None:
        """Add a part to the metrics. `Ledger.complete` does this itself for the part that it counts.

        Parameters
        ----------
        seconds : float, optional
            Duration of the part, or None if the part failed or its result was already written.
        """
        ...

    def count_job(self, state: str) -> None:
        """Count a job whose outcome the caller has just written."""
        ...

    def count_load(self, model: str, seconds: float) -> None:
        """Count one load of a model into a process."""
        ...

    def note_pace(self, what: str, rows_per_s: float) -> None:
        """Remember that a process scores `rows_per_s` rows per second in jobs of the kind `what`."""
        ...

    def pace(self, what: str) -> float | None:
        """Return the pace that was last recorded for jobs of the kind `what`, in rows per second.

        Return None if no pace is recorded, or if the recorded pace is not a positive number.
        """
        ...

    def paces(self, whats: Collection[str]) -> dict[str, float]:
        """Return the known paces (see `pace`) of several kinds of jobs at once. Unknown paces are left out."""
        ...

    def read(self) -> Totals:
        """Return all counters, or raise `LedgerUnavailable`."""
        ...


def cumulate(parts_by_bound: Mapping[float, int]) -> tuple[tuple[float, int], ...]:
    """Compute the cumulative `Totals.part_buckets` from the number of parts in each bucket."""
    buckets, parts = [], 0
    for bound in (*PART_BUCKETS_S, float("inf")):
        parts += parts_by_bound.get(bound, 0)
        buckets.append((bound, parts))
    return tuple(buckets)


def bucket_of(seconds: float) -> float:
    """Find the interval of the histogram that contains a duration, and return its upper bound.

    >>> bucket_of(0.1), bucket_of(0.11), bucket_of(601)
    (0.1, 0.25, inf)
    """
    return next((bound for bound in PART_BUCKETS_S if seconds <= bound), float("inf"))
