"""Plans a job that scores only the rejected rows of an earlier job."""

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
from scoreline.tasks.rejects.report import committed_rejects, read_rejects
from scoreline.tasks.rejects.table import rejection_columns

if TYPE_CHECKING:
    import pyarrow as pa


def parts_to_rescore(dispatcher: Dispatcher, job_id: str) -> tuple[Part, ...]:
    """Return parts with only the rejected rows of a job. These parts read the same object versions as the job.

    Raises
    ------
    NothingToResume
        The job rejected no rows.
    """
    documents = dispatcher.documents(job_id)
    layout = ResultsLayout.of(dispatcher.buckets, documents.job)
    fields = rejection_columns(documents.plan.columns.names)
    parts = []
    for info in committed_rejects(layout, documents.plan.sha256):
        rejected: dict[str, list[int]] = {}
        for rows in read_rejects(layout.store, [info]):
            _collect(rows.batch, fields, rejected)
        for numbers in rejected.values():
            numbers.sort()
        number = keys.part_number(info.key)
        assert number is not None
        part = documents.plan.part(number)
        slices = []
        for piece in part.slices:
            numbers = rejected.get(dispatcher.buckets[piece.bucket].uri(piece.key), [])
            start, stop = (bisect_left(numbers, row) for row in (piece.first_row, piece.first_row + piece.rows))
            if start < stop:
                slices.append(replace(piece, only=tuple(numbers[start:stop])))
        parts.append(Part(slices=tuple(slices)))
    if not parts:
        raise NothingToResume(f"job {job_id} rejected no row")
    return tuple(parts)


def pinned_objects(buckets: Buckets, parts: Iterable[Part]) -> list[Pinned]:
    """Return each object that the parts read, pinned to the ETag in the parts."""
    slices = {(s.bucket, s.key): s for part in parts for s in part.slices}
    return [Pinned.of(buckets[piece.bucket], piece) for piece in slices.values()]


def _collect(batch: pa.RecordBatch, fields: dict[str, str], rejected: dict[str, list[int]]) -> None:
    """Add the row numbers of rejected rows to `rejected`, by the URI of the object that contains the rows."""
    sources, rows = (batch.column(fields[field]).to_pylist() for field in ("source", "row"))
    for source, row in zip(sources, rows, strict=True):
        rejected.setdefault(source, []).append(row)
