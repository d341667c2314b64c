"""Formats the backlog for autoscalers that read JSON over HTTP."""

from __future__ import annotations

import math

from scoreline.tasks.backlog.reader import Backlog


def for_scalers(backlog: Backlog, worker_type: str) -> list[dict[str, str | float]]:
    """Return the JSON that HireFire reads: the value of each process type.

    The value is the seconds of work that are left for one process. If jobs wait for their plan or for the finalizer,
    the value is at least 1 for each of these jobs, so that an autoscaler starts a dyno for them.

    >>> for_scalers(Backlog(jobs=(), unread=2), "worker")
    [{'name': 'worker', 'value': 2}]
    """
    waiting = backlog.unread + sum(job.next_step != "score" for job in backlog.jobs)
    return [{"name": worker_type, "value": math.ceil(backlog.seconds) + waiting}]
