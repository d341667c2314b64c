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
from scoreline.tasks.job.documents import WITH_RESULTS, Job, Outcome, decoding
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.part_sizes import PART_ROWS
from scoreline.tasks.records.arrow import records_to_arrow
from scoreline.tasks.records.carried import is_small, records_key
from scoreline.tasks.records.table import MAX_RESULTS_BYTES, Table, decode, encode, pack, table_of, unpack
from scoreline.tasks.rejects.report import reasons_by_row
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded

log = logging.getLogger(__name__)

_MAX_ANSWER_CELLS = 2 << 20
"""Maximum number of cells in an answer. With more cells, the scores alone exceed `MAX_RESULTS_BYTES`. This limit is
checked first, because encoding the results would take 100 MB."""


def stage_records(main: ObjectStore, job: Job) -> Pinned | None:
    """Prepare the input of a job of records. Ignore all other jobs.

    The parts of a job with few records read the object that the application has written (see `RecordsFormat`). More
    records are written as Parquet, unless this is already done.

    Returns
    -------
    Pinned, optional
        The object that the application has written, if the job reads it.

    Raises
    ------
    InputNotFound
        The records of the job no longer exist in the bucket.
    DocumentCorrupt
        The records in the bucket differ from the submitted records.
    """
    sha256 = _records_of(main, job)
    if sha256 is None:
        return None
    key = keys.records(job.spec.job_id, sha256)
    try:
        stored = main.get(key)
    except ObjectNotFound:
        raise InputNotFound(f"the records of job {job.spec.job_id} are gone: no object {main.uri(key)}") from None
    with decoding(main, key):
        text = unpack(stored.data)
        if hashlib.sha256(text).hexdigest() != sha256:
            raise ValueError("its digest differs from the one in its key")
        records = decode(text)
        table = _to_arrow(records)
    if is_small(stored.data, records.rows, job.spec):
        return Pinned.of(main, stored.info)
    body = parquet.write(table, {}, group_rows=PART_ROWS)
    with contextlib.suppress(PreconditionFailed):
        main.put(keys.records_table(job.spec.job_id, sha256), body, mode=CREATE)
    return None


def write_answer(buckets: Buckets, documents: Documents, outcome: Outcome) -> None:
    """Write the results of a job of records for `RecordsJob.wait`, unless they are too large."""
    main, job = buckets.main, documents.job
    if outcome.state not in WITH_RESULTS or _records_of(main, job) is None:
        return
    if job.spec.arranged and exists(main, keys.answer(job.spec.job_id)):  # the parts may be deleted
        return
    try:
        table = read_scored(buckets, documents, with_rejected=bool(outcome.rejected))
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
    found = records_key(job, main.bucket)
    return None if found is None else found[1]


def _to_arrow(table: Table) -> pa.Table:
    try:
        return records_to_arrow(table)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(str(error)) from error


def read_scored(buckets: Buckets, documents: Documents, *, with_rejected: bool) -> Table | None:
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
