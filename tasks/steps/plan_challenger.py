"""Plans how the parts of a job score their rows with its challenger. If they cannot, the plan says why."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from scoreline.storage.errors import MissingColumns, ScoringError
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.tables import parquet
from scoreline.storage.tables.schemas import from_text, to_text
from scoreline.storage.wording import plural
from scoreline.tasks.inputs.columns import ResolvedColumns, available_columns, named_features, resolve_columns
from scoreline.tasks.inputs.listing import SurveyedObject
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan import ChallengerColumns, Columns
from scoreline.tasks.scoring.feature_names import match_names
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.scoring.score import Scored, score_batch
from scoreline.tasks.steps.challenger_limits import (
    MAX_REJECTED,
    PLAN_S,
    ExtraUnreadable,
    limited,
    load_beside,
    reason_of,
)
from scoreline.tasks.steps.challenger_rows import rows_for, without_extra
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.sampling import Draft, try_rows

log = logging.getLogger(__name__)


def resolve_challenger(
    engine: Engine,
    job: Job,
    champion: Bundle,
    surveyed: Sequence[SurveyedObject],
    features: tuple[str, ...],
    resolved: ResolvedColumns,
) -> tuple[ChallengerColumns | None, ResolvedColumns]:
    """Find the features of the challenger in the input.

    Parameters
    ----------
    features : tuple of str
        The columns that the job scores.

    Returns
    -------
    challenger, resolved
        The challenger's features, or why it cannot score the input; and the columns to read, with those that only the
        challenger needs behind the others.
    """
    pinned = job.challenger
    if pinned is None:
        return None, resolved
    try:
        with limited(PLAN_S, PLAN_S):
            return _resolve(engine, job, pinned, champion, surveyed, features, resolved)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001  # the job does not depend on its challenger
        return _failed(job, error), resolved


def _resolve(
    engine: Engine,
    job: Job,
    pinned: PinnedModel,
    champion: Bundle,
    surveyed: Sequence[SurveyedObject],
    features: tuple[str, ...],
    resolved: ResolvedColumns,
) -> tuple[ChallengerColumns, ResolvedColumns]:
    bundle = load_beside(engine.models, pinned, champion)
    manifest, available = bundle.manifest, available_columns(surveyed).names
    named = named_features(manifest, None)
    if named is not None:
        own = match_names(named, available, lambda: bundle.replaces_blanks)
    elif manifest.n_features in (None, len(features)):
        own = features
    else:
        raise MissingColumns(
            f"it was fitted without column names and takes {manifest.n_features} features, but the job scores "
            f"{len(features)}"
        )
    known = bundle.categories(own)
    words = [name for name in own if name in known and known[name].are_texts]
    types = {name: kind for name, kind in (job.spec.read.types or {}).items() if name in own}
    found = resolve_columns(surveyed, own, "none", types, words)
    reads = {field.name: field for field in (*resolved.reads, *found.reads)}
    extra = tuple(name for name in own if name not in resolved.reads.names)
    columns = ChallengerColumns(
        features=own,
        reads=to_text(pa.schema([reads[name] for name in dict.fromkeys((*own, *resolved.keep))])),
        extra=extra,
    )
    return columns, replace(
        resolved,
        reads=pa.schema([*resolved.reads, *(found.reads.field(name) for name in extra)]),
        folders=tuple(dict.fromkeys((*resolved.folders, *found.folders))),
    )


def try_rows_of_both(engine: Engine, job: Job, champion: Bundle, made: Draft, resolved: ResolvedColumns) -> Draft:
    """Score a few rows with the job's model (see `try_rows`), even if what only the challenger needs is unreadable."""
    try:
        return try_rows(engine, job, champion, made, resolved)
    except ExtraUnreadable as error:
        columns = without_extra(made.columns, _failed(job, error))
        alone = replace(resolved, reads=from_text(columns.reads), folders=columns.folders)
        return try_rows(engine, job, champion, replace(made, columns=columns), alone)


def try_challenger(engine: Engine, job: Job, champion: Bundle, made: Draft) -> Draft:
    """Score the sample of the draft with the challenger, to learn the columns of its results."""
    columns, pinned = made.columns.challenger, job.challenger
    if columns is None or pinned is None or columns.failure or made.sample is None:
        return made
    begun = time.perf_counter()
    try:
        with limited(PLAN_S, PLAN_S):
            bundle = load_beside(engine.models, pinned, champion)
            begun = time.perf_counter()
            columns, scored = _try(job, bundle, made.columns, columns, made.sample)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001  # the job does not depend on its challenger
        return replace(made, columns=without_extra(made.columns, _failed(job, error)))
    return replace(
        made,
        columns=replace(made.columns, challenger=columns),
        challenger=scored,
        challenger_rows_per_s=scored.table.num_rows / max(time.perf_counter() - begun, 1e-6),
    )


def _try(
    job: Job, bundle: Bundle, columns: Columns, challenger: ChallengerColumns, sample: pa.RecordBatch
) -> tuple[ChallengerColumns, Scored]:
    """Score the sample, with a DataFrame if the challenger does not say what it takes, and takes no array."""
    says = bundle.manifest.feature_names is not None or bundle.manifest.n_features is not None
    reason = ""
    for frames in (False,) if says else (False, True):
        rows, contract = rows_for(sample, columns, challenger, from_text(challenger.reads))
        scored = score_batch(
            bundle,
            rows,
            features=challenger.features,
            keep=columns.keep,
            method=job.spec.method,
            frames=frames,
            max_rejected=MAX_REJECTED + rows.num_rows,
            contract=contract,
        )
        if scored.table.num_rows:
            schema = scored.table.schema.remove_metadata()
            parquet.check_writable(schema)
            return replace(challenger, schema=to_text(schema), frames=frames), scored
        reason = reason or next(map(str, scored.rejected.values()), "")
    raise ScoringError(f"it can score none of {plural(sample.num_rows, 'row')} tried: {reason}")


def _failed(job: Job, error: Exception) -> ChallengerColumns:
    reason = reason_of(error)
    log.warning("challenger.failed", extra={"job_id": job.spec.job_id, "error": reason})
    return ChallengerColumns(failure=reason)
