"""Decides how many dynos finish the backlog in time. This module does no I/O and has no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scoreline.storage.wording import plural
from scoreline.tasks.backlog.reader import Backlog, JobBacklog
from scoreline.tasks.backlog.time_left import duration

START_S = 60.0
"""Seconds from the decision to add a dyno until it scores: Heroku starts it, and it loads a model."""
IDLE_S = 300.0
"""Default number of seconds without work after which dynos are removed."""
_LEAST_SHARE = 0.1
"""A job that is late, or almost late, should end within this share of `Policy.finish_within_s` from now."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user wants."""

    least: int
    """Number of dynos when there is no work."""
    most: int
    finish_within_s: float
    """Seconds from the beginning of a job within which it should end."""
    idle_after_s: float = IDLE_S
    """Seconds without work after which dynos are removed."""
    start_s: float = START_S


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How many dynos there should be."""

    dynos: int
    reason: str
    """A sentence for people, without a full stop."""


_ORDER = {"high": 0, None: 1, "low": 2}


def processes_needed(backlog: Backlog, policy: Policy, now: float) -> float:
    """Return how many processes finish all jobs within `Policy.finish_within_s`, as a number that need not be whole.

    If jobs share processes evenly, then until a job ends, its own work is done, and as much work of each other job, or
    all work of the other job if that is less. The result is also enough if jobs are scored one after another, from the
    oldest to the newest. Any job then ends as soon as it and all older jobs are done. Among these jobs, the one with
    the most work must end at least as early, and with even shares it ends only after all of these jobs.

    Parameters
    ----------
    now : float
        The time in seconds since 1970.
    """
    work = _work_until_end(sorted(job.seconds for job in backlog.jobs))
    needed = 0.0
    for job in backlog.jobs:
        left = job.since + policy.finish_within_s - now - policy.start_s
        needed = max(needed, work[job.seconds] / max(left, _LEAST_SHARE * policy.finish_within_s))
    return needed


def processes_for_deadlines(backlog: Backlog, policy: Policy, now: float) -> tuple[float, JobBacklog | None]:
    """Return how many processes end each job with a deadline before it, and the job that needs most of them.

    Within its group, a job waits for the jobs of higher priority, and for those of the same priority that are older.
    Groups share the processes evenly: until the job ends, each other group is given as much time as its own group, or
    less if it has less work. Weights of groups are not known here. A job whose deadline has passed needs none.
    """
    most, which = 0.0, None
    groups = backlog.groups()
    for job in backlog.jobs:
        if job.deadline is None or job.deadline <= now or not job.seconds:
            continue
        place = _ORDER[job.priority], job.since
        own = sum(
            other.seconds
            for other in backlog.jobs
            if other.group == job.group and (_ORDER[other.priority], other.since) <= place
        )
        work = own + sum(min(own, group.seconds) for name, group in groups.items() if name != job.group)
        needed = work / max(job.deadline - now - policy.start_s, policy.start_s)
        if needed > most:
            most, which = needed, job
    return most, which


def _work_until_end(seconds: Sequence[float]) -> dict[float, float]:
    """Return how much work is done until a job ends, by the work of the job, if all jobs share processes evenly.

    >>> _work_until_end([1.0, 2.0, 5.0])
    {1.0: 3.0, 2.0: 5.0, 5.0: 8.0}
    """
    found, shorter = {}, 0.0
    for number, one in enumerate(seconds):
        shorter += one
        found[one] = shorter + one * (len(seconds) - number - 1)
    return found


def decide(
    backlog: Backlog, policy: Policy, *, now: float, dynos: int, waiting: int, worker_size: int, idle_s: float
) -> Decision:
    """Return how many dynos there should be.

    While there is work, the number never falls, because Heroku chooses which dyno it stops. Jobs that are not planned
    yet are work, and so are messages in the queue.

    Parameters
    ----------
    now : float
        The time in seconds since 1970.
    dynos : int
        The number of dynos now.
    waiting : int
        Number of messages in the queue.
    worker_size : int
        Number of processes of a dyno.
    idle_s : float
        Seconds for which there has been no work.
    """
    least = max(policy.least, min(policy.most, 1) if backlog.jobs else 0)  # a worker has to send the webhooks
    if backlog.under_way or waiting:
        usual = processes_needed(backlog, policy, now)
        for_deadlines, urgent = processes_for_deadlines(backlog, policy, now)
        needed = max(1, math.ceil(max(usual, for_deadlines) / worker_size - 1e-9))
        urgent = urgent if for_deadlines > usual else None
        wanted = max(dynos, min(policy.most, max(least, needed)))
        return Decision(dynos=wanted, reason=_why(backlog, policy, waiting, needed, wanted, urgent, now))
    if dynos <= least:
        return Decision(dynos=least, reason="there is no work")
    if idle_s < policy.idle_after_s:
        left = policy.idle_after_s - idle_s
        return Decision(dynos=dynos, reason=f"there is no work: dynos are removed in {duration(left)}, if none comes")
    return Decision(dynos=least, reason=f"there has been no work for {duration(idle_s)}")


def _why(
    backlog: Backlog, policy: Policy, waiting: int, needed: int, wanted: int, urgent: JobBacklog | None, now: float
) -> str:
    within = f"within {duration(policy.finish_within_s)}"
    if urgent is not None and urgent.deadline is not None:
        within += f", and {urgent.job_id} before its deadline in {duration(urgent.deadline - now)}"
    if backlog.seconds == 0:
        return f"{plural(backlog.under_way, 'job')} and {plural(waiting, 'message')} wait for a worker"
    work = f"{duration(backlog.seconds)} of work in {plural(backlog.under_way, 'job')}"
    if needed > wanted:
        return f"{work} would need {plural(needed, 'dyno')} to end {within}, and --max is {policy.most}"
    if needed < wanted:
        return f"{work} needs {plural(needed, 'dyno')} to end {within}; no dyno is removed while there is work"
    return f"{work} ends {within}"
