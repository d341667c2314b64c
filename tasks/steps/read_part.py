"""Reads the rows of a part in batches. A batch can contain rows of several objects."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.prefetch import map_ahead
from scoreline.storage.tables.base import ALIGNED_ROWS, SMALL_BYTES, MalformedRow, Pinned, Rows
from scoreline.storage.tables.held_rows import held_rows, hold_rows
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.small_objects import OBJECTS_AT_ONCE, held_bytes, hold
from scoreline.storage.tables.spool import Spooled
from scoreline.tasks.job.plan import Columns, Part, Slice
from scoreline.tasks.scoring.batch_size import BatchSize
from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.scoring.rejected_rows import RejectedRows
from scoreline.tasks.steps.challenger_limits import ExtraUnreadable
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.object_rows import ObjectRows, rows_of_objects

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
    filled: list[ObjectRows] = []
    count = taken = 0
    with contextlib.closing(_read_slices(engine, part.slices, columns, options, size)) as found:
        for item in found:
            if gone:
                return
            left: ObjectRows | None = item
            while left is not None:
                full = count + left.counts[0] > size.rows or taken + left.sizes[0] > size.limit_bytes
                if left.sizes[0] * _LARGE_SHARE >= size.limit_bytes and filled and filled[-1].uris[-1] == left.uris[0]:
                    full = full or count % ALIGNED_ROWS == 0  # scores then do not depend on the end of the batch
                if filled and (full or not _fit_together(filled[-1].rows.batch, left.rows.batch)):
                    yield from _join(filled)
                    count = taken = 0
                first, left = left.cut(size.rows - count, size.limit_bytes - taken)
                filled.append(first)
                count, taken = count + sum(first.counts), taken + sum(first.sizes)
            del item, first
    if filled:
        yield from _join(filled)


def _read_slices(
    engine: Engine, slices: Sequence[Slice], columns: Columns, options: ReadOptions, size: BatchSize
) -> Generator[ObjectRows]:
    """Yield the rows of slices."""
    most_together = 0 if columns.folders else size.rows_to_read  # the names of folders become columns, object by object
    with contextlib.closing(_open(engine, slices, most_together)) as objects:
        for pieces, source in objects:
            if pieces[0].uri == pieces[-1].uri:
                yield from _read_object(engine, pieces, source, columns, options, size)
            elif (batch := _read_together(engine, pieces, source, columns, options, size)) is not None:
                yield from rows_of_objects([(piece.uri, piece.rows) for piece in pieces], batch, size)
            else:
                for piece, own in _apart(engine, pieces, source):
                    yield from _read_object(engine, [piece], own, columns, options, size)


def _read_object(
    engine: Engine, pieces: Sequence[Slice], source: Pinned, columns: Columns, options: ReadOptions, size: BatchSize
) -> Iterator[ObjectRows]:
    """Yield the rows of the slices of an object."""
    for piece in pieces:
        for rows in engine.read_slice(piece, columns, options, size.rows_to_read, source):
            for some, row_bytes in size.split(rows):
                yield ObjectRows.of(source.uri, some, row_bytes)


def _read_together(
    engine: Engine, pieces: Sequence[Slice], source: Pinned, columns: Columns, options: ReadOptions, size: BatchSize
) -> pa.RecordBatch | None:
    """Return the rows of several objects. Return None if one has rows that cannot be decoded, or is damaged."""
    rows = sum(piece.rows for piece in pieces)
    together = replace(pieces[0], stop=rows, rows=rows)
    try:
        found = list(engine.read_slice(together, columns, options, size.rows_to_read, source))
    except (UnreadableInput, ExtraUnreadable):  # it would name the first object
        return None
    return found[0].batch if len(found) == 1 and not found[0].malformed else None


def _apart(engine: Engine, pieces: Sequence[Slice], source: Pinned) -> Iterator[tuple[Slice, Pinned]]:
    """Yield each of several objects whose rows are in memory together."""
    rows, first = held_rows(source), 0
    assert rows is not None
    for piece in pieces:
        yield piece, hold_rows(Pinned.of(engine.buckets[piece.bucket], piece), rows.slice(first, piece.rows))
        first += piece.rows


type _Object = tuple[Sequence[Slice], Pinned, Spooled | None]
"""An object, the slices to read from it, and its place in the spool if it need not be fetched."""


def _open(engine: Engine, slices: Sequence[Slice], most_together: int) -> Generator[tuple[Sequence[Slice], Pinned]]:
    """Yield the objects of slices. Small objects are held in memory, and are fetched before they are needed.

    Objects that a process of this worker has just read to plan the job are not fetched again. Those whose rows follow
    each other in a block of the spool are yielded together, as one object with the rows of all, if there are at most
    `most_together` rows.
    """
    groups = [list(group) for _, group in groupby(slices, key=lambda piece: (piece.bucket, piece.key, piece.etag))]
    sources = [Pinned.of(engine.buckets[pieces[0].bucket], pieces[0]) for pieces in groups]
    rows = [sum(piece.rows for piece in pieces) for pieces in groups]
    taken = engine.kept.take(zip(sources, rows, strict=True))
    objects: deque[_Object] = deque((pieces, *item) for pieces, item in zip(groups, taken, strict=True))
    if not any(map(_size_to_fetch, objects)):
        while objects:
            together = _first_together(objects, most_together)
            if (found := _recalled(together)) is None:  # an object may have been lost meanwhile
                break
            for _ in range(len(together[0]) if together is not objects[0] else 1):
                objects.popleft()
            yield together[0], found
    if len(objects) > 1:
        yield from map_ahead(_hold, objects, threads=OBJECTS_AT_ONCE, weigh=_size_to_hold, budget=AHEAD_BYTES)
    else:
        yield from map(_hold, objects)


def _first_together(objects: deque[_Object], most_rows: int) -> _Object:
    """Return the first object, joined with all others whose rows follow in the same block of the spool."""
    slices: list[Slice] = []
    joined: Spooled | None = None
    for pieces, source, spooled in objects:
        if spooled is None or held_bytes(source) is not None or len(pieces) > 1 or pieces[0].only is not None:
            break
        longer = spooled if joined is None else joined.joined_with(spooled)
        if longer is None or longer.rows > most_rows:
            break
        joined = longer
        slices += pieces
    return objects[0] if len(slices) < 2 else (slices, objects[0][1], joined)


def _recalled(item: _Object) -> Pinned | None:
    """Return an object that need not be fetched now. Return None if its bytes are lost."""
    _, source, spooled = item
    if not _size_to_hold(item) or held_bytes(source) is not None:
        return source
    found = None if spooled is None else spooled.read()
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


def _join(filled: list[ObjectRows]) -> Iterator[Batch]:
    """Yield one batch with all rows, or one batch per item if Arrow cannot concatenate a column. Empty the list.

    Rows that follow each other in one object become one piece, because each piece with rejected rows has a cost.
    """
    items, batches = filled.copy(), [item.rows.batch for item in filled]
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
    for uri, group in groupby((piece for item in items for piece in item.objects()), key=lambda piece: piece[0]):
        of_object = list(group)
        numbers = np.concatenate([numbers for _, numbers, _ in of_object]) if len(of_object) > 1 else of_object[0][1]
        malformed = tuple(row for *_, malformed in of_object for row in malformed)
        pieces.append(Piece(uri=uri, start=start, numbers=numbers, malformed=malformed))
        start = pieces[-1].stop
        del of_object
    items.clear()
    yield Batch(rows=joined, pieces=tuple(pieces))
