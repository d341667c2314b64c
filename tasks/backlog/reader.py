"""Reads the backlog: the work that is left in all jobs under way.

Reading it takes one command to Redis for the list of jobs, one round trip for each 1,000 jobs, and four more commands.
The bucket is asked only about jobs that are not planned yet: one GET for each, and at most `MAX_READ` at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from scoreline.storage.errors import DocumentCorrupt, JobNotFound, ObjectNotFound
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.ledger.watchlist import JobState
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.backlog.workload import Priority, Workload
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.end_time import PART_S
from scoreline.tasks.job.plan_file import PlanFile

MAX_READ = 50
"""Maximum number of jobs whose documents are read from the bucket at a time. The other jobs count as unread."""
MAX_GROUPS = 100
"""Maximum number of groups that are told apart."""
OTHERS = "(others)"
"""What stands for further groups. No group can have this name."""
ASSUMED_ROWS_PER_S = 10_000.0
"""Pace of a model version if no job has recorded a pace. Forests of 100 trees score about this fast."""
_THREADS = 8

NextStep = Literal["plan", "score", "finalize", "notify"]
"""What a job under way waits for: its plan, its parts, its finalizer, or the delivery of its webhook."""


@dataclass(frozen=True, kw_only=True)
class JobBacklog:
    """The work that is left in one job."""

    job_id: str
    group: str
    next_step: NextStep
    rows: int
    """Number of rows left to score; 0 if the job is not planned yet."""
    seconds: float
    """Seconds that one process would take for the rest of the job."""
    since: float
    """When the run of the job began, in seconds since 1970."""
    pace_known: bool = True
    """Whether an earlier job has recorded the pace of the model version. Otherwise, `seconds` is a guess."""
    deadline: float | None = None
    """When the run of the job ends as failed, in seconds since 1970; None if it has no deadline."""
    priority: Priority | None = None
    """Priority of the job in its group; None for ``normal``."""


@dataclass(frozen=True, kw_only=True)
class GroupBacklog:
    """The work that is left in the jobs of a group."""

    jobs: int
    rows: int
    seconds: float
    """Seconds that one process would take."""


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """The work that is left in all jobs under way."""

    jobs: tuple[JobBacklog, ...]
    unread: int = 0
    """Number of jobs under way that nothing is known about, because their documents were not read."""
    unreadable: frozenset[str] = frozenset()
    """Jobs that no worker can plan now, because `job.json` is missing or corrupt. They are not work."""
    processes: int = 0
    """Number of processes that score parts; 0 if they have not been counted recently."""
    worker_size: int = 0
    """Average number of processes of a worker, also of earlier workers; 0 if it is unknown."""

    @property
    def seconds(self) -> float:
        """Seconds that one process would take for all jobs."""
        return sum(job.seconds for job in self.jobs)

    @property
    def rows(self) -> int:
        """Number of rows left to score in all jobs."""
        return sum(job.rows for job in self.jobs)

    @property
    def under_way(self) -> int:
        """Number of jobs that a worker has to plan, score or finalize."""
        return self.unread + sum(job.next_step != "notify" for job in self.jobs)

    def groups(self) -> Mapping[str, GroupBacklog]:
        """Return the backlog by group, in alphabetical order.

        If there are more than `MAX_GROUPS` groups, those with the least work are added up as the last one, `OTHERS`,
        because users choose the names of groups, and each name is a time series in Prometheus.
        """
        found: dict[str, list[JobBacklog]] = {}
        for job in self.jobs:
            found.setdefault(job.group, []).append(job)
        groups = {group: _added_up(jobs) for group, jobs in sorted(found.items())}
        by_work = sorted(groups, key=lambda group: (-groups[group].seconds, -groups[group].jobs, group))
        if not (left_out := set(by_work[MAX_GROUPS:])):
            return groups
        kept = {group: work for group, work in groups.items() if group not in left_out}
        return kept | {OTHERS: _added_up([job for job in self.jobs if job.group in left_out])}


def _added_up(jobs: Collection[JobBacklog]) -> GroupBacklog:
    return GroupBacklog(jobs=len(jobs), rows=sum(job.rows for job in jobs), seconds=sum(job.seconds for job in jobs))


class BacklogReader:
    """Reads the backlog of a deployment. It remembers what it has read about jobs that are not planned.

    Parameters
    ----------
    main : ObjectStore
        The bucket that contains the jobs' documents.
    ledger : Ledger
        The ledger, which has the progress and the pace of the jobs.
    """

    def __init__(self, main: ObjectStore, ledger: Ledger) -> None:
        self._main = main
        self._ledger = ledger
        self._known: dict[tuple[str, bool], Workload] = {}

    def read(self) -> Backlog:
        """Return the backlog; raises `LedgerUnavailable`."""
        states = self._ledger.watchlist.states()
        described, unreadable = self._describe(states)
        paces = self._paces({work.pace for work in described.values()})
        jobs = [_job(state, described[state.job_id], paces) for state in states if state.job_id in described]
        return Backlog(
            jobs=tuple(jobs),
            unread=len(states) - len(jobs) - len(unreadable),
            unreadable=unreadable,
            processes=self._ledger.processes(),
            worker_size=self._ledger.worker_size(),
        )

    def _describe(self, states: Collection[JobState]) -> tuple[dict[str, Workload], frozenset[str]]:
        """Return the work of each job, from the ledger or from the bucket, and the jobs that no worker can plan."""
        found = {state.job_id: work for state in states if (work := Workload.of_text(state.work)) is not None}
        asked = [(state.job_id, state.planned) for state in states if state.job_id not in found]
        self._known = {job: work for job, work in self._known.items() if job in set(asked)}
        missing = [job for job in asked if job not in self._known][:MAX_READ]
        unreadable = set()
        if missing:
            with ThreadPoolExecutor(min(_THREADS, len(missing)), thread_name_prefix="backlog") as pool:
                for job, work in zip(missing, pool.map(lambda job: self._read(*job), missing), strict=True):
                    if work is not None:
                        self._known[job] = work
                    elif not job[1]:
                        unreadable.add(job[0])
        return found | {job_id: work for (job_id, _), work in self._known.items()}, frozenset(unreadable)

    def _read(self, job_id: str, planned: bool) -> Workload | None:
        """Read the work of a job from the bucket; None if the bucket does not say it."""
        try:
            rows = PlanFile(self._main, job_id).rows if planned else 0
            job = read_job(self._main, job_id)
            return Workload.of(job, rows, deadline=job.spec.deadline)
        except (JobNotFound, ObjectNotFound, DocumentCorrupt):
            return None

    def _paces(self, kinds: Collection[str]) -> Mapping[str, tuple[float, bool]]:
        """Return the pace of each kind of job, and whether it is recorded."""
        counters = self._ledger.counters
        recorded = counters.paces(kinds)
        assumed = ASSUMED_ROWS_PER_S
        if len(recorded) < len(kinds):
            totals = counters.read()
            if totals.rows > 0 and totals.part_seconds > 0:  # the average of all models is better than a constant
                assumed = totals.rows / totals.part_seconds
        return {kind: (recorded.get(kind, assumed), kind in recorded) for kind in kinds}


def _job(state: JobState, work: Workload, paces: Mapping[str, tuple[float, bool]]) -> JobBacklog:
    next_step = _next_step(state)
    rows_per_s, known = paces[work.pace]
    rows = max(0, work.rows - state.rows) if next_step == "score" else 0
    parts = state.parts - state.parts_done if next_step == "score" else 0
    return JobBacklog(
        job_id=state.job_id,
        group=work.group,
        next_step=next_step,
        rows=rows,
        seconds=rows / rows_per_s + parts * PART_S,
        since=work.since,
        pace_known=known,
        deadline=work.deadline,
        priority=work.priority,
    )


def _next_step(state: JobState) -> NextStep:
    if not state.planned:
        return "plan"
    if state.stopped == "closed":
        return "notify"
    return "finalize" if state.stopped or state.parts_done >= state.parts else "score"
