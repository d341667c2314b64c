"""Reads the status of jobs: from the ledger while a job is under way, and from its outcome in the bucket afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobNotFound,
    LedgerCorrupt,
    LedgerUnavailable,
    ObjectNotFound,
    describe,
)
from scoreline.storage.ledger.base import Ledger, Progress
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.backlog.time_left import seconds_of_work
from scoreline.tasks.backlog.workload import Workload
from scoreline.tasks.job.documents import COMPLETE, WITH_RESULTS, Job, Status, read_job, read_outcome, seconds_since
from scoreline.tasks.job.loads import load_statuses
from scoreline.tasks.job.plan_file import PlanFile

_FIRST_POLL_S = 0.02
_POLL_SHARE, _LONGEST_POLL_S = 1 / 40, 1.0
"""Seconds between two polls of `watch`, as a share of the time waited so far, and the maximum number of seconds.
`watch` polls often at first, to notice the end of a short job soon, and then less and less often."""
_LOOK_SHARE, _LONGEST_LOOK_S = 1 / 10, 2.0
"""The same for the requests to the bucket. Each poll queries the ledger, which is cheaper, and which shows when it is
time to ask the bucket for the outcome."""

_JOB_EVERY_S = 60.0
"""Number of seconds between two checks whether a job that nothing is known about still exists."""


class StatusReader:
    """Reads the status of jobs. Works with `requirements.txt` alone.

    Parameters
    ----------
    main : ObjectStore
        The bucket that contains the jobs' documents.
    ledger : Ledger
        The ledger, which is queried only for jobs that have not ended.
    """

    def __init__(self, main: ObjectStore, ledger: Ledger) -> None:
        self._main = main
        self._ledger = ledger
        self._total_rows: dict[str, int] = {}

    def status(self, job_id: str) -> Status:
        """Return the status of a job; raises `JobNotFound`."""
        return self._read(read_job(self._main, job_id))

    def of(self, job: Job) -> Status:
        """Return the status of a job whose ``job.json`` is read already."""
        return self._read(job)

    def watched(self, job_ids: Sequence[str]) -> Collection[str]:
        """Return those of some jobs that the reconciler watches, because they have not ended."""
        return self._ledger.watchlist.holds(job_ids)

    def under_way(self, job: Job) -> Status:
        """Return the status of a job that is under way according to the index, with few requests to the bucket.

        The bucket is asked for an outcome only if the ledger does not show that the job is under way.
        """
        job_id = job.spec.job_id
        progress = self._ledger.progress(job_id)
        if progress is None:
            waiting = job_id in self._ledger.watchlist.holds([job_id])
            return self._under_way(job, None) if waiting else self._read(job)
        if progress.stopped or progress.all_done:
            return self._read(job)
        return self._with_time_left(job, self._under_way(job, progress), progress)

    def _read(self, job: Job) -> Status:
        """Return the status of a job from its outcome, or from the ledger if it has none."""
        job_id = job.spec.job_id
        outcome = read_outcome(self._main, job_id)
        if outcome is not None:
            return Status(
                job_id=job_id,
                state=outcome.state,
                model=job.model.ref,
                output=_output(job),
                parts=outcome.parts,
                parts_done=outcome.parts_done,
                rows=outcome.rows,
                rejected=outcome.rejected,
                # of complete results, these are the rows of the plan, which need not be read
                total_rows=outcome.rows + outcome.rejected
                if outcome.state in WITH_RESULTS
                else self._rows_planned(job_id),
                seconds=outcome.seconds,
                error=outcome.error,
                reason=outcome.reason,
                submitted=job.submitted,
                labels=job.labels,
                submitter=job.submitter,
                work_s=outcome.work_s,
                class_a=outcome.class_a,
                class_b=outcome.class_b,
                result_bytes=outcome.result_bytes,
                checks=outcome.checks,
                carried=outcome.carried,
                not_carried=outcome.not_carried,
                loads=load_statuses(self._main, job.spec, outcome.loads) if outcome.state in COMPLETE else (),
                challenger=_challenger(job),
            )
        progress = self._ledger.progress(job_id)
        return self._with_time_left(job, self._under_way(job, progress), progress)

    def _with_time_left(self, job: Job, now: Status, progress: Progress | None) -> Status:
        if progress is None or progress.over:
            return now
        rows = max(0, now.total_rows - now.rows - now.rejected)
        left_s = seconds_of_work(self._ledger, job, rows, progress.parts - progress.parts_done)
        return replace(now, work_left_s=left_s, processes=self._ledger.processes())

    def _under_way(self, job: Job, progress: Progress | None) -> Status:
        status = Status(
            job_id=job.spec.job_id,
            state="submitted",
            model=job.model.ref,
            output=_output(job),
            seconds=seconds_since(job.submitted),
            submitted=job.submitted,
            labels=job.labels,
            submitter=job.submitter,
            challenger=_challenger(job),
        )
        if progress is None:
            return status
        return replace(
            status,
            state="running",
            parts=progress.parts,
            parts_done=progress.parts_done,
            rows=progress.rows + progress.rows_under_way,
            rejected=progress.rejected,
            total_rows=self._rows_in_ledger(progress) or self._rows_planned(job.spec.job_id),
        )

    @staticmethod
    def _rows_in_ledger(progress: Progress) -> int:
        """Return the number of rows in the plan according to the ledger; 0 if the ledger does not know it."""
        work = Workload.of_text(progress.work)
        return 0 if work is None else work.rows

    def answer(self, status: Status) -> dict[str, Any]:
        """Return the status of a job as a dict that may be sent over the broker.

        The dict quotes neither inputs nor documents, and does not name the submitter, because anyone with access to the
        broker can read it.
        """
        answer, job_id = status.to_dict(), status.job_id
        answer.pop("submitter", None)
        if status.checks is not None:
            answer["checks"] = {"warned": status.checks.count("warn"), "blocked": status.checks.count("block")}
        if status.loads:
            answer["loads"] = [{**load, "error": ""} for load in answer["loads"]]
        if status.error:
            outcome = read_outcome(self._main, job_id)
            summary = (outcome.summary if outcome is not None else "") or "the job failed"  # none from earlier releases
            more = f"`scoreline status {job_id}`, or {self._main.uri(keys.outcome(job_id))}, says more"
            answer["error"] = f"{summary}; {more}" if summary != status.error else summary
        return answer

    def watch(self, job_id: str, timeout_s: float | None, pause: Callable[[float], bool]) -> Iterator[Status]:
        """Yield the status until the job has ended.

        Parameters
        ----------
        pause : callable
            Function that waits between two polls (see `MessageQueue.pause`).

        Raises
        ------
        JobNotFound
            No job has that id, or the job was deleted.
        TimeoutError
            The job takes longer than `timeout_s`, or the queue has no message left that would end the job.
        """
        begun, look_due, job_due, may_change = time.monotonic(), 0.0, _JOB_EVERY_S, True
        job = read_job(self._main, job_id)
        now: Status | None = None
        while True:
            waited = time.monotonic() - begun
            is_last = not may_change or (timeout_s is not None and waited > timeout_s)
            seen = None if is_last or now is None or waited >= look_due else self._poll(job, now)
            if seen is None:
                seen = self._read(job)
                if seen.state == "submitted" and waited >= job_due:  # it may have been deleted
                    job = read_job(self._main, job_id)
                    job_due = waited + _JOB_EVERY_S
                waited = time.monotonic() - begun
                look_due = waited + min(_LONGEST_LOOK_S, max(_FIRST_POLL_S, waited * _LOOK_SHARE))
            now = seen
            yield now
            if now.ended:
                return
            if not may_change:
                raise TimeoutError(nothing_ends(job_id))
            if is_last:
                raise TimeoutError(
                    f"job {job_id} has not ended after {timeout_s} s; it goes on, and can be watched again"
                )
            may_change = pause(min(_LONGEST_POLL_S, max(_FIRST_POLL_S, waited * _POLL_SHARE)))

    def _poll(self, job: Job, before: Status) -> Status | None:
        """Return the status by the ledger alone; None if the job may have ended, so that the bucket must be asked."""
        try:
            progress = self._ledger.progress(job.spec.job_id)
        except LedgerUnavailable:  # if the job has ended, its outcome does not need the ledger
            return None
        if progress is None:
            return self._under_way(job, None) if before.state == "submitted" else None
        return None if progress.parts_done >= progress.parts else self._under_way(job, progress)

    def jobs(self) -> Iterator[Status]:
        """Yield the status of every job, ordered by job id.

        If a document of a job is corrupt, the job is reported as failed, and the other jobs are still listed. A folder
        whose name is not a valid job id is ignored.
        """
        yield from filter(None, map(self._status_or_fault, self._submitted()))

    def _submitted(self) -> Iterator[str]:
        """Yield the ids of all jobs in order.

        A job that consists only of ``job.json`` and has no marker was removed, and is left out without reading it.
        """
        found: list[str] = []
        more: set[str] = set()
        for info in self._main.list("jobs/"):
            match info.key.split("/"):
                case ["jobs", job_id, "job.json"] if keys.is_name(job_id):
                    found.append(job_id)
                case ["jobs", "active", job_id] | ["jobs", job_id, *_]:
                    more.add(job_id)
        yield from (job_id for job_id in found if job_id in more)

    def _status_or_fault(self, job_id: str) -> Status | None:
        try:
            return self.status(job_id)
        except JobNotFound:  # the job was deleted meanwhile
            return None
        except (DocumentCorrupt, LedgerCorrupt) as error:
            return Status(job_id=job_id, state="failed", model="", output="", error=describe(error))

    def _rows_planned(self, job_id: str) -> int:
        if job_id not in self._total_rows:
            try:
                self._total_rows[job_id] = PlanFile(self._main, job_id).rows
            except ObjectNotFound:
                return 0
        return self._total_rows[job_id]


def _output(job: Job) -> str:
    return f"{job.spec.output}job_id={job.spec.job_id}/"


def _challenger(job: Job) -> str:
    return "" if job.challenger is None else job.challenger.ref


def nothing_ends(job_id: str) -> str:
    """Return the error message for a job that no longer makes progress, and would never end."""
    return f"job {job_id} has not ended, and no message is left that would end it: call reconcile(), then wait again"
