"""Remote control commands, which Celery runs in the main process of a worker.

``celery inspect`` and ``celery control`` import this module only for the names of its commands. The functions of this
module therefore import other modules of the worker only when they run::

    celery -A scoreline inspect jobs
    celery -A scoreline inspect models
    celery -A scoreline control evict_models

Anyone with access to the broker can send commands. A worker therefore refuses all commands that change something,
unless REMOTE_CONTROL allows them.
"""

from __future__ import annotations

import time
from typing import Any

from celery.worker import state as working
from celery.worker.control import Panel, control_command, inspect_command

_READING = frozenset(
    {
        "active",
        "active_queues",
        "clock",
        "conf",
        "gauges",
        "jobs",
        "models",
        "ping",
        "query_task",
        "registered",
        "report",
        "reserved",
        "revoked",
        "scheduled",
        "stats",
    }
)
"""Commands that change nothing. All other commands of Celery change something, even some commands of ``celery
inspect``."""


def refuse_changes() -> None:
    """Make this worker refuse all commands except commands that change nothing."""
    reading = {name: Panel.meta[name].alias for name in _READING}
    kept = {*reading, *filter(None, reading.values())}
    hello = Panel.data["hello"]

    def greet(state: Any, from_node: Any = None, revoked: Any = None, **more: Any) -> Any:
        """Answer a starting worker, but ignore the ids of revoked tasks that the starting worker sends."""
        return hello(state, from_node, None, **more)

    for name in Panel.data.keys() - kept:
        Panel.data[name] = _refuse
    Panel.data["hello"] = greet


def _refuse(state: Any, **arguments: Any) -> dict[str, str]:
    return {"error": "refused: this worker changes nothing on remote command, unless it has REMOTE_CONTROL=true"}


@inspect_command()
def jobs(state: Any) -> list[dict[str, Any]]:
    """Return the current task of each process: job, step, part, pid, elapsed seconds, attempt, and redelivery."""
    return sorted(
        (_describe_request(request) for request in list(working.active_requests)), key=lambda row: row["pid"] or 0
    )


@inspect_command()
def models(state: Any) -> dict[str, Any]:
    """Return the models that each pool process has in memory: name, version, bytes, hits, load seconds, trees."""
    from scoreline.worker import lifecycle

    return {str(pid): held for pid, held in lifecycle.models_by_pid().items()}


@inspect_command()
def gauges(state: Any) -> dict[str, Any]:
    """Return the number of processes, the bytes of their models, the deployment's queue, and the versions at work."""
    from scoreline.storage.models.introspection import library_versions
    from scoreline.worker import lifecycle
    from scoreline.worker.version import __version__

    pool = state.consumer.pool.info
    pids = set(pool.get("processes", ()))
    return {
        "processes": len(pids) if "processes" in pool else pool["max-concurrency"],
        "cache_bytes": lifecycle.cached_bytes(pids),
        "queue": str(state.app.conf.task_default_queue),
        "versions": {"scoreline": __version__} | library_versions(),
    }


@control_command()
def evict_models(state: Any) -> dict[str, str]:
    """Make every pool process evict its models. The next part loads its model again."""
    from scoreline.worker import lifecycle

    return {"ok": f"evicting the models of {lifecycle.evict_models()} processes"}


def _describe_request(request: Any) -> dict[str, Any]:
    began = request.time_start
    return {
        "job_id": request.kwargs.get("job_id"),  # None for tasks that beat requests
        "step": request.name.removeprefix("scoreline."),
        "part": request.kwargs.get("part"),
        "pid": request.worker_pid,
        "seconds": None if began is None else round(time.time() - began, 1),
        "try": request.request_dict.get("retries", 0) + 1,
        "redelivered": bool(request.delivery_info.get("redelivered")),
    }
