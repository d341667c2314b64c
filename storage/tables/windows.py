"""Decodes the columns of a row group one after another, and keeps the rows of a window in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.process_memory import own_memory, shrink_heap
from scoreline.storage.reused_memory import ReusedMemory
from scoreline.storage.tables.base import align
from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.fetching import Fetcher
from scoreline.storage.tables.packing import PackedWindow
from scoreline.storage.tables.parquet_chunks import Chunk, plan_requests
from scoreline.storage.tables.row_groups import Planned, RowGroup

_SEVERAL = 0.7
"""If several windows are needed, each has at most this share of the maximum size. The reason is that the last batch of
a window is still scored while the next window is decoded."""
_BATCHES = 12
"""Minimum number of batches for which a window has room. The memory of a batch is freed as soon as the batch is
scored."""
_SLACK = 20
"""A window may be larger by the fraction 1 / `_SLACK` if this saves a pass."""
_FETCH_BYTES = 16 << 20
_REQUEST_BYTES = _FETCH_BYTES // 4
"""Memory for fetched bytes of a wide group, and the size of a request for several of its chunks."""
_LARGE_FETCH_BYTES = 36 << 20
_LARGE_REQUEST_BYTES = 16 << 20
"""The same for a group whose rows all fit into a window. Four requests are under way at a time for the row groups that
pandas writes by default, whose column chunks have 8 MiB."""
_BLOCK_BYTES = 4 << 20
_BLOCK_COLUMNS = 32
"""Number of columns that are decoded in one call, and the maximum of their size."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """The requests of a pass over a row group, which may be under way."""

    edges: list[int]
    """Where the batches begin and end, counted from the beginning of the group."""
    planned: Planned
    fetcher: Fetcher
    slots: _Slots


class WindowReader:
    """Decodes the columns one after another, and keeps the rows of a window. Each window is a pass over the row group.

    A decoder of pages needs the dictionary of its column all the time. With a thousand columns, the dictionaries are as
    large as the rows. Besides, whole columns are fetched with fewer requests than pieces of all columns side by side.

    Parameters
    ----------
    row : int
        Number of the first row to read.
    """

    def __init__(
        self,
        group: RowGroup,
        schema: pa.Schema,
        batch_rows: int,
        row: int,
        get_into: Callable[[int, memoryview], None],
        open_file: Callable[[Fetcher, Planned, int | None], tuple[ChunkFile, pq.ParquetFile]],
    ) -> None:
        self._group = group
        self._schema = schema
        self._get_into = get_into
        self._open_file = open_file
        self._most_rows = max(1, group.window_bytes * group.rows // max(group.decoded_bytes, 1))
        self._batch_rows = batch_rows
        if group.is_wide:
            self._batch_rows = min(batch_rows, align(max(1, self._most_rows // _BATCHES)))
        self.row = row
        self._stop = 0
        self._begun: _Pass | None = None
        self._window: PackedWindow | None = None
        self._batch: pa.RecordBatch | None = None

    def peek(self, start: int, stop: int) -> pa.RecordBatch | None:
        """Return the next batch (see `RowGroupReader.peek`)."""
        if self._batch is None and max(self.row, start) < self._group.first_row + self._group.rows:
            if self._window is None or not self._window.rows_left:
                self._window = None  # before there is another one
                self.row = max(self.row, start)
                self._window = self._decode(stop)
            self._batch = self._window.take()
        return self._batch

    @property
    def is_half_taken(self) -> bool:
        """Whether half of the rows of a group are scored that fits into a window. There is room for requests again."""
        group = self._group
        return not group.is_wide and 2 * (self.row - group.first_row) >= group.rows

    def advance(self) -> None:
        """Go on to the next batch (see `RowGroupReader.advance`)."""
        if self._batch is not None:
            self.row += self._batch.num_rows
            self._batch = None

    def can_reach(self, row: int) -> bool:
        """Return whether a row can be read (see `RowGroupReader.can_reach`)."""
        return self.row <= row

    def close(self) -> None:
        """Release all memory (see `RowGroupReader.close`)."""
        self._window = self._batch = None
        if self._begun is not None:
            self._begun.fetcher.close()
            self._begun = None

    def fetch_ahead(self, stop: int) -> None:
        """Send the first requests for the rows up to `stop`, before they are needed."""
        if self._begun is None and self._window is None:
            self._begun = self._begin(stop)

    def _begin(self, stop: int) -> _Pass:
        """Send requests for the next rows up to `stop`, or for as many as fit into a window.

        From the second slice on, a window is filled, because the slice after it may be read here, too.
        """
        group, is_later_slice = self._group, self._stop not in (0, stop)
        self._stop = stop
        if is_later_slice:
            stop = max(stop, self.row + int(_SEVERAL * self._most_rows))
        edges = self._edges(self.row - group.first_row, min(stop - group.first_row, group.rows))
        budget, most = (_FETCH_BYTES, _REQUEST_BYTES) if group.is_wide else (_LARGE_FETCH_BYTES, _LARGE_REQUEST_BYTES)
        if self._is_gradual(edges):
            planned = list(
                plan_requests(
                    group.chunks,
                    group.first_row,
                    group.rows,
                    request_bytes=most,
                    needed_rows=edges[-1],
                    skipped_rows=edges[0],
                )
            )
        else:
            planned = list(plan_requests(group.chunks, self.row, 0, request_bytes=most))
        slots = _Slots(most)
        stop = group.first_row + edges[-1]
        needed = (request for request, _ in planned if request.row < stop)
        fetcher = Fetcher(self._get_into, budget, needed, allocate=slots.allocate)
        fetcher.fetch_until(stop)
        return _Pass(edges=edges, planned=planned, fetcher=fetcher, slots=slots)

    def _is_gradual(self, edges: list[int]) -> bool:
        """Return whether to fetch and decode only some pages of each column, because only some rows are needed."""
        return not self._group.is_wide and edges[-1] - edges[0] < self._group.rows

    def _decode(self, stop: int) -> PackedWindow:
        """Decode the next rows up to `stop`, or as many as fit into a window."""
        begun, self._begun = self._begun or self._begin(stop), None
        edges = begun.edges
        shrink_heap()
        window = PackedWindow(self._schema, [end - start for start, end in pairwise(edges)])
        skipped_rows = edges[0] if self._is_gradual(edges) else None
        file, opened = self._open_file(begun.fetcher, begun.planned, skipped_rows)
        try:
            for names in _blocks(self._schema.names, self._group.chunks):
                if self._group.is_wide:
                    decoded = _first_rows(opened, self._group.number, names, edges[-1])
                    for name in names:
                        window.add(name, decoded.column(name).slice(edges[0]))
                    del decoded
                else:
                    self._add_batches(window, opened, names, edges)
                if skipped_rows is None:
                    file.release_taken()
                else:
                    file.release_columns(names)
                if begun.fetcher.has_sent_all:
                    begun.slots.release()
        finally:
            file.close()
            begun.fetcher.close()
        return window

    def _add_batches(self, window: PackedWindow, opened: pq.ParquetFile, names: list[str], edges: list[int]) -> None:
        """Decode some columns batch by batch, so that decoded values are still in the processor's cache when copied."""
        batches = opened.iter_batches(
            self._batch_rows, row_groups=[self._group.number], columns=names, use_threads=False
        )
        stop = number = 0
        for batch in batches:
            row, stop = stop, stop + batch.num_rows
            if stop > edges[number]:
                start, end = edges[number], edges[number + 1]
                if stop < end:
                    break
                for name in names:
                    window.put(number, name, batch.column(name).slice(start - row, end - start))
                number += 1
                if end == edges[-1]:
                    return
        raise pa.ArrowInvalid(f"it has {self._group.rows - stop:,} fewer rows than its footer says")

    def _edges(self, start: int, stop: int) -> list[int]:
        """Return the edges of the batches of the next window, counted from the beginning of the group.

        The first batch begins at `start`, and all others at multiples of the batch size. The last batch may end at
        `stop`. If several windows are needed, they have about the same number of rows.
        """
        size, rows, most = self._batch_rows, stop - start, self._most_rows
        end = stop
        if rows > most + most // _SLACK:
            most = max(1, int(_SEVERAL * most))
            end = -(-(start + -(-rows // -(-rows // most))) // size) * size
            if end - start > most:
                end = max((start + most) // size * size, (start // size + 1) * size)
        return [start, *range((start // size + 1) * size, end, size), end]


class _Slots:
    """Memory for fetched bytes. It is reused for later requests.

    Parameters
    ----------
    most_bytes : int
        Size of each slot. A larger request gets memory of its own.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._memory = ReusedMemory()

    def allocate(self, size: int) -> Any:
        """Return memory that is reused as soon as nothing refers to it."""
        return own_memory(size) if size > self._most_bytes else self._memory.array(size, self._most_bytes)

    def release(self) -> None:
        """Release memory that is not in use, because the window needs it more."""
        self._memory.release()


def _first_rows(opened: pq.ParquetFile, group: int, names: list[str], rows: int) -> pa.Table:
    """Decode the first rows of some columns."""
    batches = opened.iter_batches(rows, row_groups=[group], columns=names, use_threads=False)
    found: list[pa.RecordBatch] = []
    while (left := rows - sum(batch.num_rows for batch in found)) > 0 and (batch := next(batches, None)) is not None:
        found.append(batch.slice(0, left))
    if left:
        raise pa.ArrowInvalid(f"it has {left:,} fewer rows than its footer says")
    return pa.Table.from_batches(found)


def _blocks(names: list[str], chunks: Sequence[Chunk]) -> Iterator[list[str]]:
    """Divide columns into blocks that are decoded in one call, in file order."""
    sizes: dict[str, int] = {}
    for chunk in chunks:
        sizes[chunk.name] = sizes.get(chunk.name, 0) + max(chunk.decoded_bytes, chunk.size)
    block: list[str] = []
    total = 0
    for name in [*sizes, *(name for name in names if name not in sizes)]:
        size = sizes.get(name, 0)
        if block and (total + size > _BLOCK_BYTES or len(block) == _BLOCK_COLUMNS):
            yield block
            block, total = [], 0
        block.append(name)
        total += size
    if block:
        yield block
