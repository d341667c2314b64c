"""Collects the facts of a report from the documents of a job.

A report takes some 15 requests. Of many files with rejected rows, only the first ones are read, and the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    ModelCorrupt,
    ModelNotFound,
    ModelUntrusted,
    ObjectNotFound,
    PackageMissing,
    ScorelineError,
    describe,
    require_extra,
)
from scoreline.storage.models.attachments import CHECKS
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import WITH_RESULTS, Job, Outcome, read_job, read_outcome
from scoreline.tasks.job.findings import Finding
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.challengers.comparison import Comparison, read_comparison
from scoreline.tasks.quality.gate.pointer import Pointer, publishes
from scoreline.tasks.quality.gate.published import read_manifest_head, stream_files
from scoreline.tasks.quality.gate.stored_profiles import first_accepted, read_baseline, read_profile
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes, read_outcomes
from scoreline.tasks.quality.profiles.profile import Profile
from scoreline.tasks.quality.report.columns import compared_columns, compared_segments
from scoreline.tasks.quality.report.count_rejects import Limits, count_rejected
from scoreline.tasks.quality.report.facts import ChecksFrom, Compared, Report, Stage
from scoreline.tasks.quality.trace.lineage import libraries_in, lineage_of
from scoreline.tasks.scoring.timings import TIMINGS

BASELINE = "baseline"
"""What to compare with, in place of a job: the baseline of the model version."""


class _AllButProfiles:
    """Contains all keys, except those of profiles, which are large and read once."""

    def __contains__(self, key: object) -> bool:
        return not str(key).endswith(keys.results_profile(""))


_ALL_BUT_PROFILES = _AllButProfiles()
ON_DEMAND = Limits(files=500, rows=200_000)
"""Rejected rows that are counted for a report that a person asks for."""


def report_of(
    buckets: Buckets,
    job_id: str,
    against: str | None = None,
    *,
    verify_keys: Sequence[str] = (),
    limits: Limits = ON_DEMAND,
    made: datetime | None = None,
) -> Report:
    """Return the report of a job that has ended.

    Parameters
    ----------
    against : str, optional
        Id of a job to compare with, or ``baseline``. By default, the job is compared with what its checks compare it
        with: the baseline of the model version, or the first accepted run of the output.
    verify_keys : sequence of str
        Trusted keys, with one of which the model version must be signed. Without keys, signatures are not checked.
    limits : Limits
        How many rejected rows are counted.
    made : datetime, optional
        The time that the report gives as its own, with its zone; by default, now.

    Raises
    ------
    JobNotFound, JobRemoved
        There is no such job, or no longer.
    InvalidRequest
        The job has not ended, or there is nothing as `against` says.
    """
    uncached, buckets = buckets, buckets.caching(_ALL_BUT_PROFILES)  # several functions read the same documents
    registry = ModelRegistry(buckets.main, verify_keys=verify_keys)
    job, outcome = read_job(buckets.main, job_id), read_outcome(buckets.main, job_id)
    if outcome is None:
        raise InvalidRequest(f"job {job_id} is under way: wait for its end with `scoreline watch {job_id}`")
    try:
        plan = PlanFile(buckets.main, job_id)
    except ObjectNotFound:
        plan = None
    spec, notes, layout = job.spec, [], ResultsLayout.of(buckets, job)
    manifest: Manifest | None = None
    try:
        manifest = registry.manifest(job.model)
    except (ModelNotFound, ModelCorrupt, ModelUntrusted) as error:
        notes.append(f"What is known about the model version is missing: {describe(error)}.")
    profile, why = _profile(layout, job, outcome)
    reference: tuple[Compared, Profile] | None = None
    if why:
        notes.append(why)
    if against is not None:
        reference = _asked_for(buckets, job, manifest, against)
    elif profile is not None:
        try:
            reference = _usual(buckets, job, manifest)
        except (DocumentCorrupt, ModelCorrupt) as error:
            notes.append(f"There is nothing to compare with: {describe(error)}.")
        else:
            if reference is None:
                notes.append(
                    "There is nothing to compare with: the model version has no baseline, and no earlier run of the "
                    "output is accepted."
                )
    comparison, outcomes = _comparison(layout, job, notes), _outcomes(layout, job, notes)
    compared, before = reference or (None, None)
    findings = _findings(outcome)
    if compared is not None and before is not None and profile is not None:
        gone = tuple(key for key in before.columns if key not in profile.columns)
        compared = replace(compared, columns_only_there=gone)
    return Report(
        job_id=spec.job_id,
        model=job.model.ref,
        state=outcome.state,
        made=(made or datetime.now(UTC)).isoformat(timespec="seconds"),
        submitted=job.submitted,
        seconds=outcome.seconds,
        submitter=job.submitter.who if job.submitter is not None else "",
        schedule=job.schedule or "",
        labels=job.labels,
        input=spec.inputs,
        output=layout.uri(layout.folder),
        rows=plan.rows if plan is not None else 0,
        scored=outcome.rows,
        rejected=outcome.rejected,
        parts=outcome.parts,
        error=outcome.error,
        checked=_was_checked(buckets, job, outcome, profile),
        findings=findings,
        review=outcome.checks.review if outcome.checks is not None else None,
        counted=profile.counted if profile is not None else 0,
        one_in=profile.one_in if profile is not None else 1,
        notes=tuple(notes),
        compared=compared,
        columns=compared_columns(profile, before, findings) if profile is not None else (),
        segment=profile.segment if profile is not None else "",
        segments=compared_segments(profile, before) if profile is not None else (),
        rejects=count_rejected(ResultsLayout.of(uncached, job), plan, outcome, limits),
        stages=_stages(layout, outcome),
        work_s=outcome.work_s,
        requests_write=outcome.class_a,
        requests_read=outcome.class_b,
        result_bytes=outcome.result_bytes,
        checks_from=_checks_from(job, manifest),
        plan_sha256=plan.sha256 if plan is not None else "",
        lineage=lineage_of(buckets, registry, job_id, _libraries(buckets, layout, outcome)),
        comparison=comparison,
        outcomes=outcomes,
    )


def _findings(outcome: Outcome) -> tuple[Finding, ...]:
    found = outcome.checks.findings if outcome.checks is not None else ()
    return tuple(sorted(found, key=lambda finding: finding.level != "block"))


def _was_checked(buckets: Buckets, job: Job, outcome: Outcome, profile: Profile | None) -> bool:
    """Return whether the checks of a job were run. An outcome without findings does not say so.

    Releases without checks made no profiles, and did not claim the end of a job. ``latest.json`` lists only the last
    runs of an output, so it does not say that a job was not checked.
    """
    if outcome.state not in WITH_RESULTS or job.spec.checks == "none" or not publishes(job, buckets.main.bucket):
        return False
    if profile is not None or outcome.checks is not None:
        return True
    return exists(buckets.main, keys.claim(job.spec.job_id, outcome.run))


def _profile(layout: ResultsLayout, job: Job, outcome: Outcome) -> tuple[Profile | None, str]:
    """Return the profile of a job; without one, the reason why there is none."""
    try:
        return read_profile(layout.store, layout.folder), ""
    except DocumentCorrupt as error:
        return None, f"There are no pictures: {describe(error)}."
    except ObjectNotFound:
        pass
    if outcome.state not in WITH_RESULTS:
        how = "was cancelled" if outcome.state == "cancelled" else "failed"
        return None, f"There are no pictures, because only a job with all its results has a profile; this one {how}."
    if job.spec.profile == "off":
        return None, "There are no pictures, because the job was submitted with --profile off."
    return None, (
        "There are no pictures, because the job has no profile: an earlier release scored it, or DATA_PROFILE is off, "
        "or it has fewer than 1,000 records."
    )


def _usual(buckets: Buckets, job: Job, manifest: Manifest | None) -> tuple[Compared, Profile] | None:
    """Return what the checks of a job compare it with."""
    if manifest is not None and (baseline := read_baseline(buckets.main, manifest)) is not None:
        return _compared("baseline", manifest.ref, baseline)
    if not publishes(job, buckets.main.bucket):
        return None
    pointer = Pointer.of(buckets, job.spec.output)
    latest, _ = pointer.read()
    first = None if latest is None else first_accepted(pointer, latest, job.spec.job_id)
    if first is None or first[0].place.submitted >= datetime.fromisoformat(job.submitted):
        return None  # this job is the first one
    return _compared("first", first[0].job_id, first[1])


def _asked_for(buckets: Buckets, job: Job, manifest: Manifest | None, against: str) -> tuple[Compared, Profile]:
    if against == BASELINE:
        baseline = None if manifest is None else read_baseline(buckets.main, manifest)
        if baseline is None:
            raise InvalidRequest(
                f"{job.model.ref} has no baseline: publish the next version with --baseline, or name a job to compare "
                "with"
            )
        return _compared("baseline", job.model.ref, baseline)
    if against == job.spec.job_id:
        raise InvalidRequest(f"job {against} cannot be compared with itself: name another job, or 'baseline'")
    layout = ResultsLayout.of(buckets, read_job(buckets.main, against))
    try:
        return _compared("job", against, read_profile(layout.store, layout.folder))
    except ObjectNotFound:
        raise InvalidRequest(
            f"job {against} has no profile, so nothing can be compared with it: it has not ended, an earlier release "
            "scored it, or its profile was off"
        ) from None


def _compared(kind: str, name: str, profile: Profile) -> tuple[Compared, Profile]:
    return Compared(kind=kind, name=name, rows=profile.rows, counted=profile.counted), profile  # type: ignore[arg-type]


def _stages(layout: ResultsLayout, outcome: Outcome) -> tuple[Stage, ...]:
    """Return where the time of the processes went, as the head of the results' manifest says."""
    if outcome.state not in WITH_RESULTS:
        return ()
    try:
        seconds = read_manifest_head(layout.store, layout.folder)["seconds"]
        return tuple(Stage(name=name, seconds=float(seconds[name])) for name in TIMINGS if name in seconds)
    except (ValueError, TypeError, LookupError):  # an earlier release wrote it, or it was removed
        return ()


