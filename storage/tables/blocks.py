"""Decodes a row group of numbers as one block of rows, column after column, while the next row group is fetched."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.process_memory import shrink_heap
from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.decoded_columns import column_blocks, too_few
from scoreline.storage.tables.fetching import Fetcher
from scoreline.storage.tables.packing import PackedWindow
from scoreline.storage.tables.row_groups import RowGroup, RowGroupReader

FETCH_BYTES = 60 << 20
"""Maximum number of fetched bytes in memory: a request of 7.5 MiB for each connection."""
AHEAD_BYTES = 24 << 20
"""Number of bytes of the next row group that may be fetched while all rows of this one are in memory: about one request
for every second connection. The number grows to `FETCH_BYTES` while the rows are scored and released."""
_LARGE_BYTES = 64 << 20
"""Size of a block of rows above which the unused heap is released before the block is decoded, because both together
would take too much memory. Using released memory again takes longer than keeping it."""


class BlockReader(RowGroupReader):
    """Decodes all rows of a row group before the first one is returned.

    The columns are decoded in the order of their bytes. Rows and fetched bytes together take hardly more memory than
    the rows alone: the more columns are decoded, the fewer bytes are left to fetch. While the rows are scored, their
    memory is released batch by batch, and the bytes of the next row group take its place.

    Parameters
    ----------
    fetcher : Fetcher
        Fetches the bytes of this row group and of the next ones. The reader sets its budget.
    open_file : callable
        Opens the row group: the file with its chunks, and the Parquet file that reads from it.
    """

    def __init__(
        self,
        group: RowGroup,
        schema: pa.Schema,
        batch_rows: int,
        fetcher: Fetcher,
        open_file: Callable[[], tuple[ChunkFile, pq.ParquetFile]],
    ) -> None:
        self.row = group.first_row
        self._group = group
        self._schema = schema
        self._batch_rows = batch_rows
        self._fetcher = fetcher
        self._open_file = open_file
        self._window: PackedWindow | None = None
        self._batch = None

    def peek(self, start: int, stop: int) -> pa.RecordBatch | None:
        """Return the next batch (see `RowGroupReader.peek`)."""
        if self._batch is None and self.row < self._group.first_row + self._group.rows:
            if self._window is None:
                self._window = self._decode()
            self._batch = self._window.take()
            self._make_room(self._window.held_bytes)
        return self._batch

    def close(self) -> None:
        """Release all memory (see `RowGroupReader.close`)."""
        self._window = self._batch = None

    def _make_room(self, used: int) -> None:
        """Let the fetched bytes take the memory that the rows do not take."""
        size = self._group.decoded_bytes
        self._fetcher.limit(min(FETCH_BYTES, AHEAD_BYTES + max(size - used, 0)))

    def _decode(self) -> PackedWindow:
        edges = [*range(0, self._group.rows, self._batch_rows), self._group.rows]
        if self._group.decoded_bytes > _LARGE_BYTES:
            shrink_heap()
        window = PackedWindow(self._schema, [end - start for start, end in pairwise(edges)])
        decoded = 0
        file, opened = self._open_file()
        try:
            for names in column_blocks(self._schema.names, self._group.chunks):
                self._add_batches(window, opened, names, edges)
                decoded += sum(self._group.column_bytes.get(name, 0) for name in names)
                self._make_room(decoded)  # before the stored bytes are released, which sends further requests
                file.release_taken()
        finally:
            file.close()
        return window

    def _add_batches(self, window: PackedWindow, opened: pq.ParquetFile, names: list[str], edges: list[int]) -> None:
        """Decode some columns batch by batch, so that hardly more than the rows themselves takes memory."""
        batches = opened.iter_batches(
            self._batch_rows, row_groups=[self._group.number], columns=names, use_threads=False
        )
        for number, (start, stop) in enumerate(pairwise(edges)):
            batch = next(batches, None)
            missing = stop - start - (0 if batch is None else batch.num_rows)
            if batch is None or missing:
                raise too_few(missing + edges[-1] - stop)
            for name in names:
                window.add_batch(name, number, batch.column(name))
