"""Bundles what the steps of a job share in a worker process, without Celery.

The Celery tasks call `plan_job`, `score_part`, `finalize` and `reconcile`, and hand each of them the same engine.
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
    """Loads models for an engine, as a worker's cache does."""

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a loaded bundle."""
        ...

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading it."""
        ...


@dataclass(kw_only=True)
class Engine(Dispatcher):
    """A dispatcher that can also load models and read inputs."""

    models: ModelSource
    tables: Tables = field(default_factory=Tables)
    history: PartHistory = field(default_factory=PartHistory)
    """When this process wrote its last part of each job."""

    def read_slice(self, piece: Slice, columns: Columns, options: ReadOptions, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a slice that are to be scored, at most `batch_rows` at a time, with the columns to read.

        Raises
        ------
        UnreadableInput
            The object is damaged.
        InputChanged
            The object was replaced after it was planned.
        """
        source = Pinned.of(self.buckets[piece.bucket], piece)
        span = Span(start=piece.start, stop=piece.stop, first_row=piece.first_row, rows=piece.rows, size=0)
        reads = from_text(columns.reads)
        in_object = pa.schema([field for field in reads if field.name not in columns.folders])
        only = None if piece.only is None else np.array(piece.only)
        for rows in self.tables.read(source, span, in_object, batch_rows, options):
            selected = rows if only is None else pick_rows(rows, only)
            if columns.folders:
                selected = replace(selected, batch=add_columns(selected.batch, piece.key, columns.folders, reads))
            yield selected
            if only is not None and len(rows.numbers) and rows.numbers[-1] >= only[-1]:
                return  # later rows have larger numbers, also those that cannot be decoded


def pick_rows(rows: Rows, numbers: Any) -> Rows:
    """Return the rows with these numbers within the object, a sorted ndarray of int."""
    wanted = np.isin(rows.numbers, numbers)
    among = set(numbers.tolist()) if rows.malformed else ()
    malformed = tuple(item for item in rows.malformed if item.row in among)
    return Rows(batch=rows.batch.filter(pa.array(wanted)), numbers=rows.numbers[wanted], malformed=malformed)