def _libraries(buckets: Buckets, layout: ResultsLayout, outcome: Outcome) -> Mapping[str, str]:
    """Return the libraries that the footer of the first result file names; none if it cannot be read."""
    if outcome.state not in WITH_RESULTS:
        return {}
    try:
        with require_extra("reading the footer of a result file"):
            from scoreline.tasks.quality.results.opened_results import open_result
        for file in stream_files(layout.store, layout.folder):
            with open_result(buckets, file.uri) as opened:
                return libraries_in(opened.footer.metadata)
    except PackageMissing:
        pass
    except ScorelineError as error:
        if error.transient:
            raise
    return {}


def _checks_from(job: Job, manifest: Manifest | None) -> ChecksFrom:
    given = job.spec.checks
    if given is not None:
        return "none" if given == "none" else "job"
    return "version" if manifest is not None and CHECKS in manifest.attachments else "defaults"


def _comparison(layout: ResultsLayout, job: Job, notes: list[str]) -> Comparison | None:
    try:
        return read_comparison(layout.store, job)
    except DocumentCorrupt as error:
        notes.append(f"The comparison with the challenger is missing: {describe(error)}.")
        return None


def _outcomes(layout: ResultsLayout, job: Job, notes: list[str]) -> Outcomes | None:
    try:
        return read_outcomes(layout.store, parse_uri(job.spec.output)[1])
    except DocumentCorrupt as error:
        notes.append(f"What happened later is missing: {describe(error)}.")
        return None
