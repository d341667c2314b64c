"""Plans a job without reading rows of its input, if reading the first rows would take long.

The columns and types of the results of most models do not depend on the values of the features. Planning therefore
scores rows that are made up from the ranges in the footer. In a row group with a thousand columns, or with a million
rows, reading the first rows can take as long as scoring the whole job, because the dictionaries and the first pages of
all columns must be fetched.

Planning also has to fail if no row can be scored. If rows were made up, the first part checks this
(`require_scorable`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import ScoringError
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.tables.base import Pinned, Rows
from scoreline.storage.tables.schemas import from_text, to_text
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.dispatch.outcome import fail_job
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan import BATCH_ROWS, Columns, Slice, evenly_spaced
from scoreline.tasks.scoring.settled_types import settle
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.sampling import SAMPLED_PARTS, TRIAL_ROWS, Draft, score_sample
from scoreline.tasks.steps.score_rows import PartStopped

LEAST_BYTES = 8 << 20
"""Rows are made up if reading the real ones would take at least this many bytes. On a store with 30 ms per request and
60 MB/s per connection, this takes about 0.1 s."""


def try_made_up(engine: Engine, job: Job, bundle: Bundle, made: Draft) -> Draft | None:
    """Score rows that are made up, and add the findings to the draft (see `score_sample`).

    Return None if rows of the input must be scored instead, for one of these reasons:

    - They take less than `LEAST_BYTES` to read.
    - A step of the model is not known to process rows independently, or the form of its input is not known. What such a
      model does may depend on the values.
    - A feature is not a number, or the footer does not state its range.
    - The model scores none of the rows that are made up.
    - The type of a result may depend on the values, as with Python objects.
    """
    manifest = bundle.manifest
    if manifest.feature_names is None and manifest.n_features is None:
        return None
    if not (bundle.may_be_tried and bundle.keeps_rows_apart):
        return None
    rows = _make_up(engine, job, made)
    if rows is None:
        return None
    with contextlib.suppress(ScoringError):
        found = score_sample(engine, job, bundle, made, [rows])
        if found.scored is not None and _has_fixed_types(found.scored.table, found.columns.keep):
            return replace(found, columns=replace(found.columns, are_rows_tried=False))
    return None


def require_scorable(engine: Engine, documents: Documents) -> None:
    """Score rows of the input as planning does. If none can be scored, end the job with the error of planning.

    Raises
    ------
    PartStopped
        The job has ended.
    """
    job, plan = documents.job, documents.plan
    parts = tuple(plan.part(number) for number in evenly_spaced(range(plan.parts), SAMPLED_PARTS))
    try:
        score_sample(engine, job, engine.models.get(job.model), Draft(columns=plan.columns, parts=parts))
    except ScoringError as error:
        fail_job(engine, job.spec.job_id, error, "request")
        raise PartStopped from error


def _make_up(engine: Engine, job: Job, made: Draft) -> Rows | None:
    """Return rows like the first ones of the input. Columns that are copied into the results have real values."""
    columns, piece = made.columns, made.parts[0].slices[0]
    reads = from_text(columns.reads)
    names = [name for name in columns.features if name not in columns.keep]
    if set(names) & set(columns.folders) or not all(_is_number(reads.field(name).type) for name in names):
        return None
    source = Pinned.of(engine.buckets[piece.bucket], piece)
    found = engine.tables.value_ranges(source, piece.start, min(piece.rows, BATCH_ROWS), names, job.spec.read)
    if found is None or found.stored_bytes < LEAST_BYTES or len(found.ranges) < len(names):
        return None
    count = min(piece.rows, TRIAL_ROWS, engine.batch_size(columns).rows_to_read)
    kept = _read_kept(engine, job, piece, columns, count)
    random = np.random.default_rng(0)
    values = {name: kept.column(name) for name in kept.schema.names}
    for name in names:
        values[name] = _values(random, *found.ranges[name], reads.field(name).type, count)
    batch = pa.RecordBatch.from_arrays([values[name] for name in reads.names], names=reads.names)
    return Rows(batch=settle(batch, reads), numbers=np.arange(piece.first_row, piece.first_row + count))


def _read_kept(engine: Engine, job: Job, piece: Slice, columns: Columns, count: int) -> pa.RecordBatch:
    """Read the columns of the first rows that are copied into the results."""
    reads = pa.schema([field for field in from_text(columns.reads) if field.name in columns.keep])
    if not reads.names:
        return pa.record_batch({})
    kept = replace(columns, features=(), reads=to_text(reads))
    first = replace(piece, only=range(piece.first_row, piece.first_row + count))
    return pa.concat_batches([rows.batch for rows in engine.read_slice(first, kept, job.spec.read, count)])


def _has_fixed_types(results: pa.Table, keep: Sequence[str]) -> bool:
    """Return whether all results, besides the kept columns, have types that do not depend on the values."""
    kinds = [field.type for field in results.schema if field.name not in keep]
    return all(_is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind) for kind in kinds)


def _is_number(kind: pa.DataType) -> bool:
    return kind in (pa.float32(), pa.float64()) or bool(pa.types.is_integer(kind))


def _values(random: Any, low: float, high: float, kind: pa.DataType, count: int) -> pa.Array:
    """Return values from `low` to `high`, of which these are the first two.

    Integers have only these two values, because the model may refuse others, such as an unknown category.
    """
    if pa.types.is_integer(kind):
        values = np.array([low, high], dtype=kind.to_pandas_dtype())[random.integers(0, 2, count)]
    else:
        share = random.random(count)
        values = (low * (1 - share) + high * share).astype(kind.to_pandas_dtype())
    values[:2] = [low, high][:count]
    return pa.array(values, kind)
