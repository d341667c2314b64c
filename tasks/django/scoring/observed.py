"""What is known about a job at one moment, from the client or from a notification, and how rows learn of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction

from scoreline.storage.errors import JobNotFound, describe
from scoreline.storage.typed_json import build, moment
from scoreline.tasks.client import Client
from scoreline.tasks.django.scoring.defaults import MAX_NAME, MAX_REASON, MAX_URI, REMOVED
from scoreline.tasks.django.scoring.job_row import JobRow, in_database
from scoreline.tasks.django.scoring.signals import on_ended
from scoreline.tasks.job.documents import ENDED, Status, read_outcome, read_run


@dataclass(frozen=True, kw_only=True)
class _Notified:
    """The fields of a notification that a row keeps (see `Status`)."""

    state: str
    model: str = ""
    output: str = ""
    rows: int = 0
    rejected: int = 0
    total_rows: int = 0
    error: str = ""
    reason: str = ""
    submitted: str = ""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The state of a job, as far as a row has fields for it."""

    state: str
    run: int
    """The run of the job that ended this way, or that is under way; 0 if the job has never run."""
    is_ended: bool
    version: str = ""
    output: str = ""
    rows: int = 0
    rejected: int = 0
    total_rows: int = 0
    error: str = ""
    reason: str = ""
    submitted: datetime | None = None
    ended: datetime | None = None
    is_current: bool = True
    """Whether this is what the bucket says now. A notification may be old, and a person may have decided since."""

    @classmethod
    def of(cls, status: Status, run: int) -> Observed:
        """Return what a status says about a run."""
        began = _time(status.submitted) or datetime.now(UTC)
        return cls._of(status, run, began + timedelta(seconds=status.seconds) if status.ended else None)

    @classmethod
    def without_job(cls, state: str, error: str, ended: datetime, run: int = 1) -> Observed:
        """Return the end of a row that has no job, or no longer has one."""
        return cls(state=state, run=run, is_ended=True, error=error, ended=ended)

    @classmethod
    def from_notification(cls, data: Mapping[str, Any], run: int, ended: datetime) -> Observed:
        """Return what a notification says; raises `ValueError` or `TypeError`. Other fields are ignored."""
        found = build(_Notified, data)
        if found.state not in ENDED or min(found.rows, found.rejected, found.total_rows) < 0:
            raise ValueError("it is not the status of a job that has ended")
        return replace(cls._of(found, run, ended), is_current=False)

    @classmethod
    def _of(cls, found: Status | _Notified, run: int, ended: datetime | None) -> Observed:
        return cls(
            state=found.state,
            run=run,
            is_ended=ended is not None,
            version=found.model,
            output=found.output,
            rows=found.rows,
            rejected=found.rejected,
            total_rows=found.total_rows,
            error=found.error,
            reason=found.reason,
            submitted=_time(found.submitted),
            ended=ended,
        )

    @property
    def values(self) -> dict[str, Any]:
        """The values of a row's fields."""
        return (
            {
                "state": self.state,
                "version": self.version[:MAX_NAME],
                "output": self.output[:MAX_URI],
                "rows": self.rows,
                "rejected": self.rejected,
                "total_rows": self.total_rows,
                "error": self.error.replace("\0", "\N{REPLACEMENT CHARACTER}"),  # PostgreSQL keeps no NUL in a text
                "reason": self.reason[:MAX_REASON],
                "ended": self.ended,
            }
            | ({} if self.submitted is None else {"submitted": self.submitted})
        )


def observe(client: Client, job_id: str, *, knows_run: int, now: datetime) -> Observed:
    """Ask for the state of a job.

    Parameters
    ----------
    knows_run : int
        The run whose end is known already; 0 if none is.
    now : datetime
        The time at which a job has ended whose documents are gone.
    """
    main = client.buckets.main
    try:
        status = client.status(job_id)
        if not status.ended:
            # Only a job that has ended before can be under way in a later run
            return Observed.of(status, read_run(main, job_id)[0].number if knows_run else 1)
        # The run is read before the state, so that a row never takes the end of an earlier run for that of a later one
        outcome = read_outcome(main, job_id)
        status = client.status(job_id)
    except JobNotFound as error:
        return Observed.without_job(REMOVED, describe(error), now, run=knows_run + 1)
    return Observed.of(status, max(1, knows_run) if outcome is None else outcome.run)


def record(row: JobRow, seen: Observed) -> bool:
    """Change a row so that it says what was seen, unless it knows more. Return whether this call recorded an end.

    Rows are changed by conditional updates, never by reading and writing, so that of several processes that see the
    same end, one records it and sends the signal.
    """
    rows = in_database(row)
    earlier = rows.filter(run__lt=seen.run)
    if not seen.is_ended:
        (earlier | rows.filter(ended__isnull=True)).update(**seen.values)
        return False
    if seen.state == REMOVED:  # a row that has ended keeps its end after the job is removed
        earlier = earlier.filter(ended__isnull=True)
    with transaction.atomic(using=rows.db):
        is_new = earlier.update(**seen.values, run=seen.run) > 0
        if is_new:
            on_ended.send(sender=rows.model, instance=rows.get())
        elif seen.is_current and seen.state != REMOVED:  # a person may have accepted the results since their end
            rows.filter(run=seen.run, ended__isnull=False).exclude(state=seen.state).update(**seen.values)
    return is_new


def _time(text: str) -> datetime | None:
    return moment(text, "submitted") if text else None
