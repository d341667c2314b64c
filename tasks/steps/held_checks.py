"""Holds a job that has all its results against its checks, for the gate.

The job is compared with the baseline of its model version, or else with the oldest accepted run of its output that has
a profile. Its numbers of rows are compared with those of the last accepted run.
"""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from itertools import islice

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound, describe
from scoreline.storage.models.attachments import BASELINE
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.typed_json import MALFORMED_GZIP, decode_object
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.job.findings import Finding
from scoreline.tasks.job.uris import literal_prefix, names, parse_uri
from scoreline.tasks.quality.check_types import Checks
from scoreline.tasks.quality.checks import RunCounts, run_checks
from scoreline.tasks.quality.gate import Evidence
from scoreline.tasks.quality.latest import Latest
from scoreline.tasks.quality.pointer import Pointer
from scoreline.tasks.quality.profile import Profile
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_checks import checks_of_job

_FIRST_RUNS = 3
"""Number of the oldest runs whose profile is looked for."""


def hold_against_checks(engine: Engine, evidence: Evidence) -> list[Finding]:
    """Run the checks of a job.

    Raises
    ------
    ScorelineError
        The checks, the baseline or ``latest.json`` cannot be read. The gate makes a finding of this.
    """
    documents = evidence.documents
    checks = checks_of_job(engine, documents.job)
    document = evidence.accepted_before()
    last = None if document is None else document.run
    baseline, name = _baseline(engine, documents), "the baseline"
    if baseline is None and document is not None:
        baseline, name = _first_profile(evidence, document), "the first accepted run"
    return run_checks(
        checks,
        counts=RunCounts(rows=evidence.rows + evidence.rejected, rejected=evidence.rejected),
        profile=evidence.profile,
        baseline=baseline,
        baseline_name=name,
        last=None if last is None else RunCounts(rows=last.rows + last.rejected, rejected=last.rejected),
        newest_input=_newest_input(engine, documents, checks),
        now=datetime.now(UTC),
    )


def _baseline(engine: Engine, documents: Documents) -> Profile | None:
    """Return the baseline of the model version; None if it has none."""
    manifest = engine.models.manifest(documents.job.model)
    data = ModelRegistry(engine.buckets.main).attachment(manifest, BASELINE)
    if data is None:
        return None
    where = f"the baseline of {documents.job.model.ref}"
    try:
        return Profile.from_dict(decode_object(gzip.decompress(data)), where)
    except MALFORMED_GZIP as error:
        raise DocumentCorrupt(f"{where} is damaged: {describe(error)}") from error


def _first_profile(evidence: Evidence, document: Latest) -> Profile | None:
    """Return the profile of the oldest accepted run that has one; None if none of the oldest runs has one."""
    pointer = Pointer.of(evidence.buckets, evidence.documents.job.spec.output)
    accepted = (run for run in reversed(document.runs) if run.decision == "accepted")
    for run in islice(accepted, _FIRST_RUNS):
        key = f"{keys.output_folder(pointer.prefix, run.job_id)}_profile.json"
        try:
            with decoding(pointer.store, key):
                return Profile.from_dict(decode_object(pointer.store.get(key).data), pointer.store.uri(key))
        except ObjectNotFound:
            continue
    return None


def _newest_input(engine: Engine, documents: Documents, checks: Checks) -> datetime | None:
    """Return when the newest object of the input was written, if a check needs it. This lists the input."""
    rule = checks.of("freshness")
    if rule.level == "off" or "max_age" not in rule.limits:
        return None
    newest = 0.0
    for uri in documents.job.spec.inputs:
        bucket, pattern = parse_uri(uri)
        for info in engine.buckets[bucket].list(literal_prefix(pattern)):
            if names(pattern, info.key):
                newest = max(newest, info.modified)
    return datetime.fromtimestamp(newest, UTC) if newest else None
