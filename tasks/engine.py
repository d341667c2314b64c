"""What a worker process needs to move jobs on, without Celery.

The Celery tasks are shells around `planner`, `part`, `finalize` and `reconcile`, which share this.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from storage.errors import ScorelineError, ScoringError
from storage.models.bundle import Bundle
from storage.models.manifest import Manifest, PinnedModel
from storage.objects.base import ObjectStore
from storage.tables.parquet import ParquetReader
from tasks.dispatch import LEASE_S, Dispatcher
from tasks.plan import Slice

STEP_ATTEMPTS = 3
"""Times that planning or finalizing is begun before the job fails because the process died each time."""


class ModelSource(Protocol):
    """Where an engine gets its models: a worker's cache."""

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a loaded bundle."""
        ...

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading it."""
        ...


@dataclass(kw_only=True)
class Engine(Dispatcher):
    """What a worker process needs to move jobs on."""

    models: ModelSource
    lease_s: float = LEASE_S
    tables: ParquetReader = field(default_factory=ParquetReader)

    def read_slice(
        self, store: ObjectStore, piece: Slice, columns: tuple[str, ...], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a slice, at most `batch_rows` at once.

        Raises
        ------
        InputChanged
            The object is not the one that was planned any more.
        """
        return self.tables.read_batches(
            store, piece.key, piece.size, piece.etag, row_groups=range(*piece.groups), columns=columns,
            batch_rows=batch_rows,
        )  # fmt: skip


@contextlib.contextmanager
def kept(renew: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call `renew` every so often while the block runs, and not after; what it cannot do now it may the next time."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(every_s):
            with contextlib.suppress(ScorelineError):
                renew()

    thread = threading.Thread(target=beat, daemon=True, name="renew")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextlib.contextmanager
def step(engine: Engine, job_id: str, name: str) -> Iterator[None]:
    """Hold a step of a job while the block runs.

    Raises
    ------
    ScoringError
        The processes that began it before died of it.
    """
    ledger, lease_s = engine.ledger, engine.lease_s
    attempt = ledger.begin_step(job_id, name, lease_s)
    again = False
    try:
        if attempt > STEP_ATTEMPTS:
            raise ScoringError(f"the worker process died {attempt - 1} times at the step {name!r}: out of memory?")
        with kept(lambda: ledger.renew_step(job_id, name, lease_s), lease_s / 3):
            yield
    except BaseException:
        again = True
        raise
    finally:  # not reached where the process dies
        ledger.end_step(job_id, name, again=again)
