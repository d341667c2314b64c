"""Computes and formats how long work takes."""

from __future__ import annotations

from scoreline.storage.ledger.base import Ledger
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.end_time import PART_S


def seconds_of_work(ledger: Ledger, job: Job, rows: int, parts: int) -> float | None:
    """Return the seconds that one process would take for rows of a job; None if the pace of the model is unknown.

    The pace is that of earlier jobs with the same model version and method.
    """
    pace = ledger.counters.pace(job.work)
    return None if pace is None else rows / pace + parts * PART_S


def duration(seconds: float) -> str:
    """Format a duration for people, in at most two units.

    >>> [duration(seconds) for seconds in (0, 0.0004, 0.04, 8.4, 90, 3599, 7260, 200_000)]
    ['0.0 s', '0 ms', '40 ms', '8.4 s', '1 min 30 s', '59 min 59 s', '2 h 1 min', '2 d 7 h']
    """
    if 0 < seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3_600:
        first, second = f"{whole // 60} min", f"{whole % 60} s"
    elif whole < 86_400:
        first, second = f"{whole // 3_600} h", f"{whole % 3_600 // 60} min"
    else:
        first, second = f"{whole // 86_400} d", f"{whole % 86_400 // 3_600} h"
    return first if second.startswith("0 ") else f"{first} {second}"
