"""What a worker process needs to move jobs on, without Celery.

The Celery tasks are shells around `planner`, `part`, `finalize` and `reconcile`, which share this.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from storage.errors import ScorelineError, ScoringError
from storage.models.bundle import Bundle
from storage.models.manifest import Manifest, PinnedModel
from storage.tables.base import Pinned, Rows, Span
from storage.tables.formats import Tables
from storage.tables.options import ReadOptions
from storage.tables.schemas import from_text
from tasks.dispatch import LEASE_S, Dispatcher
from tasks.hive import add_columns
from tasks.plan import Columns, Slice
from tasks.stages import Between

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
    tables: Tables = field(default_factory=Tables)
    between: Between = field(default_factory=Between)

    def read_slice(self, piece: Slice, columns: Columns, options: ReadOptions, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a slice that are to be scored, at most `batch_rows` at once, with the columns to read.

        Raises
        ------
        UnreadableInput
            The object is damaged.
        InputChanged
            It is not the one that was planned any more.
        """
        source = Pinned.of(self.buckets[piece.bucket], piece)
        span = Span(start=piece.start, stop=piece.stop, first_row=piece.first_row, rows=piece.rows, size=0)
        reads = from_text(columns.reads)
        here = pa.schema([field for field in reads if field.name not in columns.folders])
        only = None if piece.only is None else np.array(piece.only)
        for rows in self.tables.read(source, span, here, batch_rows, options):
            found = rows if only is None else _only(rows, only)
            if columns.folders:
                found = replace(found, batch=add_columns(found.batch, piece.key, columns.folders, reads))
            yield found
            if only is not None and len(rows.numbers) and rows.numbers[-1] >= only[-1]:
                return  # what follows has larger numbers, broken rows too


def _only(rows: Rows, numbers: Any) -> Rows:
    """Keep some rows, by their numbers within the object."""
    wanted = np.isin(rows.numbers, numbers)
    among = set(numbers.tolist()) if rows.broken else ()
    broken = tuple(item for item in rows.broken if item.row in among)
    return Rows(batch=rows.batch.filter(pa.array(wanted)), numbers=rows.numbers[wanted], broken=broken)


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
