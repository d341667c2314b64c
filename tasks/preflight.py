"""What a job would do, tried without one: planned as a worker plans it, and a few rows scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import pyarrow as pa

from storage.errors import ScorelineError, ScoringError, describe
from storage.ledger.redis_ledger import RedisLedger
from storage.models.bundle import Bundle
from storage.models.manager import ModelStorageManager
from storage.models.manifest import Manifest, PinnedModel
from storage.objects.buckets import Buckets
from tasks.columns import available
from tasks.dispatch import results
from tasks.engine import Engine
from tasks.plain import plain
from tasks.plan import BATCH_ROWS
from tasks.planner import Draft, draft
from tasks.spec import Job

SHOWN_ROWS = 5


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
    """That the largest part takes in memory: a batch as it is read and as the model takes it, all results, and these
    encoded."""
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


def preflight(buckets: Buckets, ledger: RedisLedger, models: ModelStorageManager, job: Job) -> Preflight:
    """Plan a job and score a few of its rows in this process; nothing is written or sent.

    Parameters
    ----------
    ledger : RedisLedger
        Is not asked.

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
    store, folder = results(buckets, job)
    largest = max((part.rows for part in made.parts), default=0)
    read, result = _row_bytes(made.sample), _row_bytes(table)
    return Preflight(
        model=job.model.ref, inputs=job.spec.inputs, output=store.uri(folder),
        objects=len(made.surveyed), object_bytes=sum(item.file.size for item in made.surveyed),
        rows=sum(part.rows for part in made.parts), parts=len(made.parts),
        largest_part_rows=largest, part_bytes=2 * min(largest, BATCH_ROWS) * read + 2 * largest * result,
        features=made.columns.features, kept=made.columns.keep,
        unused=tuple(name for name in names if name not in used),
        schema={field.name: str(field.type) for field in table.schema},
        sample=tuple(plain(row) for row in table.slice(0, SHOWN_ROWS).to_pylist()),
        model_bytes=engine.models.manifest(job.model).memory_bytes,
        batch_row_bytes=read, result_row_bytes=result,
        warnings=(*made.warnings, *_warnings(made)),
    )  # fmt: skip


def _warnings(made: Draft) -> list[str]:
    """Say what would not fail the job, and yet surprise."""
    found = []
    if not made.parts:
        found.append("the input has no rows: the job would succeed without results")
    if made.refused:
        found.append(f"{made.refused} of {made.tried} rows tried cannot be scored: {made.reason}")
    return found


def _row_bytes(rows: pa.RecordBatch | pa.Table | None) -> int:
    return -(-rows.nbytes // rows.num_rows) if rows is not None and rows.num_rows else 0


def _refuse(name: str, **_: Any) -> NoReturn:
    raise AssertionError(f"a preflight sends nothing, and so no {name}")
