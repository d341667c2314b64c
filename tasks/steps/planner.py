"""From ``job.json`` to ``plan.json.gz``, and the first parts into the queue."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
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
from scoreline.tasks.dispatch.leases import hold_step
from scoreline.tasks.dispatch.outcome import fail_job
from scoreline.tasks.dispatch.reconcile import open_ledger, reconcile_job
from scoreline.tasks.dispatch.time_limit import SoftTimeLimitExceeded
from scoreline.tasks.inputs import columns as choosing
from scoreline.tasks.inputs import listing
from scoreline.tasks.inputs.columns import check_partition
from scoreline.tasks.inputs.listing import Surveyed
from scoreline.tasks.inputs.only_new import unseen
from scoreline.tasks.job.documents import Job, read_job, read_outcome
from scoreline.tasks.job.part_sizes import PART_SECONDS, SLOW_ROWS_PER_S, cut, target_part_rows
from scoreline.tasks.job.plan import BATCH_ROWS, Columns, InputFile, Part, evenly_spaced
from scoreline.tasks.job.plan_file import encode
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.staging import stage_records
from scoreline.tasks.rejects.rescore import objects_of, parts_again
from scoreline.tasks.scoring.score import Scored, score_batch
from scoreline.tasks.steps.engine import Engine

log = logging.getLogger(__name__)

SAMPLE_ROWS = 64
"""Rows scored to learn the output schema."""
SAMPLED_PARTS = 8
"""Parts to look into where the first rows cannot be scored."""


def plan_job(engine: Engine, job_id: str) -> None:
    """Plan a job and dispatch its first parts; harmless when run again. A job that cannot be scored ends as failed."""
    main = engine.buckets.main
    with hold_step(engine, job_id, "plan"):
        planned = exists(main, keys.plan(job_id)) or read_outcome(main, job_id) is not None
        if not planned and not _plan(engine, read_job(main, job_id)):
            return
    reconcile_job(engine, job_id)


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
        engine.buckets.main.put(keys.plan(job_id), data, mode=CREATE)
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
    surveyed: tuple[Surveyed, ...] = ()
    sample: pa.RecordBatch | None = None
    """Rows that were tried; None for an input without rows."""
    scored: Scored | None = None
    """What became of them."""
    tried: int = 0
    """Rows that were tried, of which some could be scored in the end."""
    refused: int = 0
    """Of these, rows that cannot be scored."""
    reason: str = ""
    """Of the first of them."""
    rows_per_s: float | None = None
    """That the sample was scored at: less than a whole batch will be, of which calling the model is a smaller part."""


def make_plan(engine: Engine, job: Job) -> bytes:
    """Draft a plan and encode it (errors as `draft`)."""
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
    """How fast a job's parts will be scored, as far as that is known."""

    rows_per_s: float | None = None
    """Of one process, in earlier jobs of the same version and method."""
    processes: int = 0
    """Of all workers; 0 where that is not known."""

    @classmethod
    def of(cls, ledger: Ledger, job: Job) -> Pace:
        """Ask Redis, which may have forgotten."""
        try:
            processes = ledger.processes()
        except LedgerUnavailable:
            return cls()
        return cls(rows_per_s=ledger.counters.pace(job.work), processes=processes)


def draft(engine: Engine, job: Job, pace: Pace | None = None) -> Draft:
    """List the input, check it against the model, score a sample, and cut it into parts.

    Neither the ledger nor the queue is asked, and nothing is written.

    Parameters
    ----------
    pace : Pace, optional
        Decides how large parts are, where the job does not.

    Raises
    ------
    ScorelineError
        Why the job cannot be scored; whatever else an estimator raises comes through.
    """
    spec = job.spec
    _ = engine.buckets[parse_uri(spec.output)[0]]
    manifest = engine.models.manifest(job.model)
    named = choosing.named_features(manifest, spec.features)
    stage_records(engine.buckets.main, job)
    again = None if spec.rejected_of is None else parts_again(engine, spec.rejected_of)
    found = listing.find(engine.buckets, spec.inputs) if again is None else objects_of(engine.buckets, again)
    if spec.only_new is not None:
        found = unseen(engine.buckets.main, spec.only_new, found)
    if not found:  # nothing is new: a job without parts, which succeeds
        return Draft(columns=Columns(features=tuple(named or ()), keep=(), schema=""))
    surveyed = tuple(listing.survey(engine.tables, found, spec.read))
    warnings = _warn_of_empty(surveyed)
    if not any(len(item.schema) for item in surveyed):
        return Draft(
            columns=Columns(features=tuple(named or ()), keep=(), schema=""), surveyed=surveyed, warnings=warnings
        )
    available = choosing.available(surveyed)
    features, more = choosing.choose_features(manifest, spec.features, available, keep=spec.keep)
    warnings += more
    settled = choosing.settle(surveyed, features, spec.keep, spec.read.types)
    warnings += tuple(
        f"{name!r} has numbers with zeros in front, read as numbers, as pandas does; --types {name}=string keeps them"
        for name in settled.padded
    )
    check_partition(spec, settled.reads, settled.keep)
    files = [item.file for item in surveyed]
    pace = pace or Pace()
    parts = again or _cut(files, spec.part_rows, pace)
    columns = Columns(
        features=tuple(features), keep=settled.keep, schema="", reads=to_text(settled.reads), folders=settled.folders
    )
    made = Draft(columns=columns, parts=parts, surveyed=surveyed, warnings=warnings)
    if parts:
        made = _try_rows(engine, job, made, settled)
    if not again and not spec.part_rows and not pace.rows_per_s and (made.rows_per_s or math.inf) < SLOW_ROWS_PER_S:
        made = replace(made, parts=_cut(files, None, replace(pace, rows_per_s=made.rows_per_s)))
    return made


