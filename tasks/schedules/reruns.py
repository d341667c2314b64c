"""Finds the latest job of a slot, and decides whether the slot may be run again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.tasks.job.documents import Outcome, read_outcome
from scoreline.tasks.schedules.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The latest job of a slot."""

    number: int
    """Which job of the slot it is (see `Schedule.job_id`); 0 if the slot has no job."""
    job_id: str = ""
    outcome: Outcome | None = None
    """How the job ended; None if it has not ended."""

    @property
    def incomplete(self) -> bool:
        """Whether the job ended without all its results."""
        return self.outcome is not None and self.outcome.state in ("failed", "cancelled")


def latest_job(main: ObjectStore, schedule: Schedule, slot: datetime) -> Latest:
    """Return the latest job of a slot. The jobs of a slot are numbered without gaps."""
    number = 0
    while exists(main, keys.job(schedule.job_id(slot, number + 1))):
        number += 1
    if number == 0:
        return Latest(number=0)
    job_id = schedule.job_id(slot, number)
    return Latest(number=number, job_id=job_id, outcome=read_outcome(main, job_id))


def check_rerun(schedule: Schedule, latest: Latest) -> None:
    """Raise `InvalidRequest` if a slot cannot be run again. A slot without a job always can."""
    if latest.number == 0:
        return
    if latest.outcome is None:
        raise InvalidRequest(
            f"job {latest.job_id} is still under way: wait until it ends, or end it with "
            f"`scoreline cancel {latest.job_id}`"
        )
    if schedule.only_new and not latest.incomplete:
        raise InvalidRequest(
            f"job {latest.job_id} has scored the objects of this slot, and {schedule.name!r} scores only new ones "
            "(only_new): use `scoreline submit` to score them again"
        )
