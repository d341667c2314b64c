"""Makes the baseline of a model version: reads its training data, scores them, and profiles both.

The rows are read, converted and scored by the same code as in a job. They are read batch by batch, and no row is kept.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from scoreline.storage.errors import (
    BucketNotAllowed,
    InputError,
    InvalidRequest,
    MissingColumns,
    ScorelineError,
    ScoringError,
    describe,
)
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.attachments import BASELINE, Measured
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.wording import plural
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.quality.outcomes.target import TargetMetrics
from scoreline.tasks.quality.profiles.baseline import Baseline
from scoreline.tasks.quality.profiles.column_profile import ColumnProfile
from scoreline.tasks.quality.profiles.counting import ColumnCounts
from scoreline.tasks.quality.profiles.profile import Profile, by_key
from scoreline.tasks.rejects.table import describe_rejected
from scoreline.tasks.scoring.refusals import SingleCalls
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.steps.dry_engine import dry_engine, explaining_estimators
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import draft
from scoreline.tasks.steps.read_part import Batch, read_part
from scoreline.tasks.steps.sampling import Draft

MIN_ROWS = 2
"""Minimum number of rows of a baseline. A single row has no deviation and no distribution."""
_LOCAL = "local-file"
"""Stands for the folder of a local file, where a job has the name of a bucket."""
_FRAME = "baseline.parquet"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Training data, from which the baseline of a version is made."""

    source: str | Path | pd.DataFrame
    """A local file, a URI ``s3://bucket/key`` of one or several objects as for a job, or a DataFrame."""
    target: str | None = None
    """Column with the labels or numbers that the models were fitted to predict. If given, metrics are computed."""
    hidden: tuple[str, ...] = ()
    """Columns of which no value is kept in the baseline."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How the objects are read, as in a job."""

    def __post_init__(self) -> None:
        """Refuse options that would have no effect."""
        if isinstance(self.source, pd.DataFrame) and self.read != ReadOptions():
            raise InvalidRequest("reading options have no effect on a DataFrame: give the file, or leave them out")


def measure_baseline(
    data: TrainingData, manifest: Manifest, load: Callable[[], Bundle], main: ObjectStore, buckets: Buckets | None
) -> Measured:
    """Score the training data with a version that is stored but not published, and return its baseline.

    Parameters
    ----------
    load : callable
        Loads the bundle. This runs the code in its pickles.
    main : ObjectStore
        The bucket of the models.
    buckets : Buckets, optional
        Further buckets that training data may be in.

    Raises
    ------
    ScorelineError
        The training data cannot be read, do not have the columns of the model, or cannot be scored.
    """
    with _opened(data.source) as (folder, uri, shown):
        sources = _Sources(main, buckets, folder)
        with (
            _explained(shown),
            dry_engine(sources, MemoryLedger(), _OneModel(manifest, load)) as engine,
            explaining_estimators(),
        ):
            return _measure(engine, data, manifest, uri)


def _measure(engine: Engine, data: TrainingData, manifest: Manifest, uri: str) -> Measured:
    job = _job(engine, manifest, uri, data.target or "none", data.read)
    made = _draft(engine, job, data)
    columns = made.columns
    rows = sum(part.rows for part in made.parts)
    if rows < MIN_ROWS:
        raise InputError(f"the baseline has {plural(rows, 'row')}: it needs at least {MIN_ROWS}")
    if data.target in columns.features:
        raise InvalidRequest(f"the target {data.target!r} is a feature of the model: name another column")
    if unknown := [name for name in data.hidden if name not in columns.features]:
        raise InvalidRequest(f"the values of {unknown[0]!r} cannot be left out, because it is no feature of the model")
    targets = TargetMetrics(data.target, manifest.outputs, rows) if data.target is not None else None
    counted = _Counted()
    for batch, done, reason in _scored(engine, job, made):
        counted.add(batch.rows.select(list(columns.features)), "feature")
        counted.rejected += len(done.rejected) + sum(len(piece.malformed) for piece in batch.pieces)
        counted.reason = counted.reason or reason
        scores = done.table.drop_columns(list(columns.keep))
        if not scores.num_columns:
            continue
        counted.add(scores, "score")
        if targets is not None:
            targets.add(done.table.column(data.target), scores)
    baseline = counted.baseline(data.hidden)
    return Measured(attachments={BASELINE: baseline.encode()}, metrics=targets.result() if targets is not None else {})


