"""Rows of small objects that lie one after another in memory, and become part of a batch without a copy of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.tasks.scoring.batch_size import BatchSize


@dataclass(frozen=True, kw_only=True)
class ObjectRows:
    """Rows of one object, or all rows of several objects."""

    uris: Sequence[str]
    counts: Sequence[int]
    """Number of rows of each object, with those that could not be decoded."""
    rows: Rows
    """The rows. If they are of several objects, all could be decoded."""
    sizes: Sequence[int]
    """Number of bytes that the rows of each object take while they are scored."""

    @classmethod
    def of(cls, uri: str, rows: Rows, size: int) -> ObjectRows:
        """Return rows of one object, which take `size` bytes."""
        return cls(uris=(uri,), counts=(rows.batch.num_rows + len(rows.malformed),), rows=rows, sizes=(size,))

    def cut(self, most_rows: int, most_bytes: int) -> tuple[ObjectRows, ObjectRows | None]:
        """Divide the rows after the last object within the limits. The first object is never divided.

        The second part is None if the limits are not exceeded.
        """
        rows, size = self.counts[0], self.sizes[0]
        for number in range(1, len(self.uris)):
            rows, size = rows + self.counts[number], size + self.sizes[number]
            if rows > most_rows or size > most_bytes:
                return self._between(0, number), self._between(number, len(self.uris))
        return self, None

    def objects(self) -> Iterator[tuple[str, Any, tuple[MalformedRow, ...]]]:
        """Yield the URI of each object, the numbers of its rows, and its rows that could not be decoded."""
        if len(self.uris) == 1:
            yield self.uris[0], self.rows.numbers, self.rows.malformed
            return
        for uri, count in zip(self.uris, self.counts, strict=True):
            yield uri, np.arange(count, dtype=np.int64), ()

    def _between(self, start: int, stop: int) -> ObjectRows:
        first, count = sum(self.counts[:start]), sum(self.counts[start:stop])
        return ObjectRows(
            uris=self.uris[start:stop],
            counts=self.counts[start:stop],
            rows=_whole(self.rows.batch.slice(first, count)),
            sizes=self.sizes[start:stop],
        )


def rows_of_objects(objects: Sequence[tuple[str, int]], batch: pa.RecordBatch, size: BatchSize) -> Iterator[ObjectRows]:
    """Yield the rows of several objects together, or those of each object if they would take too much memory.

    They are also divided if rows take different numbers of bytes, because the size of each object is then measured.

    Parameters
    ----------
    objects : sequence of tuple of str and int
        The URI of each object, and its number of rows.
    batch : RecordBatch
        All of their rows, in order.
    """
    row_bytes = size.row_bytes(batch.schema)
    if row_bytes is not None and batch.num_rows * row_bytes <= size.limit_bytes:
        uris, counts = zip(*objects, strict=True)
        yield ObjectRows(uris=uris, counts=counts, rows=_whole(batch), sizes=[count * row_bytes for count in counts])
        return
    first = 0
    for uri, count in objects:
        for rows, taken in size.split(_whole(batch.slice(first, count))):
            yield ObjectRows.of(uri, rows, taken)
        first += count


def _whole(batch: pa.RecordBatch) -> Rows:
    return Rows(batch=batch, numbers=np.arange(batch.num_rows, dtype=np.int64))
