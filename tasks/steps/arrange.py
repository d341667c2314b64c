"""Results of a job in folders by the values of a column, or gathered into fewer files: made of its parts at its end.

Parts stay what commits rows: written once, with a receipt, out of readers' sight in ``_parts/``. Once all are there,
the finalizer streams them in their order and writes the files that are seen, each create-only. Which rows are in which
file follows from the parts' rows and sizes alone, so that whoever comes after one who died, or works beside another,
writes the same files or finds them written. ``_SUCCESS`` comes after the files, and parts are deleted after it alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoreline.storage import keys
from scoreline.storage.errors import (
    InputError,
    LedgerUnavailable,
    ObjectNotFound,
    PreconditionFailed,
    ScoringError,
    StoreUnavailable,
    describe,
)
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import CREATE, ObjectInfo
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.schemas import from_text
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.parquet_buffer import ParquetBuffer

log = logging.getLogger(__name__)
FILE_BYTES = 64 << 20
FILE_ROWS = 1 << 21
"""A file is closed at either, give or take a batch."""
HELD_BYTES = 32 << 20
"""Of all files that grow at once, where there are several, as the parts have their rows compressed. Beyond, the largest
are closed until half of it is left: with many values in no order, files are smaller. Measured with `_PENDING_BYTES`, a
process takes 160 to 270 MiB more while it arranges, into a thousand folders or five, however large the results are."""
MAX_VALUES = 1_000
"""Of the column: more folders are of no use to a reader, and files would be tiny."""
MAX_BYTES = 6 << 30
"""Of all parts: one process arranges 40 MiB a second into 50 folders, 75 into one (a directory store),
and has nine minutes, of which storage takes its share."""
_FOLDER_BYTES = 1_000
"""Of the name of a folder: keys have 1,024."""
_BATCH_ROWS = 16_384
_PENDING_BYTES = 16 << 20
"""Uncompressed rows that wait to be shared out to their files, all at once."""
_THREADS = 16
_UPLOADS = 8
"""Files on their way up at once: with many folders they are small, and each takes a request."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of results."""

    key: str
    rows: int
    bytes: int
    sha256: str
    value: str | None
    """Of the column, as text; None for no value, and where there is no such column."""


@dataclass(kw_only=True)
class _Folder:
    """Where the rows with one value go, and the file that grows there."""

    folder: str
    value: str | None
    files: int = 0
    """That are closed."""
    rows: int = 0
    weight: int = 0
    first: int = 0
    """Part with its first row."""
    libraries: str = ""
    """That scored that part."""
    growing: ParquetBuffer | None = None
    """None where the file is written already."""

    @property
    def key(self) -> str:
        """Of the file that grows."""
        return keys.result_part(self.folder, self.files)


class _ArrangingStopped(Exception):
    """The job has ended."""


def arrange(engine: Engine, documents: Documents, written: Sequence[ObjectInfo]) -> tuple[File, ...] | None:
    """Write the files of a job whose parts are all there; harmless when run again, or by several at once.

    Parameters
    ----------
    written : sequence of ObjectInfo
        The parts in their order, with their receipts.

    Returns
    -------
    tuple of File, optional
        In the order of values and numbers; None where the job ended meanwhile.

    Raises
    ------
    ScoringError
        What was asked for cannot be done; the parts stay as they are, and the message says how to go on.
    """
    size = sum(info.size for info in written)
    layout = ResultsLayout.of(engine.buckets, documents.job)
    where = layout.uri(layout.parts_folder)
    if not written:
        return ()
    if size > MAX_BYTES:
        raise ScoringError(
            f"the results take {size:,} bytes, and what can be arranged at a job's end is {MAX_BYTES:,}: all are "
            f"there, and can be read, as {where}part-*.parquet. Score fewer objects in one job, or without "
            "--partition-by and --gather"
        )
    try:
        return _Arrangement(engine, documents, written).run()
    except _ArrangingStopped:
        return None
    except (InputError, pa.ArrowException) as error:
        raise ScoringError(f"the parts in {where} cannot be read: {describe(error)}") from error


def remove_parts(engine: Engine, job: Job) -> None:
    """Delete the parts of a job whose files are all there, and that has said so."""
    layout = ResultsLayout.of(engine.buckets, job)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="remove") as pool:
        for _ in pool.map(layout.store.delete, [info.key for info in layout.store.list(layout.parts_folder)]):
            pass


