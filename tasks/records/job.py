"""Waits for a job of records, and returns its results to the application. Works with `requirements.txt` alone."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from scoreline.storage import keys
from scoreline.storage.errors import (
    InvalidRequest,
    JobFailed,
    LedgerUnavailable,
    ObjectNotFound,
    require_extra,
)
from scoreline.storage.ledger.answers import Answer
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.tasks.dispatch.answer_box import AnswerBox
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.status import nothing_ends
from scoreline.tasks.job.documents import Outcome, Status, decoding, read_job, read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.table import Table, decode, unpack

if TYPE_CHECKING:
    import pyarrow as pa


MAX_MESSAGE_BYTES = 256 << 10
"""Maximum size of the records in a message, and of the results in its answer, in bytes of JSON."""
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25
_END_S, _END_POLL_S = 5.0, 0.05
_LOOK_EVERY_S = 1.0
_LOOK_SHARE = 1 / 4
"""Time between two looks into the bucket, which is authoritative: the minimum in seconds, and the share of the time
waited so far. The ledger, which is cheaper, is asked for progress at every poll. While an answer is expected there, it
is asked only every `_LOOK_EVERY_S` seconds, because the answer comes by itself unless it is lost."""
_JOB_EVERY_S = 60.0
"""Number of seconds between two checks whether the job still exists."""


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
    answers : AnswerBox, optional
        Receives the answer of the job, if it was asked for at submission. By default, the results are read from the
        bucket.
    """

    def __init__(self, client: JobReader, job_id: str, like: Any = None, answers: AnswerBox | None = None) -> None:
        self.job_id = job_id
        self.rejected: Mapping[int, str] = {}
        """Why records were rejected, by record number (from 0). The method `wait` fills in this mapping."""
        self._client = client
        self._like = like
        self._answers = answers
        self._answered: Answer | None = None
        self._has_answer = False
        """Whether the answer has come. It may say only that the results are not in it."""

    def status(self) -> Status:
        """Return the status of the job (see `Client.status`).

        A job ends shortly after it is answered. If the job is answered already, wait a few seconds at most for its end.
        """
        status = self._client.status(self.job_id)
        end_s = time.monotonic() + _END_S
        while self._answered is not None and not status.ended and time.monotonic() < end_s:
            time.sleep(_END_POLL_S)
            status = self._client.status(self.job_id)
        return status

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
        outcome = self._wait(timeout_s) if self._answered is None else None
        if outcome is None:
            assert self._answered is not None
            return self._shown(decode(self._answered.text.encode()))
        if outcome.state not in ("succeeded", "partial"):
            raise JobFailed(f"job {self.job_id} {_why(outcome)}")
        try:
            table = read_results(self._client, self.job_id, outcome)
        except ObjectNotFound:
            return self._bulk()
        return self._shown(table)

    def _wait(self, timeout_s: float | None) -> Outcome | None:
        """Wait until the job has ended, and return its outcome; raises `TimeoutError`.

        Return None if the job is answered. Its outcome need not be written yet.
        """
        client, job_id, started = self._client, self.job_id, time.monotonic()
        pause_s, looked, asked = _FIRST_PAUSE_S, started, started
        checked = started if self._answers is not None else -math.inf  # a job that is waited for was submitted here
        while True:
            may_change, now = client.queue.pause(0.0), time.monotonic()
            look_s = max(_LOOK_EVERY_S, (now - started) * _LOOK_SHARE)
            if asks := self._answers is None or now - asked >= _LOOK_EVERY_S:
                asked = now
            if not may_change or now - looked >= look_s or (asks and _closed(client, job_id)):
                if (outcome := read_outcome(client.buckets.main, job_id)) is not None:
                    return outcome
                if not may_change or now - checked >= _JOB_EVERY_S:  # it may have been deleted
                    read_job(client.buckets.main, job_id)
                    checked = now
                looked = now
            if not may_change and self._answers is not None and self._take(self._answers, 0.0):
                return None
            if not may_change:
                raise TimeoutError(nothing_ends(job_id))
            left_s = math.inf if timeout_s is None else timeout_s - (now - started)
            if left_s <= 0:
                raise TimeoutError(f"job {job_id} has not ended after {timeout_s} s; it goes on: wait again")
            if self._answers is None:
                time.sleep(min(pause_s, left_s))
                pause_s = min(_LONGEST_PAUSE_S, 1.25 * pause_s)
            elif self._take(self._answers, min(_LONGEST_PAUSE_S, left_s)):
                return None
            elif self._has_answer:  # no further answer comes
                self._answers, looked = None, -math.inf

    def _take(self, answers: AnswerBox, seconds: float) -> bool:
        """Wait up to `seconds` for the answer of the job. Return whether it has brought the results."""
        try:
            answer = answers.wait(self.job_id, seconds)
        except LedgerUnavailable:
            time.sleep(seconds)
            return False
        if answer is not None and answer.text:
            self._answered = answer
        self._has_answer = answer is not None
        return self._answered is not None

    def _shown(self, table: Table) -> Any:
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


def _why(outcome: Outcome) -> str:
    """Return why an application does not get the results of a job."""
    if outcome.state == "blocked" and outcome.checks is not None:
        blocking = [finding.message for finding in outcome.checks.findings if finding.level == "block"]
        review = outcome.checks.review
        return f"is blocked: {'; '.join(blocking) if review is None else f'{review.who} rejected it: {review.reason}'}"
    return outcome.state + (f": {outcome.error}" if outcome.error else "")


def read_results(client: JobReader, job_id: str, outcome: Outcome) -> Table:
    """Return the results of a successful job of records; raises `ObjectNotFound` if they are too large for JSON."""
    main, key = client.buckets.main, keys.answer(job_id)
    if outcome.results:
        with decoding(main, keys.outcome(job_id)):
            return decode(outcome.results.encode())
    with decoding(main, key):
        return decode(unpack(main.get(key).data))


def answer(client: JobReader, job_id: str) -> dict[str, Any] | None:
    """Return the answer to an application that sent records in a message. Return None until the job has ended.

    ``results`` and ``rejected_records`` are left out if they would take more than `MAX_MESSAGE_BYTES`.
    """
    outcome = read_outcome(client.buckets.main, job_id)
    if outcome is None:
        return None
    status = client.status(job_id)
    reply: dict[str, Any] = status.to_dict()
    reply.pop("submitter", None)
    if status.state in ("succeeded", "partial"):
        with contextlib.suppress(ObjectNotFound):
            table = read_results(client, job_id, outcome)
            more = {
                "results": table.records(),
                "rejected_records": [{"record": row, "message": why} for row, why in table.rejected.items()],
            }
            if len(json.dumps(more, default=str)) <= MAX_MESSAGE_BYTES:
                reply |= more
    return reply


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
