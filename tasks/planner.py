"""From ``job.json`` to ``plan.json.gz``, and the first parts into the queue."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from billiard.exceptions import SoftTimeLimitExceeded

from storage import keys
from storage.errors import MissingColumns, PreconditionFailed, ScorelineError, ScoringError
from storage.objects.base import ObjectStore, exists
from tasks import inputs
from tasks.ending import fail_job
from tasks.engine import Engine, step
from tasks.plan import BATCH_ROWS, PART_ROWS, Columns, InputFile, Part, cut
from tasks.plan_file import encode
from tasks.reconcile import open_ledger, tend
from tasks.records import read_job, read_outcome
from tasks.score import Scored, score_batch
from tasks.seen import unseen
from tasks.spec import Job, parse_uri
from tasks.staging import stage

log = logging.getLogger(__name__)

SAMPLE_ROWS = 64
"""Rows scored to learn the output schema."""
SAMPLED_PARTS = 8
"""Parts to look into where the first rows cannot be scored."""


def plan_job(engine: Engine, job_id: str) -> None:
    """Plan a job and dispatch its first parts; harmless when run again. A job that cannot be scored ends as failed."""
    main = engine.buckets.main
    with step(engine, job_id, "plan"):
        planned = exists(main, keys.plan(job_id)) or read_outcome(main, job_id) is not None
        if not planned and not _plan(engine, read_job(main, job_id)):
            return
    tend(engine, job_id)


def _plan(engine: Engine, job: Job) -> bool:
    """Write the plan and open the ledger; returns whether the job can go on."""
    job_id = job.spec.job_id
    try:
        data = make_plan(engine, job)
    except ScorelineError as error:
        if error.transient:
            raise
        fail_job(engine, job_id, error)
        return False
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # an estimator may raise anything; the job must end with the reason
        log.exception("plan.failed", extra={"job_id": job_id})
        fail_job(engine, job_id, error)
        return False
    try:
        engine.buckets.main.put(keys.plan(job_id), data, create_only=True)
    except PreconditionFailed:
        log.info("plan.exists", extra={"job_id": job_id})
    else:
        open_ledger(
            engine, engine.documents(job_id, fresh=True)
        )  # nothing can be written yet, so there is nothing to recover
    return True


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan, and what was seen on the way to it."""

    columns: Columns
    parts: tuple[Part, ...] = ()
    warnings: tuple[str, ...] = ()
    files: tuple[InputFile, ...] = ()
    schema: pa.Schema | None = None
    """Of the first object; None where there is none."""
    sample: pa.RecordBatch | None = None
    """Rows that were tried; None for an input without rows."""
    scored: Scored | None = None
    """What became of them."""
    tried: int = 0
    """Rows that were tried before, of which none can be scored."""
    reason: str = ""
    """Of the first row that cannot be scored."""


def make_plan(engine: Engine, job: Job) -> bytes:
    """Draft a plan and encode it (errors as `draft`)."""
    made = draft(engine, job)
    identity = {
        "bucket": engine.buckets.main.bucket, "job_id": job.spec.job_id, "submitted": job.submitted,
        "model": job.model.ref, "manifest_sha256": job.model.manifest_sha256,
    }  # fmt: skip
    return encode(made.columns, made.parts, made.warnings, identity=identity)


def draft(engine: Engine, job: Job) -> Draft:
    """List the input, check it against the model, score a sample, and cut it into parts.

    Neither the ledger nor the queue is asked, and nothing is written.

    Raises
    ------
    ScorelineError
        Why the job cannot be scored; whatever else an estimator raises comes through.
    """
    bucket, pattern = parse_uri(job.spec.input)
    store = engine.buckets[bucket]
    _ = engine.buckets[parse_uri(job.spec.output)[0]]
    manifest = engine.models.manifest(job.model)
    features = job.spec.features or manifest.feature_names
    if features is None:
        raise MissingColumns(f"model {job.model.ref} was fitted without column names: name them with --features a,b,c")
    if manifest.n_features not in (None, len(features)):
        raise MissingColumns(f"model {job.model.ref} takes {manifest.n_features} features, {len(features)} are named")
    stage(engine, job)
    found = inputs.find(store, pattern)
    if job.spec.only_new is not None:
        found = unseen(engine.buckets.main, job.spec.only_new, store, found)
    if not found:  # nothing is new: a job without parts, which succeeds
        return Draft(columns=Columns(features=tuple(features), keep=(), schema=""))
    read = inputs.read_footers(engine.tables, store, found)
    first = read[0][1]
    keep = _kept(job.spec.keep, first.names, features)
    for file, schema in read:
        inputs.check_columns(store.uri(file.key), schema, first, features, keep)
    files = [file for file, _ in read]
    parts = cut(files, part_rows=job.spec.part_rows or PART_ROWS)
    made = Draft(
        columns=Columns(features=tuple(features), keep=keep, schema=""), parts=parts, files=tuple(files), schema=first
    )
    if parts:
        bundle = engine.models.get(job.model)
        tried, reason = 0, ""
        for sample in _samples(engine, store, parts, (*features, *keep)):
            scored = score_batch(bundle, sample, features=features, keep=keep, method=job.spec.method)
            reason = reason or next(iter(scored.rejected.values()), "")
            if scored.table.num_rows:
                break
            tried += sample.num_rows
        else:
            raise ScoringError(f"none of {tried} rows tried, of all parts of the input, can be scored: {reason}")
        schema = base64.b64encode(scored.table.schema.remove_metadata().serialize().to_pybytes()).decode()
        made = replace(
            made, columns=replace(made.columns, schema=schema), warnings=bundle.warnings, sample=sample, scored=scored,
            tried=tried, reason=reason,
        )  # fmt: skip
    return made


def _samples(
    engine: Engine, store: ObjectStore, parts: Sequence[Part], columns: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """Yield a few rows at a time: the first, then, as bad rows come together, others further on and of other parts."""
    for number in sorted({n * (len(parts) - 1) // SAMPLED_PARTS for n in range(SAMPLED_PARTS + 1)}):
        for piece in parts[number].slices[:1]:
            batch = next(engine.read_slice(store, piece, columns, BATCH_ROWS))
            start = 0
            while start < batch.num_rows:
                yield batch.slice(start, SAMPLE_ROWS)
                start = max(SAMPLE_ROWS, 2 * start)


def _kept(keep: str, names: list[str], features: tuple[str, ...]) -> tuple[str, ...]:
    if keep == "none":
        return ()
    if keep == "all":
        return tuple(name for name in names if name not in features)
    return tuple(name.strip() for name in keep.split(","))
