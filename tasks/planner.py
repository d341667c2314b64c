"""From ``job.json`` to ``plan.json.gz``, and the first parts into the queue."""

from __future__ import annotations

import base64
import logging

import pyarrow as pa

from storage import keys
from storage.errors import MissingColumns, ObjectNotFound, PreconditionFailed, ScorelineError, ScoringError
from tasks import inputs
from tasks.engine import Engine, dispatch_open, ended, fail_job, read_slice
from tasks.plan import Plan, cut
from tasks.score import score_batch
from tasks.spec import Job, parse_uri

log = logging.getLogger(__name__)

SAMPLE_ROWS = 64
"""Rows scored to learn the output schema."""


def plan_job(engine: Engine, job_id: str) -> None:
    """Plan a job and dispatch its first parts; harmless when run again. A job that cannot be scored ends as failed."""
    if ended(engine, job_id):
        return
    job = engine.job(job_id)
    key = keys.plan(job_id)
    try:
        engine.buckets.main.head(key)
    except ObjectNotFound:
        try:
            data = make_plan(engine, job).to_bytes()
        except ScorelineError as error:
            if error.transient:
                raise
            fail_job(engine, job_id, error)
            return
        except Exception as error:  # an estimator may raise anything; the job must end with the reason
            log.exception("plan.failed", extra={"job_id": job_id})
            fail_job(engine, job_id, error)
            return
        try:
            engine.buckets.main.put(key, data, create_only=True)
        except PreconditionFailed:
            log.info("plan.exists", extra={"job_id": job_id})
    _, plan, plan_sha256 = engine.documents(job_id)
    dispatch_open(engine, job_id, plan, plan_sha256)
    if not plan.parts:
        engine.send("scoreline.finalize", job_id=job_id)


def make_plan(engine: Engine, job: Job) -> Plan:
    """List the input, check it against the model, score a sample, and cut it into parts."""
    bucket, pattern = parse_uri(job.spec.input)
    store = engine.buckets[bucket]
    manifest = engine.models.manifest(job.model)
    features = job.spec.features or manifest.feature_names
    if features is None:
        raise MissingColumns(f"model {job.model.ref} was fitted without column names: name them with --features a,b,c")
    if manifest.n_features not in (None, len(features)):
        raise MissingColumns(f"model {job.model.ref} takes {manifest.n_features} features, {len(features)} are named")
    read = inputs.read_footers(store, inputs.find(store, pattern))
    first = read[0][1]
    keep = _kept(job.spec.keep, first, features)
    for file, schema in read:
        inputs.check_columns(store.uri(file.key), schema, first, features, keep)
    files = [file for file, _ in read]
    parts = cut(files)
    schema = ""
    warnings: tuple[str, ...] = ()
    if parts:
        sample = next(read_slice(store, parts[0].slices[0], (*features, *keep), SAMPLE_ROWS))
        bundle = engine.models.get(job.model)
        warnings = bundle.warnings
        scored = score_batch(bundle, sample, features=features, keep=keep, method=job.spec.method)
        if not scored.table.num_rows:
            raise ScoringError(f"none of the first {sample.num_rows} rows can be scored: {scored.rejected[0]}")
        schema = base64.b64encode(scored.table.schema.remove_metadata().serialize().to_pybytes()).decode()
    return Plan(parts=parts, features=tuple(features), keep=keep, schema=schema, warnings=warnings)


def _kept(keep: str, schema: pa.Schema, features: tuple[str, ...]) -> tuple[str, ...]:
    if keep == "none":
        return ()
    if keep == "all":
        return tuple(name for name in schema.names if name not in features)
    return tuple(name.strip() for name in keep.split(","))