@dataclass(kw_only=True)
class _Counted:
    """Counts features and scores."""

    columns: dict[tuple[str, str], ColumnCounts] = field(default_factory=dict)
    rows: int = 0
    rejected: int = 0
    reason: str = ""
    """Why the first rejected row could not be scored."""

    def add(self, table: pa.RecordBatch | pa.Table, kind: Any) -> None:
        """Count the columns of a table."""
        self.rows += table.num_rows if kind == "feature" else 0
        for name in table.schema.names:
            counts = self.columns.setdefault((kind, name), ColumnCounts(name, kind))
            counts.add(table.column(name))

    def baseline(self, hidden: tuple[str, ...]) -> Baseline:
        """Return the baseline.

        Raises
        ------
        ScoringError
            No row could be scored, or no feature has a value.
        """
        columns = [counts.profile() for _, counts in sorted(self.columns.items(), key=lambda item: item[0][0])]
        if not any(column.kind == "score" for column in columns):
            raise ScoringError(f"no row of the baseline can be scored. The first reason: {self.reason}")
        features = [column for column in columns if column.kind == "feature"]
        if all(map(is_empty, features)):
            raise ScoringError("every feature of the baseline has only nulls: give rows with values")
        profile = Profile(rows=self.rows, counted=self.rows, columns=by_key(columns))
        return Baseline(profile=profile, rejected=self.rejected, hidden=hidden)


def is_empty(column: ColumnProfile) -> bool:
    """Return whether a column has only nulls."""
    return column.nulls + column.nan == column.rows


def _scored(engine: Engine, job: Job, made: Draft) -> Iterator[tuple[Batch, Any, str]]:
    """Yield each batch of the training data, its scores, and why the first rejected row could not be scored."""
    bundle, columns = engine.models.get(job.model), made.columns
    refused_before = engine.refused.of(job.model.manifest_sha256, columns.features)
    single_calls = SingleCalls(job_begins=refused_before.begins(job.spec.job_id))
    size, gone = engine.batch_size(columns), list[bool]()
    for part in made.parts:
        read = read_part(engine, part, columns, job.spec.read, size, gone)
        with contextlib.closing(prefetched(read)) as batches, contextlib.ExitStack() as ends:
            ends.callback(gone.append, True)
            for batch in batches:
                done = score_batch(
                    bundle,
                    batch.rows,
                    features=columns.features,
                    keep=columns.keep,
                    method=None,
                    frames=columns.frames,
                    refused_before=refused_before,
                    single_calls=single_calls,
                )
                reasons = (
                    f"{uri}, {next(iter(describe_rejected(rows, why)), '')}"
                    for uri, rows, why in batch.rejects(done.rejected)
                )
                yield batch, done, next(reasons, "")
        gone.clear()


def _draft(engine: Engine, job: Job, data: TrainingData) -> Draft:
    """Plan the reading of the training data."""
    try:
        made = draft(engine, job)
    except MissingColumns as error:
        if data.target is None or repr(data.target) not in str(error):
            raise
        draft(engine, _job(engine, engine.models.manifest(job.model), job.spec.inputs[0], "none", data.read))
        raise MissingColumns(
            f"the baseline has no column {data.target!r}, which is to be the target: name the column of the "
            "training data that holds what the model was fitted to predict"
        ) from error
    if not made.parts:
        raise InputError("the baseline has no rows")
    return made


