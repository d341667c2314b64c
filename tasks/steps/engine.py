"""Provides the engine, which all steps of jobs in a worker process share. The engine does not depend on Celery.

All Celery tasks of a process use the same engine, and pass it to the steps, such as `plan_job` and `score_part`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import UnreadableInput, describe
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.objects import requests
from scoreline.storage.objects.requests import Requests
from scoreline.storage.tables.base import Pinned, Rows
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.schemas import from_text
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.inputs.hive_partitions import add_columns
from scoreline.tasks.job.plan import BATCH_BYTES, BATCH_ROWS, Columns, Slice
from scoreline.tasks.quality.checks.checks_of import PublishedChecks
from scoreline.tasks.quality.gate.judging import Checker
from scoreline.tasks.records.format import RecordsFormat
from scoreline.tasks.scoring.batch_size import BatchSize
from scoreline.tasks.scoring.refused_before import RefusedByModel
from scoreline.tasks.scoring.settled_types import settle
from scoreline.tasks.scoring.timings import PartHistory
from scoreline.tasks.steps.challenger_limits import ExtraUnreadable, FailedChallengers
from scoreline.tasks.steps.known_columns import KnownColumns
from scoreline.tasks.steps.stints import Gate
from scoreline.tasks.steps.unchanged.accepted_run import AcceptedRuns
from scoreline.tasks.steps.unchanged.carrier import Carrier


class ModelSource(Protocol):
    """Loads models for an engine, as a worker's cache does."""

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a loaded bundle."""
        ...

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading it."""
        ...


@dataclass
class ModelInUse:
    """The model of a part under way. Between two batches, it may leave the memory to the model of another job.

    No other object may keep the bundle between two batches, because its memory could not be used otherwise.
    """

    models: ModelSource
    pinned: PinnedModel
    _bundle: Bundle | None = field(default=None, repr=False)

    @property
    def bundle(self) -> Bundle:
        """The model, which is loaded if it is not in memory."""
        if self._bundle is None:
            self._bundle = self.models.get(self.pinned)
        return self._bundle

    @property
    def loaded(self) -> Bundle | None:
        """The model; None if it is not in memory."""
        return self._bundle

    def release(self) -> None:
        """Let the model leave the memory until it is used again."""
        self._bundle = None


class BetweenBatches(Protocol):
    """Works for other jobs between two batches of a part."""

    spent_s: float
    """Seconds that were spent on other jobs since the current part began."""
    requests: Requests
    """Requests that were sent for other jobs since the current part began."""

    def begin_part(self) -> None:
        """Record that the process begins a part, or another step that may take long."""
        ...

    def end_part(self, engine: Engine, *, interrupted: bool = False) -> None:
        """Record that the part or step has ended.

        Parameters
        ----------
        interrupted : bool
            Whether the part was interrupted, so that the process should not begin anything else now.
        """
        ...

    def __call__(self, engine: Engine, model: ModelInUse) -> float:
        """Work for other jobs, and return the number of seconds that this took.

        Parameters
        ----------
        model : ModelInUse
            The model of the part.
        """
        ...