class _Arrangement:
    """One pass over the parts of a job."""

    def __init__(self, engine: Engine, documents: Documents, written: Sequence[ObjectInfo]) -> None:
        self._engine, self._documents, self._written = engine, documents, written
        layout = ResultsLayout.of(engine.buckets, documents.job)
        self._store, self._folder, self._parts_folder = layout.store, layout.folder, layout.parts_folder
        self._column = documents.job.spec.partition_by
        schema = from_text(documents.plan.columns.schema)
        self._schema = schema.remove(schema.get_field_index(self._column)) if self._column else schema
        self._made_of = sha256_hex(json.dumps([info.metadata["sha256"] for info in written]).encode())
        """What the files are made of: in the receipt of each."""
        self._there = self._find_written()
        self._order: list[_Folder] = []
        self._by_folder: dict[str, int] = {}
        self._by_value: dict[str | None, int] = {}
        self._pending: list[tuple[pa.RecordBatch, Any]] = []
        self._pending_bytes = 0
        self._files: list[File] = []

    def run(self) -> tuple[File, ...]:
        """Write every file."""
        for number, info in enumerate(self._written):
            self._go_on()
            weight = -(-info.size // max(1, int(info.metadata["rows"])))
            file = pq.ParquetFile(RangedFile(self._store, info.key, info.size, info.etag), pre_buffer=True)
            libraries = (file.schema_arrow.metadata or {}).get(b"scoreline.libraries", b"").decode()
            for batch in _batches(file):
                self._take(number, libraries, batch, weight)
                self._close_full()
        self._share_out()
        if self._column is None:  # without rows, a file with the columns
            self._number(None)
        self._close([folder for folder in self._order if folder.rows or not folder.files])
        return tuple(sorted(self._files, key=lambda file: file.key))

    def _find_written(self) -> dict[str, ObjectInfo]:
        """Find the files of this job that are written; those that were made of other parts go away.

        Somebody may have deleted a part after files were made of it, and had it scored again.
        """
        found = {
            info.key
            for info in self._store.list(self._folder)
            if not info.key.removeprefix(self._folder).startswith("_") and info.key.endswith(".parquet")
        }
        there = {}
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="receipt") as pool:
            for info in pool.map(self._head, sorted(found)):
                if info is None or info.metadata.get("plan") != self._documents.plan.sha256:
                    continue
                if info.metadata.get("parts") == self._made_of:
                    there[info.key] = info
                else:
                    self._store.delete(info.key)
        return there

    def _head(self, key: str) -> ObjectInfo | None:
        try:
            return self._store.head(key)
        except ObjectNotFound:
            return None

    def _go_on(self) -> None:
        with contextlib.suppress(LedgerUnavailable):
            if self._engine.ledger.stopped(self._documents.job.spec.job_id):
                raise _ArrangingStopped

    def _take(self, part: int, libraries: str, batch: pa.RecordBatch, weight: int) -> None:
        """Note which rows of a batch go where; they follow when they are many."""
        codes = self._codes(batch)
        for code, rows in enumerate(np.bincount(codes, minlength=len(self._order)).tolist()):
            if rows:
                folder = self._order[code]
                if not folder.rows:
                    folder.first, folder.libraries = part, libraries
                folder.rows += rows
                folder.weight += rows * weight
        self._pending.append((batch, codes))
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= _PENDING_BYTES:
            self._share_out()

    def _codes(self, batch: pa.RecordBatch) -> Any:
        """Return the number of the folder of each row, ndarray of int32, shape (batch.num_rows,)."""
        if self._column is None:
            self._number(None)
            return np.zeros(batch.num_rows, np.int32)
        column = batch.column(self._column)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        texts = pc.fill_null(column.cast(pa.string()), "").dictionary_encode()
        known = [self._number(text or None) for text in texts.dictionary.to_pylist()]
        return np.asarray(known, np.int32)[texts.indices.to_numpy()]

    def _number(self, value: str | None) -> int:
        """Return the number of a value's folder."""
        if value in self._by_value:
            return self._by_value[value]
        where = self._folder if self._column is None else keys.partition_folder(self._folder, self._column, value)
        if where not in self._by_folder:
            parts = f"{self._store.uri(self._parts_folder)}part-*.parquet"
            if len(self._order) == MAX_VALUES:
                raise ScoringError(
                    f"{self._column!r} has more than {MAX_VALUES:,} values, which are too many folders: all results "
                    f"are there, and can be read, as {parts}. Submit a job that parts by another column"
                )
            if len(where.encode()) > _FOLDER_BYTES:
                raise ScoringError(
                    f"{self._column!r} has a value too long for the name of a folder, {str(value)[:40]!r}…: all "
                    f"results are there, and can be read, as {parts}. Submit a job that parts by another column"
                )
            self._by_folder[where] = len(self._order)
            self._order.append(_Folder(folder=where, value=None if value == keys.NO_VALUE else value))
        self._by_value[value] = self._by_folder[where]
        return self._by_value[value]

    def _share_out(self) -> None:
        """Give the pending rows to their files."""
        if not self._pending:
            return
        table = pa.Table.from_batches([batch for batch, _ in self._pending])
        codes = np.concatenate([codes for _, codes in self._pending])
        self._pending, self._pending_bytes = [], 0
        table = table.select(self._schema.names).cast(self._schema)
        if self._column is not None:
            table = table.take(pa.array(np.argsort(codes, kind="stable")))
        start = 0
        for code, rows in enumerate(np.bincount(codes).tolist()):
            folder = self._order[code]
            if rows and folder.key not in self._there:
                folder.growing = folder.growing or self._grow(folder)
                folder.growing.add(table.slice(start, rows))
            start += rows

    def _close_full(self) -> None:
        """Close what is large enough, and the largest where all together take too much memory."""
        full = [folder for folder in self._order if folder.weight >= FILE_BYTES or folder.rows >= FILE_ROWS]
        held = sum(folder.weight for folder in self._order)
        most = FILE_BYTES if self._column is None else HELD_BYTES
        if held > most:
            for folder in sorted(self._order, key=lambda folder: (-folder.weight, folder.folder)):
                if held <= most // 2:
                    break
                held -= folder.weight
                if folder not in full:
                    full.append(folder)
        if full:
            self._share_out()
            self._close(full)

    def _close(self, folders: Sequence[_Folder]) -> None:
        """Write files, unless they are written, and make room for the next one in each folder."""
        with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="arrange") as pool:
            bodies = map(self._finish, folders)  # one after another: that takes memory
            for folder, info in zip(folders, pool.map(self._write, folders, bodies), strict=True):
                self._note(folder, info)

    def _note(self, folder: _Folder, there: ObjectInfo) -> None:
        self._files.append(
            File(
                key=folder.key, rows=folder.rows, bytes=there.size, sha256=there.metadata["sha256"], value=folder.value
            )
        )
        folder.files += 1
        folder.rows = folder.weight = 0
        folder.growing = None

    def _grow(self, folder: _Folder) -> ParquetBuffer:
        return ParquetBuffer(self._schema, _footer(self._documents.job, folder))

    def _finish(self, folder: _Folder) -> bytes:
        """Return the bytes of a file; none where it is written."""
        if folder.key in self._there:
            return b""
        growing, folder.growing = folder.growing or self._grow(folder), None
        return growing.finish()

    def _write(self, folder: _Folder, body: bytes) -> ObjectInfo:
        """Write a file, unless it is written."""
        if (there := self._there.get(folder.key)) is not None:
            if int(there.metadata["rows"]) != folder.rows:
                raise ScoringError(
                    f"{self._store.uri(folder.key)} has other rows than its parts: remove it, and resume"
                )
            return there
        job, plan = self._documents.job, self._documents.plan
        receipt = {
            "plan": plan.sha256,
            "file": str(folder.files),
            "rows": str(folder.rows),
            "parts": self._made_of,
            "sha256": sha256_hex(body),
        }
        try:
            info = self._store.put(folder.key, body, mode=CREATE, metadata=receipt)
        except PreconditionFailed:
            found = self._head(folder.key)
            if found is None:  # refused for another reason, or taken away again
                raise StoreUnavailable(
                    f"{self._store.uri(folder.key)} could not be written, and is not there"
                ) from None
            info = found
            if {**info.metadata, "sha256": ""} != {**receipt, "sha256": ""}:  # another library may give other bytes
                raise ScoringError(
                    f"{self._store.uri(folder.key)} exists already and was not written by this job: all results are "
                    f"in {self._store.uri(self._parts_folder)}; remove it, and resume"
                ) from None
        log.info("file.written", extra={"job_id": job.spec.job_id, "key": folder.key, "rows": folder.rows})
        return info


def _footer(job: Job, folder: _Folder) -> dict[str, str]:
    """Say which model scored a file's rows, and of which part the first is: the manifest says where that came from."""
    return {
        "scoreline.job_id": job.spec.job_id,
        "scoreline.model": job.model.name,
        "scoreline.model_version": job.model.version,
        "scoreline.manifest_sha256": job.model.manifest_sha256,
        "scoreline.scored_at": job.submitted,
        "scoreline.file": str(folder.files),
        "scoreline.libraries": folder.libraries,
        "scoreline.first_part": str(folder.first),
    }


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part, the bytes of one row group in memory at a time."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], use_threads=False)
