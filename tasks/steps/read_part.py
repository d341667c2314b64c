"""Reads the rows of a part in batches. A batch can contain rows of several objects."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.prefetch import map_ahead
from scoreline.storage.tables.base import ALIGNED_ROWS, MalformedRow, Pinned, Rows
from scoreline.storage.tables.held_rows import hold_rows
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.small_objects import OBJECTS_AT_ONCE, SMALL_BYTES, Recall, held_bytes, hold
from scoreline.tasks.job.plan import Columns, Part, Slice
from scoreline.tasks.scoring.batch_size import BatchSize
from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.scoring.rejected_rows import RejectedRows
from scoreline.tasks.steps.engine import Engine

AHEAD_BYTES = 16 << 20
"""Maximum size of the small objects that are fetched, but not decoded yet."""
_LARGE_SHARE = 6
"""Consecutive rows of one object are not combined if they take at least 1 / `_LARGE_SHARE` of the limit of a batch.
Combining them copies them, which takes more time and memory than fewer calls of the model save."""


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

    def rejects(self, rejected: Mapping[int, Rejection]) -> Iterator[tuple[str, Rows, RejectedRows]]:
        """Yield each piece that has rejected rows: its URI, its rows, and why rows were rejected.

        The mapping is by row number within the piece. The reasons of malformed rows are not in the mapping, but in
        `Rows.malformed`.
        """
        found = RejectedRows.of(rejected)
        for piece in self.pieces:
            reasons = found.between(piece.start, piece.stop)
            if reasons or piece.malformed:
                batch = self.rows.slice(piece.start, len(piece.numbers))
                rows = Rows(batch=batch, numbers=piece.numbers, malformed=piece.malformed)
                yield piece.uri, rows, reasons


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
    a time, each with one request. Large groups of rows of one object are batches of their own, without a copy.

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
            if row_bytes * _LARGE_SHARE >= size.limit_bytes and filled and filled[-1][0] == uri:
                full = full or count % ALIGNED_ROWS == 0  # scores then do not depend on the end of the batch
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


type _Object = tuple[Sequence[Slice], Pinned, Recall | None]
"""An object, the slices to read from it, and a function that returns its bytes if they need not be fetched."""


def _open(engine: Engine, slices: Sequence[Slice]) -> Generator[tuple[Sequence[Slice], Pinned]]:
    """Yield the objects of slices. Small objects are held in memory, and are fetched before they are needed.

    Objects that a process of this worker has just read to plan the job are not fetched again.
    """
    groups = [list(group) for _, group in groupby(slices, key=lambda piece: (piece.bucket, piece.key, piece.etag))]
    sources = [Pinned.of(engine.buckets[pieces[0].bucket], pieces[0]) for pieces in groups]
    rows = [sum(piece.rows for piece in pieces) for pieces in groups]
    taken = engine.kept.take(zip(sources, rows, strict=True))
    objects: deque[_Object] = deque((pieces, *item) for pieces, item in zip(groups, taken, strict=True))
    if not any(map(_size_to_fetch, objects)):
        while objects and (found := _recalled(objects[0])) is not None:  # an object may have been lost meanwhile
            yield objects.popleft()[0], found
    if len(objects) > 1:
        yield from map_ahead(_hold, objects, threads=OBJECTS_AT_ONCE, weigh=_size_to_hold, budget=AHEAD_BYTES)
    else:
        yield from map(_hold, objects)


def _recalled(item: _Object) -> Pinned | None:
    """Return an object that need not be fetched now. Return None if its bytes are lost."""
    _, source, recall = item
    if not _size_to_hold(item) or held_bytes(source) is not None:
        return source
    found = None if recall is None else recall()
    if isinstance(found, pa.RecordBatch):
        return hold_rows(source, found)
    return None if found is None else hold(source, found)


def _hold(item: _Object) -> tuple[Sequence[Slice], Pinned]:
    return item[0], _recalled(item) or hold(item[1])


def _size_to_fetch(item: _Object) -> int:
    """Return the size of a small object that has to be fetched; return 0 if it is large or already here."""
    return _size_to_hold(item) if item[2] is None and held_bytes(item[1]) is None else 0


def _size_to_hold(item: _Object) -> int:
    """Return the size of a small object, which is fetched as a whole; return 0 for a large object."""
    return item[1].size if item[1].size <= SMALL_BYTES else 0


def _fit_together(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    """Return whether rows can be scored in one batch, because their column types and dictionaries are equal.

    Dictionaries must be equal because a model may depend on the categories of a column.
    """
    if not one.schema.equals(other.schema, check_metadata=True):
        return False
    places = _CATEGORIES.places(one.schema)
    return all(one.column(place).dictionary.equals(other.column(place).dictionary) for place in places)


class _Categories:
    """Remembers which columns of the last schema have dictionaries, because most objects of a part have one schema."""

    def __init__(self) -> None:
        self._last: tuple[pa.Schema, tuple[int, ...]] = (pa.schema([]), ())

    def places(self, schema: pa.Schema) -> tuple[int, ...]:
        """Return the positions of the columns with dictionaries."""
        known, places = self._last  # one tuple, so that threads read and replace both values together
        if not schema.equals(known):
            places = tuple(place for place, kind in enumerate(schema.types) if pa.types.is_dictionary(kind))
            self._last = schema, places
        return places


_CATEGORIES = _Categories()


def _join(filled: list[tuple[str, Rows]]) -> Iterator[Batch]:
    """Yield one batch with all items, or one batch per item if Arrow cannot concatenate a column. Empty the list.

    Rows that follow each other in one object become one piece, because each piece with rejected rows has a cost.
    """
    items, batches = filled.copy(), [rows.batch for _, rows in filled]
    filled.clear()
    try:
        joined = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
    except (pa.ArrowException, NotImplementedError):
        for item in items:
            yield from _join([item])
        return
    del batches
    pieces: list[Piece] = []
    start = 0
    for uri, group in groupby(items, key=lambda item: item[0]):
        of_object = [rows for _, rows in group]
        numbers = np.concatenate([rows.numbers for rows in of_object])
        malformed = tuple(item for rows in of_object for item in rows.malformed)
        pieces.append(Piece(uri=uri, start=start, numbers=numbers, malformed=malformed))
        start = pieces[-1].stop
        del of_object
    items.clear()
    yield Batch(rows=joined, pieces=tuple(pieces))
