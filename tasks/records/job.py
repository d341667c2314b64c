"""Runs jobs of records: scores rows from an application's memory, and returns the scores to the application.

The records are written to the bucket before the job exists, and the message contains only the job's id. Accepted
records therefore survive the loss of the message or of Redis. Only an application without Scoreline sends the records
in the message itself, up to `MAX_MESSAGE_BYTES`. The worker that receives the message then writes the records to the
bucket. Works with `requirements.txt` alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from scoreline.storage import keys
from scoreline.storage.errors import (
    InvalidRequest,
    JobFailed,
    LedgerUnavailable,
    MissingColumns,
    ObjectNotFound,
    require_extra,
)
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.status import nothing_ends
from scoreline.tasks.dispatch.submission import Submission
from scoreline.tasks.job.documents import Outcome, Status, decoding, read_job, read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.spec import JobSpec, kept_names
from scoreline.tasks.job.submit_options import RecordsOptions, check_known, spec_from
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records import arrow
from scoreline.tasks.records.table import (
    MAX_BYTES,
    Table,
    TooManyRecords,
    decode,
    encode,
    is_frame,
    pack,
    table_of,
    unpack,
)

if TYPE_CHECKING:
    import pyarrow as pa


MAX_MESSAGE_BYTES = 256 << 10
"""Maximum size of the records in a message, and of the results in its answer, in bytes of JSON."""
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25
_LOOK_EVERY_S = 1.0
"""Maximum seconds between two requests to the bucket, which is authoritative. Every poll queries the ledger, which is
cheaper."""


class JobReader(Protocol):
    """Gives access to jobs and their results, as a `Client` or a `Submission` does."""

    @property
    def buckets(self) -> Buckets:
        """The buckets that contain jobs and results."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The ledger, which keeps track of progress."""
        ...

    @property
    def queue(self) -> MessageQueue:
        """The queue for messages to workers."""
        ...

    def status(self, job_id: str) -> Status:
        """Return the status of a job; raises `JobNotFound`."""
        ...


class RecordsJob:
    """A job that scores records and returns their results to the application.

    Parameters
    ----------
    client : JobReader
        The `Client` of the application.
    job_id : str
        The id of the job. Another process may have submitted the job.
    like : DataFrame, optional
        The records, if they are a DataFrame. The results are then a DataFrame with the same index.
    """

    def __init__(self, client: JobReader, job_id: str, like: Any = None) -> None:
        self.job_id = job_id
        self.rejected: Mapping[int, str] = {}
        """Why records were rejected, by record number (from 0). The method `wait` fills in this mapping."""
        self._client = client
        self._like = like

    def status(self) -> Status:
        """Return the status of the job (see `Client.status`)."""
        return self._client.status(self.job_id)

    def wait(self, timeout_s: float | None = None) -> Any:
        """Wait until the job ends, and return the results in the order of the records.

        Returns
        -------
        list of dict, or DataFrame if the records were a DataFrame
            The kept columns and the scores of all records except those in `rejected`.

        Raises
        ------
        JobFailed
            The job failed or was cancelled. The error message contains the job's error.
        JobNotFound
            No job has that id.
        TimeoutError
            The job has not ended yet. The job continues, and `wait` can be called again.
        InvalidRequest
            The results are too large to be returned. The error message names their location.
        """
        outcome = _wait(self._client, self.job_id, timeout_s)
        if outcome.state not in ("succeeded", "partial"):
            raise JobFailed(f"job {self.job_id} {outcome.state}" + (f": {outcome.error}" if outcome.error else ""))
        try:
            table = read_results(self._client, self.job_id)
        except ObjectNotFound:
            return self._bulk()
        self.rejected = table.rejected
        if self._like is None:
            return table.records()
        return type(self._like)(dict(table.columns), index=self._index())

    def _bulk(self) -> Any:
        """Read large results from their Parquet files."""
        found, self.rejected = read_parts(self._client, self.job_id)
        if self._like is None:
            return found.to_pylist()
        frame = found.to_pandas()
        frame.index = self._index()
        return frame

    def _index(self) -> list[Any]:
        return [label for row, label in enumerate(self._like.index) if row not in self.rejected]

    def __repr__(self) -> str:
        return f"RecordsJob({self.job_id!r})"


