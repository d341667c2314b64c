"""Converts the records of a job to Parquet, and the results of the job to JSON for the application."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from typing import Any

import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.errors import InputNotFound, ObjectNotFound, PreconditionFailed, describe
from scoreline.storage.objects.base import CREATE, ObjectStore, exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables import parquet
from scoreline.storage.tables.base import Pinned
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import Job, Outcome, decoding
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.part_sizes import PART_ROWS
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.arrow import records_to_arrow
from scoreline.tasks.records.table import MAX_RESULTS_BYTES, Table, decode, encode, pack, table_of, unpack
from scoreline.tasks.rejects.report import reasons_by_row
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded

log = logging.getLogger(__name__)

_MAX_ANSWER_CELLS = 2 << 20
"""Maximum number of cells in an answer. With more cells, the scores alone exceed `MAX_RESULTS_BYTES`. This limit is
checked first, because encoding the results would take 100 MB."""


def stage_records(main: ObjectStore, job: Job) -> None:
    """Write the Parquet input of a job of records, unless it is already written. Ignore all other jobs.

    Raises
    ------
    InputNotFound
        The records of the job no longer exist in the bucket.
    DocumentCorrupt
        The records in the bucket differ from the submitted records.
    """
    sha256 = _records_of(main, job)
    if sha256 is None:
        return
    key = keys.records(job.spec.job_id, sha256)
    try:
        data = main.get(key).data
    except ObjectNotFound:
        raise InputNotFound(f"the records of job {job.spec.job_id} are gone: no object {main.uri(key)}") from None
    with decoding(main, key):
        text = unpack(data)
        if hashlib.sha256(text).hexdigest() != sha256:
            raise ValueError("its digest differs from the one in its key")
        table = _to_arrow(decode(text))
    body = parquet.write(table, {}, group_rows=PART_ROWS)
    with contextlib.suppress(PreconditionFailed):
        main.put(keys.records_table(job.spec.job_id, sha256), body, mode=CREATE)


def write_answer(buckets: Buckets, documents: Documents, outcome: Outcome) -> None:
    """Write the results of a job of records for `RecordsJob.wait`, unless they are too large."""
    main, job = buckets.main, documents.job
    if outcome.state not in ("succeeded", "partial") or _records_of(main, job) is None:
        return
    if job.spec.arranged and exists(main, keys.answer(job.spec.job_id)):  # the parts may be deleted
        return
    try:
        table = _results(buckets, documents, with_rejected=bool(outcome.rejected))
        if table is None:
            return
        body = pack(encode(table, MAX_RESULTS_BYTES))
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        if getattr(error, "transient", False):
            raise
        # the job is complete and must end, even if its results are too large or unreadable
        log.info("answer.not_written", extra={"job_id": job.spec.job_id, "why": describe(error)})
        return
    with contextlib.suppress(PreconditionFailed):
        main.put(keys.answer(job.spec.job_id), body, mode=CREATE)


def _records_of(main: ObjectStore, job: Job) -> str | None:
    """Return the digest of a job's records; None if the input of the job is not records."""
    bucket, key = parse_uri(job.spec.inputs[0])
    return keys.records_digest(job.spec.job_id, key) if bucket == main.bucket else None


def _to_arrow(table: Table) -> pa.Table:
    try:
        return records_to_arrow(table)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(str(error)) from error


def _results(buckets: Buckets, documents: Documents, *, with_rejected: bool) -> Table | None:
    """Return the results of all parts, and why rows were rejected; return None if the results are too large."""
    layout = ResultsLayout.of(buckets, documents.job)
    store = layout.store
    columns: dict[str, list[Any]] = {}
    rejected: dict[int, str] = {}
    for number in range(documents.plan.parts):
        info = store.head(layout.part(number))
        part = parquet.read_table(Pinned.of(store, info))
        if part.num_rows * part.num_columns + sum(map(len, columns.values())) > _MAX_ANSWER_CELLS:
            return None
        for name in part.column_names:
            columns.setdefault(name, []).extend(part.column(name).to_pylist())
        if with_rejected:
            rejected |= reasons_by_row(layout, info, documents.plan.columns)
    table = table_of(columns)
    return Table(columns=table.columns, types=table.types, rows=table.rows, rejected=rejected)
