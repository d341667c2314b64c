"""The contract of counters; `tests/integration/storage/ledger/test_counters.py` holds every kind to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

PART_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram of part durations; 600 s is the time limit of a task."""
MAX_MODELS = 100
"""Models told apart; loads of any further ones are added up as `OTHER_MODELS`."""
OTHER_MODELS = "_other"
MAX_PACES = 1_000
"""Versions of models, each with a method, whose pace is remembered; when there are more, all are learned anew."""
ENDS = ("succeeded", "partial", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Loads:
    """How often a model was loaded into a process, and how long that took."""

    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What was counted since the ledger was emptied last."""

    rows: int
    """Scored."""
    rejected: int
    parts_scored: int
    parts_failed: int
    part_seconds: float
    """Of the parts in `part_buckets`."""
    part_buckets: tuple[tuple[float, int], ...]
    """Parts by duration: upper bound in seconds, ending with infinity, and how many took that long or less."""
    jobs: Mapping[str, int]
    """Jobs that ended, by state."""
    loads: Mapping[str, Loads]
    """By name of the model."""


class Counters(Protocol):
    """Counters of one deployment, for its metrics.

    They are no record: an emptied ledger begins again at zero. Every method but `read` is a best effort, and never
    raises because the ledger cannot be reached: what cannot be counted then is not, and scoring goes on.
    """

    def count_part(self, *, rows: int, rejected: int, failed: bool, seconds: float | None) -> None:
        """Count a part that the ledger has just counted.

        Parameters
        ----------
        seconds : float, optional
            How long it took; None where it failed, or was found written.
        """
        ...

    def count_job(self, state: str) -> None:
        """Count a job whose outcome the caller has just written."""
        ...

    def count_load(self, model: str, seconds: float) -> None:
        """Count a model that was loaded into a process."""
        ...

    def note_pace(self, what: str, rows_per_s: float) -> None:
        """Remember how many rows a second one process scores in jobs of `what`."""
        ...

    def pace(self, what: str) -> float | None:
        """Return the rows a second of `what`, as noted last; None where that is not known, or no positive number."""
        ...

    def read(self) -> Totals:
        """Return what was counted; raises `LedgerUnavailable`."""
        ...


def cumulated(parts_by_bound: Mapping[float, int]) -> tuple[tuple[float, int], ...]:
    """Return `Totals.part_buckets` of the number of parts within each bound and above the one before it."""
    buckets, parts = [], 0
    for bound in (*PART_BUCKETS_S, float("inf")):
        parts += parts_by_bound.get(bound, 0)
        buckets.append((bound, parts))
    return tuple(buckets)


def bucket_of(seconds: float) -> float:
    """Return the least bound that a duration is within.

    >>> bucket_of(0.1), bucket_of(0.11), bucket_of(601)
    (0.1, 0.25, inf)
    """
    return next((bound for bound in PART_BUCKETS_S if seconds <= bound), float("inf"))
