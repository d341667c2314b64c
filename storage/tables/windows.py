"""Decodes the columns of a row group one after another, and keeps the rows of a window on disk or in memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.prefetch import prefetched
from scoreline.storage.process_memory import shrink_heap
from scoreline.storage.tables.base import align
from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.decoded_columns import column_blocks, too_few
from scoreline.storage.tables.disk_windows import Disk, DiskFailed, Window
from scoreline.storage.tables.fetching import Fetcher
from scoreline.storage.tables.packing import PackedWindow
from scoreline.storage.tables.parquet_chunks import plan_requests
from scoreline.storage.tables.row_groups import Planned, RowGroup, RowGroupReader

log = logging.getLogger(__name__)

_SEVERAL = 0.7
"""If several windows are needed, each has at most this share of the maximum size. The reason is that the last batch of
a window is still scored while the next window is decoded."""
_BATCHES = 12
"""Minimum number of batches for which a window in memory has room. The memory of a batch is freed as soon as the batch
is scored. Batches of a window on disk are as small: batches twice as large take 50 MB more of a process."""
_SLACK = 20
"""A window may be larger by the fraction 1 / `_SLACK` if this saves a pass."""
_FETCH_BYTES = 32 << 20
"""Maximum number of fetched bytes in memory: a request for each connection."""
_LAST_BYTES = 8 << 20
"""The same for the last columns of a window, when almost all rows are in memory. Before, the fetched bytes take the
memory that the rows do not take yet."""
_REQUEST_BYTES = 4 << 20
"""Maximum size of a request for several chunks."""


class WideReader(RowGroupReader):
    """Decodes the columns one after another, for the rows of one window at a time.

    Each window takes a pass over the row group. A window on disk usually has all rows that are needed. If the disk is
    full or in memory, several smaller windows are decoded, and kept in memory.

    While a column is decoded page by page, the dictionary of the column stays in memory. For a thousand columns, the
    dictionaries are as large as the rows.

    Parameters
    ----------
    row : int
        Number of the first row to read.
    disk : Disk, optional
        Where rows are kept; None if they are kept in memory.
    """

    def __init__(
        self,
        group: RowGroup,
        schema: pa.Schema,
        batch_rows: int,
        row: int,
        get_into: Callable[[int, Sequence[memoryview]], None],
        open_file: Callable[[Fetcher, Planned], tuple[ChunkFile, pq.ParquetFile]],
        disk: Disk | None,
    ) -> None:
        self._group = group
        self._schema = schema
        self._get_into = get_into
        self._open_file = open_file
        self._disk = disk
        self._most_rows, self._batch_rows = self._limits(batch_rows)
        self.row = row
        self._stop = 0
        self._window: Window | None = None
        self._is_shared = False
        self._batch = None

    def _limits(self, batch_rows: int) -> tuple[int, int]:
        """Return the maximum number of rows of a window and of a batch."""
        most = max(1, self._group.window_bytes * self._group.rows // max(self._group.decoded_bytes, 1))
        batch_rows = min(batch_rows, align(max(1, most // _BATCHES)))
        return (most if self._disk is None else self._disk.most_rows), batch_rows

    def peek(self, start: int, stop: int) -> pa.RecordBatch | None:
        """Return the next batch (see `RowGroupReader.peek`)."""
        if self._batch is None and max(self.row, start) < self._group.first_row + self._group.rows:
            try:
                self._batch = self._next(start, stop)
            except DiskFailed as error:
                log.warning("wide.unwritable", extra={"error": str(error)})
                self._window = self._disk = None
                self._most_rows, self._batch_rows = self._limits(self._batch_rows)
                self._batch = self._next(start, stop)
        return self._batch

    def _next(self, start: int, stop: int) -> pa.RecordBatch:
        if self._window is None or not self._window.rows_left:
            self._window = None  # free this window before the next one is decoded
            self.row = max(self.row, start)
            shared = self._find_shared() or self._share()
            self._is_shared = shared is not None
            self._window = shared or self._decode(stop)
        return self._window.take()

    def can_reach(self, row: int) -> bool:
        """Return whether the reader can still reach a row (see `RowGroupReader.can_reach`).

        Each part opens shared rows again, so that it notices if the object has changed.
        """
        return not self._is_shared and super().can_reach(row)

    def _find_shared(self) -> Window | None:
        """Return a window of rows that a process of this worker has decoded; None if there is none."""
        first, rows, size = self.row - self._group.first_row, self._group.rows, self._batch_rows
        edges = [first, *range((first // size + 1) * size, rows, size), rows]
        sizes = [end - start for start, end in pairwise(edges)]
        found = None if self._disk is None else self._disk.find_shared(sizes, first)
        if found is not None:
            self._get_into(self._group.chunks[0].start, [memoryview(bytearray(1))])  # fails if the object has changed
        return found

    def _share(self) -> Window | None:
        """Decode all rows for all processes of this worker, if this one plans a job. Return None if rows are broken.

        Planning must not fail because of rows that it does not need.
        """
        if self._disk is None or self.row != self._group.first_row or not self._disk.shares_next:
            return None
        window = None
        try:
            window = self._decode(self._group.first_row + self._group.rows, self._disk)
        except (pa.ArrowException, OSError, ValueError):
            pass
        finally:
            if window is None:
                self._disk.delete_shared()
        return window

    def close(self) -> None:
        """Release all memory (see `RowGroupReader.close`)."""
        self._window = self._batch = None

    def expect(self, first_stop: int, stop: int) -> list[int]:
        """Return the sizes of the requests that reading the rows up to `stop` takes, without sending them.

        The first slice of these rows ends at `first_stop`.
        """
        row, rows = self.row - self._group.first_row, self._group.rows
        first_stop, stop = (min(end - self._group.first_row, rows) for end in (first_stop, stop))
        sizes: list[int] = []
        while row < stop:
            sizes += [request.size for request, _ in self._plan()]
            end = first_stop if row < first_stop else min(max(stop, row + int(_SEVERAL * self._most_rows)), rows)
            row = self._edges(row, end)[-1]
        return sizes

    def _plan(self) -> Planned:
        """Plan the requests of a pass."""
        return list(plan_requests(self._group.chunks, self.row, 0, request_bytes=_REQUEST_BYTES))

    def _decode(self, stop: int, shared: Disk | None = None) -> Window:
        """Decode the next rows up to `stop`, or as many as fit into a window. Share all of them if there is `shared`.

        From the second slice on, a full window is decoded, because this reader may read the next slice as well. Rows to
        share are decoded in a thread of their own, while earlier columns are written: no other process of this worker
        can begin with the job until all of them are there.
        """
        is_later_slice = self._stop not in (0, stop)
        self._stop = 0 if shared is not None else stop
        if is_later_slice:
            stop = max(stop, self.row + int(_SEVERAL * self._most_rows))
        edges = self._edges(self.row - self._group.first_row, min(stop - self._group.first_row, self._group.rows))
        MEMORY.release()
        shrink_heap()
        sizes = [end - start for start, end in pairwise(edges)]
        window: Window
        if shared is not None:
            window = to_share = shared.open_shared(sizes)
        else:
            window = PackedWindow(self._schema, sizes) if self._disk is None else self._disk.open_window(sizes)
        decoded = self._decoded(edges)
        with contextlib.closing(decoded if shared is None else prefetched(decoded)) as blocks:
            for columns in blocks:
                for name, column in columns:
                    window.add(name, column)
                del columns, column  # free them before more columns are decoded
        if shared is not None:
            shared.publish(to_share)
        MEMORY.release()  # of the fetched bytes: the rows and their features take most memory now
        shrink_heap()
        return window

    def _decoded(self, edges: list[int]) -> Generator[list[tuple[str, pa.ChunkedArray]]]:
        """Yield the columns of the rows from the first to the last edge, some columns at a time."""
        planned = self._plan()
        fetcher = Fetcher(self._get_into, _FETCH_BYTES, (request for request, _ in planned))
        fetcher.fetch_until(self.row + 1)
        share = (edges[-1] - edges[0]) / self._group.rows
        left = self._group.decoded_bytes * share
        file, opened = self._open_file(fetcher, planned)
        try:
            for names in column_blocks(self._schema.names, self._group.chunks):
                decoded = _first_rows(opened, self._group.number, names, edges[-1])
                left -= sum(self._group.column_bytes.get(name, 0) for name in names) * share
                columns = [(name, decoded.column(name).slice(edges[0])) for name in names]
                del decoded
                yield columns
                del columns
                fetcher.limit(min(_FETCH_BYTES, _LAST_BYTES + int(left)))  # before stored bytes make room for others
                file.release_taken()
        finally:
            file.close()
            fetcher.close()

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


def _first_rows(opened: pq.ParquetFile, group: int, names: list[str], rows: int) -> pa.Table:
    """Decode the first rows of some columns."""
    batches = opened.iter_batches(rows, row_groups=[group], columns=names, use_threads=False)
    found: list[pa.RecordBatch] = []
    while (left := rows - sum(batch.num_rows for batch in found)) > 0 and (batch := next(batches, None)) is not None:
        found.append(batch.slice(0, left))
    if left:
        raise too_few(left)
    return pa.Table.from_batches(found)
