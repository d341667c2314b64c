"""The gate at the end of a job: runs its checks, and decides whether readers get its results.

A check that fails itself never loses a job: its failure is a finding that warns. Only a store that does not answer
stops the gate, because the results must not pass unchecked; the finalizer then tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.findings import Checks, Finding
from scoreline.tasks.quality.gate.latest import Latest
from scoreline.tasks.quality.gate.pointer import LatestRead, Pointer, publishes
from scoreline.tasks.quality.gate.verdict import Verdict
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded

log = logging.getLogger(__name__)

MAX_FINDINGS = 200
"""Maximum number of findings that an outcome contains. Those that block come first, and the rest are counted."""
_MAX_MESSAGE = 500


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the checks of a job look at: its documents, its numbers of rows, and its profile."""

    buckets: Buckets
    documents: Documents
    rows: int
    rejected: int
    profile: Any = None
    """The profile of the job; None if it has none."""
    latest: LatestRead | None = None
    """Returns ``latest.json`` of the output, if the caller has already read it."""
    compared_with: list[Any] = field(default_factory=list)
    """The profiles that the checks have read, for a caller that keeps them until the report of the job needs them."""

    def accepted_before(self) -> Latest | None:
        """Return which run readers of the output take now; None if there is none. Raises `DocumentCorrupt`."""
        job = self.documents.job
        if not publishes(job, self.buckets.main.bucket):
            return None
        return (self.latest or Pointer.of(self.buckets, job.spec.output).read)()[0]


type Checker = Callable[[Evidence], Iterable[Finding]]
"""Runs the checks of a job."""


def judge(evidence: Evidence, checker: Checker) -> Verdict:
    """Return the verdict about a job that has all its results.

    Only a job that can become the latest run of its output is checked (see `publishes`).
    """
    job = evidence.documents.job
    if not publishes(job, evidence.buckets.main.bucket):
        return Verdict()
    try:
        return Verdict(findings=tuple(map(_short, checker(evidence))))
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        if isinstance(error, ScorelineError) and error.transient:
            raise
        log.exception("checks.failed", extra={"job_id": job.spec.job_id})
        message = f"the checks could not be run, so nothing was checked: {describe(error)}"
        return Verdict(findings=(_short(Finding(check="checks", level="warn", message=message)),))


def recorded(verdict: Verdict) -> Checks | None:
    """Return what an outcome contains of a verdict; None if there are no findings."""
    if not verdict.findings:
        return None
    ordered = sorted(verdict.findings, key=lambda finding: finding.level != "block")
    kept = ordered[:MAX_FINDINGS]
    if left := ordered[MAX_FINDINGS:]:
        kept.append(Finding(check="checks", level=left[0].level, message=f"{len(left):,} more findings are not listed"))
    return Checks(findings=tuple(kept))


def _short(finding: Finding) -> Finding:
    if len(finding.message) <= _MAX_MESSAGE:
        return finding
    return Finding(**vars(finding) | {"message": finding.message[: _MAX_MESSAGE - 1] + "…"})
