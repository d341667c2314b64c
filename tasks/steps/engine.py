"""What a worker process needs to move jobs on, without Celery.

The Celery tasks are shells around `planner`, `part`, `finalize` and `reconcile`, which share this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.schemas import from_text
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.inputs.hive_partitions import add_columns
from scoreline.tasks.job.plan import Columns, Slice
from scoreline.tasks.scoring.timings import PartHistory


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
    tables: Tables = field(default_factory=Tables)
    between: PartHistory = field(default_factory=PartHistory)

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
    among = set(numbers.tolist()) if rows.malformed else ()
    malformed = tuple(item for item in rows.malformed if item.row in among)
    return Rows(batch=rows.batch.filter(pa.array(wanted)), numbers=rows.numbers[wanted], malformed=malformed)
