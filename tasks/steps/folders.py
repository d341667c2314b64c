"""Assigns the rows of a job's results to folders, by the value of a column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage import keys
from scoreline.storage.errors import ScoringError
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.quality.trace.row_origins import RowOrigins
from scoreline.tasks.steps.parquet_buffer import ParquetBuffer

FILE_BYTES = 64 << 20
FILE_ROWS = 1 << 21
"""A file is closed when it has about `FILE_BYTES` bytes or `FILE_ROWS` rows. It may exceed either limit by a batch."""
HELD_BYTES = 32 << 20
"""Maximum number of bytes in all open files of a partitioned job, estimated from the compressed size of the parts. If
the limit is exceeded, the largest files are closed until half is left. Files are therefore smaller if there are many
values in no particular order. With this limit and `arrange._PENDING_BYTES`, arranging was measured to take 160 to 270
MiB of additional memory. This amount depends neither on the number of folders (five to a thousand) nor on the size of
the results."""
MAX_VALUES = 1_000
"""Maximum number of values in the column. More folders would not help a reader, and their files would be tiny."""
_FOLDER_BYTES = 1_000
"""Maximum number of bytes in a folder's name, because the key of an object has at most 1,024 bytes."""


@dataclass(kw_only=True)
class Folder:
    """A folder of results, and the file that is open in it."""

    prefix: str
    value: str | None
    """The value of the column in this folder; None if it is null, or if there is no such column."""
    closed_files: int = 0
    rows: int = 0
    """Number of rows in the open file."""
    size: int = 0
    """Estimated number of bytes in the open file, based on the compressed size of the parts."""
    first_part: int = 0
    """Number of the part that contains the first row of the open file."""
    libraries: str = ""
    """The libraries that scored the part `first_part`."""
    buffer: ParquetBuffer | None = None
    """Content of the open file; None if it has no rows yet or exists in the store."""
    origins: RowOrigins = field(default_factory=RowOrigins)
    """Where the rows of the open file come from."""

    @property
    def key(self) -> str:
        """Key of the open file."""
        return keys.result_part(self.prefix, self.closed_files)


class Folders:
    """The folders of one job's results, numbered in order of first occurrence.

    Parameters
    ----------
    column : str or None
        The column to partition by; None to gather all rows in a single folder.
    """

    def __init__(self, layout: ResultsLayout, column: str | None) -> None:
        self._layout, self._column = layout, column
        self._folders: list[Folder] = []
        self._by_prefix: dict[str, int] = {}
        self._by_value: dict[str | None, int] = {}

    def __iter__(self) -> Iterator[Folder]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, number: int) -> Folder:
        return self._folders[number]

    def numbers(self, batch: pa.RecordBatch) -> Any:
        """Return the folder number of each row. A new value gets a new folder.

        Returns
        -------
        ndarray of int32, shape (batch.num_rows,)

        Raises
        ------
        ScoringError
            The column has too many values, or a value that is too long for a folder name.
        """
        if self._column is None:
            return np.full(batch.num_rows, self.number(None), np.int32)
        column = batch.column(self._column)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        texts = pc.fill_null(column.cast(pa.string()), "").dictionary_encode()
        numbers = [self.number(text or None) for text in texts.dictionary.to_pylist()]
        return np.asarray(numbers, np.int32)[texts.indices.to_numpy()]

    def number(self, value: str | None) -> int:
        """Return the folder number of a value. Raises the same errors as `numbers`."""
        if value in self._by_value:
            return self._by_value[value]
        folder = self._layout.folder
        prefix = folder if self._column is None else keys.partition_folder(folder, self._column, value)
        if prefix not in self._by_prefix:
            self._check_limits(prefix, value)
            self._by_prefix[prefix] = len(self._folders)
            self._folders.append(Folder(prefix=prefix, value=None if value == keys.NO_VALUE else value))
        self._by_value[value] = self._by_prefix[prefix]
        return self._by_value[value]

    def full(self) -> list[Folder]:
        """Return the folders whose open files must be closed, because a file, or all files together, are too large."""
        full = [folder for folder in self._folders if folder.size >= FILE_BYTES or folder.rows >= FILE_ROWS]
        held = sum(folder.size for folder in self._folders)
        most = FILE_BYTES if self._column is None else HELD_BYTES
        if held > most:
            for folder in sorted(self._folders, key=lambda folder: (-folder.size, folder.prefix)):
                if held <= most // 2:
                    break
                held -= folder.size
                if folder not in full:
                    full.append(folder)
        return full

    def _check_limits(self, prefix: str, value: str | None) -> None:
        """Raise `ScoringError` if there are too many folders, or if the name of the folder for `value` is too long."""
        parts = f"{self._layout.uri(self._layout.parts_folder)}part-*.parquet"
        advice = f"all results can be read as {parts}. Submit a job that is partitioned by another column"
        if len(self._folders) == MAX_VALUES:
            raise ScoringError(
                f"{self._column!r} has more than {MAX_VALUES:,} values, which would be too many folders: {advice}"
            )
        if len(prefix.encode()) > _FOLDER_BYTES:
            raise ScoringError(
                f"{self._column!r} has a value too long for the name of a folder, {str(value)[:40]!r}…: {advice}"
            )
