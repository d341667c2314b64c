"""Plans a job: reads ``job.json``, writes ``plan.json.gz``, and puts the first parts into the queue."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable, PreconditionFailed, ScorelineError, ScoringError
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.objects.base import CREATE, exists
from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.storage.tables.parquet import check_writable
from scoreline.storage.tables.schemas import to_text
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.leases import hold_step
from scoreline.tasks.dispatch.outcome import fail_job
from scoreline.tasks.dispatch.reconcile import open_ledger, reconcile_job
from scoreline.tasks.inputs.columns import (
    ResolvedColumns,
    available_columns,
    check_partition,
    choose_features,
    named_features,
    read_as_numbers,
    resolve_columns,
    rows_with_words,
    warn_of_other_columns,
)
from scoreline.tasks.inputs.listing import SurveyedObject, list_inputs, survey_inputs
from scoreline.tasks.inputs.only_new import unseen
from scoreline.tasks.job.documents import Job, read_job, read_outcome
from scoreline.tasks.job.part_sizes import PART_SECONDS, SLOW_ROWS_PER_S, cut, target_part_rows
from scoreline.tasks.job.plan import BATCH_ROWS, Columns, InputFile, Part, evenly_spaced
from scoreline.tasks.job.plan_file import encode
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.staging import stage_records
from scoreline.tasks.rejects.rescore import parts_to_rescore, pinned_objects
from scoreline.tasks.scoring.feature_names import match_names
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.scoring.score import Scored, score_batch
from scoreline.tasks.scoring.settled_types import describe_types
from scoreline.tasks.steps.engine import Engine

log = logging.getLogger(__name__)

SAMPLE_ROWS = 64
"""Number of rows that are scored to learn the output schema."""
SAMPLED_PARTS = 8
"""Number of parts to sample if the first rows cannot be scored."""


def plan_job(engine: Engine, job_id: str) -> None:
    """Plan a job and dispatch its first parts. A job that cannot be scored fails. This is safe to repeat."""
    main = engine.buckets.main
    with hold_step(engine, job_id, "plan"):
        planned = exists(main, keys.plan(job_id)) or read_outcome(main, job_id) is not None
        if not planned and not _plan(engine, read_job(main, job_id)):
            return
    reconcile_job(engine, job_id)


def _plan(engine: Engine, job: Job) -> bool:
    """Write the plan and open the ledger. Return whether the job can continue."""
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
        engine.buckets.main.put(keys.plan(job_id), data, mode=CREATE)
    except PreconditionFailed:
        log.info("plan.exists", extra={"job_id": job_id})
    else:
        open_ledger(engine, engine.documents(job_id, fresh=True))  # a new plan has no results to recover
    return True


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan, with the findings from sampling the input."""

    columns: Columns
    parts: tuple[Part, ...] = ()
    warnings: tuple[str, ...] = ()
    surveyed: tuple[SurveyedObject, ...] = ()
    sample: pa.RecordBatch | None = None
    """The first batch with at least one row that could be scored; None for an input without rows."""
    scored: Scored | None = None
    """The results of the sample."""
    tried: int = 0
    """Number of rows that were tried, up to and including the sample."""
    rejected: int = 0
    """Number of tried rows that could not be scored."""
    reason: str = ""
    """Reason why the first of these rows could not be scored."""
    rows_per_s: float | None = None
    """Rows per second on the sample. This is an underestimate, because with 64 rows a call is mostly overhead."""