def submit_records(submission: Submission, model: str, records: Any, **options: Unpack[RecordsOptions]) -> RecordsJob:
    """Score rows from the application's memory.

    Submitting again with the same `job_id` and the same arguments enqueues the same job again, and creates no second
    job.

    Parameters
    ----------
    submission : Submission
        The `Submission` that accepts the job.
    model : str
        ``name``, ``name@alias`` or ``name@version``.
    records : list of dict, dict of str to column, or DataFrame
        The records, in a form that `table_of` accepts. Columns that are not features are copied into the results.
        Records of more than 8 MiB as JSON need pyarrow and pandas in this process.
    **options
        The options of the job (see `RecordsOptions`). Unless `max_rejected` is set, any number of records may be
        rejected.

    Raises
    ------
    InvalidRequest (ModelNotFound, BucketNotAllowed, JobConflict among them), MissingColumns
        Nothing was recorded.
    QueueUnavailable, LedgerUnavailable, StoreUnavailable
        Transient: try again with the same `job_id`.
    """
    job_id = accept_records(submission, model, records, **options)
    submission.score_inline(job_id)
    return RecordsJob(submission, job_id, like=records if is_frame(records) else None)


def accept_records(submission: Submission, model: str, records: Any, **options: Unpack[RecordsOptions]) -> str:
    """Record a job of records without enqueueing it, and return its id (see `submit_records`)."""
    check_known(options, RecordsOptions)
    job_id = options.get("job_id") or submission.new_job_id()
    main = submission.buckets.main
    key, before, names = pack_records(job_id, records)
    if options.get("max_rejected") is None:
        options["max_rejected"] = "100%"
    spec = spec_from(model, main.uri(key), options, job_id=job_id, output=submission.default_output(model)).check()
    pinned = submission.registry.resolve(model)
    _check_columns(submission, pinned, spec, names)
    submission.accept(spec, webhook=options.get("webhook"), pinned=pinned, before=before, labels=options.get("labels"))
    return job_id


def pack_records(job_id: str, records: Any) -> tuple[str, dict[str, bytes], list[str]]:
    """Return the key of the job's input, the objects to write to the bucket, and the column names."""
    if not (is_frame(records) and records.memory_usage(index=False).sum() > 8 * MAX_BYTES):
        table = table_of(records)
        records = records if is_frame(records) else table  # a `Table` has types, which pandas would have to guess
        with contextlib.suppress(TooManyRecords):
            text = encode(table)
            sha256 = hashlib.sha256(text).hexdigest()
            return keys.records_table(job_id, sha256), {keys.records(job_id, sha256): pack(text)}, list(table.columns)
    key, names, body = arrow.as_parquet(job_id, records)
    return key, {key: body}, names


def check_message(records: Any) -> None:
    """Raise `InvalidRequest` if the records are too large for a message."""
    size = len(json.dumps(records, default=str, separators=(",", ":")))
    if size > MAX_MESSAGE_BYTES:
        raise InvalidRequest(
            f"the records take {size:,} bytes as JSON, and a message carries {MAX_MESSAGE_BYTES:,}: send fewer, call "
            "submit_records, which stages them in the bucket, or write Parquet there and send scoreline.submit"
        )


def read_results(client: JobReader, job_id: str) -> Table:
    """Return the results of a successful job of records; raises `ObjectNotFound` if they are too large for JSON."""
    main, key = client.buckets.main, keys.answer(job_id)
    with decoding(main, key):
        return decode(unpack(main.get(key).data))


