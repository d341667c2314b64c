"""Reads rows of a Parquet object that is a file of this machine: Arrow reads its pages itself, without requests."""

from __future__ import annotations

import errno
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.errors import StoreUnavailable
from scoreline.storage.objects import requests
from scoreline.storage.objects.base import KeepsFiles
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.ranged import changed
from scoreline.storage.tables.row_groups import Planned, StreamingReader


class LocalFile:
    """The open file of a pinned object.

    An object that is replaced while it is read can be read to its end, because the file stays open. If the file itself
    is written to, its size or its modification time change.

    Parameters
    ----------
    store : KeepsFiles
        The store of the object.

    Raises
    ------
    InputChanged
        The object was replaced or deleted.
    StoreUnavailable
        The system cannot read the file.
    """

    def __init__(self, source: Pinned, store: KeepsFiles) -> None:
        self._source = source
        self._store = store
        try:
            self.file: Any = pa.OSFile(store.path_of(source.key))
        except (FileNotFoundError, NotADirectoryError):
            raise changed(source.uri) from None
        except OSError as error:
            if error.errno is None:  # Arrow, not the system, refuses to open a folder
                raise changed(source.uri) from None
            raise self.explain(error) from error
        self.check()

    def check(self) -> None:
        """Raise `InputChanged` if the file is not, or is no longer, what was planned.

        Raise `StoreUnavailable` if the system cannot say it.
        """
        try:
            etag = self._store.etag_of(os.fstat(self.file.fileno()))
        except OSError as error:  # the file is on a share, and was replaced there
            raise self.explain(error) from error
        if etag != self._source.etag:
            raise changed(self._source.uri)

    def explain(self, error: OSError) -> StoreUnavailable:
        """Return the error for a file that the system cannot read."""
        reason = os.strerror(error.errno or errno.EIO)  # the text of Arrow's error also has the path of the file
        return StoreUnavailable(f"cannot read {self._source.uri}: {reason}")


class LocalReader(StreamingReader):
    """Decodes all columns of a row group together, page by page, from a file.

    Parameters
    ----------
    planned : list of tuple of Request and list of Chunk
        The requests for the row group if its object were in a bucket. They are counted, but not sent.
    """

    def __init__(
        self,
        file: LocalFile,
        planned: Planned,
        opened: pq.ParquetFile,
        group: int,
        row: int,
        columns: list[str],
        batch_rows: int,
    ) -> None:
        super().__init__(opened, group, row, columns, batch_rows)
        self._file = file
        self._planned = planned

    def peek(self, start: int, stop: int) -> pa.RecordBatch | None:
        """Return the next batch (see `RowGroupReader.peek`). Raise `InputChanged` if its file was written to."""
        self._count_requests(stop)
        try:
            return super().peek(start, stop)
        except OSError as error:
            if error.errno is None:  # the bytes were read, but cannot be decoded
                raise
            raise self._file.explain(error) from error
        finally:
            self._file.check()

    def _count_requests(self, stop: int) -> None:
        """Count the requests that rows before `stop` need."""
        due = [request for request, _ in self._planned if request.row < stop and not request.is_sent]
        for request in due:
            request.is_sent = True
            requests.note("b")
