"""Submits jobs of records: rows from an application's memory.

The records are written to the bucket before the job is accepted. Accepted records therefore survive the loss of the
message or of Redis. What a worker needs for a few records is in the ledger, too, so that the worker need not read it
from the bucket. Only an application without Scoreline sends the records in the message itself, up to
`MAX_MESSAGE_BYTES`. The worker that receives the message then writes the records to the bucket. Works with
`requirements.txt` alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, MissingColumns
from scoreline.storage.models.manifest import PinnedModel
from scoreline.tasks.dispatch.submission import Recorded, Submission
from scoreline.tasks.job.spec import JobSpec, kept_names
from scoreline.tasks.job.submit_options import RecordsOptions, check_known, spec_from
from scoreline.tasks.quality.checks.checks_of import check_text
from scoreline.tasks.records import arrow
from scoreline.tasks.records.carried import MAX_CARRIED_BYTES, Carried, is_small
from scoreline.tasks.records.job import MAX_MESSAGE_BYTES, RecordsJob
from scoreline.tasks.records.table import MAX_BYTES, TooManyRecords, encode, is_frame, pack, table_of, unpack


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
    job_id, carried = accept_records(submission, model, records, **options)
    submission.score_inline(job_id, carried)
    answers = submission.answers if carried else None
    return RecordsJob(submission, job_id, like=records if is_frame(records) else None, answers=answers)


def accept_records(
    submission: Submission, model: str, records: Any, **options: Unpack[RecordsOptions]
) -> tuple[str, str]:
    """Record a job of records without enqueueing it (see `submit_records`).

    Return its id, and what the worker needs (see `scoreline.tasks.records.carried`). The latter is empty if the worker
    must read it from the bucket.
    """
    check_known(options, RecordsOptions)
    job_id = options.get("job_id") or submission.new_job_id()
    main = submission.buckets.main
    key, before, columns = pack_records(job_id, records)
    names = [name for name, _ in columns]
    if options.get("max_rejected") is None:
        options["max_rejected"] = "100%"
    spec = spec_from(model, main.uri(key), options, job_id=job_id, output=submission.default_output(model)).check()
    check_text(spec.checks)
    pinned = submission.registry.resolve(model)
    _check_columns(submission, pinned, spec, names)
    recorded = submission.accept(
        spec, webhook=options.get("webhook"), pinned=pinned, before=before, labels=options.get("labels")
    )
    return job_id, _carry(submission, recorded, before, columns)


def _carry(
    submission: Submission, recorded: Recorded, before: Mapping[str, bytes], columns: Sequence[tuple[str, str]]
) -> str:
    """Return what a worker needs for a new job with few records; empty for all other jobs.

    A job without an entry in the index is scored from the bucket, because only the end of such a job writes the entry.
    """
    (key, packed), rows = next(iter(before.items())), 0
    is_new = recorded.is_new and recorded.is_indexed and key in recorded.etags
    if not submission.carries_records or not keys.is_records(key) or not is_new:
        return ""
    if len(packed) <= MAX_CARRIED_BYTES:
        rows = int(json.loads(unpack(packed).partition(b"\n")[0])["rows"])
    if not rows or not is_small(packed, rows, recorded.job.spec) or recorded.job.spec.arranged:
        return ""
    return Carried(
        document=recorded.document.decode(),
        records=packed,
        etag=recorded.etags[key],
        reader=submission.answers.reader,
    ).to_text(recorded.job, columns)


def pack_records(job_id: str, records: Any) -> tuple[str, dict[str, bytes], list[tuple[str, str]]]:
    """Return the key of the job's input, the objects to write to the bucket, and the columns with their types.

    The types of records that are written as Parquet are not returned.
    """
    if not (is_frame(records) and records.memory_usage(index=False).sum() > 8 * MAX_BYTES):
        table = table_of(records)
        records = records if is_frame(records) else table  # a `Table` has types, which pandas would have to guess
        with contextlib.suppress(TooManyRecords):
            text = encode(table)
            sha256 = hashlib.sha256(text).hexdigest()
            columns = list(table.types.items())
            return keys.records_table(job_id, sha256), {keys.records(job_id, sha256): pack(text)}, columns
    key, names, body = arrow.as_parquet(job_id, records)
    return key, {key: body}, [(name, "") for name in names]


def check_message(records: Any) -> None:
    """Raise `InvalidRequest` if the records are too large for a message."""
    size = len(json.dumps(records, default=str, separators=(",", ":")))
    if size > MAX_MESSAGE_BYTES:
        raise InvalidRequest(
            f"the records take {size:,} bytes as JSON, and a message carries {MAX_MESSAGE_BYTES:,}: send fewer, call "
            "submit_records, which stages them in the bucket, or write Parquet there and send scoreline.submit"
        )


def _check_columns(submission: Submission, pinned: PinnedModel, spec: JobSpec, names: Sequence[str]) -> None:
    """Check the columns of the records before anything is recorded; raises `MissingColumns`."""
    features = spec.features or submission.manifest(pinned).feature_names or ()
    spelled = {*names, *(name.replace(" ", "_") for name in names)}  # LightGBM replaces blanks
    missing = [name for name in features if name not in (names if spec.features else spelled)]
    if missing := [*missing, *(name for name in kept_names(spec.keep) if name not in names)]:
        raise MissingColumns(
            f"the records lack {', '.join(map(repr, missing))}; they have {', '.join(map(repr, names[:20]))}"
        )