def answer(client: JobReader, job_id: str) -> dict[str, Any] | None:
    """Return the answer to an application that sent records in a message. Return None until the job has ended.

    ``results`` and ``rejected_records`` are left out if they would take more than `MAX_MESSAGE_BYTES`.
    """
    if read_outcome(client.buckets.main, job_id) is None:
        return None
    status = client.status(job_id)
    reply: dict[str, Any] = status.to_dict()
    reply.pop("submitter", None)
    if status.state in ("succeeded", "partial"):
        with contextlib.suppress(ObjectNotFound):
            table = read_results(client, job_id)
            more = {
                "results": table.records(),
                "rejected_records": [{"record": row, "message": why} for row, why in table.rejected.items()],
            }
            if len(json.dumps(more, default=str)) <= MAX_MESSAGE_BYTES:
                reply |= more
    return reply


def _check_columns(submission: Submission, pinned: PinnedModel, spec: JobSpec, names: Sequence[str]) -> None:
    """Check the columns of the records before anything is recorded; raises `MissingColumns`."""
    features = spec.features or submission.registry.manifest(pinned).feature_names or ()
    spelled = {*names, *(name.replace(" ", "_") for name in names)}  # LightGBM replaces blanks
    missing = [name for name in features if name not in (names if spec.features else spelled)]
    if missing := [*missing, *(name for name in kept_names(spec.keep) if name not in names)]:
        raise MissingColumns(
            f"the records lack {', '.join(map(repr, missing))}; they have {', '.join(map(repr, names[:20]))}"
        )


def _wait(client: JobReader, job_id: str, timeout_s: float | None) -> Outcome:
    """Wait until the job has ended, and return its outcome; raises `TimeoutError`."""
    started = time.monotonic()
    pause_s, looked, may_change = _FIRST_PAUSE_S, started, True
    while True:
        now = time.monotonic()
        if not may_change or now - looked >= _LOOK_EVERY_S or _closed(client, job_id):
            if (outcome := read_outcome(client.buckets.main, job_id)) is not None:
                return outcome
            read_job(client.buckets.main, job_id)
            looked = now
        if not may_change:
            raise TimeoutError(nothing_ends(job_id))
        if timeout_s is not None and now - started >= timeout_s:
            raise TimeoutError(f"job {job_id} has not ended after {timeout_s} s; it goes on: wait again")
        may_change = client.queue.pause(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 1.25 * pause_s)


def _closed(client: JobReader, job_id: str) -> bool:
    """Return whether the ledger says that a job has ended."""
    with contextlib.suppress(LedgerUnavailable):
        progress = client.ledger.progress(job_id)
        return progress is not None and progress.stopped == "closed"
    return False


def read_parts(client: JobReader, job_id: str) -> tuple[pa.Table, dict[int, str]]:
    """Return the results of a job with large records, and why records were rejected, by record number.

    Raises
    ------
    InvalidRequest
        The job does not have large records as its input.
    """
    job = read_job(client.buckets.main, job_id)
    if not keys.is_records_bulk(job_id, parse_uri(job.spec.inputs[0])[1]):
        folder = keys.output_folder(job.spec.output, job_id)
        raise InvalidRequest(f"job {job_id} does not hand its results back: read {folder}part-*.parquet")
    with require_extra("reading the results of more than 8 MiB of records"):
        import pyarrow as pa

        from scoreline.storage.tables.parquet import read_table
        from scoreline.tasks.rejects.report import reasons_by_row
    layout = ResultsLayout.of(client.buckets, job)
    if job.spec.arranged:
        raise InvalidRequest(
            f"the results of job {job_id} are arranged in files, which are not handed back: read those in "
            f"{layout.uri(layout.folder)}"
        )
    plan = PlanFile(client.buckets.main, job_id)
    tables: list[pa.Table] = []
    rejected: dict[int, str] = {}
    for number in range(plan.parts):
        info = layout.store.head(layout.part(number))
        tables.append(read_table(Pinned.of(layout.store, info)))
        rejected |= reasons_by_row(layout, info, plan.columns)
    return pa.concat_tables(tables), rejected
