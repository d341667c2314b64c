"""Reads the rows of a part in batches. A batch can contain rows of several objects."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.tables.base import MalformedRow, Pinned, Rows
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.job.plan import Columns, Part, Slice
from scoreline.tasks.scoring.batch_size import BatchSize
from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.open_objects import SlicedObject, open_objects


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive rows of one object within a batch."""

    uri: str
    start: int
    """Position of the first row in the batch."""
    numbers: Any
    """Numbers of the rows within the object: ndarray of int64."""
    malformed: tuple[MalformedRow, ...]

    @property
    def stop(self) -> int:
        """Position in the batch after the last row of the piece."""
        return self.start + len(self.numbers)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows that are scored together."""

    rows: pa.RecordBatch
    pieces: tuple[Piece, ...]
    """Sources of the rows, in order. A piece may consist only of rows that could not be decoded."""

    def describe(self, row: int) -> str:
        """Return a text for messages that says from which object and row a row of the batch comes."""
        piece = next(piece for piece in self.pieces if row < piece.stop)
        return f"row {piece.numbers[row - piece.start]} of {piece.uri}"

    def rejects(self, rejected: Mapping[int, Rejection]) -> Iterator[tuple[str, Rows, dict[int, Rejection]]]:
        """Yield the URI, the rows and the rejections of each piece with rejected rows.

        The keys of the rejections are row numbers within the piece.
        """
        found = sorted(rejected)
        positions = np.array(found, dtype=np.int64)
        for piece in self.pieces:
            low, high = np.searchsorted(positions, (piece.start, piece.stop))
            if low < high or piece.malformed:
                batch = self.rows.slice(piece.start, len(piece.numbers))
                rows = Rows(batch=batch, numbers=piece.numbers, malformed=piece.malformed)
                yield piece.uri, rows, {row - piece.start: rejected[row] for row in found[low:high]}


def read_part(
    engine: Engine,
    part: Part,
    columns: Columns,
    options: ReadOptions,
    size: BatchSize,
    gone: Sequence[object] = (),
) -> Generator[Batch]:
    """Yield the rows of a part in order, in batches within `size`.

    Rows of several objects make up one batch if their columns have the same types. Small objects are fetched several at
    a time, each with one request.

    Parameters
    ----------
    gone : sequence, optional
        A list to which the caller adds any item to stop the reading. The incomplete batch is then dropped.

    Raises
    ------
    UnreadableInput, InputChanged
        The same errors as in `Engine.read_slice`.
    """
    filled: list[tuple[str, Rows]] = []
    count = taken = 0
    with contextlib.closing(_read_slices(engine, part.slices, columns, options, size)) as found:
        for uri, rows, row_bytes in found:
            if gone:
                return
            more = rows.batch.num_rows + len(rows.malformed)
            full = count + more > size.rows or taken + row_bytes > size.limit_bytes
            if filled and (full or not _fit_together(filled[-1][1].batch, rows.batch)):
                yield from _join(filled)
                count = taken = 0
            filled.append((uri, rows))
            count, taken = count + more, taken + row_bytes
            del rows
    if filled:
        yield from _join(filled)


def _read_slices(
    engine: Engine, slices: Sequence[Slice], columns: Columns, options: ReadOptions, size: BatchSize
) -> Generator[tuple[str, Rows, int]]:
    """Yield the rows of slices, with the URI of their object and their size in bytes."""
    with contextlib.closing(_open(engine, slices)) as objects:
        for pieces, source in objects:
            for piece in pieces:
                for rows in engine.read_slice(piece, columns, options, size.rows_to_read, source):
                    for some, row_bytes in size.split(rows):
                        yield source.uri, some, row_bytes


def _open(engine: Engine, slices: Sequence[Slice]) -> Generator[SlicedObject]:
    """Yield the objects of slices. Small objects are held in memory, and are fetched before they are needed."""
    objects: list[SlicedObject] = []
    for _, group in groupby(slices, key=lambda piece: (piece.bucket, piece.key, piece.etag)):
        pieces = list(group)
        objects.append((pieces, engine.kept.find(Pinned.of(engine.buckets[pieces[0].bucket], pieces[0]))))
    yield from open_objects(engine.buckets.main, objects)


def _fit_together(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    """Return whether rows can be scored in one batch, because their column types and dictionaries are equal.

    Dictionaries must be equal because a model may depend on the categories of a column.
    """
    if not one.schema.equals(other.schema, check_metadata=True):
        return False
    return all(
        a.dictionary.equals(b.dictionary)
        for a, b in zip(one.columns, other.columns, strict=True)
        if isinstance(a, pa.DictionaryArray) and isinstance(b, pa.DictionaryArray)
    )


def _join(filled: list[tuple[str, Rows]]) -> Iterator[Batch]:
    """Join the items to one batch, or one batch per item if Arrow cannot concatenate a column. Empty the list."""
    items, batches = filled.copy(), [rows.batch for _, rows in filled]
    filled.clear()
    try:
        joined = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
    except (pa.ArrowException, NotImplementedError):
        for item in items:
            yield from _join([item])
        return
    del batches
    pieces, start = [], 0
    for uri, rows in items:
        pieces.append(Piece(uri=uri, start=start, numbers=rows.numbers, malformed=rows.malformed))
        start = pieces[-1].stop
        del rows
    items.clear()
    yield Batch(rows=joined, pieces=tuple(pieces))
