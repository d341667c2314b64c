"""Passes a message on to other workers if this worker cannot load the required model.

A worker may have too little memory for a model, lack a module that the model needs, or have other verify keys. The job
fails only if no worker can load the model. After a process has passed a message on, the process pauses. Otherwise, the
process would receive the same message again while the other workers are busy. The parts of a job are sent again even
without another worker: the worker that planned the job has loaded the model, and may be restarting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, TypeGuard

from celery import Task

from scoreline.storage.errors import UNLOADABLE_HERE, ModelError, describe
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.worker import lifecycle, telemetry
from scoreline.worker.run_request import LeftToMessage, is_between_batches

log = logging.getLogger(__name__)

HEADER = "scoreline_refused_by"
"""Message header with the workers that have passed the message on, and how often the message was passed on."""
MAX_TIMES = 30
"""How often a part is sent again while other workers are running. With pauses of up to `LONGEST_PAUSE_S`, a part waits
for a busy worker about as long as for an unreachable store."""
RESTART_TIMES = 5
"""How often a part is sent again if no other worker is running. The pauses add up to half a minute, in which a worker
can restart. If no worker can load the model, more pauses would delay all other jobs."""
LONGEST_PAUSE_S = 30.0
_ANSWER_S = 1.0
_BUSY_ANSWER_S = 4.0
"""Seconds that other workers have to answer if none answers at once: a busy one may take longer."""


def may_pass_on(error: BaseException) -> TypeGuard[ModelError]:
    """Return whether another worker may succeed where this worker has failed."""
    return isinstance(error, UNLOADABLE_HERE)


def pass_on(
    task: Task[Any, Any], error: ModelError, queue: MessageQueue, *, was_loaded: bool = False, **changed: Any
) -> None:
    """Send the message again for another worker, and pause. Return if no other worker can try.

    Parameters
    ----------
    was_loaded : bool
        Whether a worker has loaded the model for this job. If so, the message is sent again a few times even if no
        other worker is running.
    **changed
        New values for arguments of the message.

    Raises
    ------
    celery.exceptions.Retry
        The message was sent again; Celery expects this exception.
    LeftToMessage
        The task is done between two batches of a part.
    QueueUnavailable
        Transient: the broker does not answer.
    """
    if is_between_batches(task):
        telemetry.drop()
        raise LeftToMessage
    request = task.request
    refused, times = _earlier(_header(task))
    refused |= {str(request.hostname)}
    others = set(queue.workers(timeout_s=_ANSWER_S)) - refused
    others = others or set(queue.workers(timeout_s=_BUSY_ANSWER_S)) - refused
    if times >= (MAX_TIMES if others else RESTART_TIMES if was_loaded else 0):
        return
    fields = {"job_id": (request.kwargs or {}).get("job_id"), "worker": request.hostname, "error": describe(error)}
    log.warning("model.refused", extra=fields)
    headers: dict[str, Any] = {HEADER: {"workers": sorted(refused), "times": times + 1}}
    sent = task.retry(
        exc=error,
        countdown=0,
        max_retries=request.retries + 1,
        throw=False,
        queue=lifecycle.queue_names().of_task(task.name),  # the deployment's own queue
        kwargs={**(request.kwargs or {}), **changed},
        headers=headers,
    )
    time.sleep(min(LONGEST_PAUSE_S, 2.0**times))
    raise sent


def times_passed_on(task: Task[Any, Any]) -> int:
    """Return how often the message was passed on. Celery counts each time as a retry."""
    _, times = _earlier(_header(task))
    return min(times, MAX_TIMES, task.request.retries)


def _header(task: Task[Any, Any]) -> Any:
    """Return the value of `HEADER` in the message.

    If a task runs without a worker, Celery stores headers in ``request.headers``.
    """
    return task.request.get(HEADER) or (task.request.get("headers") or {}).get(HEADER)


def _earlier(header: Any) -> tuple[set[str], int]:
    """Return which workers have passed the message on, and how often. An invalid header counts as missing.

    >>> _earlier({"workers": ["celery@a"], "times": 2}), _earlier("x")
    (({'celery@a'}, 2), (set(), 0))
    """
    if not isinstance(header, Mapping) or not isinstance(header.get("workers"), list):
        return set(), 0
    times = header.get("times")
    return set(map(str, header["workers"])), times if type(times) is int and times >= 0 else 0