def make_plan(engine: Engine, job: Job) -> bytes:
    """Draft a plan and encode it. Raises the same errors as `draft`."""
    made = draft(engine, job, Pace.of(engine.ledger, job))
    identity = {
        "bucket": engine.buckets.main.bucket,
        "job_id": job.spec.job_id,
        "submitted": job.submitted,
        "model": job.model.ref,
        "manifest_sha256": job.model.manifest_sha256,
    }
    return encode(made.columns, made.parts, made.warnings, identity=identity)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The expected scoring speed of a job, as far as it is known."""

    rows_per_s: float | None = None
    """Rows per second of one process in earlier jobs of the same model version and method."""
    processes: int = 0
    """Total number of processes of all workers; 0 if it is unknown."""

    @classmethod
    def of(cls, ledger: Ledger, job: Job) -> Pace:
        """Return the pace that the ledger has recorded. Both values may be unknown."""
        try:
            processes = ledger.processes()
        except LedgerUnavailable:
            return cls()
        return cls(rows_per_s=ledger.counters.pace(job.work), processes=processes)


def draft(engine: Engine, job: Job, pace: Pace | None = None) -> Draft:
    """List the input, check it against the model, score a sample, and cut the input into parts.

    The ledger and the queue are not used, and nothing is written.

    Parameters
    ----------
    pace : Pace, optional
        Determines the size of parts, unless the job sets it. By default, the pace is unknown.

    Raises
    ------
    ScorelineError
        The job cannot be scored. Any other exception from an estimator is passed on.
    """
    spec = job.spec
    _ = engine.buckets[parse_uri(spec.output)[0]]  # raises if the bucket is not allowed
    manifest = engine.models.manifest(job.model)
    named = named_features(manifest, spec.features)
    stage_records(engine.buckets.main, job)
    rescored = None if spec.rejected_of is None else parts_to_rescore(engine, spec.rejected_of)
    surveyed = _survey(engine, job, rescored, named or ())
    warnings = _warn_of_empty(surveyed)
    if not any(len(item.schema) for item in surveyed):  # there are no columns, and so no parts: the job succeeds
        columns = Columns(features=named or (), keep=(), schema="")
        return Draft(columns=columns, surveyed=surveyed, warnings=warnings)
    features, more = choose_features(manifest, spec.features, available_columns(surveyed), keep=spec.keep)
    bundle = engine.models.get(job.model) if any(item.file.spans for item in surveyed) else None
    if spec.features is None and bundle is not None:
        features = match_names(features, available_columns(surveyed).names, lambda: bundle.replaces_blanks)
    known = bundle.categories(features) if bundle is not None else {}
    words = [name for name in features if name in known and known[name].are_texts]
    resolved = resolve_columns(surveyed, features, spec.keep, spec.read.types, words)
    warnings += (
        more
        + warn_of_other_columns(surveyed, spec.keep)
        + tuple(
            f"{name!r} has leading zeros and is read as numbers, as pandas does: --types {name}=string keeps the zeros"
            for name in resolved.zero_padded
        )
    )
    check_partition(spec, resolved.reads, resolved.keep)
    columns = Columns(
        features=features,
        keep=resolved.keep,
        schema="",
        reads=to_text(resolved.reads),
        folders=resolved.folders,
        types=describe_types(resolved.reads, features),
    )
    files = [item.file for item in surveyed]
    pace = pace or Pace()
    made = Draft(
        columns=columns, parts=rescored or _cut(files, spec.part_rows, pace), surveyed=surveyed, warnings=warnings
    )
    if made.parts and bundle is not None:
        made = _try_rows(engine, job, bundle, made, resolved)
    if not rescored and not spec.part_rows and not pace.rows_per_s and (made.rows_per_s or math.inf) < SLOW_ROWS_PER_S:
        made = replace(made, parts=_cut(files, None, replace(pace, rows_per_s=made.rows_per_s)))
    return made


def _survey(
    engine: Engine, job: Job, rescored: Sequence[Part] | None, features: Sequence[str]
) -> tuple[SurveyedObject, ...]:
    """Survey the objects that the job reads. The result is empty if the job reads only new objects and finds none."""
    spec = job.spec
    if rescored is not None:
        objects = pinned_objects(engine.buckets, rescored)
    else:
        objects = list_inputs(engine.buckets, spec.inputs)
    if spec.only_new is not None:
        objects = unseen(engine.buckets.main, spec.only_new, objects)
    return tuple(survey_inputs(engine.tables, objects, spec.read, features))


def _cut(files: Sequence[InputFile], part_rows: int | None, pace: Pace) -> tuple[Part, ...]:
    """Cut files into parts of `part_rows` rows, or of a size that suits the pace. Divide spans over twice that size."""
    if part_rows:
        return cut(files, part_rows, most_rows=2 * part_rows)
    rows = sum(span.rows for file in files for span in file.spans)
    most_rows = max(1, int(2 * PART_SECONDS * pace.rows_per_s)) if pace.rows_per_s else None
    return cut(files, target_part_rows(rows, pace.rows_per_s, pace.processes), most_rows=most_rows)


def _try_rows(engine: Engine, job: Job, bundle: Bundle, made: Draft, resolved: ResolvedColumns) -> Draft:
    """Score a few rows to learn the output schema, and what the model accepts.

    If a feature mixes numbers and words, the model is tried with words. If it does not accept them, the feature is read
    as numbers, and rows with words are rejected. A model that says nothing of its input is tried with an array if all
    features are numbers, and with a DataFrame if it accepts no row of the array.
    """
    try:
        return _try_words(engine, job, bundle, made, resolved)
    except ScoringError:
        if bundle.manifest.feature_names is not None or bundle.manifest.n_features is not None:
            raise
        with contextlib.suppress(ScoringError):
            return _try_words(engine, job, bundle, replace(made, columns=replace(made.columns, frames=True)), resolved)
        raise


def _try_words(engine: Engine, job: Job, bundle: Bundle, made: Draft, resolved: ResolvedColumns) -> Draft:
    if not resolved.mixed:
        return _score_sample(engine, job, bundle, made)
    columns = made.columns
    words = _sample_words(engine, job, made, resolved.mixed)
    if words is not None:
        scored = _score(job, bundle, words, columns)
        if not scored.rejected:
            return _score_sample(engine, job, bundle, made)
    reads = read_as_numbers(resolved.reads, resolved.mixed)
    numbers = replace(columns, reads=to_text(reads), types=describe_types(reads, columns.features))
    try:
        return _score_sample(engine, job, bundle, replace(made, columns=numbers))
    except ScoringError:
        with contextlib.suppress(ScoringError):
            return _score_sample(engine, job, bundle, made)
        raise


def _sample_words(engine: Engine, job: Job, made: Draft, mixed: Collection[str]) -> pa.RecordBatch | None:
    """Return some rows with a word in one of the `mixed` columns; None if the sampled parts have none."""
    for rows in _first_batches(engine, job, made):
        with_words = rows_with_words(rows.batch, mixed, SAMPLE_ROWS)
        if len(with_words):
            return rows.batch.take(with_words)
    return None


def _score_sample(engine: Engine, job: Job, bundle: Bundle, made: Draft) -> Draft:
    """Score one sample after another until one has a result, and add the findings to the draft.

    Raises
    ------
    ScoringError
        No row of any sample can be scored.
    """
    columns = made.columns
    tried, rejected, reason = 0, 0, ""
    for rows in _samples(engine, job, made):
        begun = time.perf_counter()
        scored = _score(job, bundle, rows.batch, columns)
        seconds = time.perf_counter() - begun
        reasons = [str(why) for why in scored.rejected.values()] + [_format_malformed(item) for item in rows.malformed]
        tried, rejected = tried + rows.batch.num_rows + len(rows.malformed), rejected + len(reasons)
        reason = reason or next(iter(reasons), "")
        if scored.table.num_rows:
            break
    else:
        raise ScoringError(
            f"none of {plural(tried, 'row')} tried, from all parts of the input, can be scored: check that its columns "
            f"hold what the model was trained on. The first reason: {'; '.join((reason, *bundle.warnings))}"
        )
    schema = scored.table.schema.remove_metadata()
    check_writable(schema)
    return replace(
        made,
        columns=replace(columns, schema=to_text(schema)),
        warnings=(*made.warnings, *bundle.warnings),
        sample=rows.batch,
        scored=scored,
        tried=tried,
        rejected=rejected,
        reason=reason,
        rows_per_s=rows.batch.num_rows / seconds,
    )


def _score(job: Job, bundle: Bundle, rows: pa.RecordBatch, columns: Columns) -> Scored:
    return score_batch(
        bundle,
        rows,
        features=columns.features,
        keep=columns.keep,
        method=job.spec.method,
        frames=columns.frames,
    )


def _samples(engine: Engine, job: Job, made: Draft) -> Iterator[Rows]:
    """Yield samples of `SAMPLE_ROWS` rows: the first rows, then later ones, then rows of other parts.

    Rows that cannot be scored are often next to each other. The distance between samples therefore doubles each time.
    """
    for rows in _first_batches(engine, job, made):
        malformed = rows.malformed
        start = 0
        while start < rows.batch.num_rows or malformed:
            batch = rows.batch.slice(start, SAMPLE_ROWS)
            yield Rows(batch=batch, numbers=rows.numbers[start : start + SAMPLE_ROWS], malformed=malformed)
            start, malformed = max(SAMPLE_ROWS, 2 * start), ()


def _first_batches(engine: Engine, job: Job, made: Draft) -> Iterator[Rows]:
    """Yield the first batch of several parts, evenly spaced from the first part to the last."""
    for part in evenly_spaced(made.parts, SAMPLED_PARTS):
        rows = first_rows(engine.read_slice(part.slices[0], made.columns, job.spec.read, BATCH_ROWS))
        if rows is not None:
            yield rows


def first_rows(batches: Iterator[Rows]) -> Rows | None:
    """Return the first batch that is not empty. Batches can be empty if only some rows of a slice are scored."""
    return next((rows for rows in batches if rows.batch.num_rows or rows.malformed), None)


def _format_malformed(malformed: MalformedRow) -> str:
    return f"row {malformed.row}: {malformed.message}"


def _warn_of_empty(surveyed: Sequence[SurveyedObject]) -> tuple[str, ...]:
    empty = [item.uri for item in surveyed if not item.file.size]
    if not empty:
        return ()
    have = "has" if len(surveyed) == 1 else "have"
    return (f"{len(empty)} of {plural(len(surveyed), 'object')} {have} no bytes: {', '.join(empty[:3])}",)
