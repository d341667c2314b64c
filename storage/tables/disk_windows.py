"""Windows of a wide row group whose rows are on disk, so that they take no memory of the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from scoreline.storage import scratch_files
from scoreline.storage.reused_memory import ReusedMemory
from scoreline.storage.tables.column_file import ColumnFile, memory_bytes
from scoreline.storage.tables.row_groups import RowGroup


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

    def __init__(self, schema: pa.Schema, most_rows: int) -> None:
        self.most_rows = most_rows
        self._schema = schema
        self._memory = ReusedMemory(most_blocks=1)

    @classmethod
    def with_room(cls, group: RowGroup, schema: pa.Schema) -> Disk | None:
        """Return the disk if a window on it can have more rows than one in memory; otherwise None."""
        in_memory = memory_bytes(schema, group.column_bytes)
        on_disk = max(group.decoded_bytes - in_memory, 1)
        share = min(scratch_files.room() / on_disk, group.window_bytes / max(in_memory, 1), 1.0)
        most_rows = int(group.rows * share)
        return cls(schema, most_rows) if share * group.decoded_bytes > group.window_bytes or share == 1 else None

    def open_window(self, sizes: Sequence[int]) -> DiskWindow:
        """Return a new window for batches of these sizes."""
        try:
            file = scratch_files.open_scratch()
        except OSError as error:
            raise DiskFailed(str(error)) from error
        return DiskWindow(ColumnFile(file, self._schema, self._memory), sizes)


class DiskWindow:
    """Consecutive rows on disk, in several batches."""

    def __init__(self, columns: ColumnFile, sizes: Sequence[int]) -> None:
        self._columns = columns
        self._sizes = sizes
        self._row = self._taken = 0

    @property
    def rows_left(self) -> int:
        """Number of rows in the batches that `take` has not yet returned."""
        return sum(self._sizes[self._taken :])

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Write the values of a column."""
        try:
            self._columns.add(name, column)
        except OSError as error:
            raise DiskFailed(str(error)) from error

    def take(self) -> pa.RecordBatch:
        """Read the next batch."""
        start = self._row
        self._row, self._taken = start + self._sizes[self._taken], self._taken + 1
        try:
            return self._columns.read(start, self._row)
        except OSError as error:
            raise DiskFailed(str(error)) from error
