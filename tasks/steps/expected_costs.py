"""Estimates the work and the requests of a job before it is submitted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scoreline.storage.errors import LedgerError
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.objects.requests import Requests
from scoreline.tasks.backlog.prices import Prices
from scoreline.tasks.job.end_time import PART_S, READ_S_PER_BYTE
from scoreline.tasks.job.plan import CarryOver
from scoreline.tasks.steps.expected_reads import REQUEST_BYTES
from scoreline.tasks.steps.finalize import AROUND_PARTS
from scoreline.tasks.steps.job_report import REQUESTS as REPORT_REQUESTS
from scoreline.tasks.steps.planner import Pace
from scoreline.tasks.steps.sampling import Draft, row_bytes

_PLAN_AND_MANIFEST = Requests(class_a=3, class_b=1)
"""Requests that write the plan, list the rejected rows, check that the job has not ended, and write the manifest."""
_OF_PROCESS = Requests(class_b=4)
"""Requests of a process for the documents of a job and of its model."""
_OF_PART = Requests(class_a=1, class_b=1)
"""Requests of a part besides those for its input: to write its results, and to check its receipt."""
_COMPARISON = Requests(class_a=2)
"""The requests that list the results of the challenger, and write the comparison. Each part writes and reads one more
object."""
_SCORES = Requests(class_a=1)
"""The request that stores the scores of a part for a later job with ``only_changed``."""
_CARRIED_SCORES = Requests(class_b=1)
"""The request that reads the scores of a part of the accepted run."""
_ACCEPTED_RUN = Requests(class_b=2)
"""Requests of a process for the manifest of the accepted run."""
_PROFILE = Requests(class_a=1)
"""The request that writes the profile of a job."""
_READ_PROFILE = Requests(class_b=1)
"""The request that reads the profile of a part."""


@dataclass(frozen=True, kw_only=True)
class ExpectedCosts:
    """The work and the requests that a job is expected to take."""

    work_s: float
    """Seconds that processes work."""
    pace_known: bool
    """Whether an earlier job has recorded the pace of the model version. Otherwise, `work_s` follows from a sample."""
    class_a: int
    """Number of requests that write or list objects."""
    class_b: int
    """Number of requests that read objects."""
    result_bytes: int
    """Size of the results before they are compressed."""
    currency: str = ""
    """Empty if `PRICES_FILE` is not set."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Costs by kind; empty if `PRICES_FILE` is not set."""


def expect_costs(
    made: Draft,
    pace: Pace,
    manifest: Manifest,
    planning: Requests,
    reads: int,
    result_row_bytes: int,
    *,
    ledger: Ledger,
    prices: Prices | None,
    profiled: bool,
    challenger_s: float | None = None,
) -> ExpectedCosts:
    """Return what a job is expected to take.

    Parameters
    ----------
    planning : Requests
        The requests that drafting the plan has taken.
    reads : int
        Expected number of requests of the parts for their input.
    prices : Prices, optional
        The user's prices.
    profiled : bool
        Whether the job has a profile.
    challenger_s : float, optional
        Seconds that processes score with the challenger; None without one, or if it fails.
    """
    rows, parts = sum(part.rows for part in made.parts), len(made.parts)
    rows_per_s = pace.rows_per_s or made.rows_per_s
    work_s = (rows / rows_per_s if rows_per_s else 0.0) + parts * PART_S
    if not pace.rows_per_s:  # what was measured on a sample is scoring alone
        work_s += rows * row_bytes(made.sample) * READ_S_PER_BYTE
    more = max(0, min(parts, pace.processes) - 1)  # one process has loaded the model to plan the job
    loads = Requests(class_b=more * sum(math.ceil(item.size / REQUEST_BYTES) for item in manifest.artifacts))
    found = planning + AROUND_PARTS + REPORT_REQUESTS + _PLAN_AND_MANIFEST + loads + Requests(class_b=reads)
    if challenger_s is not None:
        work_s += challenger_s
        found += Requests(class_a=parts + _COMPARISON.class_a, class_b=parts)
    counted = profiled and parts > 0
    carry = made.columns.carry or CarryOver()
    keeps, carries = bool(carry.fingerprint), bool(carry.job_id)
    for each, count in (
        (_OF_PROCESS, more),
        (_OF_PART, parts),
        (_SCORES, keeps * parts),
        (_CARRIED_SCORES, carries * parts),
        (_ACCEPTED_RUN, carries * (more + 1)),
        (_PROFILE, counted),
        (_READ_PROFILE, counted * parts),
    ):
        found += Requests(class_a=count * each.class_a, class_b=count * each.class_b)
    stored = rows * result_row_bytes
    return ExpectedCosts(
        work_s=work_s,
        pace_known=pace.rows_per_s is not None,
        class_a=found.class_a,
        class_b=found.class_b,
        result_bytes=stored,
        currency=prices.currency if prices else "",
        costs=prices.of(work_s, found, stored, worker_size(ledger)) if prices else {},
    )


def worker_size(ledger: Ledger) -> int:
    """Return the number of processes of a dyno; 1 if it is unknown."""
    try:
        return ledger.worker_size() or 1
    except LedgerError:
        return 1
