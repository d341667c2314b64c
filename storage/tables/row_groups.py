"""Decodes the rows of a row group in batches, with a memory that depends neither on its rows nor on its columns."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.fetching import Fetcher, Request
from scoreline.storage.tables.packing import PackedBatch
from scoreline.storage.tables.parquet_chunks import Chunk, plan_requests

BUFFER_BYTES = 16 << 10
"""Number of bytes that Arrow buffers of each column that it reads page by page. It reads pages past the buffer."""
DECODER_BYTES = 96 << 20
"""If the decoders of all columns would take more memory, the columns are decoded one after another."""
WINDOW_BYTES = 96 << 20
"""Size of the rows that are then kept at a time."""
MAX_WINDOW_BYTES = 256 << 20
_MAX_PASSES = 8
"""If a window of `WINDOW_BYTES` takes more passes than this, it is enlarged up to `MAX_WINDOW_BYTES`."""
_BATCHES = 4
"""A window has at least this number of batches. Their memory is free as soon as they are scored, so that the next
window does not come on top of this one."""
_FETCH_BYTES = 48 << 20
_REQUEST_BYTES = _FETCH_BYTES // 8
_BLOCK_BYTES = 8 << 20
_BLOCK_COLUMNS = 32
"""Number of columns that are decoded in one call, and the maximum of their size."""

type Planned = list[tuple[Request, list[Chunk]]]
"""Requests in the order of their bytes, each with its chunks."""
type Opener = Callable[[ChunkFile, int], pq.ParquetFile]
"""Opens a file with the known footer. The number is that of bytes to buffer of each column, or 0."""


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group and its columns that are needed."""

    number: int
    first_row: int
    rows: int
    chunks: list[Chunk]

    @functools.cached_property
    def size(self) -> int:
        """Size of the chunks as stored."""
        return sum(chunk.size for chunk in self.chunks)

    @functools.cached_property
    def decoder_bytes(self) -> int:
        """Memory for decoding all columns side by side."""
        return sum(chunk.decoder_bytes + BUFFER_BYTES for chunk in self.chunks)

    @functools.cached_property
    def window_bytes(self) -> int:
        """Size of the rows to keep at a time if the columns are decoded one after another."""
        decoded = sum(chunk.decoded_bytes for chunk in self.chunks)
        return max(WINDOW_BYTES, min(decoded // _MAX_PASSES, MAX_WINDOW_BYTES))

    @functools.cached_property
    def is_wide(self) -> bool:
        """Whether the columns have to be decoded one after another, because there are too many."""
        return self.decoder_bytes > max(DECODER_BYTES, self.window_bytes)


class RowGroupReader(Protocol):
    """Reads batches of a row group forwards. Batches begin at multiples of their size, wherever reading begins."""

    row: int
    """Number of the first row of the next batch."""

    def peek(self) -> pa.RecordBatch | None:
        """Return the next batch, or None at the end. It remains the next one."""
        ...

    def advance(self) -> None:
        """Go on to the batch after the one that `peek` returned."""
        ...

    def can_reach(self, row: int) -> bool:
        """Return whether a row of the group can be read without beginning anew."""
        ...

    def close(self) -> None:
        """Release all memory."""
        ...


class StreamingReader:
    """Decodes all columns side by side, page by page.

    Parameters
    ----------
    row : int
        Number of the first row of the group.
    release : callable, optional
        Releases the bytes of the group. It is called by `close`.
    """

    def __init__(
        self,
        opened: pq.ParquetFile,
        group: int,
        row: int,
        columns: list[str],
        batch_rows: int,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.row = row
        self._release = release
        self._columns = columns
        self._batches = opened.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False)
        self._batch: pa.RecordBatch | None = None

    def peek(self) -> pa.RecordBatch | None:
        """Return the next batch (see `RowGroupReader.peek`)."""
        if self._batch is None and (batch := next(self._batches, None)) is not None:
            self._batch = batch.select(self._columns)
        return self._batch

    def advance(self) -> None:
        """Go on to the next batch (see `RowGroupReader.advance`)."""
        if self._batch is not None:
            self.row += self._batch.num_rows
            self._batch = None

    def can_reach(self, row: int) -> bool:
        """Return whether a row can be read (see `RowGroupReader.can_reach`): the rows before it are decoded."""
        return self.row <= row

    def close(self) -> None:
        """Release all memory (see `RowGroupReader.close`)."""
        self._batches = iter(())
        self._batch = None
        self._release()


class WideReader:
    """Decodes the columns one after another, each as a whole, and keeps the rows of a window. Each window is a pass.

    A decoder of pages needs the dictionary of its column all the time. With a thousand columns, the dictionaries are as
    large as the rows.

    Parameters
    ----------
    row : int
        Number of a row in the first batch.
    """

    def __init__(
        self,
        group: RowGroup,
        schema: pa.Schema,
        batch_rows: int,
        row: int,
        get_into: Callable[[int, memoryview], None],
        open_file: Callable[[Fetcher, Planned], tuple[ChunkFile, pq.ParquetFile]],
    ) -> None:
        self._group = group
        self._schema = schema
        self._open_file = open_file
        decoded = sum(chunk.decoded_bytes for chunk in group.chunks)
        windows = max(-(-decoded // group.window_bytes), 1)
        window_rows = -(-group.rows // windows)
        self._batch_rows = -(-window_rows // max(-(-window_rows // batch_rows), _BATCHES))
        self._window_rows = -(-window_rows // self._batch_rows) * self._batch_rows
        self.row = group.first_row + (row - group.first_row) // self._batch_rows * self._batch_rows
        self._batches: deque[pa.RecordBatch] = deque()
        self._passes: deque[Planned] = deque()
        self.fetcher = Fetcher(get_into, _FETCH_BYTES, self._requests())

    def _requests(self) -> Iterator[Request]:
        for row in range(self.row, self._group.first_row + self._group.rows, self._window_rows):
            planned = list(plan_requests(self._group.chunks, row, 0, request_bytes=_REQUEST_BYTES))
            self._passes.append(planned)
            yield from (request for request, _ in planned)

    def peek(self) -> pa.RecordBatch | None:
        """Return the next batch (see `RowGroupReader.peek`)."""
        if not self._batches and self.row < self._group.first_row + self._group.rows:
            self._batches.extend(self._decode())
        return self._batches[0] if self._batches else None

    def advance(self) -> None:
        """Go on to the next batch (see `RowGroupReader.advance`)."""
        if self._batches:
            self.row += self._batches.popleft().num_rows

    def can_reach(self, row: int) -> bool:
        """Return whether a row can be read (see `RowGroupReader.can_reach`): it is in the window, or in the next."""
        in_window: int = sum(batch.num_rows for batch in self._batches)
        return self.row <= row < self.row + max(in_window, self._window_rows)

    def close(self) -> None:
        """Release all memory (see `RowGroupReader.close`)."""
        self.fetcher.close()
        self._batches.clear()

    def _decode(self) -> list[pa.RecordBatch]:
        """Decode the rows of the next window."""
        self.fetcher.fetch_until(self.row + 1)
        begin = self.row - self._group.first_row
        rows = min(self._window_rows, self._group.rows - begin)
        starts = range(begin, begin + rows, self._batch_rows)
        batches = [PackedBatch(self._schema, min(self._batch_rows, begin + rows - start)) for start in starts]
        planned = self._passes.popleft()
        file, opened = self._open_file(self.fetcher, planned)
        try:
            for names in _blocks(self._schema.names, self._group.chunks):
                table = opened.read_row_group(self._group.number, columns=names, use_threads=False)
                for name in names:
                    column = table.column(name)
                    for batch, start in zip(batches, starts, strict=True):
                        batch.add(name, column.slice(start, batch.rows))
                    del column
                del table
                file.release_taken()
        finally:
            file.close()
        return [batch.finish() for batch in batches]


def _blocks(names: list[str], chunks: Sequence[Chunk]) -> Iterator[list[str]]:
    """Divide columns into blocks to decode at once, in the order of their bytes."""
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