@dataclass(kw_only=True)
class Engine(Dispatcher):
    """A dispatcher that can also load models and read inputs."""

    models: ModelSource
    tables: Tables = field(default_factory=lambda: Tables(RecordsFormat()))
    history: PartHistory = field(default_factory=PartHistory)
    """The time at which this process wrote its last part of each job."""
    refused: RefusedByModel = field(default_factory=RefusedByModel)
    """The values that steps of models refused in earlier batches of this process."""
    published_checks: PublishedChecks = field(default_factory=PublishedChecks)
    """The checks of model versions that this process has read."""
    batch_bytes: int = BATCH_BYTES
    """Maximum memory for the rows that are scored together (see `scoreline.tasks.scoring.batch_size`)."""
    kept: KeptObjects = field(default_factory=lambda: KeptObjects(for_parts=True))
    """Small objects that the current step, or the planning of the job, has read before."""
    challengers: FailedChallengers = field(default_factory=FailedChallengers)
    """The jobs whose challenger has failed in this process."""
    known_columns: KnownColumns = field(default_factory=KnownColumns)
    """The columns of the results of earlier small jobs of this process."""
    accepted_runs: AcceptedRuns = field(default_factory=AcceptedRuns)
    """The accepted run from which this process has carried scores last."""
    between_batches: BetweenBatches | None = None
    """Does the work of other jobs between two batches of a part (see `scoreline.tasks.steps.short_steps`)."""
    at_object: Callable[[str], None] | None = None
    """Called with the URI of each object before it is decoded, in the last attempt at a step or a part, and with an
    empty text after the survey. Then, objects are surveyed one after another."""
    gate: Gate | None = None
    """Where a step waits that is done in stints (see `scoreline.tasks.steps.stints`); None for all others."""
    checker: Checker | None = None
    """Runs the checks of a job that has all its results, in place of `check_job`."""
    span: Callable[[WaitingStep], AbstractContextManager[None]] = lambda step: contextlib.nullcontext()
    """Returns a block that reports a step which is done without its message to OpenTelemetry."""
    profile: bool = True
    """Whether the rows of jobs are counted that do not say so themselves (see `scoreline.tasks.steps.job_profile`)."""
    verify_keys: tuple[str, ...] = ()
    """Trusted keys. A report says which one has signed the model version."""
    databases: Callable[[], DatabaseSettings] = lambda: DatabaseSettings.from_env({})
    """Returns the settings of the databases from which jobs read rows."""
    _sized: tuple[Columns, BatchSize] | None = field(default=None, repr=False)
    """The columns and the batch limits of the job whose part was scored last."""

    def let_others_work(self, pinned: PinnedModel) -> None:
        """Let steps of other jobs pass, at a point where the current step holds no lock.

        Parameters
        ----------
        pinned : PinnedModel
            The model of the current job. It need not be in memory.
        """
        if self.gate is not None:
            self.gate()
        elif self.between_batches is not None:
            self.between_batches(self, ModelInUse(self.models, pinned))

    def requests_so_far(self) -> Requests:
        """Return the requests of this process without those that it sent for others while it did the current step."""
        if self.gate is not None:
            return requests.so_far() - self.gate.elsewhere
        return requests.so_far() - (Requests() if self.between_batches is None else self.between_batches.requests)

    def for_attempt(
        self, attempt: int, *, is_retry: bool = False, at_object: Callable[[str], None] | None = None
    ) -> Engine:
        """Return the engine for an attempt at a part or step. After the first attempt, no steps of other jobs pass.

        A step of another job may kill the process, or use up its time. If this could happen in each attempt, the part
        would fail, too.

        Parameters
        ----------
        at_object : callable, optional
            See `Engine.at_object`.
        """
        if attempt <= 1 and not is_retry:
            return self
        kept = self.kept if at_object is None else KeptObjects()  # objects that planning has decoded are decoded here
        return replace(self, between_batches=None, at_object=at_object, kept=kept)

    @contextlib.contextmanager
    def step_under_way(self) -> Iterator[None]:
        """Let steps of other jobs pass while the block runs, wherever it calls `let_others_work`."""
        if self.between_batches is None:
            yield
            return
        self.between_batches.begin_part()
        try:
            yield
        except BaseException:
            self.between_batches.end_part(self, interrupted=True)
            raise
        self.between_batches.end_part(self)

    def batch_size(self, columns: Columns) -> BatchSize:
        """Return the limits of a batch of a job. The columns of the results need not be known yet."""
        known, size = self._sized or (None, None)
        if size is None or known is not columns or size.limit_bytes != self.batch_bytes:
            reads, results = from_text(columns.reads), from_text(columns.schema)
            most, features = columns.batch_rows or BATCH_ROWS, columns.features
            if columns.challenger is not None:  # its features and its results are in memory, too
                features = (*features, *columns.challenger.features)
                results = pa.schema([*results, *from_text(columns.challenger.schema)])
            size = BatchSize(reads, features, results, rows=most, limit_bytes=self.batch_bytes)
            self._sized = columns, size
        return size

    def carrier(self, columns: Columns, place: float) -> Carrier | None:
        """Return what carries scores over for a part of a job (see `Carrier`); None if the job does not carry any."""
        if columns.carry is None or not columns.carry.fingerprint:
            return None
        return Carrier(self.buckets, self.accepted_runs, columns, place)

    def read_slice(
        self, piece: Slice, columns: Columns, options: ReadOptions, batch_rows: int, source: Pinned | None = None
    ) -> Iterator[Rows]:
        """Yield the rows to score in a slice, with only the needed columns, in batches of at most `batch_rows`.

        Parameters
        ----------
        source : Pinned, optional
            The object, if it is already in memory. By default, the object is read from its bucket.

        Raises
        ------
        UnreadableInput
            The object is damaged.
        InputChanged
            The object was replaced after the job was planned.
        ExtraUnreadable
            The object is damaged, but perhaps only in columns that the challenger alone needs.
        """
        source = source or self.kept.find(Pinned.of(self.buckets[piece.bucket], piece))
        if self.at_object is not None:
            self.at_object(source.uri)
        span = piece.span(piece.only if isinstance(piece.only, range) else None)
        reads = from_text(columns.reads)
        in_object = _columns_in_object(columns.reads, columns.folders)
        only = piece.only if piece.only is None or isinstance(piece.only, range) else np.array(piece.only)
        for rows in _raising_extra(self.tables.read(source, span, in_object, batch_rows, options), columns.extra):
            selected = rows if only is None else pick_rows(rows, only)
            if columns.extra:
                _check_extra(selected, columns.extra, source.uri)
            batch = (
                add_columns(selected.batch, piece.key, columns.folders, reads) if columns.folders else selected.batch
            )
            yield replace(selected, batch=settle(batch, reads))
            if only is not None and len(rows.numbers) and rows.numbers[-1] >= only[-1]:
                return  # all later rows, decoded or not, have larger numbers