def _cut(files: Sequence[InputFile], part_rows: int | None, pace: Pace) -> tuple[Part, ...]:
    """Cut files as the job says, or as the pace suggests; a span is divided where it is more than twice what fits."""
    if part_rows:
        return cut(files, part_rows, most_rows=2 * part_rows)
    rows = sum(span.rows for file in files for span in file.spans)
    most_rows = max(1, int(2 * PART_SECONDS * pace.rows_per_s)) if pace.rows_per_s else None
    return cut(files, target_part_rows(rows, pace.rows_per_s, pace.processes), most_rows=most_rows)


def _try_rows(engine: Engine, job: Job, made: Draft, settled: choosing.Settled) -> Draft:
    """Score a few rows, to learn the output schema.

    Where a feature is mixed of numbers and texts, the model is asked whether it takes texts; else they are rejected.
    """
    bundle = engine.models.get(job.model)
    if not settled.mixed:
        return _score_sample(engine, job, bundle, made)
    columns = made.columns
    texts = _rows_with_texts(engine, job, made, settled.mixed)
    if texts is not None:
        scored = score_batch(bundle, texts, features=columns.features, keep=columns.keep, method=job.spec.method)
        if not scored.rejected:
            return _score_sample(engine, job, bundle, made)
    numbers = replace(columns, reads=to_text(choosing.as_numbers(settled.reads, settled.mixed)))
    try:
        return _score_sample(engine, job, bundle, replace(made, columns=numbers))
    except ScoringError:
        with contextlib.suppress(ScoringError):
            return _score_sample(engine, job, bundle, made)
        raise


def _rows_with_texts(engine: Engine, job: Job, made: Draft, mixed: Sequence[str]) -> pa.RecordBatch | None:
    """Return some rows with a text that is no number in one of the `mixed` columns; None where none is found."""
    for rows in _firsts(engine, job, made):
        found = choosing.rows_with_texts(rows.batch, mixed, SAMPLE_ROWS)
        if len(found):
            return rows.batch.take(found)
    return None


def _score_sample(engine: Engine, job: Job, bundle: Bundle, made: Draft) -> Draft:
    columns = made.columns
    tried, refused, reason = 0, 0, ""
    for rows in _samples(engine, job, made):
        begun = time.perf_counter()
        scored = score_batch(bundle, rows.batch, features=columns.features, keep=columns.keep, method=job.spec.method)
        seconds = time.perf_counter() - begun
        reasons = [str(why) for why in scored.rejected.values()] + [_format_malformed(item) for item in rows.malformed]
        tried, refused = tried + rows.batch.num_rows + len(rows.malformed), refused + len(reasons)
        reason = reason or next(iter(reasons), "")
        if scored.table.num_rows:
            break
    else:
        raise ScoringError(f"none of {tried} rows tried, of all parts of the input, can be scored: {reason}")
    schema = scored.table.schema.remove_metadata()
    check_writable(schema)
    return replace(
        made,
        columns=replace(columns, schema=to_text(schema)),
        warnings=(*made.warnings, *bundle.warnings),
        sample=rows.batch,
        scored=scored,
        tried=tried,
        refused=refused,
        reason=reason,
        rows_per_s=rows.batch.num_rows / seconds,
    )


def _samples(engine: Engine, job: Job, made: Draft) -> Iterator[Rows]:
    """Yield a few rows at a time: the first, then, as bad rows come together, others further on and of other parts."""
    for rows in _firsts(engine, job, made):
        malformed = rows.malformed
        start = 0
        while start < rows.batch.num_rows or malformed:
            batch = rows.batch.slice(start, SAMPLE_ROWS)
            yield Rows(batch=batch, numbers=rows.numbers[start : start + SAMPLE_ROWS], malformed=malformed)
            start, malformed = max(SAMPLE_ROWS, 2 * start), ()


def _firsts(engine: Engine, job: Job, made: Draft) -> Iterator[Rows]:
    """Yield the first rows of some parts, from the first part to the last."""
    for part in evenly_spaced(made.parts, SAMPLED_PARTS):
        rows = first_rows(engine.read_slice(part.slices[0], made.columns, job.spec.read, BATCH_ROWS))
        if rows is not None:
            yield rows


def first_rows(read: Iterator[Rows]) -> Rows | None:
    """Return the first rows: of a slice some of whose rows alone are to be scored, early batches may hold none."""
    return next((rows for rows in read if rows.batch.num_rows or rows.malformed), None)


def _format_malformed(malformed: MalformedRow) -> str:
    return f"row {malformed.row}: {malformed.message}"


def _warn_of_empty(surveyed: Sequence[Surveyed]) -> tuple[str, ...]:
    empty = [item.uri for item in surveyed if not item.file.size]
    if not empty:
        return ()
    return (f"{len(empty)} of {len(surveyed)} objects have no bytes: {', '.join(empty[:3])}",)
