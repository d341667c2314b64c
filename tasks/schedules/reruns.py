"""Finds the latest job of a slot, and decides whether the slot may be run again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime

from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, JobNotFound, JobRemoved
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.job.documents import ENDED, Job, Outcome, read_job, read_outcome, read_tombstone
from scoreline.tasks.job.tombstone import Tombstone
from scoreline.tasks.schedules.file import spec_of
from scoreline.tasks.schedules.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The latest job of a slot. A job that another user submitted with an id of the slot does not count."""

    number: int = 0
    """The number of the job within its slot (see `Schedule.job_id`); 0 if the slot has no job."""
    free: int = 1
    """The number that the next job of the slot gets."""
    job_id: str = ""
    outcome: Outcome | None = None
    """How the job ended; None if it has not ended."""

    @property
    def incomplete(self) -> bool:
        """Whether the job ended before all its rows were scored."""
        return self.outcome is not None and self.outcome.state in ("failed", "cancelled")


def latest_job(main: ObjectStore, schedule: Schedule, slot: datetime, default_output: str) -> Latest:
    """Return the latest job of a slot. The jobs of a slot are numbered without gaps.

    A job with a corrupt document counts as a job of the slot, because it may have scored the slot.
    """
    latest = Latest()
    while True:
        number = latest.free
        job_id = schedule.job_id(slot, number)
        try:
            own = is_of_slot(read_job(main, job_id), schedule, slot, number, default_output)
        except JobRemoved:
            found = read_tombstone(main, job_id)
            own = found is not None and is_tombstone_of_slot(found, schedule, slot)
        except JobNotFound:
            return replace(latest, outcome=_outcome_of(main, latest.job_id)) if latest.number else latest
        except DocumentCorrupt:
            own = True
        latest = Latest(number=number, job_id=job_id, free=number + 1) if own else replace(latest, free=number + 1)


def _outcome_of(main: ObjectStore, job_id: str) -> Outcome | None:
    """Return how a job ended; None if it has not ended. A tombstone says how a removed job had ended."""
    if (outcome := read_outcome(main, job_id)) is not None:
        return outcome
    with contextlib.suppress(DocumentCorrupt):
        if (found := read_tombstone(main, job_id)) is not None and found.state in ENDED:
            return Outcome(state=found.state, rows=found.rows, rejected=found.rejected, failures={}, run=found.run)
    return None


def is_tombstone_of_slot(found: Tombstone, schedule: Schedule, slot: datetime) -> bool:
    """Return whether a removed job with an id of a slot belonged to the slot (see `is_of_slot`)."""
    return found.schedule == schedule.name if found.schedule else datetime.fromisoformat(found.submitted) >= slot


def is_of_slot(job: Job, schedule: Schedule, slot: datetime, number: int, default_output: str) -> bool:
    """Return whether a job with an id of a slot belongs to the slot, even if the schedule was edited since.

    Jobs of earlier releases do not name their schedule. A job without a schedule belongs to the slot if it was
    submitted after the slot, or if it has the spec of the schedule. Any other job was submitted by a user who took the
    id in advance.
    """
    if job.schedule is not None:
        return job.schedule == schedule.name
    is_after = datetime.fromisoformat(job.submitted) >= slot
    return is_after or job.spec == spec_of(schedule, slot, default_output, number)


def check_rerun(schedule: Schedule, latest: Latest) -> None:
    """Raise `InvalidRequest` if a slot cannot be run again. A slot without a job can always be run."""
    if latest.number == 0:
        return
    if latest.outcome is None:
        raise InvalidRequest(
            f"job {latest.job_id} is still under way: wait until it ends, or end it with "
            f"`scoreline cancel {latest.job_id}`"
        )
    if latest.outcome.state == "blocked" and (latest.outcome.checks is None or latest.outcome.checks.review is None):
        raise InvalidRequest(
            f"job {latest.job_id} is blocked by its checks: decide first, with `scoreline accept {latest.job_id} "
            f"--reason TEXT` or `scoreline reject {latest.job_id} --reason TEXT`"
        )
    if schedule.only_new and not latest.incomplete and latest.outcome.state != "blocked":
        raise InvalidRequest(
            f"job {latest.job_id} has scored the objects of this slot, and {schedule.name!r} scores only new ones "
            "(only_new): use `scoreline submit` to score them again"
        )
