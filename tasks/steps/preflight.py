"""Predicts what a job would do.

It plans the job as a worker does and scores a few rows, but does not create the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.objects import requests
from scoreline.storage.objects.buckets import Buckets, WithLocalFolder
from scoreline.storage.tables.parquet import GROUP_ROWS
from scoreline.storage.wording import plural
from scoreline.tasks.backlog.prices import Prices
from scoreline.tasks.inputs.columns import available_columns
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import BATCH_ROWS, ChallengerColumns, evenly_spaced
from scoreline.tasks.rejects.json_values import to_json_value
from scoreline.tasks.rejects.table import describe_rejected
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.steps.challenger_rows import without_extra
from scoreline.tasks.steps.dry_engine import dry_engine, explaining_estimators
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.expected_costs import ExpectedCosts, expect_costs, worker_size
from scoreline.tasks.steps.expected_reads import expect_reads
from scoreline.tasks.steps.planner import Pace, draft
from scoreline.tasks.steps.sampling import SAMPLE_ROWS, Draft, beginning, first_rows, row_bytes

SHOWN_ROWS = 5
"""Number of results to show."""
OBJECTS_TRIED = 20
"""Number of objects whose first rows are scored, in addition to the rows that the plan samples."""


@dataclass(frozen=True, kw_only=True)
class ChallengerCosts:
    """What the challenger of a job adds."""

    model: str
    """The version that would be pinned, as ``name@version``."""
    failure: str
    """Why it cannot score the input; empty if it can."""
    read: tuple[str, ...]
    """Columns that are read only for it."""
    work_s: float
    """Seconds that processes score with it, guessed from a few rows."""
    model_bytes: int
    """Memory of the loaded version, beside that of the model of the job."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The predicted effects of a job."""

    model: str
    """The model version that would be pinned, as ``name@version``."""
    inputs: tuple[str, ...]
    output: str
    """URI of the folder for the results."""
    objects: int
    object_bytes: int
    """Total stored size of the objects."""
    rows: int
    parts: int
    largest_part_rows: int
    cut: str
    """Why the input is cut into these parts."""
    needed_bytes: int
    """Stored bytes of the columns that are needed. Text is needed as a whole."""
    read_bytes: int
    """Bytes that the parts are expected to read."""
    requests: int
    """Expected number of requests to read `read_bytes`."""
    features: tuple[str, ...]
    types: Mapping[str, str]
    """The type in which the whole job scores each feature."""
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    """Columns of the first object that are neither scored nor copied into the results."""
    schema: Mapping[str, str]
    """Types of the output columns, in their order."""
    sample: tuple[Mapping[str, Any], ...]
    """The first rows of the results, as JSON-compatible values."""
    model_bytes: int
    """Memory of the loaded model, measured when it was published."""
    batch_row_bytes: int
    """Average memory of an input row in the sample."""
    result_row_bytes: int
    """Average memory of a row of the results of the sample."""
    part_bytes: int
    """Estimated memory for the largest part: a batch as read, the same batch as model input, the next batch, a row
    group of results, and the encoded results."""
    warnings: tuple[str, ...]
    challenger: ChallengerCosts | None
    """What the challenger adds; None without one. The work and the requests are also in `expected`."""
    expected: ExpectedCosts
    """The work and the requests that the job is expected to take, and what they cost."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline submit --dry-run --json`` prints."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class UncachedModels:
    """A model source that loads a bundle each time, for a single preflight."""

    models: ModelStorageManager

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a loaded bundle."""
        return self.models.load_pinned(pinned)

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading it."""
        return self.models.registry.manifest(pinned)


def preflight(
    buckets: Buckets,
    ledger: Ledger,
    models: ModelStorageManager,
    job: Job,
    prices: Prices | None = None,
    databases: DatabaseSettings | None = None,
) -> Preflight:
    """Plan a job and score a few of its rows in this process, without writing or sending anything.

    Parameters
    ----------
    ledger : Ledger
        The ledger, which knows the pace of the model and the number of processes. If it does not answer, parts are cut
        as if there were two processes, and no earlier job with the same model.
    prices : Prices, optional
        The user's prices.
    databases : DatabaseSettings, optional
        The databases, for a job that reads rows from one. Its rows are staged in a temporary folder of this computer.

    Raises
    ------
    ScorelineError
        The error with which the job would fail.
    """
    with ExitStack() as stack:
        if databases is not None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="scoreline-")))
            prefix = keys.staged(job.spec.job_id).removesuffix(".json")
            buckets = WithLocalFolder(buckets, folder, prefix)
        engine = stack.enter_context(dry_engine(buckets, ledger, UncachedModels(models=models), databases))
        return _preflight(engine, job, prices)


def _preflight(engine: Engine, job: Job, prices: Prices | None) -> Preflight:
    buckets = engine.buckets
    pace, before = Pace.of(engine.ledger, job), requests.so_far()
    with explaining_estimators():
        made = draft(engine, job, pace, measure_pace=True)
    planning = requests.so_far() - before
    names = available_columns(made.surveyed).names
    used = {*made.columns.features, *made.columns.keep}
    table = made.scored.table if made.scored is not None else pa.table({})
    layout = ResultsLayout.of(buckets, job)
    largest = max((part.rows for part in made.parts), default=0)
    read, result = row_bytes(made.sample), row_bytes(table)
    challenger = _challenger(engine, job, made)
    reads = expect_reads(engine, made, job.spec.read, pace.processes, worker_size(engine.ledger))
    manifest = engine.models.manifest(job.model)
    return Preflight(
        model=job.model.ref,
        inputs=job.spec.inputs,
        output=layout.uri(layout.folder),
        objects=len(made.surveyed),
        object_bytes=sum(item.file.size for item in made.surveyed),
        rows=sum(part.rows for part in made.parts),
        parts=len(made.parts),
        largest_part_rows=largest,
        cut=made.chosen.reason if made.chosen is not None else "only rejected rows are read",
        needed_bytes=reads.needed_bytes,
        read_bytes=reads.bytes,
        requests=reads.requests,
        part_bytes=3 * min(largest, BATCH_ROWS) * read + (min(largest, GROUP_ROWS) + largest) * result,
        features=made.columns.features,
        types=made.columns.types,
        kept=made.columns.keep,
        unused=tuple(name for name in names if name not in used),
        schema={field.name: str(field.type) for field in table.schema},
        sample=tuple(to_json_value(row) for row in table.slice(0, SHOWN_ROWS).to_pylist()),
        model_bytes=manifest.memory_bytes,
        batch_row_bytes=read,
        result_row_bytes=result,
        warnings=(*made.warnings, *_warnings(made), *_try_objects(engine, job, made)),
        expected=expect_costs(
            made,
            pace,
            manifest,
            planning,
            reads.requests,
            result,
            ledger=engine.ledger,
            prices=prices,
            profiled=job.spec.profile != "off",
            challenger_s=challenger.work_s if challenger is not None and not challenger.failure else None,
        ),
        challenger=challenger,
    )


def _challenger(engine: Engine, job: Job, made: Draft) -> ChallengerCosts | None:
    """Return what the challenger adds; None without one, or for an input without rows."""
    columns, pinned = made.columns.challenger, job.challenger
    if columns is None or pinned is None:
        return None
    rows, rows_per_s = sum(part.rows for part in made.parts), made.challenger_rows_per_s
    return ChallengerCosts(
        model=pinned.ref,
        failure=columns.failure,
        read=columns.extra,
        work_s=rows / rows_per_s if rows_per_s else 0.0,
        model_bytes=0 if columns.failure else engine.models.manifest(pinned).memory_bytes,
    )


def _warnings(made: Draft) -> list[str]:
    """Return warnings about conditions that do not make the job fail, but may be unintended."""
    warnings = []
    if not made.parts:
        warnings.append("the input has no rows: the job would succeed without results")
    if made.rejected:
        warnings.append(f"{made.rejected} of {plural(made.tried, 'row')} tried cannot be scored: {made.reason}")
    return warnings


def _try_objects(engine: Engine, job: Job, made: Draft) -> Iterator[str]:
    """Score the first rows of several evenly spaced objects, and yield a warning for each object with failing rows."""
    firsts = {(piece.bucket, piece.key): piece for part in reversed(made.parts) for piece in reversed(part.slices)}
    bundle, columns = engine.models.get(job.model), made.columns
    if columns.extra:
        columns = without_extra(columns, ChallengerColumns())
    for piece in evenly_spaced(list(reversed(firsts.values()))[1:], OBJECTS_TRIED):  # planning has sampled the first
        rows = first_rows(engine.read_slice(beginning(piece, SAMPLE_ROWS), columns, job.spec.read, SAMPLE_ROWS))
        if rows is None:
            continue
        done = score_batch(
            bundle,
            rows.batch,
            features=made.columns.features,
            keep=made.columns.keep,
            method=job.spec.method,
            frames=made.columns.frames,
            contract=Contract(made.columns.rules),
        )
        if rejected := list(describe_rejected(rows, done.rejected)):
            uri = engine.buckets[piece.bucket].uri(piece.key)
            tried = rows.batch.num_rows + len(rows.malformed)
            yield f"{uri}: {len(rejected)} of {plural(tried, 'row')} tried cannot be scored: {rejected[0]}"
