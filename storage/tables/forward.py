"""Reads rows of a Parquet object in order, across row groups, and remembers the position for the next read."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.objects.base import KeepsFiles
from scoreline.storage.tables.base import Pinned, Rows
from scoreline.storage.tables.blocks import BlockReader
from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.contents import explain_row_group
from scoreline.storage.tables.disk_windows import Disk
from scoreline.storage.tables.fetching import BLOCK_BYTES, CONNECTIONS, Fetcher, Request
from scoreline.storage.tables.local_file import LocalFile, LocalReader
from scoreline.storage.tables.packing import SLAB_BYTES
from scoreline.storage.tables.parquet_chunks import Leaves, find_chunks, plan_requests
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.row_groups import (
    BUFFER_BYTES,
    Planned,
    RowGroup,
    RowGroupReader,
    StreamingReader,
)
from scoreline.storage.tables.shared_rows import SharedRows
from scoreline.storage.tables.windows import WideReader

READ_BYTES = 64 << 20
"""Memory in bytes for reading an object. It covers the stored bytes and the decoders of the columns."""
_WHOLE_BYTES = 16 << 20
"""If a row group is larger than this, the memory of its stored bytes is freed page by page while it is decoded. The
bytes of a smaller row group stay in memory until the row group is decoded."""


class ForwardReader:
    """Reads the rows of some columns of a pinned object in order.

    Parameters
    ----------
    metadata : pyarrow.parquet.FileMetaData
        The footer of the object.
    open_file : callable
        Opens a file with this footer. The second argument of the function is the number of bytes that Arrow buffers for
        each column.
    memory_bytes : int, optional
        Memory for reading, by default `READ_BYTES`.
    shared : SharedRows, optional
        Rows that processes of this worker share.
    schema : pyarrow.Schema, optional
        The columns as the caller describes them. Batches of wide row groups have this schema, with its metadata, if it
        equals that of the object otherwise: giving thousands of columns another schema makes an object of each.
    """

    def __init__(
        self,
        source: Pinned,
        metadata: pq.FileMetaData,
        leaves: Leaves,
        open_file: Callable[[RangedFile | pa.NativeFile, int], pq.ParquetFile],
        columns: list[str],
        batch_rows: int,
        *,
        memory_bytes: int | None = None,
        connections: int = CONNECTIONS,
        shared: SharedRows | None = None,
        schema: pa.Schema | None = None,
    ) -> None:
        self.key = (source.uri, source.etag, tuple(columns), batch_rows)
        self._source = source
        self._metadata = metadata
        self._leaves = leaves.of(columns)
        self._open_file = open_file
        self._columns = columns
        self._batch_rows = batch_rows
        self._memory = memory_bytes or READ_BYTES
        self._connections = connections
        self._shared = shared
        self._described = schema
        self._raw = RangedFile(source.store, source.key, source.size, source.etag)
        self._fetcher: Fetcher | None = None
        self._file: LocalFile | None = None
        self._planned: dict[int, _Plan] = {}
        self._number = 0
        self._first_row = 0
        self._stop = 0
        self._skipped_rows = 0
        self._group: RowGroupReader | None = None

    def can_continue(self, row: int) -> bool:
        """Return whether a row is in the current row group, and not before the current position."""
        if self._group is None:
            return False
        rows: int = self._metadata.row_group(self._number).num_rows
        return row < self._first_row + rows and self._group.can_reach(row)

    def skip_to(self, row: int, first_rows: Sequence[int]) -> None:
        """Begin at the row group that contains a row. `first_rows` has the first row of each row group."""
        if self._group is None and first_rows and row > self._first_row:
            self._number = bisect.bisect_right(first_rows, row) - 1
            self._first_row = first_rows[self._number]

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Yield the rows from `start` to `stop` in order.

        Raises
        ------
        UnreadableInput
            A row group cannot be decoded.
        InputChanged
            The object was replaced or deleted.
        """
        self._stop = stop
        while self._number < self._metadata.num_row_groups and self._first_row < stop:
            rows = self._metadata.row_group(self._number).num_rows
            if start < self._first_row + rows:
                try:
                    yield from self._read_group(start, stop)
                except (pa.ArrowException, OSError, ValueError) as error:
                    raise explain_row_group(self._source, self._number, error) from error
            if stop < self._first_row + rows:
                return
            self._leave_group()
            self._number += 1
            self._first_row += rows

    def expect(self, start: int, stop: int, first_stop: int) -> list[int]:
        """Return the sizes of the requests that reading some rows takes. This sends no request.

        The reader cannot be used for reading afterwards.

        Parameters
        ----------
        first_stop : int
            The end of the first slice of these rows, because requests are planned when the first slice is read.
        """
        if self._source.size <= RangedFile.WHOLE_BYTES:
            return [self._source.size]
        sizes: list[int] = []
        self._stop = first_stop
        while self._number < self._metadata.num_row_groups and self._first_row < stop:
            rows = self._metadata.row_group(self._number).num_rows
            if start < self._first_row + rows:
                sizes += self._expect_group(max(start, self._first_row), stop)
            self._number += 1
            self._first_row += rows
        return sizes

    def _expect_group(self, row: int, stop: int) -> list[int]:
        group = self._describe(self._number, self._first_row)
        if group.is_wide:
            return self._by_column(group, row).expect(self._stop, stop)
        next(self._requests(self._skip_before(group, row), row), None)
        requests = self._planned.pop(self._number).requests
        return [request.size for request, _ in requests if request.row < stop]

    def can_share_first_group(self) -> bool:
        """Return whether processes of a worker can share the rows of the first row group (see `SharedRows`)."""
        group = self._describe(0, 0)
        disk = Disk.with_room(group, self._schema(), self._source) if group.is_wide else None
        return disk is not None and disk.can_be_shared

    def close(self) -> None:
        """Release all memory, and end the threads."""
        self._leave_group()
        self._file = None
        self._planned.clear()
        if self._fetcher is not None:
            self._fetcher.close()

    def _read_group(self, start: int, stop: int) -> Iterator[Rows]:
        group = self._group or self._enter_group(max(start, self._first_row))
        self._group = group
        if self._fetcher is not None:
            self._fetcher.fetch_until(stop)
        while group.row < stop and (batch := group.peek(start, stop)) is not None:
            row = group.row
            low, high = max(start - row, 0), min(stop - row, batch.num_rows)
            if row + batch.num_rows <= stop:
                group.advance()
            if low < high:
                numbers = np.arange(row + low, row + high, dtype=np.int64)
                yield Rows(batch=batch.slice(low, high - low), numbers=numbers)
            del batch
            if row + high == stop:  # stop before the next batch is decoded
                return

    def _leave_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.close()
        self._planned.pop(self._number, None)

    def _enter_group(self, row: int) -> RowGroupReader:
        if self._source.size <= RangedFile.WHOLE_BYTES:
            return self._streaming(self._open_file(self._raw, 0), self._batch_rows)
        plan = self._planned.get(self._number)
        if plan is None:
            group = self._describe(self._number, self._first_row)
            if group.is_wide:
                return self._by_column(group, row)
            group = self._skip_before(group, row)
            if self._fetcher is not None:
                self._fetcher.close()
            if isinstance(self._source.store, KeepsFiles) and not self._skipped_rows:
                return self._from_file(group, row, self._source.store)
            requests = self._requests(group, row)
            self._fetcher = Fetcher(self._raw.get_into, self._memory, requests, self._connections)
            self._fetcher.fetch_until(0)  # plan this row group, without sending requests yet
            plan = self._planned[self._number]
        assert self._fetcher is not None
        if plan.is_block:
            open_block = functools.partial(self._open_by_column, self._fetcher, plan.requests)
            return BlockReader(plan.group, self._schema(), self._batch_rows, self._fetcher, open_block)
        self._fetcher.limit(self._budget(plan.group))
        gradual = plan.is_gradual
        if gradual and not plan.group.fits_block:
            MEMORY.release()  # so large a row group takes its whole budget, and none of it from this memory
        skipped_rows, self._skipped_rows = self._skipped_rows if gradual else 0, 0
        file = ChunkFile(self._source, self._fetcher, plan.requests, gradual=gradual, skipped_rows=skipped_rows)
        batch_rows = plan.group.batch_rows(self._batch_rows)
        return self._streaming(self._open_file(file, BUFFER_BYTES if gradual else 0), batch_rows, file.close)

    def _from_file(self, group: RowGroup, row: int, store: KeepsFiles) -> LocalReader:
        if self._file is None:
            self._file = LocalFile(self._source, store)
        opened = self._open_file(self._file.file, BUFFER_BYTES)
        planned = self._plan(group, row).requests
        batch_rows = group.batch_rows(self._batch_rows)
        return LocalReader(self._file, planned, opened, group.number, group.first_row, self._columns, batch_rows)

    def _skip_before(self, group: RowGroup, row: int) -> RowGroup:
        """Skip the batches of the current row group that are before a row. Return the group with its skipped pages."""
        batch_rows = group.batch_rows(self._batch_rows)
        self._skipped_rows = (row - self._first_row) // batch_rows * batch_rows
        return self._describe(self._number, self._first_row) if self._skipped_rows else group

    def _budget(self, group: RowGroup) -> int:
        """Return the memory for stored bytes while all columns of a row group are decoded together."""
        return max(self._memory - group.decoder_bytes_of(self._stop - group.first_row), self._memory // 4)

    def _streaming(
        self, opened: pq.ParquetFile, batch_rows: int, release: Callable[[], None] = lambda: None
    ) -> StreamingReader:
        return StreamingReader(opened, self._number, self._first_row, self._columns, batch_rows, release)

    def _by_column(self, group: RowGroup, row: int) -> WideReader:
        schema = self._schema()
        disk = Disk.with_room(group, schema, self._source, self._shared)
        return WideReader(group, schema, self._batch_rows, row, self._raw.get_into, self._open_by_column, disk)

    def _schema(self) -> pa.Schema:
        schema = self._open_file(self._raw, 0).schema_arrow
        found = pa.schema([schema.field(name) for name in self._columns], schema.metadata)
        return self._described if self._described is not None and self._described.equals(found) else found

    def _open_by_column(self, fetcher: Fetcher, planned: Planned) -> tuple[ChunkFile, pq.ParquetFile]:
        file = ChunkFile(self._source, fetcher, planned, gradual=False)
        return file, self._open_file(file, 0)

    def _fits_block(self, group: RowGroup, row: int) -> bool:
        """Return whether to decode a row group as one block, because it would be fetched in small pieces otherwise.

        All of its rows must be needed, and all columns must be numbers or times, whose size in memory is known.
        """
        is_whole = row <= group.first_row and group.first_row + group.rows <= self._stop
        is_divided = group.size + group.decoder_bytes > self._memory
        return is_whole and is_divided and self._memory >= READ_BYTES and group.fits_block and self._has_numbers

    @functools.cached_property
    def _has_numbers(self) -> bool:
        """Whether all columns are numbers or times."""
        schema = self._metadata.schema.to_arrow_schema()
        kinds = dict(zip(schema.names, schema.types, strict=True))
        return all(name in kinds and pa.types.is_primitive(kinds[name]) for name in self._columns)

    def _describe(self, number: int, first_row: int) -> RowGroup:
        return RowGroup(
            number=number,
            first_row=first_row,
            rows=self._metadata.row_group(number).num_rows,
            chunks=find_chunks(self._metadata, number, self._leaves, self._source.size, self._plain_columns(number)),
        )

    def _plain_columns(self, number: int) -> list[str]:
        """Return the columns in which rows of a group can be skipped; none if no rows are to be skipped."""
        if not self._skipped_rows or number != self._number or _gives_small_sizes(self._metadata.created_by):
            return []
        schema = self._metadata.schema.to_arrow_schema()
        return [field.name for field in schema if not pa.types.is_dictionary(field.type)]

    def _requests(self, group: RowGroup, row: int) -> Iterator[Request | None]:
        """Plan the requests of one row group after another, from a row of the first one on. Stop at a wide row group.

        None stands for the requests of a row group whose rows are not needed yet. It is planned when they are.
        """
        while True:
            plan = self._planned[group.number] = self._plan(group, row)
            yield from sorted((request for request, _ in plan.requests), key=lambda request: request.row)
            number, row = group.number + 1, group.first_row + group.rows
            if number == self._metadata.num_row_groups:
                return
            while row >= self._stop:
                yield None
            group = self._describe(number, row)
            if group.is_wide:
                return

    def _plan(self, group: RowGroup, row: int) -> _Plan:
        if self._fits_block(group, row):
            plan = _Plan(group, list(plan_requests(group.chunks, group.first_row, 0)), is_block=True)
            for request, _ in plan.requests:
                request.block_bytes = SLAB_BYTES
            return plan
        is_cut = group.first_row < self._stop < group.first_row + group.rows
        requests = plan_requests(
            group.chunks,
            group.first_row,
            group.rows,
            budget_bytes=self._budget(group),
            needed_rows=self._stop - group.first_row if is_cut else None,
            skipped_rows=self._skipped_rows if group.number == self._number else 0,
        )
        plan = _Plan(group, list(requests), is_block=False)
        if plan.is_gradual:
            for request, _ in plan.requests:
                request.block_bytes = BLOCK_BYTES
        return plan


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a row group is read."""

    group: RowGroup
    requests: Planned
    is_block: bool
    """Whether the row group is decoded as one block (see `BlockReader`)."""

    @property
    def is_gradual(self) -> bool:
        """Whether Arrow reads the chunks page by page, and the memory of their bytes is released meanwhile."""
        is_divided = sum(len(chunks) for _, chunks in self.requests) > len(self.group.chunks)
        return not self.is_block and (is_divided or self.group.size > _WHOLE_BYTES)


def _gives_small_sizes(created_by: str | None) -> bool:
    """Return whether the chunk sizes in the metadata may be too small, as written by parquet-mr before 1.2.9.

    >>> [_gives_small_sizes(f"parquet-mr version {release}") for release in ("1.2.8", "1.12.3 (build abc)")]
    [True, False]
    """
    words = re.match(r"parquet-mr\b(?: version (\d+)\.(\d+)(?:\.(\d+))?)?", created_by or "", re.IGNORECASE)
    return words is not None and tuple(int(number or 0) for number in words.groups()) < (1, 2, 9)
