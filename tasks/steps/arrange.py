"""Arranges the results of a job: partitions them into folders by a column, or gathers them into fewer files.

As in any job, each part is written once, with a receipt. If the results will be arranged, however, parts are stored in
``_parts/``, which readers ignore. When all parts exist, the finalizer reads them in order and writes the result files,
without ever overwriting a file. The rows in each result file depend only on the rows and sizes of the parts. If a
finalizer dies, or if several finalizers run at once, all finalizers therefore write the same files, or find these files
already written. ``_SUCCESS`` is written after the files, and the parts are deleted after ``_SUCCESS``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.errors import InputError, LedgerUnavailable, ScoringError, describe
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.schemas import from_text
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.quality.trace import row_origins
from scoreline.tasks.quality.trace.row_origins import RowOrigins
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.folders import Folder, Folders
from scoreline.tasks.steps.parquet_buffer import ParquetBuffer
from scoreline.tasks.steps.result_files import File, ResultFiles

MAX_BYTES = 6 << 30
"""Maximum number of bytes in all parts together. One process arranges 40 MiB a second into 50 folders and 75 MiB a
second into one folder (measured with a directory store). The process has nine minutes, and waits for the store during
part of this time."""
_BATCH_ROWS = 16_384
_PENDING_BYTES = 16 << 20
"""Uncompressed bytes of rows to collect before all collected rows are distributed to their files."""
_REMOVE_THREADS = 16
_UPLOADS = 8
"""Number of files to upload at once. With many folders the files are small, and each file needs a request."""


class _ArrangingStopped(Exception):
    """The job has ended."""


def arrange(engine: Engine, documents: Documents, written: Sequence[ObjectInfo]) -> tuple[File, ...] | None:
    """Write the result files of a job. It is safe to call this again, and in several processes at once.

    Parameters
    ----------
    written : sequence of ObjectInfo
        The parts in order, with their receipts.

    Returns
    -------
    tuple of File, optional
        The files in order of value and number; None if the job ended meanwhile.

    Raises
    ------
    ScoringError
        The results cannot be arranged. The parts are not changed, and the message says what to do.
    """
    size = sum(info.size for info in written)
    layout = ResultsLayout.of(engine.buckets, documents.job)
    parts = f"{layout.uri(layout.parts_folder)}part-*.parquet"
    if not written:
        return ()
    if size > MAX_BYTES:
        raise ScoringError(
            f"the results take {size:,} bytes, and at most {MAX_BYTES:,} can be arranged: all of them can be read as "
            f"{parts}. Score fewer objects in one job, or omit --partition-by and --gather"
        )
    try:
        return _Arrangement(engine, documents, layout, written).run()
    except _ArrangingStopped:
        return None
    except (InputError, pa.ArrowException) as error:
        raise ScoringError(
            f"one of {parts} cannot be read: {describe(error)}. Remove it, then resume the job"
        ) from error


def remove_parts(engine: Engine, job: Job) -> None:
    """Delete the parts of a job. Call this only after the results are arranged and ``_SUCCESS`` is written."""
    layout = ResultsLayout.of(engine.buckets, job)
    with ThreadPoolExecutor(_REMOVE_THREADS, thread_name_prefix="remove") as pool:
        for _ in pool.map(layout.store.delete, [info.key for info in layout.store.list(layout.parts_folder)]):
            pass


class _Arrangement:
    """One pass over the parts of a job."""

    def __init__(
        self, engine: Engine, documents: Documents, layout: ResultsLayout, written: Sequence[ObjectInfo]
    ) -> None:
        self._engine, self._job, self._layout, self._written = engine, documents.job, layout, written
        self._column = documents.job.spec.partition_by
        schema = from_text(documents.plan.columns.schema)
        self._schema = schema.remove(schema.get_field_index(self._column)) if self._column else schema
        self._folders = Folders(layout, self._column)
        self._files = ResultFiles(layout, documents, written)
        self._closed: list[File] = []
        self._pending: list[_Pending] = []
        self._pending_bytes = 0

    def run(self) -> tuple[File, ...]:
        """Write every file that does not exist yet, and return all files."""
        for number, info in enumerate(self._written):
            self._stop_if_ended()
            row_bytes = -(-info.size // max(1, int(info.metadata["rows"])))
            file = pq.ParquetFile(RangedFile(self._layout.store, info.key, info.size, info.etag), pre_buffer=True)
            libraries = (file.schema_arrow.metadata or {}).get(b"scoreline.libraries", b"").decode()
            first_row = 0
            for batch in _batches(file):
                self._engine.let_others_work(self._job.model)
                self._add(number, first_row, libraries, batch, row_bytes)
                first_row += batch.num_rows
                if full := self._folders.full():
                    self._distribute()
                    self._close(full)
        self._distribute()
        if self._column is None:  # without rows, write one file that has only the columns
            self._folders.number(None)
        self._close([folder for folder in self._folders if folder.rows or not folder.closed_files])
        return tuple(sorted(self._closed, key=lambda file: file.key))

    def _stop_if_ended(self) -> None:
        with contextlib.suppress(LedgerUnavailable):
            if self._engine.ledger.stopped(self._job.spec.job_id):
                raise _ArrangingStopped

    def _add(self, part: int, first_row: int, libraries: str, batch: pa.RecordBatch, row_bytes: int) -> None:
        """Assign the rows of a batch to folders.

        When enough rows are pending, write all pending rows to their open files.

        Parameters
        ----------
        first_row : int
            Number of the first row of the batch within the part.
        """
        numbers = self._folders.numbers(batch)
        for number, rows in enumerate(np.bincount(numbers, minlength=len(self._folders)).tolist()):
            if rows:
                folder = self._folders[number]
                if not folder.rows:
                    folder.first_part, folder.libraries = part, libraries
                folder.rows += rows
                folder.size += rows * row_bytes
        self._pending.append(_Pending(batch=batch, folders=numbers, part=part, first_row=first_row))
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= _PENDING_BYTES:
            self._distribute()

    def _distribute(self) -> None:
        """Append the pending rows to the open files of their folders."""
        if not self._pending:
            return
        pending = self._pending
        table = pa.Table.from_batches([item.batch for item in pending])
        numbers = np.concatenate([item.folders for item in pending])
        self._pending, self._pending_bytes = [], 0
        table = table.select(self._schema.names).cast(self._schema)
        if self._column is not None:
            table = table.take(pa.array(np.argsort(numbers, kind="stable")))
        for item in pending:
            self._note_origins(item)
        start = 0
        for number, rows in enumerate(np.bincount(numbers).tolist()):
            folder = self._folders[number]
            if rows and not self._files.exists(folder.key):
                folder.buffer = folder.buffer or self._open(folder)
                folder.buffer.add(table.slice(start, rows))
            start += rows

    def _note_origins(self, item: _Pending) -> None:
        """Record for each open file from which rows of the part its new rows come."""
        rows = item.first_row + np.argsort(item.folders, kind="stable")
        start = 0
        for number, count in enumerate(np.bincount(item.folders).tolist()):
            self._folders[number].origins.add(item.part, rows[start : start + count])
            start += count

    def _close(self, folders: Sequence[Folder]) -> None:
        """Write the open file of each given folder, unless the store already has it, and begin the next file."""

        def write(folder: Folder, body: bytes) -> ObjectInfo:
            return self._files.write(folder.key, folder.closed_files, folder.rows, body)

        with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="arrange") as pool:
            bodies = map(self._encode, folders)  # map encodes one file at a time, to save memory
            for folder, info in zip(folders, pool.map(write, folders, bodies), strict=True):
                self._closed.append(
                    File(
                        key=folder.key,
                        rows=folder.rows,
                        bytes=info.size,
                        sha256=info.metadata["sha256"],
                        value=folder.value,
                    )
                )
                folder.closed_files += 1
                folder.rows = folder.size = 0
                folder.buffer, folder.origins = None, RowOrigins()

    def _open(self, folder: Folder) -> ParquetBuffer:
        return ParquetBuffer(self._schema, _footer(self._job, folder))

    def _encode(self, folder: Folder) -> bytes:
        """Return the content of a folder's open file; empty if the store already has the file."""
        if self._files.exists(folder.key):
            return b""
        buffer, folder.buffer = folder.buffer or self._open(folder), None
        return buffer.finish({row_origins.FIELD: folder.origins.finish()})


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """Rows that are assigned to folders, but not written to their files yet."""

    batch: pa.RecordBatch
    folders: Any
    """Number of the folder of each row: ndarray of int32."""
    part: int
    first_row: int
    """Number of the first row within the part."""


def _footer(job: Job, folder: Folder) -> dict[str, str]:
    """Return the metadata for the footer of a result file, such as the model and the number of the first part."""
    return {
        "scoreline.job_id": job.spec.job_id,
        "scoreline.model": job.model.name,
        "scoreline.model_version": job.model.version,
        "scoreline.manifest_sha256": job.model.manifest_sha256,
        "scoreline.submitted_at": job.submitted,
        "scoreline.file": str(folder.closed_files),
        "scoreline.libraries": folder.libraries,
        "scoreline.first_part": str(folder.first_part),
    }


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part, with the bytes of only one row group in memory at a time."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], use_threads=False)
