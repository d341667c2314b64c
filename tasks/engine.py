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

from storage.errors import ScorelineError
from storage.ledger.redis_ledger import RedisLedger
from storage.models.bundle import Bundle
from storage.models.manifest import Manifest, PinnedModel
from storage.objects.base import ObjectStore
from storage.tables.parquet import ParquetReader
from tasks.dispatch import LEASE_S, STEP_S, Dispatcher
from tasks.plan import Slice


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
def claimed(ledger: RedisLedger, job_id: str, step: str) -> Iterator[None]:
    """Hold a step of a job while the block runs."""
    ledger.claim(job_id, step, STEP_S, again=True)
    with kept(lambda: ledger.claim(job_id, step, STEP_S, again=True), STEP_S / 3):
        yield
    ledger.unclaim(job_id, step)
