"""Says how long the results of each job are kept: by its schedule, or by the default.

The schedules are those that the latest tick has put in force, and not those of a local ``schedules.toml``. Otherwise, a
command on a computer without that file would apply the default to results that a schedule keeps for longer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.schedules.file import parse_tables
from scoreline.tasks.schedules.in_force import read_in_force

_SLOT = re.compile(r"(?P<schedule>.+)-(?P<slot>\d{8}T\d{6}Z)(?:-(?P<number>\d+))?")
_RESCORING = re.compile(r"(?:-rejected-\d+)+\Z")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long the results of a job are kept, and where that is set."""

    keep: ResultsKeep
    source: str
    """The setting, for messages."""
    group: str
    """The jobs among which runs are counted: ``schedule NAME``, or empty for the jobs of the same output."""

    @property
    def rule(self) -> str:
        """The number of runs that are kept, and among which jobs they are counted."""
        return f"{self.keep} of {self.group or 'an output'}"

    def __str__(self) -> str:
        return f"{self.keep} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class Policies:
    """How long the results of all jobs are kept."""

    default: ResultsKeep | None = None
    """The setting RESULTS_KEEP."""
    schedules: Mapping[str, ResultsKeep | None] = field(default_factory=dict)
    """The schedules in force, and how long each keeps its results; None for the default."""
    complete: bool = True
    """Whether all schedules are known. Otherwise the jobs of other schedules are kept."""

    @property
    def removes(self) -> bool:
        """Whether any result is ever removed."""
        return self.default is not None or any(keep is not None for keep in self.schedules.values())

    def by_id(self, job_id: str) -> Policy | None:
        """Return the policy of a job according to its id alone; None if the job is kept.

        A job that scores the rejected rows of another job is kept for as many days as the other job, but is not one of
        its schedule's runs.

        The ids of jobs of schedules are reserved. The policy must be compared with that of `of_job` before a job is
        removed, because an earlier release accepted such ids from everyone.
        """
        if found := _SLOT.fullmatch(job_id):
            return self._of_schedule(found["schedule"])
        if (source := _RESCORING.sub("", job_id)) != job_id:
            policy = self.by_id(source)
            if policy is None or policy.keep.days is not None:
                return policy
        return self._by_default()

    def of_job(self, job: Job) -> Policy | None:
        """Return the policy of a job; None if the job is kept."""
        if job.schedule is not None:
            return self._of_schedule(job.schedule)
        if job.spec.rejected_of is not None:
            return self.by_id(job.spec.job_id)
        found = _SLOT.fullmatch(job.spec.job_id)
        if found and datetime.fromisoformat(job.submitted) >= slot_time(job.spec.job_id):  # of an earlier release
            return self._of_schedule(found["schedule"])
        return self._by_default()

    def _of_schedule(self, name: str) -> Policy | None:
        if name not in self.schedules and not self.complete:
            return None
        if (keep := self.schedules.get(name)) is not None:
            return Policy(keep=keep, source=f"results_keep of schedule {name}", group=f"schedule {name}")
        return self._by_default(f"schedule {name}")

    def _by_default(self, group: str = "") -> Policy | None:
        return None if self.default is None else Policy(keep=self.default, source="RESULTS_KEEP", group=group)


def read_policies(main: ObjectStore, default: ResultsKeep | None) -> Policies:
    """Return how long results are kept, according to the schedules in force and the default.

    If a schedule has a fault, or no tick has read the schedules yet, other schedules than the known ones may exist.
    """
    found = read_in_force(main)
    if found is None:
        return Policies(default=default, complete=False)
    parsed = parse_tables(found.tables)
    keeps = {
        item.name: None if item.results_keep is None else ResultsKeep.parse(item.results_keep)
        for item in parsed.schedules
    }
    return Policies(default=default, schedules=keeps, complete=not (found.faults or parsed.faults))


def slot_time(job_id: str) -> datetime:
    """Return the time of the slot in a job id of a schedule, or the earliest time for any other job id.

    >>> slot_time("nightly-20261125T020000Z-2").isoformat()
    '2026-11-25T02:00:00+00:00'
    """
    found = _SLOT.fullmatch(job_id)
    try:
        return datetime.strptime(f"{found['slot']}+0000" if found else "", "%Y%m%dT%H%M%SZ%z")
    except ValueError:
        return datetime.fromisoformat("0001-01-01T00:00:00+00:00")


def run_order(job_id: str, ended_s: float) -> tuple[datetime, int, float]:
    """Return a sort key for the runs of a schedule: by slot, and by number within the slot.

    A backfill of old slots thus does not displace the latest slots. Other jobs are ordered by their end.
    """
    found = _SLOT.fullmatch(job_id)
    return slot_time(job_id), int(found["number"] or 1) if found else 0, ended_s


def is_reserved_folder(job_id: str) -> bool:
    """Return whether a folder in ``jobs/`` is no job's folder."""
    return not keys.is_name(job_id) or job_id in ("active", "index")
