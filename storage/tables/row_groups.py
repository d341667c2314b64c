"""Decodes a row group in batches. The memory use depends neither on the number of rows nor on the number of columns."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.tables.base import ALIGNED_ROWS, align
from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.fetching import Request
from scoreline.storage.tables.parquet_chunks import Chunk

BUFFER_BYTES = 16 << 10
"""Size in bytes of Arrow's buffer for each column that it reads page by page. The pages themselves bypass the
buffer."""
DECODER_BYTES = 96 << 20
"""If the decoders of all columns together would take more memory than this, the columns are decoded one after
another."""
LARGE_DECODERS_BYTES = 64 << 20
"""If the decoders of all columns together take more memory than this, batches take less (see `SMALL_BATCH_BYTES`). The
decoders of 32 columns of millions of different numbers take this much: a dictionary and a page of 1 MiB each."""
SMALL_BATCH_BYTES = 6 << 20
"""Maximum size in bytes of a batch of such a row group, unless `ALIGNED_ROWS` rows take more. Several batches are in
memory at a time, and the heap has gaps between the values of their columns. 40 columns of float64 take 120 MB less than
in batches of 65,536 rows."""
VARYING_BATCH_BYTES = 16 << 20
"""Maximum size in bytes of a batch with texts or lists, by the average size of a row of the group, unless a single row
takes more. From the types of such columns alone, the size of a batch is unknown: 8,192 texts of 100 kB take 800 MB."""
WINDOW_BYTES = 192 << 20
"""Maximum size in bytes of a block of rows. A block is in memory while its columns are decoded one after another."""
MAX_WINDOW_BYTES = 256 << 20
_MAX_PASSES = 4
"""If windows of `WINDOW_BYTES` would take more passes than this, windows are enlarged, up to `MAX_WINDOW_BYTES`."""
BLOCK_BYTES = 168 << 20
"""A row group that is too large to be fetched as a whole is decoded as one block if its rows take at most this much
memory. Pandas writes such row groups: 1,048,576 rows of up to 21 columns of float64. Its columns are then fetched with
one request each, where decoding all columns together takes a request for each piece that fits into memory."""
_BLOCK_COLUMN_BYTES = 16 << 20
"""Maximum size in bytes of a column of such a row group. Besides the block, one column is in memory as stored and as
decoded."""

type Planned = list[tuple[Request, list[Chunk]]]
"""Requests in the order of their bytes, each with its chunks."""
type Opener = Callable[[ChunkFile, int], pq.ParquetFile]
"""Opens a file with the known footer. The number is how many bytes to buffer for each column, or 0."""


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group with the chunks of the requested columns."""

    number: int
    first_row: int
    rows: int
    chunks: list[Chunk]

    @functools.cached_property
    def size(self) -> int:
        """Stored size of the chunks in bytes."""
        return sum(chunk.size for chunk in self.chunks)

    @functools.cached_property
    def decoded_bytes(self) -> int:
        """Estimated size of all rows in memory."""
        return sum(chunk.decoded_bytes for chunk in self.chunks)

    @functools.cached_property
    def column_bytes(self) -> dict[str, int]:
        """Estimated size of each column in memory."""
        sizes: dict[str, int] = {}
        for chunk in self.chunks:
            sizes[chunk.name] = sizes.get(chunk.name, 0) + chunk.decoded_bytes
        return sizes

    @functools.cached_property
    def decoder_bytes(self) -> int:
        """Memory for decoding all columns together."""
        return self.decoder_bytes_of(self.rows)

    def decoder_bytes_of(self, rows: int) -> int:
        """Return the memory for decoding the first rows of all columns together."""
        share = min(rows / max(self.rows, 1), 1.0)
        return sum(chunk.decoder_bytes(share) + BUFFER_BYTES for chunk in self.chunks)

    @functools.cached_property
    def window_bytes(self) -> int:
        """Number of bytes of decoded rows in memory at a time, if the columns are decoded one after another."""
        return max(WINDOW_BYTES, min(self.decoded_bytes // _MAX_PASSES, MAX_WINDOW_BYTES))

    @functools.cached_property
    def is_wide(self) -> bool:
        """Whether the columns must be decoded one after another, because decoding all at once takes too much memory."""
        return self.decoder_bytes > max(DECODER_BYTES, self.window_bytes)

    def batch_rows(self, most: int) -> int:
        """Return the number of rows of a batch, at most `most`, if all columns are decoded at once."""
        if self.decoder_bytes > LARGE_DECODERS_BYTES:
            return min(most, align(max(ALIGNED_ROWS, self._rows_in(SMALL_BATCH_BYTES))))
        if not any(chunk.varies for chunk in self.chunks):
            return most
        rows = self._rows_in(VARYING_BATCH_BYTES)
        if rows < ALIGNED_ROWS:  # a power of two, so that batches still begin at multiples of `ALIGNED_ROWS`
            rows = 1 << max(rows, 1).bit_length() - 1
        return min(most, align(rows))

    def _rows_in(self, size: int) -> int:
        """Return how many rows of average size take this many bytes of memory."""
        return size * self.rows // max(self.decoded_bytes, 1)

    @functools.cached_property
    def fits_block(self) -> bool:
        """Whether all rows can be decoded as one block, column after column (see `BLOCK_BYTES`)."""
        largest = max((max(chunk.size, chunk.decoded_bytes) for chunk in self.chunks), default=0)
        return self.decoded_bytes <= BLOCK_BYTES and largest <= _BLOCK_COLUMN_BYTES


class RowGroupReader(ABC):
    """Reads the batches of a row group in order.

    A batch begins and ends at multiples of the batch size, or where reading begins or ends.
    """

    row: int
    """Number of the first row of the next batch."""
    _batch: pa.RecordBatch | None
    """The batch that `peek` has returned last, until it is consumed."""

    @abstractmethod
    def peek(self, start: int, stop: int) -> pa.RecordBatch | None:
        """Return the next batch without consuming it, or None at the end.

        The rows from `start` to `stop` are needed now. Rows before `start` may be left out.
        """

    def advance(self) -> None:
        """Go on to the batch after the one that `peek` returned."""
        if self._batch is not None:
            self.row += self._batch.num_rows
            self._batch = None

    def can_reach(self, row: int) -> bool:
        """Return whether the reader can still reach a row of the group, without starting again."""
        return self.row <= row

    @abstractmethod
    def close(self) -> None:
        """Release all memory."""


class StreamingReader(RowGroupReader):
    """Decodes all columns together, page by page. To reach a row, it decodes all rows before it.

    Parameters
    ----------
    row : int
        Number of the first row of the group.
    release : callable, optional
        Releases the bytes of the group. The method `close` calls it.
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
        self._batch = None

    def peek(self, start: int, stop: int) -> pa.RecordBatch | None:
        """Return the next batch (see `RowGroupReader.peek`)."""
        if self._batch is None and (batch := next(self._batches, None)) is not None:
            self._batch = batch.select(self._columns)
        return self._batch

    def close(self) -> None:
        """Release all memory (see `RowGroupReader.close`)."""
        self._batches = iter(())
        self._batch = None
        self._release()
