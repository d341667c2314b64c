"""Finds the jobs whose results need not be kept any longer, from one listing of ``jobs/`` and few documents.

All times come from the listing, and thus from the clock of the store. The time of this computer does not matter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, JobNotFound
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.tasks.job.documents import COMPLETE, read_job, read_outcome, read_tombstone
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.retention.policies import Policies, Policy, is_reserved_folder, run_order

DAY_S = 86_400.0
MIN_AGE_S = DAY_S
"""A job is kept at least this long after its end, because someone may be reading its results."""
RESUMABLE_DAYS = 14
"""Days for which a failed or cancelled job can be resumed, or a blocked job accepted, if its schedule keeps a number of
runs. If results are kept for a number of days, such a job stays for the same number of days."""
_THREADS = 16
_RESUMABLE = " can be resumed: it"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job that has ended, according to a listing."""

    job_id: str
    ended_s: float
    """Time of the outcome, by the clock of the store, in seconds since 1970."""
    rewritten: bool = False
    """Whether ``job.json`` is newer than the outcome, as a tombstone is."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """A job whose time is over, unless something else needs it."""

    job_id: str
    why: str
    begun: bool = False
    """Whether the job has a tombstone, because an earlier removal was interrupted."""
    counted: str = ""
    """The rule by which later runs were counted (see `Policy.rule`); empty if the job is due for its age."""


@dataclass(kw_only=True)
class Found:
    """The jobs in a listing."""

    due: list[Due] = field(default_factory=list)
    """The jobs that are due, those first whose removal has begun, and then the oldest."""
    kept: Counter[str] = field(default_factory=Counter)
    """Number of jobs that are not due, by reason."""
    without_job: list[str] = field(default_factory=list)
    """Keys of rows that were staged more than a day ago for jobs that were never recorded."""


@dataclass(kw_only=True)
class _Folder:
    job_s: float | None = None
    outcome_s: float | None = None
    objects: int = 0
    staged: list[ObjectInfo] = field(default_factory=list)

    def is_without_job(self, now_s: float) -> bool:
        """Return whether there are only staged rows, because the process that staged them died a day ago or earlier."""
        return 0 < self.objects == len(self.staged) and now_s - max(info.modified for info in self.staged) >= MIN_AGE_S


def find_due(main: ObjectStore, policies: Policies, now_s: float) -> Found:
    """Return the jobs whose results need not be kept any longer.

    This takes one request for every 1,000 objects in ``jobs/``. Where a number of runs is kept, it also takes a request
    for each run that is kept, and one for each job without a schedule.
    """
    found = Found()
    counted: dict[str, list[Ended]] = defaultdict(list)
    rules: dict[str, Policy] = {}
    ended_s: dict[str, float] = {}
    listed = list(_ended(main.list(keys.JOBS), found, now_s))
    begun = _with_tombstone(main, [job.job_id for job in listed if job.rewritten])
    for job in listed:
        ended_s[job.job_id] = job.ended_s
        policy = policies.by_id(job.job_id)
        if job.job_id in begun:
            found.due.append(Due(job_id=job.job_id, why="", begun=True))
        elif policy is None:
            found.kept["no time limit is set for them"] += 1
        elif policy.keep.days is None:
            counted[policy.group].append(job)
            rules[policy.group] = policy
        elif now_s - job.ended_s < max(MIN_AGE_S, DAY_S * policy.keep.days):
            found.kept[f"younger than {policy}"] += 1
        else:
            found.due.append(Due(job_id=job.job_id, why=_old(policy, job.ended_s, now_s)))
    for group, jobs in _by_output(main, counted, found.kept).items():
        policy = rules[group if group in rules else ""]
        _count_runs(main, policy, jobs, now_s, found)
    found.due.sort(key=lambda due: (not due.begun, ended_s[due.job_id], due.job_id))
    return found


def _ended(listed: Iterable[ObjectInfo], found: Found, now_s: float) -> Iterator[Ended]:
    """Yield the ended jobs in a listing. Count the jobs under way, and find rows without a job."""
    folders: dict[str, _Folder] = defaultdict(_Folder)
    for info in listed:
        job_id, slash, name = info.key.removeprefix(keys.JOBS).partition("/")
        if not slash or is_reserved_folder(job_id):
            continue
        folder = folders[job_id]
        folder.objects += 1
        if name == "job.json":
            folder.job_s = info.modified
        elif name == "outcome.json":
            folder.outcome_s = info.modified
        elif name.startswith("staged/"):
            folder.staged.append(info)
    for job_id, folder in folders.items():
        if folder.job_s is not None and folder.outcome_s is not None:
            yield Ended(job_id=job_id, ended_s=folder.outcome_s, rewritten=folder.job_s > folder.outcome_s)
        elif folder.is_without_job(now_s):
            found.without_job += [info.key for info in folder.staged]
        elif folder.objects > 1:  # a tombstone stands alone
            found.kept["under way"] += 1


def _with_tombstone(main: ObjectStore, job_ids: list[str]) -> set[str]:
    """Return the jobs whose removal was interrupted. Each job is read, because copying a bucket changes all times."""

    def read(job_id: str) -> bool:
        try:
            return read_tombstone(main, job_id) is not None
        except DocumentCorrupt:
            return False

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="retention") as pool:
        return {job_id for job_id, found in zip(job_ids, pool.map(read, job_ids), strict=True) if found}


def _by_output(main: ObjectStore, counted: Mapping[str, list[Ended]], kept: Counter[str]) -> Mapping[str, list[Ended]]:
    """Divide the jobs that belong to no schedule by their output, within which runs are counted."""
    groups = {group: list(jobs) for group, jobs in counted.items() if group}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="retention") as pool:
        loose = counted.get("", [])
        for job, output in zip(loose, pool.map(lambda job: _output_of(main, job.job_id), loose), strict=True):
            if output is None:
                kept["their documents cannot be read"] += 1
            else:
                groups.setdefault(output, []).append(job)
    return groups


def _output_of(main: ObjectStore, job_id: str) -> str | None:
    try:
        return read_job(main, job_id).spec.output
    except (DocumentCorrupt, JobNotFound):
        return None


def _count_runs(main: ObjectStore, policy: Policy, jobs: list[Ended], now_s: float, found: Found) -> None:
    """Find the jobs of a group that are older than the latest complete ones."""
    wanted = policy.keep.runs or 0
    complete = 0
    for job in sorted(jobs, key=lambda job: run_order(job.job_id, job.ended_s), reverse=True):
        if complete < wanted:
            complete += _is_complete(main, job.job_id)
            found.kept[f"among the latest {policy}"] += 1
        elif now_s - job.ended_s < MIN_AGE_S:
            found.kept["ended within the last day"] += 1
        else:
            why = f"{wanted:,} later jobs are complete: {_source(policy)}"
            found.due.append(Due(job_id=job.job_id, why=why, counted=policy.rule))


def _is_complete(main: ObjectStore, job_id: str) -> bool:
    try:
        outcome = read_outcome(main, job_id)
    except DocumentCorrupt:
        return False
    return outcome is not None and outcome.state in COMPLETE


def still_due(due: Due, policy: Policy | None, ended_s: float, now_s: float, state: str) -> str:
    """Return why a job must be kept according to its own policy; empty if it may be removed.

    Later runs are not counted again, because their number can only have grown. If they were counted by another rule,
    or not at all, the job stays: its policy has changed since then, or its id belongs to another policy.
    """
    if policy is None:
        return "no time limit is set for it"
    days = policy.keep.days
    if days is None and due.counted != policy.rule:
        return f"its later runs have not been counted for {policy}"
    if days is None:
        days = 1 if state in COMPLETE else RESUMABLE_DAYS
    if now_s - ended_s < max(MIN_AGE_S, DAY_S * days):
        resumable = "" if state in COMPLETE else " waits for a decision: it" if state == "blocked" else _RESUMABLE
        return f"it{resumable} ended less than {ResultsKeep(days=days)} ago"
    return ""


def _old(policy: Policy, ended_s: float, now_s: float) -> str:
    return f"it ended {(now_s - ended_s) // DAY_S:,.0f} days ago: {_source(policy)}"


def _source(policy: Policy) -> str:
    return f"{policy.source} keeps {policy.keep}"