@functools.lru_cache(maxsize=8)  # a part may read thousands of objects
def _columns_in_object(reads: str, folders: tuple[str, ...]) -> pa.Schema:
    """Return the columns that a part reads from an object itself, and not from the names of its folders."""
    return pa.schema([field for field in from_text(reads) if field.name not in folders])


def _raising_extra(found: Iterator[Rows], extra: tuple[str, ...]) -> Iterator[Rows]:
    """Yield rows. If columns are read only for the challenger, they may be the reason why an object is unreadable."""
    try:
        yield from found
    except UnreadableInput as error:
        if extra:
            raise ExtraUnreadable(describe(error)) from error
        raise


def _check_extra(rows: Rows, extra: tuple[str, ...], uri: str) -> None:
    """Raise `ExtraUnreadable` if a row cannot be decoded because of a column that only the challenger needs."""
    for item in rows.malformed:
        if item.column in extra:
            raise ExtraUnreadable(f"row {item.row} of {uri}: {item.message}")


def pick_rows(rows: Rows, numbers: Any) -> Rows:
    """Return the rows with the given numbers within the object. `numbers` is a range or a sorted ndarray of int."""
    if isinstance(numbers, range):  # a slice takes no time, however many rows the range has
        low, high = (int(place) for place in np.searchsorted(rows.numbers, (numbers.start, numbers.stop)))
        malformed = tuple(item for item in rows.malformed if item.row in numbers)
        return Rows(batch=rows.batch.slice(low, high - low), numbers=rows.numbers[low:high], malformed=malformed)
    wanted = np.isin(rows.numbers, numbers)
    among = set(numbers.tolist()) if rows.malformed else ()
    malformed = tuple(item for item in rows.malformed if item.row in among)
    if wanted.all():  # a fast path if all decoded rows are wanted
        return replace(rows, malformed=malformed)
    return Rows(batch=rows.batch.filter(pa.array(wanted)), numbers=rows.numbers[wanted], malformed=malformed)
