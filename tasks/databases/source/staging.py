"""Stages the rows of a job: reads its query or table once, and writes the rows as Parquet files of the job.

Each attempt writes into a folder of its own. The document that lists the files of an attempt is created at the end, and
only once. If a process dies, or two do the same at once, the files of one attempt count, and no others are ever read.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage import keys
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import PreconditionFailed, StoreUnavailable
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import CREATE, ObjectStore
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables import parquet
from scoreline.storage.tables.base import Pinned
from scoreline.tasks.databases.source.queries import find_query
from scoreline.tasks.databases.source.reading import read_rows
from scoreline.tasks.databases.source.statement import of_table
from scoreline.tasks.databases.source.types import Column
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.source_options import duration
from scoreline.tasks.job.staged import Staged, StagedFile, read_staged

log = logging.getLogger(__name__)

GROUP_BYTES = 32 << 20
"""Number of bytes in memory at which a row group ends, even if it has few rows."""
FILE_BYTES = 8 << 20
"""Number of stored bytes at which a file ends. Memory holds a few times as much: a buffer that doubles as it grows, its
copy, and the file that is being uploaded."""


def staged_rows(main: ObjectStore, settings: Callable[[], DatabaseSettings], job: Job) -> Staged:
    """Return the rows of a job, which are read from the database unless an earlier attempt has done so.

    Raises
    ------
    InvalidRequest, InvalidSettings, DatabaseError
        The query or the table cannot be read (see `read_rows`).
    DatabaseUnavailable, StoreUnavailable
        Transient: the next attempt reads all rows again.
    """
    return read_staged(main, job.spec.job_id) or _stage(main, settings(), job)


def pinned_files(main: ObjectStore, staged: Staged) -> list[Pinned]:
    """Return the files of staged rows in their order."""
    return [Pinned(store=main, key=file.key, size=file.size, etag=file.etag) for file in staged.files]


def _stage(main: ObjectStore, settings: DatabaseSettings, job: Job) -> Staged:
    spec, what = job.spec, job.spec.source_name
    database = table = split_by = None
    if spec.query is not None:
        found = find_query(settings, main, spec.query)
        sql, database, split_by, parameters = found.sql, found.database, found.split_by, dict(spec.params or {})
    else:
        settings.check_source(spec.table or "")
        recent, parameters = _recent(job)
        sql, table = of_table(spec.table or "", recent), None if recent else spec.table
    address = settings.source_address(database)
    rows = read_rows(
        address,
        sql,
        parameters,
        timeout_s=settings.source_timeout_s,
        what=what,
        table=table,
        split_by=split_by,
        connections=settings.source_connections,
    )
    attempt, at = secrets.token_hex(8), datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        columns, files = write_files(main, job.spec.job_id, attempt, prefetched(rows))
    except BaseException:
        with contextlib.suppress(StoreUnavailable):
            _remove_files(main, spec.job_id, lambda key: f"/{attempt}/" in key)
        raise
    staged = Staged(
        source=what,
        at=at,
        columns={column.name: column.source for column in columns},
        files=files,
        sql_sha256=sha256_hex(sql.encode()),
    )
    # If there is no answer, the document may have been written, and its files count: so they stay
    with contextlib.suppress(PreconditionFailed):  # another attempt was faster, or the answer was lost
        main.put(keys.staged(spec.job_id), staged.to_json(), mode=CREATE)
    listed = read_staged(main, spec.job_id) or staged
    known = {file.key for file in listed.files}
    _remove_files(main, spec.job_id, lambda key: key not in known)
    log.info("source.staged", extra={"job_id": spec.job_id, "rows": listed.rows, "files": len(listed.files)})
    return listed


def _recent(job: Job) -> tuple[str | None, dict[str, str]]:
    """Return the column and the bounds of the recent rows that a job reads; nothing if it reads all rows.

    Time counts back from the slot of a schedule, or else from the submission. A slot that is run again, or late,
    therefore reads the same span of time.
    """
    if job.spec.where_recent is None:
        return None, {}
    column, span = job.spec.where_recent
    slot = keys.slot_of(job.spec.job_id) if job.schedule is not None else None
    until = slot[0] if slot is not None else datetime.fromisoformat(job.submitted)
    return column, {"since": (until - duration(span)).isoformat(), "until": until.isoformat()}


def _remove_files(main: ObjectStore, job_id: str, which: Callable[[str], bool]) -> None:
    """Delete files of attempts that do not count. An attempt under way finds at its end that it was too late."""
    main.delete_many([info.key for info in main.list(keys.staged_folder(job_id)) if which(info.key)])


def write_files(
    main: ObjectStore, job_id: str, attempt: str, rows: Generator[tuple[tuple[Column, ...], pa.Table]]
) -> tuple[tuple[Column, ...], tuple[StagedFile, ...]]:
    """Write rows as Parquet files, in their order. Return their columns and the files; there is at least one.

    Memory does not grow with the number of rows: one file is uploaded while the next is encoded.
    """
    columns, first = next(rows)
    writing = _Files(main, job_id, attempt, first.schema)
    with contextlib.closing(rows), writing.pool:
        waiting: list[pa.Table] = []
        count = size = 0
        for _, table in rows:
            while count + table.num_rows >= parquet.GROUP_ROWS:
                fits = parquet.GROUP_ROWS - count
                writing.add(pa.concat_tables([*waiting, table.slice(0, fits)]))
                waiting, count, size, table = [], 0, 0, table.slice(fits)
            waiting.append(table)
            count, size = count + table.num_rows, size + table.nbytes
            if size >= GROUP_BYTES:
                writing.add(pa.concat_tables(waiting))
                waiting, count, size = [], 0, 0
        if count:
            writing.add(pa.concat_tables(waiting))
        return columns, writing.finish()


class _Files:
    """Encodes row groups into files of about `FILE_BYTES`, and uploads each while the next is encoded."""

    def __init__(self, main: ObjectStore, job_id: str, attempt: str, schema: pa.Schema) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="stage")
        self._main, self._job_id, self._attempt, self._schema = main, job_id, attempt, schema
        self._files: list[StagedFile] = []
        self._number = self._rows = 0
        self._sink = pa.BufferOutputStream()
        self._writer: pq.ParquetWriter | None = None
        self._upload: Future[StagedFile] | None = None

    def add(self, group: pa.Table) -> None:
        """Write a row group."""
        self._open(group).write_table(group, row_group_size=max(1, group.num_rows))
        self._rows += group.num_rows
        if self._sink.tell() >= FILE_BYTES:
            self._close()

    def finish(self) -> tuple[StagedFile, ...]:
        """Return all files."""
        if self._writer is not None or not self._number:
            self._open(self._schema.empty_table())
            self._close()
        self._wait()
        return tuple(self._files)

    def _open(self, group: pa.Table) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = parquet.open_writer(self._sink, self._schema, group)
        return self._writer

    def _close(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._wait()
        data, rows = self._sink.getvalue().to_pybytes(), self._rows
        key = keys.staged_part(self._job_id, self._attempt, self._number)
        self._writer, self._sink, self._rows, self._number = None, pa.BufferOutputStream(), 0, self._number + 1
        self._upload = self.pool.submit(self._put, key, data, rows)

    def _wait(self) -> None:
        if self._upload is not None:
            self._files.append(self._upload.result())
            self._upload = None

    def _put(self, key: str, data: bytes, rows: int) -> StagedFile:
        try:
            info = self._main.put(key, data, mode=CREATE)
        except PreconditionFailed:  # only this attempt knows the key: the answer to the first request was lost
            info = self._main.head(key)
        return StagedFile(key=key, size=info.size, etag=info.etag, rows=rows)
