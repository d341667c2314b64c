"""Collects what the checks of a job look at, and runs them, for the gate.

A job is compared with the baseline of its model version, or else with the oldest accepted run of its output that has a
profile. Its numbers of rows are compared with those of the last accepted run.
"""

from __future__ import annotations

from datetime import UTC, datetime

from scoreline.tasks.job.findings import Finding
from scoreline.tasks.job.uris import literal_prefix, names, parse_uri
from scoreline.tasks.quality.checks.run_checks import RunCounts, run_checks
from scoreline.tasks.quality.gate.judging import Evidence
from scoreline.tasks.quality.gate.latest import RunEntry
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.stored_profiles import first_accepted, read_baseline
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_checks import checks_of_job


def check_job(engine: Engine, evidence: Evidence, *, now: datetime | None = None) -> list[Finding]:
    """Run the checks of a job that has all its results.

    Only what a check needs is read: the baseline if there is a profile to compare, and the times of the input's objects
    if there is a limit for them.

    Parameters
    ----------
    now : datetime, optional
        By default, the current time.

    Raises
    ------
    ScorelineError
        The checks or the baseline cannot be read. The gate turns an error that is not transient into a finding.
    """
    job, now = evidence.documents.job, now or datetime.now(UTC)
    manifest = engine.models.manifest(job.model)
    checks = checks_of_job(engine, job, manifest)
    if all(check.level == "off" for check in checks.table.values()) and not checks.columns:
        return []
    profile, before = evidence.profile, None
    latest = evidence.accepted_before()
    baseline = name = None
    if profile is not None:
        baseline, name = read_baseline(engine.buckets.main, manifest), "the baseline"
        if baseline is None and latest is not None:
            first = first_accepted(Pointer.of(evidence.buckets, job.spec.output), latest, job.spec.job_id)
            baseline, name = None if first is None else first[1], "the first accepted run"
        evidence.compared_with.append(baseline)
    accepted = None if latest is None else latest.run
    if accepted is not None and accepted.job_id != job.spec.job_id:
        before = counts_of(accepted)
    freshness = checks.table["freshness"]
    wants_age = freshness.level != "off" and freshness.limit("max_age") is not None
    return run_checks(
        checks,
        counts=RunCounts(rows=evidence.rows + evidence.rejected, rejected=evidence.rejected),
        profile=profile,
        baseline=baseline,
        baseline_name=name or "the baseline",
        last=before,
        newest_input=newest_input(engine, evidence) if wants_age else None,
        now=now,
    )


def counts_of(run: RunEntry) -> RunCounts:
    """Return the numbers of rows of an accepted run."""
    return RunCounts(rows=run.rows + run.rejected, rejected=run.rejected)


def newest_input(engine: Engine, evidence: Evidence) -> datetime | None:
    """Return the time at which the newest object of the input was written; None if no listing has its time.

    Objects that were added after the job was planned do not count.
    """
    planned = {(piece.bucket, piece.key) for part in evidence.documents.plan for piece in part.slices}
    newest = 0.0
    for uri in evidence.documents.job.spec.inputs:
        bucket, pattern = parse_uri(uri)
        for info in engine.buckets[bucket].list(literal_prefix(pattern)):
            if (bucket, info.key) in planned and (info.key == pattern or names(pattern, info.key)):
                newest = max(newest, info.modified)
    return datetime.fromtimestamp(newest, UTC) if newest else None
