"""Windows of a wide row group whose rows are on disk, so that they take no memory of the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from scoreline.storage import scratch_files
from scoreline.storage.reused_memory import ReusedMemory
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.column_file import ColumnFile, memory_bytes
from scoreline.storage.tables.row_groups import RowGroup
from scoreline.storage.tables.shared_rows import SharedRows, name_of


class Window(Protocol):
    """Consecutive rows in several batches: in memory (`PackedWindow`) or on disk."""

    @property
    def rows_left(self) -> int:
        """Number of rows in the batches that `take` has not yet returned."""
        ...

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Add the values of a column."""
        ...

    def take(self) -> pa.RecordBatch:
        """Return the next batch. All columns must have been added."""
        ...


class DiskFailed(Exception):
    """Raised if a window cannot be written to disk or read from it."""


class Disk:
    """Opens windows on disk.

    Parameters
    ----------
    most_rows : int
        Maximum number of rows of a window.
    """

    def __init__(
        self, group: RowGroup, schema: pa.Schema, most_rows: int, name: bytes = b"", shared: SharedRows | None = None
    ) -> None:
        self.most_rows = most_rows
        self._group = group
        self._schema = schema
        self._name = name
        self._shared = shared
        self._memory = ReusedMemory(most_blocks=1)

    @classmethod
    def with_room(
        cls, group: RowGroup, schema: pa.Schema, source: Pinned, shared: SharedRows | None = None
    ) -> Disk | None:
        """Return the disk if a window on it can have more rows than one in memory; otherwise None."""
        name = b"" if shared is None else name_of(source.uri, source.etag, group.number, schema)
        in_memory = memory_bytes(schema, group.column_bytes)
        on_disk = max(group.decoded_bytes - in_memory, 1)
        share = min(scratch_files.room() / on_disk, group.window_bytes / max(in_memory, 1), 1.0)
        most_rows = int(group.rows * share)
        if share < 1 and share * group.decoded_bytes <= group.window_bytes:
            return None
        return cls(group, schema, most_rows, name, shared)

    @property
    def shares_next(self) -> bool:
        """Whether the next window is to have all rows of the row group, for all processes of the worker."""
        return self._shared is not None and self._shared.is_planning and self.can_be_shared

    @property
    def can_be_shared(self) -> bool:
        """Whether a window can have all rows of the row group, and all of their values on disk."""
        all_fit = self.most_rows == self._group.rows
        return all_fit and not memory_bytes(self._schema, self._group.column_bytes)

    def open_shared(self, sizes: Sequence[int]) -> DiskWindow:
        """Return a window for all rows of the row group, to be published."""
        assert self._shared is not None
        return DiskWindow(self._shared.open(self._schema, self._memory), sizes)

    def delete_shared(self) -> None:
        """Delete the rows of a window of `open_shared` that cannot be completed."""
        if self._shared is not None:
            self._shared.clear()

    def publish(self, window: DiskWindow) -> None:
        """Let other processes find a window of `open_shared` that is complete."""
        assert self._shared is not None
        try:
            self._shared.publish(self._name, window.columns)
        except OSError as error:
            raise DiskFailed(str(error)) from error

    def find_shared(self, sizes: Sequence[int], row: int) -> DiskWindow | None:
        """Return a window of the rows from `row` of the group on, if some process shares them; otherwise None."""
        found = None if self._shared is None else self._shared.find(self._name, self._schema, self._memory)
        return None if found is None else DiskWindow(found, sizes, row)

    def open_window(self, sizes: Sequence[int]) -> DiskWindow:
        """Return a new window for batches of these sizes."""
        try:
            file = scratch_files.open_scratch()
        except OSError as error:
            raise DiskFailed(str(error)) from error
        return DiskWindow(ColumnFile(file, self._schema, self._memory), sizes)


class DiskWindow:
    """Consecutive rows on disk, in several batches.

    Parameters
    ----------
    columns : ColumnFile
        The file.
    sizes : sequence of int
        The number of rows of each batch.
    row : int
        The first row of the first batch, counted from the first row of the file.
    """

    def __init__(self, columns: ColumnFile, sizes: Sequence[int], row: int = 0) -> None:
        self.columns = columns
        self._sizes = sizes
        self._row, self._taken = row, 0

    @property
    def rows_left(self) -> int:
        """Number of rows in the batches that `take` has not yet returned."""
        return sum(self._sizes[self._taken :])

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Write the values of a column."""
        try:
            self.columns.add(name, column)
        except OSError as error:
            raise DiskFailed(str(error)) from error

    def take(self) -> pa.RecordBatch:
        """Read the next batch."""
        start = self._row
        self._row, self._taken = start + self._sizes[self._taken], self._taken + 1
        try:
            return self.columns.read(start, self._row)
        except OSError as error:
            raise DiskFailed(str(error)) from error
