"""The rows that a job rejected, as parts of another job."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from scoreline.storage import keys
from scoreline.storage.errors import NothingToResume
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Part
from scoreline.tasks.rejects.report import committed, rejected_rows
from scoreline.tasks.rejects.table import note_columns

if TYPE_CHECKING:
    import pyarrow as pa


def parts_again(dispatcher: Dispatcher, job_id: str) -> tuple[Part, ...]:
    """Return the parts of a job with rejected rows, with these rows alone; they read the objects that it pinned.

    Raises
    ------
    NothingToResume
        It has rejected nothing.
    """
    documents = dispatcher.documents(job_id)
    layout = ResultsLayout.of(dispatcher.buckets, documents.job)
    notes = note_columns(documents.plan.columns.names)
    found = []
    for info in committed(layout):
        rejected: dict[str, list[int]] = {}
        for rows in rejected_rows(layout.store, [info]):
            _collect(rows.batch, notes, rejected)
        for numbers in rejected.values():
            numbers.sort()
        part = documents.plan.part(keys.part_number(info.key))
        slices = []
        for piece in part.slices:
            numbers = rejected.get(dispatcher.buckets[piece.bucket].uri(piece.key), [])
            start, stop = (bisect_left(numbers, row) for row in (piece.first_row, piece.first_row + piece.rows))
            if start < stop:
                slices.append(replace(piece, only=tuple(numbers[start:stop])))
        found.append(Part(slices=tuple(slices)))
    if not found:
        raise NothingToResume(f"job {job_id} rejected no row")
    return tuple(found)


def objects_of(buckets: Buckets, again: Iterable[Part]) -> list[Pinned]:
    """Return the objects that parts read, as they were pinned."""
    found = {(s.bucket, s.key): s for part in again for s in part.slices}
    return [Pinned.of(buckets[piece.bucket], piece) for piece in found.values()]


def _collect(batch: pa.RecordBatch, notes: dict[str, str], rejected: dict[str, list[int]]) -> None:
    sources, rows = (batch.column(notes[note]).to_pylist() for note in ("source", "row"))
    for source, row in zip(sources, rows, strict=True):
        rejected.setdefault(source, []).append(row)
