"""What a job would do, tried without one: planned as a worker plans it, and a few rows scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import pyarrow as pa

from scoreline.storage.errors import ScorelineError, ScoringError, describe
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.inputs.columns import available
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import BATCH_ROWS, evenly_spaced
from scoreline.tasks.rejects.json_values import to_json_value
from scoreline.tasks.rejects.table import reasons
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import SAMPLE_ROWS, Draft, draft, first_rows

SHOWN_ROWS = 5
OBJECTS_TRIED = 20
"""Whose first rows are scored, besides those that a plan tries."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a job would do."""

    model: str
    """``name@version`` that would be pinned."""
    inputs: tuple[str, ...]
    output: str
    """Where the results would be."""
    objects: int
    object_bytes: int
    """As they are stored."""
    rows: int
    parts: int
    largest_part_rows: int
    features: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    """Columns of the first object that are neither scored nor carried over."""
    schema: Mapping[str, str]
    """Types of the output columns, in their order."""
    sample: tuple[Mapping[str, Any], ...]
    """The first rows of the results, as JSON has them."""
    model_bytes: int
    """Memory of the loaded model, as it was measured when it was published."""
    batch_row_bytes: int
    """Of a row of the input in memory, on average of the sample."""
    result_row_bytes: int
    """Of a row of the results, likewise."""
    part_bytes: int
    """That the largest part takes in memory: a batch as it is read and as the model takes it, the one after it, all
    results, and these encoded."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline submit --dry-run --json`` prints."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Models:
    """Bundles loaded for one look."""

    models: ModelStorageManager

    def get(self, pinned: PinnedModel) -> Bundle:
        return self.models.load_pinned(pinned)

    def manifest(self, pinned: PinnedModel) -> Manifest:
        return self.models.registry.manifest(pinned)


def preflight(buckets: Buckets, ledger: Ledger, models: ModelStorageManager, job: Job) -> Preflight:
    """Plan a job and score a few of its rows in this process; nothing is written or sent.

    Parameters
    ----------
    ledger : Ledger
        Is not asked: parts are as for a model of which nothing is known.

    Raises
    ------
    ScorelineError
        What would fail the job, with the same message.
    """
    engine = Engine(buckets=buckets, ledger=ledger, send=_refuse, models=_Models(models=models))
    try:
        made = draft(engine, job)
    except ScorelineError:
        raise
    except Exception as error:  # an estimator may raise anything
        raise ScoringError(describe(error)) from error
    names = available(made.surveyed).names
    used = {*made.columns.features, *made.columns.keep}
    table = made.scored.table if made.scored is not None else pa.table({})
    layout = ResultsLayout.of(buckets, job)
    largest = max((part.rows for part in made.parts), default=0)
    read, result = _row_bytes(made.sample), _row_bytes(table)
    return Preflight(
        model=job.model.ref,
        inputs=job.spec.inputs,
        output=layout.uri(layout.folder),
        objects=len(made.surveyed),
        object_bytes=sum(item.file.size for item in made.surveyed),
        rows=sum(part.rows for part in made.parts),
        parts=len(made.parts),
        largest_part_rows=largest,
        part_bytes=3 * min(largest, BATCH_ROWS) * read + 2 * largest * result,
        features=made.columns.features,
        kept=made.columns.keep,
        unused=tuple(name for name in names if name not in used),
        schema={field.name: str(field.type) for field in table.schema},
        sample=tuple(to_json_value(row) for row in table.slice(0, SHOWN_ROWS).to_pylist()),
        model_bytes=engine.models.manifest(job.model).memory_bytes,
        batch_row_bytes=read,
        result_row_bytes=result,
        warnings=(*made.warnings, *_warnings(made), *_look_into(engine, job, made)),
    )


def _warnings(made: Draft) -> list[str]:
    """Say what would not fail the job, and yet surprise."""
    found = []
    if not made.parts:
        found.append("the input has no rows: the job would succeed without results")
    if made.refused:
        found.append(f"{made.refused} of {made.tried} rows tried cannot be scored: {made.reason}")
    return found


def _look_into(engine: Engine, job: Job, made: Draft) -> Iterator[str]:
    """Score the first rows of each object, of several that are spread over the input; tells of those that fail."""
    firsts = {(piece.bucket, piece.key): piece for part in reversed(made.parts) for piece in reversed(part.slices)}
    bundle = engine.models.get(job.model)
    for piece in evenly_spaced(list(reversed(firsts.values()))[1:], OBJECTS_TRIED):  # the first was tried
        rows = first_rows(engine.read_slice(piece, made.columns, job.spec.read, SAMPLE_ROWS))
        if rows is None:
            continue
        done = score_batch(
            bundle, rows.batch, features=made.columns.features, keep=made.columns.keep, method=job.spec.method
        )
        if told := list(reasons(rows, done.rejected)):
            uri = engine.buckets[piece.bucket].uri(piece.key)
            tried = rows.batch.num_rows + len(rows.malformed)
            yield f"{uri}: {len(told)} of {tried} rows tried cannot be scored: {told[0]}"


def _row_bytes(rows: pa.RecordBatch | pa.Table | None) -> int:
    return -(-rows.nbytes // rows.num_rows) if rows is not None and rows.num_rows else 0


def _refuse(name: str, **_: Any) -> NoReturn:
    raise AssertionError(f"a preflight sends nothing, and so no {name}")
