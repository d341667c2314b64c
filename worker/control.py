"""Control commands, which run in the parent of a worker; whoever asks needs their names alone, hence the late imports.

::

    celery -A scoreline inspect jobs
    celery -A scoreline inspect models
    celery -A scoreline control evict_models
"""

from __future__ import annotations

import time
from typing import Any

from celery.worker import state as working
from celery.worker.control import control_command, inspect_command


@inspect_command()
def jobs(state: Any) -> list[dict[str, Any]]:
    """Tell what each process is at: job, step, part, pid, seconds since it began, try, whether redelivered."""
    return sorted((_at_work(request) for request in list(working.active_requests)), key=lambda row: row["pid"] or 0)


@inspect_command()
def models(state: Any) -> dict[str, Any]:
    """Tell which models each process of the pool holds: name, version, bytes, hits, load seconds."""
    from scoreline.worker import lifecycle

    return {str(pid): held for pid, held in lifecycle.models().items()}


@inspect_command()
def gauges(state: Any) -> dict[str, int]:
    """Tell a scrape the processes of the pool, and the bytes of the models that they hold."""
    from scoreline.worker import lifecycle

    pool = state.consumer.pool.info
    pids = set(pool.get("processes", ()))
    return {"processes": len(pids) or pool["max-concurrency"], "cache_bytes": lifecycle.cached_bytes(pids)}


@control_command()
def evict_models(state: Any) -> dict[str, str]:
    """Let every process of the pool forget its models; the next part loads again."""
    from scoreline.worker import lifecycle

    return {"ok": f"evicting the models of {lifecycle.evict_models()} processes"}


def _at_work(request: Any) -> dict[str, Any]:
    began = request.time_start
    return {
        "job_id": request.kwargs.get("job_id"),  # none of the clock's
        "step": request.name.removeprefix("scoreline."),
        "part": request.kwargs.get("part"),
        "pid": request.worker_pid,
        "seconds": None if began is None else round(time.time() - began, 1),
        "try": request.request_dict.get("retries", 0) + 1,
        "redelivered": bool(request.delivery_info.get("redelivered")),
    }