def _job(engine: Engine, manifest: Manifest, uri: str, keep: str, read: ReadOptions) -> Job:
    """Return a job that reads the training data. It is never submitted."""
    output = f"s3://{engine.buckets.main.bucket}/results/"
    spec = JobSpec(job_id="baseline", model=manifest.ref, inputs=(uri,), output=output, keep=keep, read=read).check()
    pinned = PinnedModel(name=manifest.name, version=manifest.version, manifest_sha256=sha256_hex(manifest.to_json()))
    return Job(spec=spec, model=pinned, submitted=datetime.now(UTC).isoformat(timespec="seconds"))


@contextlib.contextmanager
def _opened(source: str | Path | pd.DataFrame) -> Iterator[tuple[Path | None, str, str]]:
    """Yield the local folder with the training data, if they are local, their URI, and how messages name the folder."""
    if isinstance(source, pd.DataFrame):
        with tempfile.TemporaryDirectory(prefix="scoreline-") as folder:  # for its owner alone
            try:
                source.rename(columns=str).to_parquet(Path(folder, _FRAME), index=False)
            except (pa.ArrowException, ValueError) as error:
                raise InputError(f"the DataFrame cannot be read as a table: {describe(error)}") from error
            yield Path(folder), f"s3://{_LOCAL}/{_FRAME}", "DataFrame"
        return
    if not isinstance(source, str | Path):
        raise InvalidRequest(f"a baseline is a path, a URI or a DataFrame, not a {type(source).__name__}")
    if isinstance(source, str) and source.startswith("s3://"):
        yield None, source, ""
        return
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        what = "is a folder: name a file in it" if path.is_dir() else "does not exist: name a file with training data"
        raise InvalidRequest(f"the baseline {source} {what}; objects in a bucket are given as s3://bucket/key")
    yield path.parent, f"s3://{_LOCAL}/{path.name}", str(Path(source).parent)


@contextlib.contextmanager
def _explained(folder: str) -> Iterator[None]:
    """Let errors name local files by their path, and advise what is possible here."""
    try:
        yield
    except ScorelineError as error:
        text = str(error)
        if folder == "DataFrame":
            text = text.replace(f"s3://{_LOCAL}/{_FRAME}", "the DataFrame")
        text = text.replace(f"s3://{_LOCAL}/", "" if folder == "." else f"{folder}/")
        for advice in _OTHER_ADVICE:
            text = text.replace(advice, "give the features and the target alone")
        error.args = (text if "baseline" in text else f"baseline: {text}", *error.args[1:])
        raise


_OTHER_ADVICE = (
    "correct the object, or, for a model that was fitted without names, choose other columns with --features",
    "name the features with --features a,b,c",
)
"""What an error of a job says, and what cannot be done about a baseline."""


class _Sources(Buckets):
    """The buckets that training data may be in, and the folder of a local file."""

    def __init__(self, main: ObjectStore, others: Buckets | None, folder: Path | None) -> None:
        self._main, self._others = main, others
        self._local = None if folder is None else _Folder(folder)

    @property
    def main(self) -> ObjectStore:
        return self._main

    @property
    def allowed_outputs(self) -> tuple[str, ...]:
        return ()

    def __getitem__(self, bucket: str) -> ObjectStore:
        if bucket == self._main.bucket:
            return self._main
        if bucket == _LOCAL and self._local is not None:
            return self._local
        if self._others is None:
            raise BucketNotAllowed(f"bucket {bucket!r} is not the bucket of the models ({self._main.bucket})")
        return self._others[bucket]


class _Folder(DirectoryStore):
    """A local folder, as a bucket."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent, folder.name)
        self.bucket = _LOCAL


class _OneModel:
    """The source of the version that is being published. It is loaded once."""

    def __init__(self, manifest: Manifest, load: Callable[[], Bundle]) -> None:
        self._manifest, self._load = manifest, load
        self._bundle: Bundle | None = None

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return the loaded bundle."""
        if self._bundle is None:
            self._bundle = self._load()
        return self._bundle

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return the manifest."""
        return self._manifest
